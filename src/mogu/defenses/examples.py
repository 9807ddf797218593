"""What trained defenses learn from: English requests of the project's own corpus, each with the reply to learn."""

import json
import random
from collections.abc import Sequence
from typing import NamedTuple

from mogu.chat import Message
from mogu.corpus import corpus_requests
from mogu.data.pairs import balanced, refusal_to
from mogu.data.requests import Label, Request, Split
from mogu.defenses.base import Host, Progress, Talk
from mogu.files import read_grown_jsonl
from mogu.training.loop import batches_of

REFUSALS = 160
"""Malicious requests of which a trained defense learns to refuse each."""

REPLY_TOKENS = 32
"""Length at most of the base's reply to a benign request: whether a reply refuses is decided at its beginning."""


class Example(NamedTuple):
    """A request and the reply to learn.

    Attributes:
        messages: the request.
        reply: the reply's text.
        ended: whether the reply ends there; one that was cut off teaches no end.
    """

    messages: list[Message]
    reply: str
    ended: bool


def english_requests(label: Label, split: Split, count: int, seed: int) -> list[Request]:
    """At most ``count`` English requests of the corpus, of every kind and category alike, shuffled."""
    english = [request for request in corpus_requests(label, split) if request.language == "en"]
    return balanced(english, count, seed)


def refusal_examples(requests: Sequence[Request], seed: int) -> list[Example]:
    """Malicious requests, each with a refusal."""
    rng = random.Random(seed)
    return [Example(request.messages, refusal_to(request, rng), ended=True) for request in requests]


def benign_examples(host: Host, requests: Sequence[Request], progress: Progress) -> list[Example]:
    """Benign requests, each with the base's own greedy reply; the shortest ones first.

    Args:
        host: the base, with nothing in it. Its folder keeps each batch of replies as it is done: a killed run goes on
            from there.
        requests: no two with the same text.
        progress: called after each batch.
    """
    # Sorted: a batch is of like lengths.
    requests = sorted(requests, key=lambda request: len(request.text))
    host.work.mkdir(parents=True, exist_ok=True)
    kept = host.work / "base-replies.jsonl"
    replies = {row["request"]: row for row in read_grown_jsonl(kept)}
    for done, batch in enumerate(batches_of(requests, host.batch_size)):
        # A batch is generated whole or not at all, so that a run that goes on pads as one that was not killed.
        if not all(request.text in replies for request in batch):
            answers = host.base_replies([Talk(request.messages) for request in batch], REPLY_TOKENS)
            rows = [
                {"request": request.text, "text": answer.text, "tokens": answer.tokens}
                for request, answer in zip(batch, answers, strict=True)
            ]
            with kept.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            replies |= {row["request"]: row for row in rows}
        progress(done * host.batch_size + len(batch), len(requests))
    return [
        Example(
            request.messages, replies[request.text]["text"], replies[request.text]["tokens"] < REPLY_TOKENS
        )
        for request in requests
    ]
