"""Puts routed projections into a model, in place, and takes them out again."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from mogu.adapter.layer import RoutedProjection, Routing
from mogu.models import Projection


@dataclass
class Adapter:
    """The routed layers of one model, and the routing that they share.

    Attributes:
        model: the base model, with its projections wrapped.
        layers: by the name of the wrapped projection, in the order of the decoder's layers.
        routing: what all of them do in the next forward.
    """

    model: PreTrainedModel
    layers: dict[str, RoutedProjection]
    routing: Routing

    def freeze(self) -> None:
        """Make every layer ready for inference."""
        for layer in self.layers.values():
            layer.freeze()

    def thaw(self) -> None:
        """Make every layer see changes of its parts again."""
        for layer in self.layers.values():
            layer.thaw()

    def last_weights(self) -> torch.Tensor | None:
        """``(layers, batch, seq, 2)`` float32, the weights (safe, usable) of the last forward; None if unrouted."""
        weights = [layer.last_weights for layer in self.layers.values()]
        return None if any(w is None for w in weights) else torch.stack(weights)  # type: ignore[arg-type]

    def detach(self) -> None:
        """Put the base model's own projections back."""
        for name, layer in self.layers.items():
            self.model.set_submodule(name, layer.projection)


def attach(model: PreTrainedModel, projections: Iterable[Projection], rank: int, lora_alpha: float) -> Adapter:
    """Wrap projections of a model in place with new parts (LoRA ``B`` zero, routers at 0.5), frozen base.

    The new parts are in the dtype and on the device of the projection, the router bias at least in float32.

    Raises:
        ValueError: if the model is wrapped already.
    """
    routing = Routing()
    layers: dict[str, RoutedProjection] = {}
    model.requires_grad_(False)
    for place in projections:
        wrapped = model.get_submodule(place.name)
        if isinstance(wrapped, RoutedProjection):
            raise ValueError(f"{place.name} is wrapped already: detach the adapter that the model has first")
        layer = RoutedProjection(
            wrapped, place.in_features, place.out_features, rank, lora_alpha / rank, routing
        )
        weight = next(wrapped.parameters())
        dtype = weight.dtype if weight.dtype.is_floating_point else model.dtype
        for part in (layer.safe, layer.usable, layer.router):
            part.to(device=weight.device, dtype=dtype)
        layer.router.bias.data = layer.router.bias.data.to(torch.promote_types(dtype, torch.float32))
        layer.train(model.training)
        model.set_submodule(place.name, layer)
        layers[place.name] = layer
    return Adapter(model, layers, routing)


def upper_layers(projections: Sequence[Projection], share: float) -> list[Projection]:
    """The last ``share`` (0 to 1) of the layers, at least one: deciding needs what the lower ones have read."""
    keep = max(1, round(len(projections) * share))
    return list(projections[-keep:])
