"""Which token each row goes on with: from the logits of all rows at once, every row by its own settings.

Knows tensors, nothing of models or text. What the caller may change never undoes a refusal: in a row that the safe
variant writes neither bias nor penalties act, and the temperature is at most 1, which leaves the beginning of a refusal
as certain as the model's own shares do. Nor is told what else such a row might have gone on with: where a refusal
begins, that is what the base would have answered. The same holds of the tokens that routers weigh: as a caller's own
choice they would be the beginning of a reply that nothing has routed.
"""

from collections.abc import Sequence
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from mogu.errors import MoguError
from mogu.serving.engine.job import Sampling

MOST_LOGPROBS = 20

FIRST_LOOK = 64
"""Of the likeliest tokens so many are sorted before asking whether they reach top_p: nearly always they do."""


BLOCK = 256
"""Tokens whose shares are summed up at once."""


class Chances(NamedTuple):
    """How likely a token was: in nats, of the distribution before temperature and top_p.

    Attributes:
        logprob: its own.
        top: id and logprob of the likeliest tokens, the likeliest first; of a guarded row the token alone.
    """

    logprob: float
    top: tuple[tuple[int, float], ...]


class Chosen(NamedTuple):
    """The next tokens.

    Attributes:
        tokens: ``(rows,)`` int64, where the logits are.
        ids: the same on the host.
        chances: of each row that asks for logprobs, else None.
    """

    tokens: Tensor
    ids: list[int]
    chances: list[Chances | None]


class Chooser:
    """The settings of one row, its own randomness, and what it has written.

    Args:
        sampling: what is asked for; see `check_sampling`.
    """

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        # As text a seed may have a sign. Its numbers are the same on every machine, on the CPU as on a GPU.
        self._random = Random() if sampling.seed is None else Random(str(sampling.seed))
        self._written: dict[int, int] = {}  # how often, by token

    def draw(self) -> float:
        """The next random number of the row, from 0 to below 1."""
        return self._random.random()

    def note(self, token: int) -> None:
        """Keep what the row has written."""
        self._written[token] = self._written.get(token, 0) + 1

    def bias(self) -> dict[int, float]:
        """Token id to nats: what the caller's bias and penalties add to the next logits."""
        sampling = self.sampling
        bias = dict(sampling.logit_bias)
        if sampling.frequency_penalty or sampling.presence_penalty:
            for token, times in self._written.items():
                penalty = sampling.frequency_penalty * times + sampling.presence_penalty
                bias[token] = bias.get(token, 0.0) - penalty
        return bias


def check_sampling(sampling: Sampling, vocabulary: int) -> None:
    """Check what the types do not hold back.

    Args:
        sampling: what is asked for.
        vocabulary: how many tokens the model knows.

    Raises:
        MoguError: At the first value that is not allowed.
    """
    logprobs = 0 if sampling.logprobs is None else sampling.logprobs
    for name, value, lowest, highest in (
        ("max_tokens", sampling.max_tokens, 1, float("inf")),
        ("temperature", sampling.temperature, 0, 2),
        ("frequency_penalty", sampling.frequency_penalty, -2, 2),
        ("presence_penalty", sampling.presence_penalty, -2, 2),
        ("logprobs", logprobs, 0, MOST_LOGPROBS),
    ):
        if not lowest <= value <= highest:
            raise MoguError(f"{name} is {value}; give a number from {lowest} to {highest}")
    if not 0 < sampling.top_p <= 1:
        raise MoguError(f"top_p is {sampling.top_p}; give a number above 0, up to 1")
    if "" in sampling.stop:
        raise MoguError("a stop string is empty; give at least one character")
    for token, nats in sampling.logit_bias.items():
        if not 0 <= token < vocabulary:
            raise MoguError(f"logit_bias names token {token}; the model has tokens 0 to {vocabulary - 1}")
        if not -100 <= nats <= 100:
            raise MoguError(f"logit_bias of token {token} is {nats}; give a number from -100 to 100")


def choose(logits: Tensor, rows: Sequence[Chooser], guarded: Sequence[bool]) -> Chosen:
    """The next token of each row.

    Args:
        logits: ``(rows, vocabulary)`` of the model, at least float32; changed in place by bias and penalties.
        rows: how each is written.
        guarded: of which of them routing decides this token: the safe variant writes it, or routers weigh it.
    """
    _add_bias(logits, [{} if alone else row.bias() for row, alone in zip(rows, guarded, strict=True)])
    tokens = logits.argmax(-1)
    if drawn := [place for place, row in enumerate(rows) if row.sampling.temperature > 0]:
        temperature = [
            min(rows[place].sampling.temperature, 1.0 if guarded[place] else 2.0) for place in drawn
        ]
        # The highest logit goes to 0 first: divided by next to nothing it would be infinite.
        raised = logits[drawn]
        raised -= raised.amax(-1, keepdim=True)
        scaled = raised / logits.new_tensor(temperature)[:, None]
        top_p = [rows[place].sampling.top_p for place in drawn]
        numbers = [rows[place].draw() for place in drawn]
        tokens[drawn] = _draw(scaled.softmax(-1), top_p, numbers)
    ids = tokens.tolist()
    for row, token in zip(rows, ids, strict=True):
        row.note(token)
    return Chosen(tokens, ids, _chances(logits, tokens, rows, guarded))


