"""Reads the corpus files that lie beside this one. Knows nothing of tokens or models."""

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

from mogu.corpus.encodings import ENCODINGS
from mogu.data.requests import Label, Request, Split


@dataclass(frozen=True)
class Wrapper:
    """A text to put around a request.

    Attributes:
        template: holds one ``{}``, where the request goes.
        kind: `jailbreak`, or `innocent` for a frame of the same style that no attacker would need.
        group: what its family belongs to, such as `persona`.
        family: the style, such as `role_play`.
        split: the part of the data in which it may be used.
        encoding: the spelling of the request in it, a name of `ENCODINGS`; None leaves it as it is.
    """

    template: str
    kind: Literal["jailbreak", "innocent"]
    group: str
    family: str
    split: Split
    encoding: str | None = None

    def wrap(self, text: str) -> str:
        """The request in the frame."""
        return self.template.replace("{}", ENCODINGS[self.encoding](text) if self.encoding else text)


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
            language=row.get("language", "en"),
            twins=f"pair {row['pair']}" if "pair" in row else "",
        )
        for number, row in enumerate(_rows(f"{label}.jsonl"), start=1)
        if row["split"] == split
    ]


def corpus_conversations(label: Label, split: Split) -> list[Request]:
    """The authored conversations of one label and split: chats, follow-ups, crescendos, quoted documents."""
    return [
        Request(
            id=f"corpus/conversations.jsonl:{number}",
            text=row["messages"][-1]["content"],
            messages=row["messages"],
            label=label,
            category=row["category"],
            kind=row["kind"],
            split=split,
            twins=f"talk {row['topic']}",
        )
        for number, row in enumerate(_rows("conversations.jsonl"), start=1)
        if (row["label"], row["split"]) == (label, split)
    ]


def corpus_documents(split: Split) -> list[Request]:
    """Benign requests with a whole document in them, of 400 to 1,500 tokens."""
    return [
        Request(
            id=f"corpus/documents.jsonl:{number}",
            text=row["text"],
            messages=[{"role": "user", "content": row["text"]}],
            label="benign",
            category=row["category"],
            kind="document",
            split=split,
        )
        for number, row in enumerate(_rows("documents.jsonl"), start=1)
        if row["split"] == split
    ]


def corpus_systems(split: Split) -> list[str]:
    """Harmless system messages of one split."""
    return [row["text"] for row in _rows("systems.jsonl") if row["split"] == split]


def corpus_wrappers(kind: Literal["jailbreak", "innocent"], split: Split) -> list[Wrapper]:
    """The frames of one kind and split."""
    wrappers = (Wrapper(**row) for row in _rows("wrappers.jsonl"))
    return [wrapper for wrapper in wrappers if wrapper.kind == kind and wrapper.split == split]


def corpus_categories() -> dict[str, Category]:
    """The harm categories by name."""
    return {
        row["category"]: Category(row["category"], tuple(row["topics"]), tuple(row["alternatives"]))
        for row in _rows("categories.jsonl")
    }


def corpus_refusals() -> dict[str, list[str]]:
    """Refusals by language (ISO 639-1).

    English ones may hold ``{topic}`` (what is refused) and ``{alternative}`` (what is offered instead).
    """
    refusals: dict[str, list[str]] = {}
    for row in _rows("refusals.jsonl"):
        refusals.setdefault(row["language"], []).append(row["text"])
    return refusals


def corpus_openers() -> list[str]:
    """Affirmative openers that hold ``{artefact}``, what was asked for."""
    return [row["text"] for row in _rows("openers.jsonl")]
