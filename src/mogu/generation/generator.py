"""transformers' own `generate`, with its forwards routed: no decoding loop here. Knows ids, no text."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mogu.adapter.attach import Adapter
from mogu.adapter.config import AdapterConfig, PartName
from mogu.adapter.gate import looks_at
from mogu.errors import MoguError
from mogu.generation.forwards import RoutedForwards, TokenWeights
from mogu.generation.gated import GatedForwards, running_scores
from mogu.generation.request import Mode, RoutingRequest, check_prompts, check_request, check_settings

_NEEDED_PARTS: dict[str, set[PartName]] = {
    "mogu by token": {"safe", "usable", "routers"},
    "mogu by sequence": {"safe", "gate"},
    "base": set(),
    "usable": {"usable"},
    "safe": {"safe"},
}
_VARIANT_WEIGHTS: dict[Mode, tuple[float, float]] = {"usable": (0.0, 1.0), "safe": (1.0, 0.0)}


class Generated(NamedTuple):
    """The outcome of one call of `generate`.

    Attributes:
        output: what `generate` returned.
        forwards: its routed forwards; None if the base alone answered.
    """

    output: Any
    forwards: RoutedForwards | GatedForwards | None

    def row_weights(self, columns: list[int]) -> list[tuple[float, float]]:
        """Per sequence the mean (safe, usable) over layers and the routed ones of its first `columns` tokens.

        Needs an output object. (0, 1) where nothing is routed.
        """
        if self.forwards is None:
            return [(0.0, 1.0)] * len(columns)
        return self.forwards.row_weights(columns, self.output.get("beam_indices"))

    def row_scores(self, sequences: int) -> list[float | None]:
        """Per sequence the gate's probability that the reply should be a refusal; None where no gate was asked."""
        scores = self.forwards.row_scores(sequences) if isinstance(self.forwards, GatedForwards) else None
        return [None] * sequences if scores is None else list(scores)


class Traced(NamedTuple):
    """How a conversation and its reply are routed.

    Attributes:
        used: the weights of its tokens.
        running: of sequence routing, the gate's probability if the text ended at each token.
        threshold: of sequence routing, the probability from which on the prompt's end begins a refusal.
        reply_threshold: the same of a token of the reply; None if the gate does not read replies.
    """

    used: TokenWeights
    running: list[float] | None = None
    threshold: float | None = None
    reply_threshold: float | None = None


