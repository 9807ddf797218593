"""What passes between the engine and whoever serves it: what a reply is asked to be, and the pieces that it comes in.

Knows neither models nor HTTP.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from mogu.errors import MoguError

LikelyToken = tuple[str, bytes, float]
"""Text, bytes in UTF-8 and logprob."""

Finish = Literal["stop", "length", "cancelled", "error"]
"""Why a reply ended: an end token or a stop string; its longest length or the model's; the caller; a failure."""


class Full(MoguError):  # noqa: N818 - not every refusal is an error
    """As many jobs wait as may; try again later."""


class Closing(MoguError):  # noqa: N818
    """The engine finishes what it has and takes no more."""


@dataclass(frozen=True)
class Sampling:
    """How one reply is written.

    Attributes:
        max_tokens: the longest reply, from 1, its end token included.
        temperature: 0 (greedy) to 2.
        top_p: above 0, up to 1: sampled from the likeliest tokens that have so much probability together.
        seed: of this row alone: the same tokens whatever else is in the batch; None for a new one each time.
        stop: strings that end the reply and are not in it; none is empty.
        logit_bias: token id to nats, -100 to 100. Where a reply is refused, neither this nor a penalty acts.
        frequency_penalty: -2 to 2, nats taken for each time that the reply holds a token.
        presence_penalty: -2 to 2, nats taken from each token that the reply holds.
        logprobs: None for none; else each token's own and that of so many likeliest (0 to 20). Where a reply is
            refused, no other tokens than its own are told.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logprobs: int | None = None


@dataclass(frozen=True)
class TokenLogprob:
    """How likely a token of the reply was.

    Attributes:
        text: the token's own; a half character is shown as one.
        bytes: what it stands for in UTF-8, half characters too.
        logprob: in nats, of the distribution before temperature and top_p.
        top: the likeliest tokens in their place, the likeliest first; in a refusal the token alone.
    """

    text: str
    bytes: bytes
    logprob: float
    top: tuple[LikelyToken, ...]


@dataclass(frozen=True)
class Verdict:
    """What routing made of a reply: the `mogu` object of an answer.

    Attributes:
        score: the gate's calibrated probability, 0 to 1, the highest of prompt and reply; None without a gate.
        threshold: the one that the prompt is held against; None without a gate.
        reply_threshold: the one that the reply is held against while it is written; None if it is not read.
        refused: whether the safe variant wrote any of the reply; False with token routing.
        refused_from: the reply token at which it took over, 0 for a flagged prompt; None if it did not.
    """

    score: float | None
    threshold: float | None
    reply_threshold: float | None
    refused: bool
    refused_from: int | None


@dataclass(frozen=True)
class Piece:
    """Part of a reply.

    Attributes:
        text: settled text since the last piece: no half character, nothing that may yet become a stop string.
        tokens: reply tokens written so far, the end token included.
        logprobs: of the tokens whose text this piece completes; empty if not asked for.
        verdict: as known now.
        finish: set in the last piece, and only there.
        error: of a finish "error", what went wrong, in one line.
    """

    text: str
    tokens: int
    logprobs: tuple[TokenLogprob, ...]
    verdict: Verdict
    finish: Finish | None
    error: str | None = None
