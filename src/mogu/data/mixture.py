"""What the gate learns from: every kind of conversation that it will meet, and each style under both labels.

Direct requests, requests in frames of all families, chats and their crescendos, documents, system messages. A
malicious request in an innocent frame stays malicious, a benign one in a jailbreak frame benign, and either may follow
any history: no style by itself decides. Pure functions of a seed; knows no tokens.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import get_args

from mogu.chat import Message
from mogu.corpus import (
    corpus_conversations,
    corpus_documents,
    corpus_systems,
    corpus_wrappers,
)
from mogu.data.pairs import balanced, wrap
from mogu.data.requests import Label, Request, Split

SHARES: dict[Label, dict[str, float]] = {
    "malicious": {
        "jailbreak_frame": 0.14,
        "innocent_frame": 0.02,
        "noise": 0.025,
        "conversation": 0.11,
        "history": 0.055,
    },
    "benign": {
        "jailbreak_frame": 0.04,
        "innocent_frame": 0.045,
        "noise": 0.015,
        "conversation": 0.11,
        "history": 0.055,
        "document": 0.012,
    },
}
"""How many of a label's rows are of each kind; the rest are direct requests. Who puts a request into a jailbreak frame
is more often malicious than not: there the shares, which are the gate's prior, say so."""

SYSTEM_SHARE = 0.08
"""Rows that get one of the harmless system messages, under either label."""

OTHER_LANGUAGES = 0.2
"""At most this share of a label's requests is in other languages than English."""

LONGEST_WRAPPED = 400
"""Characters of a request that is put into a frame."""


def mixture(requests: Sequence[Request], label: Label, split: Split, count: int, seed: int) -> list[Request]:
    """About ``count`` conversations of one label, shuffled.

    Args:
        requests: direct requests of that label and split, the corpus's or the user's.
        label: theirs.
        split: whose frames, chats, documents and system messages are used.
        count: how many in all; fewer where the sources end.
        seed: of every choice.
    """
    rng = random.Random(f"{seed}/{label}/{split}")
    shares = SHARES[label]
    counts = {kind: round(count * share) for kind, share in shares.items()}
    requests = _mostly_english(requests, seed)
    short = [request for request in requests if len(request.text) <= LONGEST_WRAPPED]
    rows = balanced(requests, count - sum(counts.values()), seed)
    framed = iter(balanced(short, counts["jailbreak_frame"] + counts["innocent_frame"], seed + 1))
    for kind in ("jailbreak", "innocent"):
        frames = corpus_wrappers(kind, split)  # type: ignore[arg-type]
        chosen = list(islice(framed, counts[f"{kind}_frame"]))
        shuffled = rng.sample(frames, len(frames))
        rows += [wrap(request, shuffled[i % len(shuffled)]) for i, request in enumerate(chosen)]
    rows += [replace(request, group="noise") for request in balanced(short, counts["noise"], seed + 2)]
    rows += balanced(corpus_conversations(label, split), counts["conversation"], seed)
    histories = _histories(split)
    for request in balanced(short, counts["history"], seed + 3):
        talk = [*rng.choice(histories), *request.messages]
        talk.sort(key=lambda message: message["role"] != "system")  # the request's own stays in front
        rows.append(replace(request, messages=talk, kind="history"))
    if label == "benign":
        rows += balanced(corpus_documents(split), counts["document"], seed)
    systems = corpus_systems(split)
    rows = [
        _with_system(row, rng.choice(systems)) if systems and rng.random() < SYSTEM_SHARE else row
        for row in rows
    ]
    rng.shuffle(rows)
    return rows


def _mostly_english(requests: Sequence[Request], seed: int) -> list[Request]:
    """All English requests and as many others as their share allows; all of them if none is English."""
    english = [request for request in requests if request.language == "en"]
    others = [request for request in requests if request.language != "en"]
    most = round(len(english) * OTHER_LANGUAGES / (1 - OTHER_LANGUAGES)) if english else len(others)
    return [*english, *balanced(others, most, seed)]


def _histories(split: Split) -> list[list[Message]]:
    """What may come before any request: a malicious one that was refused, or a harmless one that was answered."""
    talks = [talk for label in get_args(Label) for talk in corpus_conversations(label, split)]
    return [
        talk.messages[:-1]
        for talk in talks
        if talk.messages[-2:-1] and talk.messages[-2]["role"] == "assistant"
    ]


def _with_system(request: Request, text: str) -> Request:
    if request.messages[0]["role"] == "system":
        return request
    return replace(request, messages=[Message(role="system", content=text), *request.messages])
