"""What one stage of training computes on a batch: the safe variant, the usable variant, or the routers.

A stage is a module that holds the trained parts and nothing else, so that a checkpoint of it is small; the base model
stays outside. The three stages differ in which replies they read, which weights they are given and which loss they
take from :mod:`mogu.training.losses`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from enum import IntEnum
from itertools import dropwhile
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mogu.adapter.attach import Adapter
from mogu.adapter.layer import SAFE, USABLE, RoutedProjection, Routing
from mogu.training.losses import NOT_A_TARGET, disposition_loss, reply_cross_entropy, router_loss
from mogu.training.recording import PrefixLayout, Record, Recorder, suffix_inputs
from mogu.training.settings import TrainingSettings


class ReplyKind(IntEnum):
    """The replies that an example may have, in the order of their recordings."""

    REFUSAL = 0
    GLAD = 1


@dataclass(frozen=True)
class Example:
    """One request, ready to be trained on.

    Attributes:
        prompt: its token ids, up to where the reply begins.
        replies: token ids of the refusal and, where routers or the usable variant learn, of the glad reply, by
            :class:`ReplyKind`.
        malicious: its label.
        record: what the base computed of it.
        importance: how much it counts for the routers.
    """

    prompt: list[int]
    replies: tuple[list[int], ...]
    malicious: bool
    record: Record
    importance: float = 1.0

    @property
    def wanted(self) -> ReplyKind:
        """The reply that the request should get."""
        return ReplyKind.REFUSAL if self.malicious else ReplyKind.GLAD

    def shortened(self, tokens: int | None) -> "Example":
        """The same example with at most ``tokens`` tokens of each reply; None keeps all."""
        if tokens is None:
            return self
        replies = tuple(reply[:tokens] for reply in self.replies)
        columns = len(self.prompt) - self.record.prefix.length + tokens - 1
        hidden = [states[:columns] for states in self.record.hidden]
        return replace(self, replies=replies, record=replace(self.record, hidden=hidden))


class Reading(NamedTuple):
    """What a forward over some replies gives.

    Attributes:
        cross_entropy: ``(batch,)``, of each reply.
        weights: ``(layers, batch, suffix, 2)``, of (safe, usable).
        routed: ``(batch, suffix)`` bool, the routed tokens.
        first_logits: ``(batch, vocabulary)``, which predict the reply's first token.
    """

    cross_entropy: Tensor
    weights: Tensor
    routed: Tensor
    first_logits: Tensor


class Stage(nn.Module, ABC):
    """The common part: trained parameters, examples and the forward over suffixes.

    Args:
        adapter: the wrapped model; its base is frozen.
        recorder: which recorded the examples.
        examples: training and validation examples, addressed by their index.
        settings: the training settings.
    """

    def __init__(
        self, adapter: Adapter, recorder: Recorder, examples: Sequence[Example], settings: TrainingSettings
    ) -> None:
        super().__init__()
        self.parts = nn.ModuleList(self.trained(layer) for layer in adapter.layers.values())
        self.examples = examples
        self.settings = settings
        # Kept from nn.Module's registration: a checkpoint holds the trained parts only.
        self._outside = (adapter, recorder)

    figure = "loss"
    """The figure whose lowest validation picks the checkpoint."""

    @property
    def may_keep_start(self) -> bool:
        """Whether the parts will do as they are before training, where training makes them no better."""
        return False

    def copied_state(self) -> dict[str, Tensor]:
        """The trained parts as they are now, for `load_state_dict`."""
        return {name: value.clone() for name, value in self.state_dict().items()}

    @staticmethod
    @abstractmethod
    def trained(layer: nn.Module) -> nn.Module:
        """The part of a routed layer that this stage trains."""

    @abstractmethod
    def losses(self, batch: list[Example]) -> dict[str, Tensor]:
        """``loss``, to be minimised, and other figures worth logging; all scalars."""

    def takes(self, example: Example) -> bool:
        """Whether this stage trains on the example."""
        return True

    def forward(self, rows: Tensor) -> dict[str, Tensor]:
        """The losses on the examples with the indices ``rows`` ``(batch,)``."""
        return self.losses([self.examples[row] for row in rows.tolist()])

    def read(
        self, batch: Sequence[Example], kind: ReplyKind | None = None, weights: Tensor | None = None
    ) -> Reading:
        """Run the upper layers over one reply of each example.

        Args:
            batch: the examples.
            kind: which reply; None for the one that each request should get, by its label.
            weights: ``(2,)`` given to all layers, or None for the routers' own.
        """
        adapter, recorder = self._outside
        model = adapter.model
        layout = PrefixLayout.of([example.record.prefix.length for example in batch])
        routed_prompt = self.settings.routed_prompt_tokens
        starts = [len(example.prompt) - length for example, length in zip(batch, layout.lengths, strict=True)]
        kinds = [example.wanted if kind is None else kind for example in batch]
        replies = [example.replies[kind] for example, kind in zip(batch, kinds, strict=True)]
        states = [example.record.hidden[kind] for example, kind in zip(batch, kinds, strict=True)]
        suffixes = [
            [*example.prompt[length:], *reply[:-1]]
            for example, length, reply in zip(batch, layout.lengths, replies, strict=True)
        ]
        inputs = suffix_inputs(suffixes, layout)
        width = inputs["input_ids"].shape[1]
        labels = torch.full((len(batch), width), NOT_A_TARGET)
        routed = torch.zeros(len(batch), width, dtype=torch.bool)
        hidden = states[0].new_zeros(len(batch), width, states[0].shape[-1])
        # With no prompt token routed, the reply's first token is not predicted here but given.
        given = int(routed_prompt == 0)
        for row, (start, reply) in enumerate(zip(starts, replies, strict=True)):
            labels[row, start - 1 + given : start - 1 + len(reply)] = torch.tensor(reply[given:])
            first_routed = 0 if routed_prompt is None else max(0, start - routed_prompt)
            routed[row, first_routed : start - 1 + len(reply)] = True
            hidden[row, : len(suffixes[row])] = states[row]
        first = max(0, min(starts) - 1)  # the first column whose prediction counts
        device = model.device
        cache = recorder.cache([example.record.prefix for example in batch])
        with _routed_as(adapter.routing, routed.to(device), weights), recorder.replay(hidden.to(device)):
            logits = model(
                **{name: tensor.to(device) for name, tensor in inputs.items()},
                past_key_values=cache,
                use_cache=cache is not None,
                logits_to_keep=torch.arange(first, width, device=device),
            ).logits
            used = adapter.last_weights()
        assert used is not None
        ends = (torch.tensor(starts, device=device) - 1 - first).clamp(min=0)
        return Reading(
            reply_cross_entropy(logits, labels[:, first:].to(device)),
            used,
            routed.to(device),
            logits[torch.arange(len(batch), device=device), ends],
        )


@contextmanager
def gradient_checkpointing(adapter: Adapter) -> Iterator[None]:
    """Within it, the backward pass computes the activations of the decoder layers again, and none are kept.

    The base stays in eval mode. transformers' own checkpointing asks for train mode, in which several families (OPT,
    XGLM, BLOOM, Falcon) drop out activations.
    """
    routing = adapter.routing

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        # By then the routing is off, or that of another forward.
        return nullcontext(), _routed_as(routing, routing.routed, routing.weights)

    def checkpointed(forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            if not torch.is_grad_enabled():
                return forward(*args, **kwargs)
            return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)

        return run

    # Not those below the first routed layer: no gradient reaches them, and the recorder puts itself in their place.
    layers = [*dropwhile(lambda layer: not _is_routed(layer), adapter.decoder_layers)]
    for layer in layers:
        layer.forward = checkpointed(layer.forward)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _is_routed(layer: nn.Module) -> bool:
    return any(isinstance(module, RoutedProjection) for module in layer.modules())


@contextmanager
def _routed_as(routing: Routing, routed: Tensor | None, weights: Tensor | None) -> Iterator[None]:
    before = routing.routed, routing.weights
    routing.routed, routing.weights = routed, weights
    try:
        yield
    finally:
        routing.routed, routing.weights = before


class VariantStage(Stage):
    """Trains one variant with its weight at 1 and the other's at 0 (paper, section 1)."""

    figure = "wanted"  # a falling ratio could hide degenerate replies
    variant: int
    wanted: ReplyKind
    counter_label: bool
    """The label of the requests where the base does the opposite of what the variant should."""

    def losses(self, batch: list[Example]) -> dict[str, Tensor]:
        """``target``: CE of the wanted replies to all; ``ratio``: CE(wanted) / CE(unwanted) on the counter label."""
        weights = torch.zeros(2)
        weights[self.variant] = 1
        if self.settings.variant_objective == "target":
            wanted = self.read(batch, self.wanted, weights).cross_entropy.mean()
            return {"loss": wanted, "wanted": wanted.detach()}
        wanted_each = self.read(batch, self.wanted, weights).cross_entropy
        unwanted_each = self.read(batch, ReplyKind(1 - self.wanted), weights).cross_entropy
        return {
            "loss": disposition_loss(wanted_each, unwanted_each),
            "wanted": wanted_each.detach().mean(),
            "unwanted": unwanted_each.detach().mean(),
        }

    def takes(self, example: Example) -> bool:
        """Whether this stage trains on the example."""
        return self.settings.variant_objective == "target" or example.malicious == self.counter_label


