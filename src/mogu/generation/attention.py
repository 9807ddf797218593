"""An attention that reads one token of many rows without copying their keys and values for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

GROUPED = "mogu_grouped"
"""The name of `grouped_attention` among transformers' attentions."""


def grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """transformers' attention "sdpa" that, reading one token, repeats no keys and values for the heads that share them.

    Those heads' queries, one token each, stand as one head's queries of several tokens: a third less time for a step of
    16 rows with 300 tokens of a small model. Arguments and result are those of `sdpa_attention_forward`.
    """
    rows, heads, tokens, features = query.shape
    shared = key.shape[1]
    if tokens > 1 or heads == shared or kwargs.get("position_bias") is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    grouped = query.reshape(rows, shared, heads // shared, features)
    output = scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=scaling)
    return output.reshape(rows, 1, heads, value.shape[-1]), None


AttentionInterface.register(GROUPED, grouped_attention)
AttentionMaskInterface.register(GROUPED, sdpa_mask)


@contextmanager
def grouped(model: PreTrainedModel) -> Iterator[None]:
    """The model with `grouped_attention` in place of transformers' attention "sdpa", if that is what it has."""
    if model.config._attn_implementation != "sdpa" or not model._can_set_attn_implementation():
        yield
        return
    model.set_attn_implementation(GROUPED)
    try:
        yield
    finally:
        model.set_attn_implementation("sdpa")