class RoutedGenerator:
    """Generates with one adapter, one call at a time: all of a model's layers share one routing.

    Args:
        adapter: attached to the model that generates.
        config: says how many tokens are routed, and which parts the adapter has.
    """

    def __init__(self, adapter: Adapter, config: AdapterConfig) -> None:
        self._adapter = adapter
        self._config = config
        self._running = Lock()

    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        request: RoutingRequest,
        settings: dict[str, Any],
    ) -> Generated:
        """Call `generate`; see `MoguModel.generate`.

        Args:
            input_ids: ``(rows, columns)``, the prompts, padded on the left.
            attention_mask: the same shape, 0 on padding; None when nothing is padding.
            request: what is asked of the routing.
            settings: keyword arguments that go on to the model's `generate`.

        Raises:
            MoguError: If something is asked for that is not supported, or another generation is running.
        """
        self.check(request)
        mask = check_prompts(input_ids, attention_mask, settings.get("past_key_values") is not None)
        model: Any = self._adapter.model
        defaults = settings.get("generation_config") or model.generation_config
        check_settings(settings, defaults, request.handoff, self._config.weights)
        # The routing changes between two forwards, which a compiled model would not see.
        settings = {**settings, "attention_mask": mask, "disable_compile": True}
        with self.alone():
            forwards = self.forwards(input_ids, mask, request)
            if forwards is None:
                return Generated(model.generate(input_ids, **settings), None)
            with forwards:
                return Generated(model.generate(input_ids, **settings), forwards)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """The model for one user at a time: all of its layers share one routing.

        Raises:
            MoguError: If another has it.
        """
        if not self._running.acquire(blocking=False):
            raise MoguError(
                "the model is generating already: read the stream to its end, or leave it, or close the engine, first"
            )
        try:
            yield
        finally:
            self._running.release()

    def check(self, request: RoutingRequest) -> None:
        """See that the adapter can do what is asked.

        Raises:
            MoguError: If it cannot; the message says what can.
        """
        config = self._config
        check_request(request, config.weights)
        needed = _NEEDED_PARTS[f"mogu by {config.weights}" if request.mode == "mogu" else request.mode]
        if missing := needed - set(config.parts):
            raise MoguError(
                f"mode {request.mode!r} needs {', '.join(sorted(missing))}, which the adapter does not hold; "
                "`mogu train --usable` and the presets of token routing train all variants"
            )

    @torch.no_grad()
    def read(self, input_ids: Tensor, prompt_length: int, request: RoutingRequest) -> Traced:
        """The weights of every token when a prompt and its reply are read in one forward.

        Args:
            input_ids: ``(1, columns)``, prompt and reply.
            prompt_length: how many of them are the prompt's.
            request: what is asked of the routing; mode `mogu`, whose hand-off is `reuse`.

        Raises:
            MoguError: If it asks for what belongs to the other way of routing, or another generation is running.
        """
        check_request(request, self._config.weights)
        weights = torch.tensor([0.0, 1.0]).repeat(len(self._adapter.layers), 1, input_ids.shape[1], 1)
        routed = torch.zeros_like(input_ids, dtype=torch.bool)
        gate = self._config.gate
        if gate is not None:
            usable = "usable" in self._config.parts
            with self.alone():
                running = running_scores(self._adapter, gate, input_ids, prompt_length, usable=usable)
            thresholds = gate.thresholds(request.threshold)
            above = [running[prompt_length - 1] >= thresholds.prompt]
            if thresholds.reply is not None:
                reply = enumerate(running[prompt_length:], start=1)
                above += [looks_at(read) and score >= thresholds.reply for read, score in reply]
            if any(above):
                routed[:, prompt_length + above.index(True) :] = True
                weights[:, routed] = torch.tensor([1.0, 0.0])
            return Traced(TokenWeights(weights, routed), running, thresholds.prompt, thresholds.reply)
        mask = torch.ones_like(input_ids[:, :prompt_length])
        forwards = self.forwards(input_ids[:, :prompt_length], mask, request)
        if isinstance(forwards, RoutedForwards):
            with self.alone(), forwards:
                self._adapter.model(input_ids=input_ids, use_cache=False)
            if used := forwards.token_weights():
                return Traced(used)
        return Traced(TokenWeights(weights, routed))

    def forwards(
        self, input_ids: Tensor, mask: Tensor, request: RoutingRequest
    ) -> RoutedForwards | GatedForwards | None:
        """The routing of some prompts and their replies; None if the base alone answers.

        Args:
            input_ids: ``(rows, columns)``, the prompts, padded on the left.
            mask: the same shape, 0 on padding.
            request: what is asked of it; see `check`.
        """
        config, mode, mask = self._config, request.mode, mask.to(self._adapter.model.device)
        m = config.routed_tokens if request.routed_tokens is None else request.routed_tokens
        if mode == "base" or (mode == "mogu" and config.weights == "token" and m == 0):
            return None
        if mode == "usable" or (mode == "safe" and config.weights == "token"):
            weights = torch.tensor([[_VARIANT_WEIGHTS[mode]]], device=mask.device)
            return RoutedForwards(self._adapter, mask, None, config.routed_prompt_tokens, weights=weights)
        if config.gate is None:
            refill = request.handoff == "refill"
            return RoutedForwards(self._adapter, mask, m, config.routed_prompt_tokens, refill=refill)
        if input_ids.shape != mask.shape:
            raise MoguError(
                "sequence routing reads the whole prompt: give all its input_ids beside the cache"
            )
        thresholds = None if mode == "safe" else config.gate.thresholds(request.threshold)
        usable = "usable" in config.parts
        return GatedForwards(self._adapter, input_ids, mask, config.gate, thresholds, usable=usable)
