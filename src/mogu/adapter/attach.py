"""Puts routed projections into a model, in place, and takes them out again."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn
from transformers import PreTrainedModel

from mogu.adapter.gate import Gate
from mogu.adapter.layer import RoutedProjection, Routing
from mogu.errors import AdapterError
from mogu.models import Projection, decoder_layers


@dataclass
class Adapter:
    """The routed layers of one model, and the routing that they share.

    Attributes:
        model: the base model, with its projections wrapped.
        layers: by the name of the wrapped projection, in the order of the decoder's layers.
        routing: what all of them do in the next forward.
        gate: of sequence routing.
    """

    model: PreTrainedModel
    layers: dict[str, RoutedProjection]
    routing: Routing
    gate: Gate | None = None

    @cached_property
    def decoder_layers(self) -> nn.ModuleList:
        """All of the model's. The whole model is searched for them, which is too long for every token: so once."""
        return decoder_layers(self.model)

    def freeze(self) -> None:
        """Make every layer ready for inference."""
        for layer in self.layers.values():
            layer.freeze()

    def last_weights(self) -> torch.Tensor | None:
        """``(layers, batch, seq, 2)``, the weights (safe, usable) of the last forward; None if unrouted."""
        weights = [w for layer in self.layers.values() if (w := layer.last_weights) is not None]
        # Layers may be spread over devices.
        return torch.stack([w.to(weights[0].device) for w in weights]) if weights else None

    def detach(self) -> None:
        """Put the base model's own projections back."""
        for name, layer in self.layers.items():
            self.model.set_submodule(name, layer.projection)


def check_unwrapped(model: PreTrainedModel) -> None:
    """See that no adapter is in a model.

    Raises:
        AdapterError: if one is.
    """
    if any(isinstance(module, RoutedProjection) for module in model.modules()):
        raise AdapterError("the model has an adapter already: detach that one, or load the model again")


def attach(
    model: PreTrainedModel, projections: Iterable[Projection], rank: int, lora_alpha: float
) -> Adapter:
    """Wrap projections of a model in place with new parts (LoRA ``B`` zero, routers at 0.5), frozen base.

    The new parts are in the dtype and on the device of the projection, the router bias at least in float32.

    Raises:
        AdapterError: if the model is wrapped already; it stays as it was.
    """
    check_unwrapped(model)
    routing = Routing()
    layers: dict[str, RoutedProjection] = {}
    model.requires_grad_(False)
    for place in projections:
        wrapped = model.get_submodule(place.name)
        layer = RoutedProjection(
            wrapped,
            place.in_features,
            place.out_features,
            rank=rank,
            scaling=lora_alpha / rank,
            routing=routing,
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


def new_gate(adapter: Adapter, layers: Sequence[int]) -> Gate:
    """Give an adapter an untrained gate that reads some layers, on the model's device, in float32 at least."""
    model = adapter.model
    features = model.config.get_text_config(decoder=True).hidden_size
    dtype = torch.promote_types(model.dtype, torch.float32)
    adapter.gate = Gate(features, layers).to(model.device, dtype)
    return adapter.gate


def upper_layers(projections: Sequence[Projection], share: float) -> list[Projection]:
    """The last ``share`` (0 to 1) of the layers, at least one: deciding needs what lower ones have read."""
    keep = max(1, round(len(projections) * share))
    return list(projections[-keep:])
