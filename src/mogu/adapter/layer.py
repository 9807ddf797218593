"""The routed attention output projection: the one module that MoGU adds to a model (paper, section 2).

For a projection ``W_o`` (its bias, if any, belongs to ``W_o x``), an input ``x`` and the scaling ``s``::

    y = (a + b) W_o x + s (a B_safe A_safe x + b B_usable A_usable x)

where ``a`` weighs the safe variant and ``b`` the usable one. A token that is not routed takes ``y = W_o x``.
This file knows nothing of prompts, rows or generation: which tokens are routed, and whether the weights come
from the layer's own router or from outside, stands in the :class:`Routing` that all layers of a model share.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from mogu.adapter.router import FoldedRouter, Router

SAFE, USABLE = 0, 1
"""The order of the two variants wherever they are stacked: row, column or last dimension."""


@dataclass
class Routing:
    """What every routed layer of one model does in the next forward.

    Attributes:
        routed: ``(batch, columns)`` bool, which of the forward's last ``columns`` tokens are routed; None when none is,
            which costs nothing.
        weights: ``(batch or 1, seq or 1, 2)`` float32, the weights (safe, usable) given from outside; None
            when each layer's router decides.
    """

    routed: Tensor | None = None
    weights: Tensor | None = None


class LowRank(nn.Module):
    """One variant: ``A`` ``(rank, in_features)``, random at first, ``B`` ``(out_features, rank)``, zero."""

    def __init__(self, in_features: int, out_features: int, rank: int) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.empty(rank, in_features))
        self.B = nn.Parameter(torch.zeros(out_features, rank))
        nn.init.kaiming_uniform_(self.A, a=5**0.5)


def mix_variants(
    base_output: Tensor,
    x: Tensor,
    *,
    read: Tensor,
    write: Tensor,
    router_bias: Tensor,
    routed: Tensor,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The layer's formula as two thin matrix products.

    Args:
        base_output: ``(batch, seq, out)``, ``W_o x``.
        x: ``(batch, seq, in)``.
        read: ``(2 rank + 2, in)``, the rows of ``A_safe``, ``A_usable`` and of the two folded router vectors.
        write: ``(out, 2 rank)``, the columns of ``s B_safe`` and ``s B_usable``.
        router_bias: ``(2,)``, at least float32: the gates are computed in its dtype.
        routed: ``(batch, seq)`` bool.
        weights: ``(batch or 1, seq or 1, 2)`` float32, or None for the router's own.

    Returns:
        ``(batch, seq, out)`` in the dtype of ``base_output``, and the weights ``(batch, seq, 2)`` in float32;
        (0, 1) where a token is not routed.
    """
    rank2 = write.shape[1]
    product = linear(x, read)  # (batch, seq, 2 rank + 2)
    low_rank = product[..., :rank2]
    if weights is None:
        gates = torch.sigmoid(product[..., rank2:].to(router_bias.dtype) + router_bias)
    else:
        gates = weights.to(x.device, router_bias.dtype).expand(*x.shape[:-1], 2)
    mask = routed.to(x.device).unsqueeze(-1)
    # (0, 1) made on the device: copied there, it would make the host wait in every layer.
    gates = torch.where(mask, gates, torch.arange(2, dtype=gates.dtype, device=x.device))
    # A token that is not routed gets 1 * W_o x + 0, which is W_o x exactly.
    total = gates.sum(-1, keepdim=True).to(base_output.dtype)
    spread = (gates * mask).to(x.dtype).repeat_interleave(rank2 // 2, dim=-1)  # (batch, seq, 2 rank)
    return total * base_output + linear(spread * low_rank, write), gates


class RoutedProjection(nn.Module):
    """Stands in for the attention output projection that it wraps.

    Args:
        projection: the base model's module, kept as it is and frozen.
        in_features: size of its input.
        out_features: size of its output.
        rank: LoRA rank of both variants.
        scaling: ``s``, lora_alpha / rank.
        routing: shared by all layers of the model.

    Attributes:
        router: a new folded one that weighs (0.5, 0.5); training may put the paper's in its place.
    """

    def __init__(
        self,
        projection: nn.Module,
        in_features: int,
        out_features: int,
        *,
        rank: int,
        scaling: float,
        routing: Routing,
    ) -> None:
        super().__init__()
        self.projection = projection
        self.safe = LowRank(in_features, out_features, rank)
        self.usable = LowRank(in_features, out_features, rank)
        self.router: Router | FoldedRouter = FoldedRouter(in_features)
        self.scaling = scaling
        self.routing = routing
        self.last_weights: Tensor | None = None
        self._stacked: tuple[Tensor, Tensor, Tensor] | None = None

    def stack(self) -> tuple[Tensor, Tensor, Tensor]:
        """``read``, ``write`` and ``router_bias`` of :func:`mix_variants`; gradients reach the parts."""
        vectors, bias = self.router.fold()
        read = torch.cat((self.safe.A, self.usable.A, vectors.to(self.safe.A.dtype)))
        write = self.scaling * torch.cat((self.safe.B, self.usable.B), dim=1)
        return read, write, bias.to(torch.promote_types(bias.dtype, torch.float32))

    def freeze(self) -> None:
        """Stack the parts once, for inference: later changes of the parts go unseen until :meth:`thaw`."""
        with torch.no_grad():
            self._stacked = self.stack()

    def thaw(self) -> None:
        """Stack the parts at every forward again, for training."""
        self._stacked = None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "RoutedProjection":
        # The stack is no parameter, so a move to another device or dtype must be told to make it anew.
        super()._apply(fn, recurse)
        if self._stacked:
            self.freeze()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, seq, in)`` to ``(batch, seq, out)``; ``last_weights`` are the weights that it used."""
        output = self.projection(x)
        routed = self.routing.routed
        if routed is None:
            self.last_weights = None
            return output
        read, write, bias = self._stacked or self.stack()
        # In training the parts may be more precise than the model.
        read, write = read.to(x.dtype), write.to(x.dtype)
        unmixed = x.shape[1] - routed.shape[1]
        mixed, self.last_weights = mix_variants(
            output[:, unmixed:],
            x[:, unmixed:],
            read=read,
            write=write,
            router_bias=bias,
            routed=routed,
            weights=self.routing.weights,
        )
        return torch.cat((output[:, :unmixed], mixed), dim=1) if unmixed else mixed
