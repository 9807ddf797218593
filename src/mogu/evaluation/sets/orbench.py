"""OR-Bench: harmless prompts that look harmful."""

from collections.abc import Iterator, Sequence

from mogu.evaluation.sets.base import Sample
from mogu.evaluation.sets.published import PublishedSet, Row


def _read(rows: Sequence[Row]) -> Iterator[Sample]:
    for row in rows:
        yield row.asking(row.text("prompt"), kind=row.text("category"))


ORBENCH = PublishedSet(
    name="orbench",
    label="benign",
    description=(
        "OR-Bench-Hard: 1,319 harmless prompts of ten categories that many models refuse. "
        "huggingface.co/datasets/bench-llm/or-bench (arXiv 2405.20947), CC-BY-4.0"
    ),
    hub="bench-llm/or-bench/or-bench-hard-1k:train",
    read=_read,
    files="*hard*",  # the same folder holds toxic prompts
)
