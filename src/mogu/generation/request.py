"""What a generation may be asked for; everything that is not tested equal is refused here with one line."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from mogu.errors import MoguError

Mode = Literal["mogu", "base", "usable", "safe"]
"""mogu: routed; base: no routing; usable, safe: that variant to the reply's end."""

Handoff = Literal["reuse", "refill"]
"""After the routed tokens the base goes on from the KV cache, or reads everything again (the paper's way)."""

_REFUSED: dict[str, str] = {
    "inputs": "give the prompt as input_ids",
    "inputs_embeds": "routing counts tokens: give input_ids",
    "position_ids": "they follow from attention_mask",
    "custom_generate": "it may call the model in any order",
    "guidance_scale": "it makes the model read a second prompt",
    "negative_prompt_ids": "it makes the model read a second prompt",
    "assistant_early_exit": "give assistant_model or prompt_lookup_num_tokens instead",
    "use_mtp": "give assistant_model or prompt_lookup_num_tokens instead",
    "token_healing": "it changes the prompt",
}
_DRAFTS = ("assistant_model", "prompt_lookup_num_tokens")
_REFUSED_WITH_REFILL = ("past_key_values", *_DRAFTS)
_CACHES = (None, "dynamic", "static")


class RoutingRequest(NamedTuple):
    """What is asked of the routing.

    Attributes:
        mode: who answers.
        routed_tokens: of token routing m, how many reply tokens are sampled from routed logits; None for the adapter's.
        handoff: of token routing, how the base takes over after them.
        threshold: of sequence routing, the probability from which on a reply is a refusal; None for the adapter's.
    """

    mode: Mode = "mogu"
    routed_tokens: int | None = None
    handoff: Handoff = "reuse"
    threshold: float | None = None


def check_request(request: RoutingRequest, weights: Literal["token", "sequence"]) -> None:
    """Check the values that types do not hold back, and that they belong to the way of routing.

    Args:
        request: what is asked.
        weights: how the adapter routes.

    Raises:
        MoguError: If one is not allowed; the message lists what is.
    """
    for name, allowed in (("mode", Mode), ("handoff", Handoff)):
        if (value := getattr(request, name)) not in get_args(allowed):
            raise MoguError(f"{name} {value!r} is none of {', '.join(get_args(allowed))}")
    m = request.routed_tokens
    if m is not None and (isinstance(m, bool) or not isinstance(m, int) or m < 0):
        raise MoguError(f"routed_tokens is {m!r}; give a whole number from 0 (0 is the base model)")
    threshold = request.threshold
    if threshold is not None and not (isinstance(threshold, int | float) and 0 <= threshold <= 1):
        raise MoguError(f"threshold is {threshold!r}; give a probability from 0 (refuse all) to 1")
    if weights == "sequence" and (m is not None or request.handoff != "reuse"):
        raise MoguError(
            "routed_tokens and handoff belong to token routing; this adapter routes whole replies"
        )
    if weights == "token" and threshold is not None:
        raise MoguError("threshold belongs to sequence routing; this adapter routes token by token")


def check_prompts(input_ids: object, attention_mask: Tensor | None, has_cache: bool) -> Tensor:
    """Check the prompts of a batch and say which of their tokens count.

    Args:
        input_ids: ``(rows, columns)`` int64.
        attention_mask: the same shape, or wider when a cache holds what came before; None without padding.
        has_cache: whether the caller gives a cache.

    Returns:
        The mask, int64.

    Raises:
        MoguError: If the shapes do not fit, a row is empty, or padding is not on the left.
    """
    if not isinstance(input_ids, Tensor) or input_ids.dim() != 2 or input_ids.is_floating_point():
        raise MoguError("input_ids must be a (rows, tokens) tensor of token ids, as tokenizers return it")
    if not input_ids.numel():
        raise MoguError("input_ids holds no token; give at least one row of at least one")
    if attention_mask is None:
        return torch.ones_like(input_ids)
    attention_mask = attention_mask.long()
    shape, wanted = tuple(attention_mask.shape), tuple(input_ids.shape)
    fits = shape == wanted or (has_cache and shape[:1] == wanted[:1] and shape[1:] > wanted[1:])
    if not fits:
        raise MoguError(
            f"attention_mask has shape {shape} but input_ids {wanted}; give one of the same shape"
        )
    if not bool(attention_mask[:, -1].all()) or bool((attention_mask.diff(dim=1) < 0).any()):
        raise MoguError(
            "a row is empty or padded on the right; pad on the left: tokenizer.padding_side = 'left'"
        )
    return attention_mask


def check_settings(
    settings: Mapping[str, Any],
    generation_config: object,
    handoff: Handoff,
    weights: Literal["token", "sequence"],
) -> None:
    """Check the arguments that go on to `generate`.

    Args:
        settings: the keyword arguments.
        generation_config: where those that are not given come from.
        handoff: what the base will do.
        weights: how the adapter routes.

    Raises:
        MoguError: At the first one that is refused; the message says why, or what to give instead.
    """

    def given(name: str) -> Any:
        value = settings.get(name)
        return getattr(generation_config, name, None) if value is None else value

    for name, reason in _REFUSED.items():
        value = given(name)
        neutral = value is None or value is False or (name == "guidance_scale" and value == 1)
        if not neutral:
            raise MoguError(f"{name} is not supported: {reason}")
    cache = given("cache_implementation")
    if cache not in _CACHES:
        raise MoguError(
            f"cache_implementation {cache!r} is not supported; give dynamic, static or a cache object"
        )
    if weights == "sequence" and (drafts := [name for name in _DRAFTS if given(name) is not None]):
        raise MoguError(
            f"{drafts[0]} is not supported with sequence routing: drafts would be read before the gate decides"
        )
    if weights == "sequence" and (given("num_beams") or 1) > 1 and given("use_cache") is False:
        raise MoguError(
            "beams with sequence routing need the cache, which says how they move: leave use_cache on"
        )
    if handoff == "refill":
        clashing = [name for name in _REFUSED_WITH_REFILL if given(name) is not None]
        if (given("num_beams") or 1) > 1:
            clashing.append("num_beams")
        if cache == "static":
            clashing.append("cache_implementation='static'")
        if clashing:
            raise MoguError(
                f"handoff='refill' does not go with {', '.join(clashing)}: use handoff='reuse', the default"
            )