def _add_bias(logits: Tensor, biases: Sequence[dict[int, float]]) -> None:
    places = [(row, token) for row, bias in enumerate(biases) for token in bias]
    if places:
        nats = [bias[token] for bias in biases for token in bias]
        index = torch.tensor(places, device=logits.device)
        logits[index[:, 0], index[:, 1]] += logits.new_tensor(nats)


def _draw(shares: Tensor, top_p: list[float], numbers: list[float]) -> Tensor:
    """``(rows,)``: where each row's number, 0 to 1, falls among the shares ``(rows, vocabulary)`` that top_p leaves."""
    at = torch.tensor(numbers, dtype=torch.float64, device=shares.device)[:, None]
    tokens = torch.empty(len(numbers), dtype=torch.int64, device=shares.device)
    whole = [row for row, share in enumerate(top_p) if share == 1]
    if whole:
        tokens[whole] = _fall(shares if len(whole) == len(top_p) else shares[whole], at[whole])
    likeliest = [row for row, share in enumerate(top_p) if share < 1]
    if likeliest:
        wanted = torch.tensor([top_p[row] for row in likeliest], dtype=torch.float64, device=shares.device)
        found, ids, sums = _likeliest(shares[likeliest], wanted[:, None])
        reached = sums.gather(1, found - 1)
        place = _place(sums, at[likeliest] * reached / sums[:, -1:])
        tokens[likeliest] = ids.gather(1, place.minimum(found[:, 0] - 1)[:, None])[:, 0]
    return tokens


def _fall(shares: Tensor, numbers: Tensor) -> Tensor:
    """``(rows,)``: the token at that share ``(rows, 1)`` of all, in the order of the vocabulary.

    First the block of tokens, then the token in it: the running sum of all would take longer than all else together.
    """
    blocks = pad(shares, (0, -shares.shape[1] % BLOCK)).unflatten(1, (-1, BLOCK))
    sums = blocks.sum(-1, dtype=torch.float64).cumsum(-1)
    block = _place(sums, numbers)[:, None]
    before = pad(sums, (1, 0)).gather(1, block)
    inner = blocks.gather(1, block[..., None].expand(-1, -1, BLOCK))[:, 0].cumsum(-1, dtype=torch.float64)
    # Summed up in another order, the block may end a hair earlier.
    rest = ((numbers * sums[:, -1:] - before) / inner[:, -1:]).clamp(0, 1 - 1e-15)
    return block[:, 0] * BLOCK + _place(inner, rest)


def _likeliest(shares: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How many of the likeliest tokens have so much of the shares; their ids and running sums, all ``(rows, ...)``."""
    vocabulary, looked_at = shares.shape[1], FIRST_LOOK
    while True:
        top, ids = shares.topk(min(looked_at, vocabulary))
        sums = top.cumsum(-1, dtype=torch.float64)
        if looked_at >= vocabulary or bool((sums[:, -1:] >= wanted).all()):
            before = torch.cat((torch.zeros_like(sums[:, :1]), sums[:, :-1]), dim=1)
            return (before < wanted).sum(1, keepdim=True), ids, sums
        looked_at *= 8


def _place(sums: Tensor, numbers: Tensor) -> Tensor:
    """``(rows,)``: the first place whose running sum is above that share ``(rows, 1)`` of the last one."""
    place = torch.searchsorted(sums, numbers * sums[:, -1:], right=True)[:, 0]
    return place.clamp(max=sums.shape[1] - 1)


def _chances(
    logits: Tensor, tokens: Tensor, rows: Sequence[Chooser], guarded: Sequence[bool]
) -> list[Chances | None]:
    chances: list[Chances | None] = [None] * len(rows)
    asked = [place for place, row in enumerate(rows) if row.sampling.logprobs is not None]
    if not asked:
        return chances
    logprobs = logits[asked].log_softmax(-1)
    own = logprobs.gather(1, tokens[asked][:, None])[:, 0].tolist()
    top, ids = (each.tolist() for each in logprobs.topk(min(MOST_LOGPROBS, logprobs.shape[1])))
    for number, place in enumerate(asked):
        count = rows[place].sampling.logprobs or 0
        likeliest = list(zip(ids[number], top[number], strict=True))
        if guarded[place]:
            likeliest = [(int(tokens[place]), own[number])]
        chances[place] = Chances(own[number], tuple(likeliest[:count]))
    return chances
