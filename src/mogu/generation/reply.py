"""What generation gives back for a conversation."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from transformers import GenerationConfig, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Reply:
    """A reply and the weights that it was written with.

    Attributes:
        text: what the model wrote (after the opener, if any), without special tokens.
        tokens: how many tokens it wrote, the end token included.
        safe_weight: mean weight of the safe variant over the routed tokens and layers, 0 when none is routed; of
            sequence routing the share of the reply that it wrote.
        usable_weight: the same of the usable variant, 1 when none is routed; of sequence routing the share that is
            not refused, whether the base writes it or the usable variant.
        score: the gate's calibrated probability, 0 to 1, that the reply should be a refusal; None without a gate.
    """

    text: str
    tokens: int
    safe_weight: float
    usable_weight: float
    score: float | None = None


@dataclass(frozen=True)
class RoutingTrace:
    """The weights of one conversation, token by token and layer by layer.

    Attributes:
        tokens: text of each token of prompt and reply.
        prompt_length: how many of them are the prompt's.
        layers: indices of the routed decoder layers.
        safe: ``[layers][tokens]``, weights of the safe variant; 0 where a token is not routed.
        usable: the same of the usable variant; 1 where a token is not routed.
        routed: for each token, whether it is routed.
        gate: of sequence routing, for each token the gate's probability, 0 to 1, if the text ended there; 0 before the
            gate begins to read.
        threshold: of sequence routing, the probability from which on the prompt's end begins a refusal.
        reply_threshold: the same of a token of the reply; None if the gate does not read replies.
    """

    tokens: list[str]
    prompt_length: int
    layers: list[int]
    safe: list[list[float]]
    usable: list[list[float]]
    routed: list[bool]
    gate: list[float] | None = None
    threshold: float | None = None
    reply_threshold: float | None = None


EndIds = int | Collection[int] | None
"""The id or ids that end a row, as `generate` takes them."""


def end_and_pad_ids(config: GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> tuple[EndIds, int]:
    """What ends a row, and the id that pads it: a generation config's, or the tokenizer's where it has none."""
    return (
        tokenizer.eos_token_id if config.eos_token_id is None else config.eos_token_id,
        tokenizer.pad_token_id if config.pad_token_id is None else config.pad_token_id,
    )


def written_length(tokens: Sequence[int], end: EndIds, pad_id: int) -> int:
    """How many tokens of a generated row are the reply: up to its end token, without padding behind it."""
    ends = end if isinstance(end, Collection) else (end,)
    for index, token in enumerate(tokens):
        if token in ends:
            return index + 1
    length = len(tokens)
    while length and tokens[length - 1] == pad_id:
        length -= 1
    return length
