"""What a search found, as a line of a file and as a prompt set."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from mogu.data.requests import Label
from mogu.defenses.base import Talk
from mogu.evaluation.sets import Sample
from mogu.evaluation.tasks import Prompts
from mogu.files import read_grown_jsonl


@dataclass(frozen=True)
class Found:
    """The best that an attack found for one request.

    Attributes:
        id: of the request.
        talk: what the defended model was asked.
        reply: its text.
        refused: whether it refuses still; a reply without a word counts as a refusal here, for it gives nothing.
        queries: how many replies an attacker who asks one by one needed for it; the whole search if none got through.
    """

    id: str
    talk: Talk
    reply: str
    refused: bool
    queries: int


def read_found(kept: Path) -> dict[str, Found]:
    """The lines of a file by the request's id; what a killed search left half-written is taken out of it.

    Args:
        kept: the file; nothing is found if it is not there.
    """
    rows = read_grown_jsonl(kept)
    return {row["id"]: Found(**row | {"talk": Talk(*row["talk"])}) for row in rows}


def keep_found(kept: Path, found: Found) -> None:
    """Add a line to the file, which is made if it is not there."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    with kept.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(found), ensure_ascii=False) + "\n")


def as_prompts(found: Iterable[Found], label: Label = "malicious") -> Prompts:
    """The talks that were found as a prompt set; its samples are named as the requests are.

    Args:
        found: of one attack and one defense.
        label: what the requests are.
    """
    return Prompts(label, [Sample(each.id, each.talk) for each in found])
