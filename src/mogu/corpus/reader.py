"""Reads the corpus files that lie beside this one. Knows nothing of tokens or models."""

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

from mogu.data.requests import Label, Request, Split


@dataclass(frozen=True)
class Wrapper:
    """A text to put around a request.

    Attributes:
        template: holds one ``{}``, where the request goes.
        kind: `jailbreak`, or `innocent` for a frame of the same style that no attacker would need.
        family: the style, such as `role_play`.
        split: the part of the data in which it may be used.
    """

    template: str
    kind: Literal["jailbreak", "innocent"]
    family: str
    split: Split

    def wrap(self, text: str) -> str:
        """The request in the frame."""
        return self.template.replace("{}", text)


@dataclass(frozen=True)
class Category:
    """How a refusal can speak of a harm category.

    Attributes:
        name: as in the requests.
        topics: noun phrases that name what is refused, after "I can't help with".
        alternatives: noun phrases for what can be offered, after "I can tell you about".
    """

    name: str
    topics: tuple[str, ...]
    alternatives: tuple[str, ...]


@cache
def _rows(name: str) -> tuple[dict[str, Any], ...]:
    text = resources.files("mogu.corpus").joinpath(name).read_text(encoding="utf-8")
    # Not splitlines(): JSON strings may hold line separators other than "\n" as they are.
    return tuple(json.loads(line) for line in text.split("\n") if line)


def corpus_requests(label: Label, split: Split) -> list[Request]:
    """The authored requests of one label and split, in the order of the file."""
    return [
        Request(
            id=f"corpus/{label}.jsonl:{number}",
            text=row["text"],
            messages=[{"role": "user", "content": row["text"]}],
            label=label,
            category=row.get("category", ""),
            kind=row["kind"],
            split=split,
        )
        for number, row in enumerate(_rows(f"{label}.jsonl"), start=1)
        if row["split"] == split
    ]


def corpus_wrappers(kind: Literal["jailbreak", "innocent"], split: Split) -> list[Wrapper]:
    """The frames of one kind and split."""
    wrappers = (
        Wrapper(row["template"], row["kind"], row["family"], row["split"]) for row in _rows("wrappers.jsonl")
    )
    return [wrapper for wrapper in wrappers if wrapper.kind == kind and wrapper.split == split]


def corpus_categories() -> dict[str, Category]:
    """The harm categories by name."""
    return {
        row["category"]: Category(row["category"], tuple(row["topics"]), tuple(row["alternatives"]))
        for row in _rows("categories.jsonl")
    }


def corpus_refusals() -> list[str]:
    """Refusals; some hold ``{topic}`` (what is refused) and ``{alternative}`` (what is offered instead)."""
    return [row["text"] for row in _rows("refusals.jsonl")]


def corpus_openers() -> list[str]:
    """Affirmative openers that hold ``{artefact}``, what was asked for."""
    return [row["text"] for row in _rows("openers.jsonl")]
