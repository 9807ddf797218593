"""HarmBench: malicious behaviours, some of them about a text that is given with them."""

from collections.abc import Iterator, Sequence

from mogu.evaluation.sets.base import Sample
from mogu.evaluation.sets.published import PublishedSet, Row


def _read(rows: Sequence[Row]) -> Iterator[Sample]:
    for row in rows:
        behavior = row.text("Behavior", "prompt")
        context = row.optional("ContextString", "context")
        # HarmBench's own way to put the two together.
        text = f"{context}\n\n---\n\n{behavior}" if context else behavior
        yield row.asking(text, kind=row.text("SemanticCategory", "category"))


HARMBENCH = PublishedSet(
    name="harmbench",
    label="malicious",
    description=(
        "HarmBench: 400 malicious behaviours of seven categories, 100 of them about a given text; "
        "by default the 200 standard ones. github.com/centerforaisafety/HarmBench, "
        "harmbench_behaviors_text_all.csv (arXiv 2402.04249), MIT"
    ),
    hub="walledai/HarmBench/standard:train",
    read=_read,
)
