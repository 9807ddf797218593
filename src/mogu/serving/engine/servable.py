"""Which models the engine can serve, and how long their texts may be. Refuses the others with one line."""

import inspect
from collections.abc import Sequence

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from mogu.errors import MoguError
from mogu.generation import MoguModel
from mogu.generation.request import RoutingRequest
from mogu.serving.engine.batch import Batch, Prefill

SUPPORTED = (
    "the engine serves decoder-only models with a plain cache of keys and values that take position_ids; "
    "`mogu generate` and `mogu chat` take any"
)

TOLERANCE = 0.1
"""Of the next token's probabilities so much may differ, summed up: by rounding, in the coarsest of numbers."""


def longest_text(model: MoguModel) -> int:
    """Most tokens of a prompt and its reply together.

    A model with a sliding window is served up to that window: within it, it attends to everything. One whose positions
    change with the longest row is served up to where they do.

    Raises:
        MoguError: If the model cannot be served.
    """
    language_model = model.model
    config = language_model.config.get_text_config(decoder=True)
    kind = config.model_type
    if "position_ids" not in inspect.signature(language_model.forward).parameters:
        raise MoguError(f"{kind} takes no position_ids: {SUPPORTED}")
    lengths = [getattr(config, "max_position_embeddings", None), model.tokenizer.model_max_length]
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":  # beyond, one long row would turn all rows' positions otherwise
        lengths.append(rope["original_max_position_embeddings"])
    for layer in DynamicCache(config=config).layers:
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
            raise MoguError(f"{kind} keeps more than keys and values ({type(layer).__name__}): {SUPPORTED}")
        if isinstance(layer, DynamicSlidingWindowLayer):
            lengths.append(layer.sliding_window)
    return min(length for length in lengths if length)


def check_rows(model: MoguModel) -> None:
    """See on a few tokens that rows are read as if they were alone: rows of unlike lengths, joined later, or in parts.

    Raises:
        MoguError: If not.
    """
    prompts = [list(range(5, 13)), [5, 6], list(range(7, 14))]
    token = torch.tensor([10], device=model.model.device)
    request = RoutingRequest("base")
    alone, mixed = [], Batch(model, request)
    for prompt in prompts:
        single = Batch(model, request)
        single.join(_read(model, request, [prompt]))
        alone.append(single.step(token))
    mixed.join(_read(model, request, prompts[:2]))
    mixed.join(_read(model, request, prompts[2:], columns=3))
    differing = (mixed.step(token.repeat(3)).softmax(-1) - torch.cat(alone).softmax(-1)).abs().sum(1) / 2
    if not bool((differing < TOLERANCE).all()):
        kind = model.model.config.model_type
        raise MoguError(f"{kind} reads rows together or in parts otherwise than alone: {SUPPORTED}")


def _read(
    model: MoguModel, request: RoutingRequest, prompts: Sequence[Sequence[int]], columns: int | None = None
) -> Prefill:
    prefill = Prefill(model, request, prompts)
    while not prefill.read(columns):
        pass
    return prefill
