"""Just-Eval-Instruct: benign instructions of many sources."""

from collections.abc import Iterator, Sequence

from mogu.evaluation.sets.base import Sample
from mogu.evaluation.sets.published import PublishedSet, Row

BENIGN_ROWS = 800
"""The rows after these are red-teaming prompts."""


def _read(rows: Sequence[Row]) -> Iterator[Sample]:
    for row in rows[:BENIGN_ROWS]:
        yield row.asking(row.text("instruction"), kind=row.optional("source", "dataset"))


JUSTEVAL = PublishedSet(
    name="justeval",
    label="benign",
    description=(
        "Just-Eval-Instruct: the 800 benign instructions, from AlpacaEval, LIMA and MT-Bench. "
        "huggingface.co/datasets/re-align/just-eval-instruct (arXiv 2312.01552), licence: see there"
    ),
    hub="re-align/just-eval-instruct:test",
    read=_read,
)
