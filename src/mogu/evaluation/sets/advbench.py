"""AdvBench: direct malicious requests, each with the beginning of a reply that complies."""

from collections.abc import Iterator, Sequence

from mogu.evaluation.sets.base import Sample
from mogu.evaluation.sets.published import PublishedSet, Row


def _read(rows: Sequence[Row]) -> Iterator[Sample]:
    for row in rows:
        yield row.asking(row.text("goal", "prompt"), target=row.text("target"))


ADVBENCH = PublishedSet(
    name="advbench",
    label="malicious",
    description=(
        "AdvBench: 520 direct malicious requests with affirmative targets. "
        "github.com/llm-attacks/llm-attacks (arXiv 2307.15043), MIT"
    ),
    hub="walledai/AdvBench:train",
    read=_read,
)
