"""A request: one labelled conversation that waits for a reply. Knows no file format and no model."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from mogu.chat import Message

Label = Literal["malicious", "benign"]
Split = Literal["train", "validation", "test"]

VALIDATION_PERCENT = 20


@dataclass(frozen=True)
class Request:
    """One request: what a user asked last, in its conversation.

    Attributes:
        id: Names the row of its source, such as `mine.jsonl:12`.
        text: The last user turn.
        messages: The whole conversation, in the order of its turns; `text` is one of them.
        label: Whether it should be refused (`malicious`) or answered (`benign`).
        category: What it is about; empty where the source does not say.
        kind: Its form, such as `contrast` or `imperative`; empty where the source does not say.
        split: The part of the data that it belongs to.
        language: ISO 639-1 code of the request's language.
        group: The group of wrappers that it is wrapped in, such as `persona`; empty if it is not.
        twins: Names the requests that say nearly the same under both labels, such as the two of a contrast; empty if
            it has none.
    """

    id: str
    text: str
    messages: list[Message]
    label: Label
    category: str = ""
    kind: str = ""
    split: Split = "train"
    language: str = "en"
    group: str = ""
    twins: str = ""


def split_of(text: str) -> Split:
    """Puts a text into `train` (80%) or `validation` (20%), whatever file, order or process it is read in.

    Texts that differ only in case and white space fall together: validation holds no copy of a training text.

    Args:
        text: The text of a request.

    Returns:
        `train` or `validation`; `test` is left to data that was split by hand.
    """
    digest = hashlib.sha256(normalised(text).encode()).digest()
    return "validation" if int.from_bytes(digest[:8]) % 100 < VALIDATION_PERCENT else "train"


def normalised(text: str) -> str:
    """The text in one case and with single spaces: equal for two texts that count as the same request."""
    return " ".join(text.casefold().split())


def sha256_of(requests: Iterable[Request]) -> str:
    """A digest of some requests' conversations, whatever their order: it says that two sets are the same."""
    lines = sorted(json.dumps(request.messages, sort_keys=True) for request in requests)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
