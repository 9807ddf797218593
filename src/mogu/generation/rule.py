"""Which tokens are routed: a rule on positions (paper, section 3), the same for every engine.

A token at position p of a row whose prompt has L tokens is routed iff L - k <= p < L + m - 1, where k is
`routed_prompt_tokens` and m is `routed_tokens`: then exactly m reply tokens are sampled from routed logits.
Positions are counted within the row, without its padding. Knows nothing of models or caches.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class RoutedSpan(NamedTuple):
    """Per row, the routed positions: from `starts` up to `ends`, exclusive; both ``(rows,)`` int64."""

    starts: Tensor
    ends: Tensor

    @classmethod
    def of_prompts(
        cls, lengths: Tensor, routed_tokens: int | None, routed_prompt_tokens: int | None
    ) -> "RoutedSpan":
        """The spans of some prompts.

        Args:
            lengths: ``(rows,)`` int64, tokens of each prompt without padding.
            routed_tokens: m, how many reply tokens are sampled from routed logits; None for all of them.
            routed_prompt_tokens: k, how many of the prompt's last tokens are routed; None for all of them.
        """
        whole_prompt = torch.zeros_like(lengths)
        starts = (
            whole_prompt if routed_prompt_tokens is None else (lengths - routed_prompt_tokens).clamp(min=0)
        )
        if routed_tokens is None:
            return cls(starts, torch.full_like(lengths, torch.iinfo(lengths.dtype).max))
        return cls(starts, lengths + routed_tokens - 1 if routed_tokens else starts)


def routed_positions(position_ids: Tensor, span: RoutedSpan) -> Tensor:
    """The rule.

    Args:
        position_ids: ``(batch, seq)`` int64; negative on padding, which is never routed.
        span: of `batch` rows, or of fewer when each row stands n times in the batch, one copy after the other
            (beams, several returned sequences).

    Returns:
        ``(batch, seq)`` bool.
    """
    copies = position_ids.shape[0] // span.starts.shape[0]
    starts, ends = (bound.repeat_interleave(copies)[:, None] for bound in span)
    return (starts <= position_ids) & (position_ids < ends)
