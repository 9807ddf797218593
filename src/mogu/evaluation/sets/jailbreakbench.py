"""JailbreakBench's artifacts: prompts that attacks have found, one file for each attack and model."""

from collections.abc import Iterator, Sequence

from mogu.errors import MoguError
from mogu.evaluation.sets.base import Sample
from mogu.evaluation.sets.published import PublishedSet, Row


def _read(rows: Sequence[Row]) -> Iterator[Sample]:
    # Beside the artifacts lie descriptions of the attacks, and one artifact of placeholders.
    artifacts = [
        row for row in rows if "jailbreaks" in row.fields and "test-artifact" not in row.id.split("/")
    ]
    if rows and not artifacts:
        raise MoguError(
            f"{rows[0].place}: not an artifact of JailbreakBench, which holds 'parameters' and 'jailbreaks'."
        )
    # Some attacks send every model the same prompt: it counts once.
    seen: set[str] = set()
    for artifact in artifacts:
        method = _method(artifact)
        for row in _jailbreaks(artifact):
            if "prompt" in row.fields and row.fields["prompt"] is None:
                continue  # the attack has not found one
            prompt = row.text("prompt")
            if prompt not in seen:
                seen.add(prompt)
                yield row.asking(prompt, kind=method)


def _method(artifact: Row) -> str:
    parameters = artifact.fields.get("parameters")
    if not isinstance(parameters, dict):
        raise MoguError(f"{artifact.place}: needs 'parameters', an object that names the method.")
    return Row(artifact.id, f"{artifact.place}, parameters", parameters).text("method")


def _jailbreaks(artifact: Row) -> Iterator[Row]:
    jailbreaks = artifact.fields["jailbreaks"]
    if not isinstance(jailbreaks, list) or not all(isinstance(fields, dict) for fields in jailbreaks):
        raise MoguError(f"{artifact.place}: 'jailbreaks' is not a list of objects.")
    for number, fields in enumerate(jailbreaks, start=1):
        yield Row(f"{artifact.id}:{number}", f"{artifact.place}, jailbreak {number}", fields)


JAILBREAKBENCH = PublishedSet(
    name="jailbreakbench",
    label="malicious",
    description=(
        "JailbreakBench artifacts: prompts found by PAIR, GCG, JBC and prompt_with_random_search. "
        "github.com/JailbreakBench/artifacts, folder attack-artifacts (arXiv 2404.01318), MIT"
    ),
    read=_read,
    files="*.json",
)
