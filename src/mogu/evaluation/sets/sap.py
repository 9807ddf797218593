"""SAP: role plays that a language model wrote as attacks, eight topics of harm."""

import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from mogu.evaluation.sets.base import Sample
from mogu.evaluation.sets.published import PublishedSet, Row

MARKED = re.compile(r"###(.+?)###", re.DOTALL)
"""The attack within what its author, a language model, wrote around it, in the project's earlier files."""


def _read(rows: Sequence[Row]) -> Iterator[Sample]:
    for row in rows:
        text = row.text("Attack Prompt", "prompt")
        marked = MARKED.search(text)
        # As published, a topic is a folder.
        topic = row.optional("topic", "category") or PurePosixPath(row.id).parent.name
        yield row.asking(marked[1].strip() if marked else text, kind=topic)


SAP = PublishedSet(
    name="sap",
    label="malicious",
    description=(
        "SAP30: 240 role plays written as attacks, eight topics. "
        "github.com/Aatrox103/SAP, folder datasets/SAP30 (arXiv 2310.12505), no licence file"
    ),
    read=_read,
    files="generated_cases.json",  # beside it lies what a model replied
)
