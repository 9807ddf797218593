"""How near the base is to a reply that complies: what white-box attacks go by."""

import random
from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mogu.chat import encode_chat
from mogu.data.pairs import opener_to
from mogu.data.requests import Request
from mogu.defenses.base import Talk
from mogu.evaluation.attacks.trial import last_text
from mogu.evaluation.sets import Sample


class Aimed(NamedTuple):
    """A prompt and the reply that is aimed at.

    Attributes:
        ids: token ids of both.
        start: where the reply begins, behind what the caller has begun.
    """

    ids: list[int]
    start: int


def target_of(request: Sample, rng: random.Random) -> str:
    """How a reply that complies would begin: the sample's own target, or an affirmative opener."""
    talk = request.talk
    asked = Request(request.id, last_text(talk), list(talk.messages), "malicious")
    return request.target or opener_to(asked, rng)


def aimed(tokenizer: PreTrainedTokenizerBase, talk: Talk, target: str) -> Aimed:
    """A talk and its target as token ids.

    Raises:
        MoguError: As `encode_chat`.
    """
    prompt = encode_chat(tokenizer, talk.messages, talk.opener).ids
    whole = encode_chat(tokenizer, talk.messages, talk.opener + target).ids
    return Aimed(whole, shared_start(prompt, whole))


def shared_start(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids two rows begin with in common."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (left, right) in pairs if left != right), min(len(one), len(other)))


@torch.no_grad()
def target_losses(model: PreTrainedModel, rows: Sequence[Aimed], batch_size: int) -> list[float]:
    """The cross-entropy of each row's target, in nats a token.

    Args:
        model: a language model that nothing routes.
        rows: prompts and targets.
        batch_size: how many are read at once. Rows of one length are read together, so that none needs padding.
    """
    losses: dict[int, float] = {}

    def shape(row: int) -> tuple[int, int]:
        return len(rows[row].ids), rows[row].start

    for _, alike in groupby(sorted(range(len(rows)), key=shape), key=shape):
        members = list(alike)
        for first in range(0, len(members), batch_size):
            batch = members[first : first + batch_size]
            ids = torch.tensor([rows[row].ids for row in batch], device=model.device)
            found = _cross_entropy(model, ids, rows[batch[0]].start, input_ids=ids)
            losses.update(zip(batch, found.tolist(), strict=True))
    return [losses[row] for row in range(len(rows))]


def token_gradient(model: PreTrainedModel, row: Aimed, places: slice) -> Tensor:
    """How the loss of a row's target changes with the choice of tokens in its prompt, to first order.

    Args:
        model: a language model that nothing routes.
        row: prompt and target.
        places: of the prompt's tokens.

    Returns:
        ``(places, rows of the embedding)``, the gradient with respect to the one-hot choice at each place; where the
        model scales its embeddings, up to that factor.
    """
    table: Any = model.get_input_embeddings()
    ids = torch.tensor([row.ids], device=model.device)
    with torch.enable_grad():
        vectors = table(ids).detach().requires_grad_()
        loss = _cross_entropy(model, ids, row.start, inputs_embeds=vectors).sum()
        (gradient,) = torch.autograd.grad(loss, vectors)
    # The chain rule through the table: no one-hot matrix of the vocabulary's size is made for it.
    product: Tensor = gradient[0, places] @ table.weight.detach().T
    return product


def _cross_entropy(model: PreTrainedModel, ids: Tensor, start: int, **inputs: Tensor) -> Tensor:
    """``(rows,)``, the mean over the columns of ``ids`` from ``start`` on."""
    targets = ids[:, start:]
    # A column's logits are of the next one: those of the last are of no use.
    logits = model(**inputs, use_cache=False, logits_to_keep=targets.shape[1] + 1).logits[:, :-1]
    precise = torch.promote_types(logits.dtype, torch.float32)
    return F.cross_entropy(logits.transpose(1, 2).to(precise), targets, reduction="none").mean(1)
