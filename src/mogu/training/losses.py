"""The losses of the paper (sections 1 and 2) as pure functions of tensors."""

import torch
from torch import Tensor
from torch.nn import functional as F

from mogu.adapter.layer import SAFE, USABLE

NOT_A_TARGET = -100
"""The label of a position whose prediction does not count."""


def reply_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of each row's reply.

    Args:
        logits: ``(batch, seq, vocabulary)``, the prediction at each position.
        labels: ``(batch, seq)``, the token that follows each position, or `NOT_A_TARGET`.

    Returns:
        ``(batch,)``, nats a token.
    """
    precise = torch.promote_types(logits.dtype, torch.float32)
    losses = F.cross_entropy(
        logits.transpose(1, 2).to(precise), labels, ignore_index=NOT_A_TARGET, reduction="none"
    )
    return losses.sum(1) / (labels != NOT_A_TARGET).sum(1)


def disposition_loss(wanted: Tensor, unwanted: Tensor) -> Tensor:
    """CE(wanted reply) / CE(unwanted reply), of the batch's means (paper, section 1): low when one is preferred.

    Args:
        wanted: ``(batch,)`` cross-entropies of the replies that the variant should give.
        unwanted: ``(batch,)`` cross-entropies of those that it should not.
    """
    return wanted.mean() / unwanted.mean()


def router_loss(
    weights: Tensor, malicious: Tensor, routed: Tensor, distance: str, importance: Tensor | None = None
) -> Tensor:
    """How far the weights are from (1, 0) on malicious and (0, 1) on benign rows (paper, section 2).

    Args:
        weights: ``(layers, batch, seq, 2)`` in [0, 1], the weights of (safe, usable).
        malicious: ``(batch,)`` bool.
        routed: ``(batch, seq)`` bool, the tokens that count.
        distance: ``l1`` (the paper) or ``squared`` (its code).
        importance: ``(batch,)``, how much the tokens of each row count; all alike if None.

    Returns:
        The weighted mean over layers, routed tokens and the two weights; 0 to 1.
    """
    target = torch.zeros(len(malicious), 2, dtype=weights.dtype, device=weights.device)
    target[malicious, SAFE] = 1
    target[~malicious, USABLE] = 1
    difference = weights - target[None, :, None]
    each = (difference.abs() if distance == "l1" else difference.square()).mean((0, 3))  # (batch, seq)
    counts = routed.to(each.dtype)
    if importance is not None:
        counts = counts * importance[:, None].to(each.dtype)
    return (counts * each).sum() / counts.sum()
