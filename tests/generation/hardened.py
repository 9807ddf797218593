"""Tiny hardened models with random parts, and the written procedure that generation must equal."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from mogu.adapter.attach import Adapter, attach
from mogu.adapter.config import AdapterConfig
from mogu.chat import batch_left_pad
from mogu.generation import MoguModel
from mogu.models import ModelIdentity, find_projections
from tests.tiny import tiny_model, tiny_tokenizer

RANK = 4
NEW = 7
FAMILIES = ["llama", "falcon_7b", "gpt2", "gemma3_text", "qwen3"]
WAYS_TO_CACHE = [
    {"use_cache": False},
    {"prefill_chunk_size": 4},
    {"cache_implementation": "static"},
    {"cache_implementation": "static", "prefill_chunk_size": 4},
]
NO_END = {"eos_token_id": None, "pad_token_id": 0}
GREEDY = {"do_sample": False, "max_new_tokens": NEW}
PROMPTS = [[5, 9, 17, 40, 8, 77], [31, 7, 200], [12, 90, 3, 4, 5, 6, 99, 150, 44]]


@cache
def hardened(
    family: str = "llama", routed_tokens: int = 3, routed_prompt_tokens: int | None = None
) -> MoguModel:
    """A float64 model whose adapter's random parts change the logits clearly; kept: nothing changes it."""
    model = tiny_model(family)
    projections = find_projections(model)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(7)
        adapter = attach(model, projections, rank=RANK, lora_alpha=RANK)
        for layer in adapter.layers.values():
            for variant in (layer.safe, layer.usable):
                variant.B.normal_(std=0.7)
            layer.router.vectors.normal_(std=0.3)
            layer.router.bias.normal_()
    adapter.freeze()
    return as_mogu(
        family,
        adapter,
        parts=["safe", "usable", "routers"],
        weights="token",
        routed_tokens=routed_tokens,
        routed_prompt_tokens=routed_prompt_tokens,
    )


def as_mogu(family: str, adapter: Adapter, **config) -> MoguModel:
    """The model of an adapter whose config says what is given."""
    model_type = adapter.model.config.model_type
    whole = AdapterConfig(
        mogu_version="0",
        base=ModelIdentity(name=family, revision=None, fingerprint="0", model_type=model_type),
        projections=list(adapter.layers),
        rank=RANK,
        lora_alpha=RANK,
        training={},
        versions={},
        metrics={},
        created="2025-01-01",
        **config,
    )
    return MoguModel(adapter.model, tiny_tokenizer(), adapter, whole)


class Written(NamedTuple):
    """What the written procedure gives: ids of the reply, logits ``(tokens, vocab)``, mean weights."""

    tokens: list[int]
    logits: Tensor
    weights: tuple[float, float]


@torch.no_grad()
def by_hand(
    mogu: MoguModel,
    prompt: list[int],
    m: int,
    new: int = NEW,
    refill: bool = False,
    weights: Tensor | None = None,
    end: int | None = None,
) -> Written:
    """Greedy decoding of one row that reads the whole sequence anew for every token, routing by position."""
    ids = torch.tensor([prompt])
    k = mogu.config.routed_prompt_tokens
    start = 0 if k is None else max(0, len(prompt) - k)
    stop = len(prompt) + m - 1 if m else start
    logits, used = [], (0.0, 1.0)
    for step in range(new):
        position = torch.arange(ids.shape[1])[None]
        routed = (position >= start) & (position < stop)
        if refill and step >= m:
            routed[:] = False
        mogu.adapter.routing.routed = routed if routed.any() else None
        mogu.adapter.routing.weights = weights
        logits.append(mogu.model(input_ids=ids, use_cache=False).logits[0, -1])
        if routed.any():
            mean = mogu.adapter.last_weights()[:, 0, routed[0]].mean((0, 1))
            used = tuple(mean.tolist())
        mogu.adapter.routing.routed = mogu.adapter.routing.weights = None
        ids = torch.cat([ids, logits[-1].argmax().view(1, 1)], dim=1)
        if ids[0, -1] == end:
            break
    return Written(ids[0, len(prompt) :].tolist(), torch.stack(logits), used)


@contextmanager
def seen_logits(mogu: MoguModel) -> Iterator[list[Tensor]]:
    """The float64 logits ``(batch, vocab)`` of every forward's last token: `generate` returns float32."""
    seen: list[Tensor] = []
    hook = mogu.model.register_forward_hook(lambda _, __, output: seen.append(output.logits[:, -1].clone()))
    try:
        yield seen
    finally:
        hook.remove()


def replies(mogu: MoguModel, prompts: list[list[int]], **settings) -> list[list[int]]:
    """The new tokens of each row of a left-padded batch."""
    ids, mask = batch_left_pad(prompts, 0)
    output = mogu.generate(ids, mask, **{**NO_END, **GREEDY, **settings})
    return output[:, ids.shape[1] :].tolist()