class SafeStage(VariantStage):
    """The safe variant: refuses whatever it is asked."""

    variant, wanted, counter_label = SAFE, ReplyKind.REFUSAL, False

    @staticmethod
    def trained(layer: nn.Module) -> nn.Module:
        """The safe LoRA."""
        return layer.safe  # type: ignore[return-value]


class UsableStage(VariantStage):
    """The usable variant: begins to answer whatever it is asked, and answers benign requests as the base does."""

    variant, wanted, counter_label = USABLE, ReplyKind.GLAD, True

    @property
    def may_keep_start(self) -> bool:
        """Yes: it begins as the base, whose own replies it is to give."""
        return True

    @staticmethod
    def trained(layer: nn.Module) -> nn.Module:
        """The usable LoRA."""
        return layer.usable  # type: ignore[return-value]


class RouterStage(Stage):
    """The routers: refusals to malicious requests, the base's replies to benign ones (paper, section 2)."""

    @property
    def may_keep_start(self) -> bool:
        """Whether they began at a fit, which may be as good as they get."""
        return self.settings.router_start == "fit"

    @staticmethod
    def trained(layer: nn.Module) -> nn.Module:
        """The layer's router."""
        return layer.router  # type: ignore[return-value]

    def losses(self, batch: list[Example]) -> dict[str, Tensor]:
        """CE(target) + lambda L_w."""
        # Only the first m reply tokens are ever routed, so the routers learn from no others.
        reading = self.read([example.shortened(self.settings.routed_tokens) for example in batch])
        malicious = torch.tensor([example.malicious for example in batch], device=reading.routed.device)
        importance = torch.tensor([example.importance for example in batch], device=reading.routed.device)
        distance = self.settings.router_distance
        apart = router_loss(reading.weights, malicious, reading.routed, distance, importance)
        target = (importance * reading.cross_entropy).sum() / importance.sum()
        weight = self.settings.router_loss_weight
        assert weight is not None  # one that is chosen by rule is in the settings by now
        return {
            "loss": target + weight * apart,
            "target": target.detach(),
            "apart": apart.detach(),
        }
