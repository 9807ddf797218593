"""The routers (paper, section 2): per layer and per variant, a weight in (0, 1) for every token.

:class:`Router` is the paper's: three linear maps with no non-linearity between them. Such a product is itself
one linear map, so it folds exactly into one vector and one bias (:class:`FoldedRouter`), which inference uses
and which the folder on disk holds.
"""

import torch
from torch import Tensor, nn

ROUTER_WIDTH = 512
"""The inner width of the paper's routers."""


class Router(nn.Module):
    """The paper's routers of one layer, each Linear(d, 512, no bias), Linear(512, d), Linear(d, 1).

    Args:
        features: d, the size of the projection's input.
        width: the inner width.
    """

    def __init__(self, features: int, width: int = ROUTER_WIDTH) -> None:
        super().__init__()
        self.safe = _three_linear_maps(features, width)
        self.usable = _three_linear_maps(features, width)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., features)`` to the logits ``(..., 2)`` of (safe, usable), through all three maps."""
        return torch.cat((self.safe(x), self.usable(x)), dim=-1)

    def fold(self) -> tuple[Tensor, Tensor]:
        """The same map as one: vectors ``(2, features)`` and bias ``(2,)``."""
        folded = [_fold(maps) for maps in (self.safe, self.usable)]
        return torch.cat([vector for vector, _ in folded]), torch.cat([bias for _, bias in folded])

    @torch.no_grad()
    def shift(self, offset: float) -> None:
        """Add to the logit of the safe variant what is taken from that of the usable one."""
        self.safe.get_parameter("2.bias").add_(offset)
        self.usable.get_parameter("2.bias").sub_(offset)


class FoldedRouter(nn.Module):
    """A pair of routers as one vector and one bias each; a new one weighs both variants 0.5.

    Args:
        features: d, the size of the projection's input.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.zeros(2, features))
        self.bias = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        """``(..., features)`` to the logits ``(..., 2)`` of (safe, usable)."""
        return nn.functional.linear(x, self.vectors, self.bias)

    def fold(self) -> tuple[Tensor, Tensor]:
        """The vectors ``(2, features)`` and the bias ``(2,)`` as they are."""
        return self.vectors, self.bias

    @torch.no_grad()
    def shift(self, offset: float) -> None:
        """Add to the logit of the safe variant what is taken from that of the usable one."""
        self.bias.add_(self.bias.new_tensor((offset, -offset)))


def _three_linear_maps(features: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(features, width, bias=False), nn.Linear(width, features), nn.Linear(features, 1)
    )


def _fold(maps: nn.Sequential) -> tuple[Tensor, Tensor]:
    third = maps.get_parameter("2.weight")
    vector = third @ maps.get_parameter("1.weight") @ maps.get_parameter("0.weight")  # (1, features)
    return vector, third @ maps.get_parameter("1.bias") + maps.get_parameter("2.bias")
