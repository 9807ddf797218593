"""Which models the engine can serve, and how long their texts may be. Refuses the others with one line."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from mogu.errors import MoguError
from mogu.generation import MoguModel
from mogu.generation.request import RoutingRequest
from mogu.serving.batch import Batch
from mogu.serving.cache import GROUPED

SUPPORTED = (
    "the engine serves decoder-only models with a plain cache of keys and values that take position_ids; "
    "`mogu generate` and `mogu chat` take any"
)

TOLERANCE = 0.05
"""Of a token's probability. Rows that are read together differ by rounding; a model that mixes them up, by far more."""


def longest_text(model: MoguModel) -> int:
    """Most tokens of a prompt and its reply together.

    A model with a sliding window is served up to that window: within it, it attends to everything.

    Raises:
        MoguError: If the model cannot be served.
    """
    language_model = model.model
    config = language_model.config.get_text_config(decoder=True)
    kind = config.model_type
    if "position_ids" not in inspect.signature(language_model.forward).parameters:
        raise MoguError(f"{kind} takes no position_ids: {SUPPORTED}")
    lengths = [getattr(config, "max_position_embeddings", None), model.tokenizer.model_max_length]
    for layer in DynamicCache(config=config).layers:
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
            raise MoguError(f"{kind} keeps more than keys and values ({type(layer).__name__}): {SUPPORTED}")
        if isinstance(layer, DynamicSlidingWindowLayer):
            lengths.append(layer.sliding_window)
    return min(length for length in lengths if length)


def check_rows(model: MoguModel) -> None:
    """See on a few tokens that a row which joins another is read as if it were alone, and the other as well.

    Raises:
        MoguError: If not.
    """
    first, second = [5, 6, 7, 8, 9], [11, 12]
    token = torch.tensor([10], device=model.model.device)
    request = RoutingRequest("base")
    alone, mixed, other = (Batch(model, request) for _ in range(3))
    for batch in (alone, mixed):
        batch.join(batch.read([first]))
        batch.step(token)
    other.join(other.read([second]))
    mixed.join(mixed.read([second]))
    expected = torch.cat((alone.step(token), other.step(token))).softmax(-1)
    seen = mixed.step(token.repeat(2)).softmax(-1)
    if not bool(((seen - expected).abs() < TOLERANCE).all()):
        kind = model.model.config.model_type
        raise MoguError(f"{kind} reads rows of unlike lengths together otherwise than alone: {SUPPORTED}")


@contextmanager
def grouped(model: MoguModel) -> Iterator[None]:
    """The model with `grouped_attention` in place of transformers' attention "sdpa", if that is what it has."""
    language_model = model.model
    if (
        language_model.config._attn_implementation != "sdpa"
        or not language_model._can_set_attn_implementation()
    ):
        yield
        return
    language_model.set_attn_implementation(GROUPED)
    try:
        yield
    finally:
        language_model.set_attn_implementation("sdpa")
