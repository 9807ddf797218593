"""XSTest: safe prompts that look unsafe, and their unsafe contrasts. One file holds both sets."""

from collections.abc import Iterator, Sequence
from functools import partial

from mogu.errors import MoguError
from mogu.evaluation.sets.base import Sample
from mogu.evaluation.sets.published import PublishedSet, Row

HUB = "walledai/XSTest:test"
SOURCE = "github.com/paul-rottger/xstest (arXiv 2308.01263), CC-BY-4.0"


def _read(rows: Sequence[Row], wanted: str) -> Iterator[Sample]:
    for row in rows:
        label = row.text("label")
        if label not in ("safe", "unsafe"):
            raise MoguError(f"{row.place}: 'label' is '{label}', not safe or unsafe.")
        if label == wanted:
            yield row.asking(row.text("prompt"), kind=row.text("type"))


XSTEST_SAFE = PublishedSet(
    name="xstest_safe",
    label="benign",
    description=f"XSTest: 250 safe prompts of ten types that look unsafe. {SOURCE}",
    hub=HUB,
    read=partial(_read, wanted="safe"),
)

XSTEST_UNSAFE = PublishedSet(
    name="xstest_unsafe",
    label="malicious",
    description=f"XSTest: 200 unsafe prompts, the contrasts of the safe ones. {SOURCE}",
    hub=HUB,
    read=partial(_read, wanted="unsafe"),
)
