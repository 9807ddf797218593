"""transformers' own `generate`, with its forwards routed: no decoding loop here. Knows ids, no text."""

from threading import Lock
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mogu.adapter.attach import Adapter
from mogu.adapter.config import AdapterConfig, PartName
from mogu.errors import MoguError
from mogu.generation.forwards import RoutedForwards, TokenWeights
from mogu.generation.request import Mode, Request, check_prompts, check_request, check_settings

_NEEDED_PARTS: dict[Mode, set[PartName]] = {
    "mogu": {"safe", "usable", "routers"},
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
    forwards: RoutedForwards | None

    def row_weights(self, columns: list[int]) -> list[tuple[float, float]]:
        """Per sequence the mean (safe, usable) over layers and the routed ones of its first `columns` tokens.

        Needs an output object. (0, 1) where nothing is routed.
        """
        if self.forwards is None:
            return [(0.0, 1.0)] * len(columns)
        return self.forwards.row_weights(columns, self.output.get("beam_indices"))


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
        self, input_ids: Tensor, attention_mask: Tensor | None, request: Request, settings: dict[str, Any]
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
        check_request(request)
        if missing := _NEEDED_PARTS[request.mode] - set(self._config.parts):
            raise MoguError(
                f"mode {request.mode!r} needs {', '.join(sorted(missing))}, which the adapter does not hold"
            )
        mask = check_prompts(input_ids, attention_mask, settings.get("past_key_values") is not None)
        model: Any = self._adapter.model
        check_settings(
            settings, settings.get("generation_config") or model.generation_config, request.handoff
        )
        # The routing changes between two forwards, which a compiled model would not see.
        settings = {**settings, "attention_mask": mask, "disable_compile": True}
        if not self._running.acquire(blocking=False):
            raise MoguError("the model is generating already: read the stream to its end, or leave it, first")
        try:
            forwards = self._routed(mask, request)
            if forwards is None:
                return Generated(model.generate(input_ids, **settings), None)
            with forwards:
                return Generated(model.generate(input_ids, **settings), forwards)
        finally:
            self._running.release()

    @torch.no_grad()
    def read(self, input_ids: Tensor, prompt_length: int) -> TokenWeights:
        """The weights of every token when a prompt and its reply are read in one forward.

        Args:
            input_ids: ``(1, columns)``, prompt and reply.
            prompt_length: how many of them are the prompt's.
        """
        forwards = self._routed(torch.ones_like(input_ids[:, :prompt_length]), Request())
        if forwards:
            with forwards:
                self._adapter.model(input_ids=input_ids, use_cache=False)
            if used := forwards.token_weights():
                return used
        unrouted = torch.tensor([0.0, 1.0]).repeat(len(self._adapter.layers), 1, input_ids.shape[1], 1)
        return TokenWeights(unrouted, torch.zeros_like(input_ids, dtype=torch.bool))

    def _routed(self, mask: Tensor, request: Request) -> RoutedForwards | None:
        prompt_tokens = self._config.routed_prompt_tokens
        mask = mask.to(self._adapter.model.device)
        if variant := _VARIANT_WEIGHTS.get(request.mode):
            weights = torch.tensor([[variant]], device=mask.device)
            return RoutedForwards(self._adapter, mask, None, prompt_tokens, weights=weights)
        m = self._config.routed_tokens if request.routed_tokens is None else request.routed_tokens
        if request.mode == "base" or m == 0:
            return None
        return RoutedForwards(self._adapter, mask, m, prompt_tokens, refill=request.handoff == "refill")
