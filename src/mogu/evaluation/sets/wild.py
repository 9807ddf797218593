"""Jailbreak templates that people have shared, around the project's own requests of both labels."""

import re
from collections.abc import Iterator, Sequence
from functools import partial

from mogu.data.pairs import balanced
from mogu.data.requests import Label
from mogu.errors import MoguError
from mogu.evaluation.sets.base import Sample
from mogu.evaluation.sets.own import short_requests
from mogu.evaluation.sets.published import PublishedSet, Row

TEXT = ("prompt", "template", "text")
"""Fields in which a template may stand."""

PLACEHOLDER = re.compile(
    r"\[\s*(?:insert\s+)?(?:(?:your|the)\s+)?(?:prompt|question|query|request)(?:\s+here)?\s*\]"
    r"|\{\s*(?:prompt|question|query|request|goal|instruction)\s*\}",
    re.IGNORECASE,
)
"""Where a template wants the request, such as ``[INSERT PROMPT HERE]`` or ``{query}``."""

HUB = "TrustAIRLab/in-the-wild-jailbreak-prompts/jailbreak_2023_12_25:train"
SOURCE = (
    "Templates: those of a file that have a placeholder such as [INSERT PROMPT HERE]; by default "
    "huggingface.co/datasets/TrustAIRLab/in-the-wild-jailbreak-prompts (arXiv 2308.03825), MIT. "
    "Requests: the project's own test split, Apache-2.0"
)


def _read(rows: Sequence[Row], label: Label) -> Iterator[Sample]:
    templates = [row for row in rows if PLACEHOLDER.search(row.text(*TEXT))]
    if rows and not templates:
        raise MoguError(
            f"{rows[0].place} and all others have no placeholder such as [INSERT PROMPT HERE] or {{query}}."
        )
    requests = short_requests(label)
    requests = balanced(requests, len(requests), 0)
    # Every template and every request at least once; all pairs would be thousands.
    for index in range(max(len(templates), len(requests)) if templates else 0):
        template = templates[index % len(templates)]
        request = requests[index % len(requests)]
        text = request.text.join(PLACEHOLDER.split(template.text(*TEXT)))
        sample = template.asking(text, kind=template.optional("platform", "kind", "source"))
        yield sample._replace(id=f"{template.id} {request.id}")


WILD = PublishedSet(
    name="wild",
    label="malicious",
    description=f"Malicious requests in jailbreak templates from the wild. {SOURCE}",
    hub=HUB,
    read=partial(_read, label="malicious"),
)

WILD_BENIGN = PublishedSet(
    name="wild_benign",
    label="benign",
    description=f"Everyday requests in the same jailbreak templates. {SOURCE}",
    hub=HUB,
    read=partial(_read, label="benign"),
)
