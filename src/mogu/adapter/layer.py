"""The routed attention output projection: the one module that MoGU adds to a model (paper, section 2).

For a projection ``W_o`` (its bias, if any, belongs to ``W_o x``), an input ``x`` and the scaling ``s``::

    y = (a + b) W_o x + s (a B_safe A_safe x + b B_usable A_usable x)

where ``a`` weighs the safe variant and ``b`` the usable one. A token that is not routed takes ``y = W_o x``.
This file knows nothing of prompts, rows or generation: which tokens are routed, and whether the weights come
from the layer's own router or from outside, stands in the :class:`Routing` that all layers of a model share. The
low-rank part is two thin products, however many variants there are.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from mogu.adapter.router import FoldedRouter, Router

SAFE, USABLE = 0, 1
"""The order of the two variants wherever they are stacked: row, column or last dimension."""


class Mixture(NamedTuple):
    """How much of what every token takes.

    Attributes:
        gates: ``(batch, seq, 2)``, at least float32, the weights (safe, usable); (0, 1) where a token is not routed.
        total: ``(batch, seq, 1)``, of ``W_o x``: their sum, so 1 where a token is not routed.
        spread: ``(batch, seq, 2 rank)``, of the rows of ``A_safe x`` and ``A_usable x``; 0 where it is not.
    """

    gates: Tensor
    total: Tensor
    spread: Tensor

    @classmethod
    def of(cls, weights: Tensor, routed: Tensor, rank: int, dtype: torch.dtype) -> "Mixture":
        """The mixture of weights ``(batch or 1, seq or 1, 2)``, at least float32, where tokens are routed."""
        mask = routed.to(weights.device).unsqueeze(-1)
        # (0, 1) made on the device: copied there, it would make the host wait.
        unrouted = torch.arange(2, dtype=weights.dtype, device=weights.device)
        gates = torch.where(mask, weights, unrouted)
        spread = (gates * mask).to(dtype).repeat_interleave(rank, dim=-1)
        return cls(gates, gates.sum(-1, keepdim=True).to(dtype), spread)


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
    _given: tuple[tuple[Any, ...], Mixture] | None = field(
        default=None, init=False, repr=False, compare=False
    )

    def given(self, rank: int, x: Tensor) -> Mixture:
        """The mixture of the weights from outside, as layers of one rank need it for inputs like ``x``.

        Made once for all layers of a forward: of a few tokens it costs as much as a layer's own two products.
        """
        assert self.routed is not None and self.weights is not None
        asked = (rank, x.dtype, x.device)
        if self._given is not None:
            (routed, weights, *like), mixture = self._given
            if routed is self.routed and weights is self.weights and tuple(like) == asked:
                return mixture
        exact = self.weights.to(x.device, torch.promote_types(x.dtype, torch.float32))
        mixture = Mixture.of(exact, self.routed, rank, x.dtype)
        self._given = (self.routed, self.weights, *asked), mixture
        return mixture


class LowRank(nn.Module):
    """One variant: ``A`` ``(rank, in_features)``, random at first, ``B`` ``(out_features, rank)``, zero."""

    def __init__(self, in_features: int, out_features: int, rank: int) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.empty(rank, in_features))
        self.B = nn.Parameter(torch.zeros(out_features, rank))
        nn.init.kaiming_uniform_(self.A, a=5**0.5)


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
        """The parts as three matrices; gradients reach the parts.

        Returns:
            ``(2 rank + 2, in)``, the rows of ``A_safe``, ``A_usable`` and of the two folded router vectors;
            ``(out, 2 rank)``, the columns of ``s B_safe`` and ``s B_usable``; ``(2,)``, the router's bias, at least
            float32, in whose dtype the weights are computed.
        """
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
        rank = write.shape[1] // 2
        # All that is read of x, in one product: (batch, seq, 2 rank + 2).
        product = linear(x[:, unmixed:], read)
        if self.routing.weights is None:
            gates = torch.sigmoid(product[..., 2 * rank :].to(bias.dtype) + bias)
            mixture = Mixture.of(gates, routed, rank, x.dtype)
        else:
            mixture = self.routing.given(rank, x)
        self.last_weights = mixture.gates
        low_rank = linear(mixture.spread * product[..., : 2 * rank], write).to(output.dtype)
        # A token that is not routed gets 0 + 1 * W_o x, which is W_o x exactly.
        mixed = torch.addcmul(low_rank, mixture.total.to(output.dtype), output[:, unmixed:])
        return torch.cat((output[:, :unmixed], mixed), dim=1) if unmixed else mixed
