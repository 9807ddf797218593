"""Rows that the model reads together: prompts join when they have been read, and rows leave, between two forwards.

Each row's cache, its positions and its routing are its own; what a row is given never depends on its neighbours. Knows
ids and logits, nothing of jobs, sampling or text.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from mogu.chat import batch_left_pad
from mogu.generation import MoguModel
from mogu.generation.forwards import Forwards, RowState
from mogu.generation.request import RoutingRequest
from mogu.serving.engine.cache import RowCache


class Prefill:
    """Prompts that are read apart from the rows, which they may `join` then.

    Args:
        model: that reads them.
        request: what is asked of the routing.
        prompts: token ids, at least one each.

    Attributes:
        logits: ``(rows, vocabulary)`` of their first reply tokens, at least float32, once all has been read.
        cache: their keys and values, padded on the left.
        paddings: how many columns of each row are padding.
        forwards: their routing; None without one.
    """

    logits: Tensor

    def __init__(self, model: MoguModel, request: RoutingRequest, prompts: Sequence[Sequence[int]]) -> None:
        self._model = model
        device = model.model.device
        self._ids, self._mask = (each.to(device) for each in batch_left_pad(prompts, 0))
        self._last_only = _last_logits_only(model)
        self._columns = 0  # that have been read
        self.paddings = [self._ids.shape[1] - len(prompt) for prompt in prompts]
        self.cache = DynamicCache()
        self.forwards = model.generator.forwards(self._ids, self._mask, request)

    def read(self, columns: int | None = None) -> bool:
        """Read so many more columns, or all; whether there are no more."""
        width = self._ids.shape[1]
        first, after = self._columns, width if columns is None else min(width, self._columns + columns)
        output = _forward(
            self._model,
            self.forwards,
            input_ids=self._ids[:, first:after],
            attention_mask=self._mask[:, :after] if any(self.paddings) else None,
            position_ids=(self._mask.cumsum(1) - 1).clamp(min=0)[:, first:after],
            past_key_values=self.cache,
            **self._last_only,
        )
        self._columns = after
        if after == width:
            self.logits = _last_logits(output)
        return after == width

    def states(self) -> list[RowState]:
        """What routing has made of each row."""
        return _states(self.forwards, len(self.paddings))


class Batch:
    """The rows that are written now.

    Args:
        model: that writes them.
        request: what is asked of the routing, of all rows alike.
    """

    def __init__(self, model: MoguModel, request: RoutingRequest) -> None:
        self._model = model
        self._request = request
        self._last_only = _last_logits_only(model)
        self._cache = RowCache()
        self._forwards: Forwards | None = None

    def __len__(self) -> int:
        return len(self._cache.lengths)

    def join(self, prefill: Prefill) -> None:
        """Take rows whose prompts have been read, behind those that are there."""
        self._cache.join(prefill.cache, prefill.paddings)
        if self._forwards is None:
            self._forwards = prefill.forwards
        elif prefill.forwards is not None:
            self._forwards.join(prefill.forwards)

    def drop(self, rows: Sequence[int]) -> list[int]:
        """Let rows go.

        Args:
            rows: their places.

        Returns:
            The old places of those that stay, in their new order: the last ones fill the gaps.
        """
        leaving = set(rows)
        staying = [row for row in range(len(self)) if row not in leaving]
        order = list(range(len(staying)))
        behind = [row for row in staying if row >= len(staying)]
        for gap in sorted(row for row in leaving if row < len(staying)):
            order[gap] = behind.pop()
        self._cache.keep(order)
        if not order:
            self._forwards = None
        elif self._forwards is not None:
            self._forwards.keep(order)
        return order

    def step(self, tokens: Tensor) -> Tensor:
        """Read each row's last token.

        Args:
            tokens: ``(rows,)`` int64.

        Returns:
            ``(rows, vocabulary)``, the logits of their next tokens, at least float32.
        """
        alike = len(set(self._cache.lengths)) == 1
        positions = self._cache.next_columns(tokens.device)
        columns = torch.arange(self._cache.width, device=tokens.device)
        output = _forward(
            self._model,
            self._forwards,
            input_ids=tokens[:, None],
            attention_mask=None if alike else (columns <= positions[:, None]).long(),
            position_ids=positions[:, None],
            past_key_values=self._cache,
            **self._last_only,
        )
        return _last_logits(output)

    def states(self) -> list[RowState]:
        """What routing has made of each row."""
        return _states(self._forwards, len(self))


def _last_logits_only(model: MoguModel) -> dict[str, Any]:
    """What is given to a model's forward so that it leaves out all logits but the last, which not every one can."""
    language_model: Any = model.model
    return {"logits_to_keep": 1} if language_model._supports_logits_to_keep() else {}


def _forward(model: MoguModel, forwards: Forwards | None, **kwargs: Any) -> Any:
    kwargs["use_cache"] = True
    return model.model(**kwargs) if forwards is None else forwards.forward(**kwargs)


def _states(forwards: Forwards | None, rows: int) -> list[RowState]:
    return [RowState(None, None)] * rows if forwards is None else forwards.row_states()


def _last_logits(output: Any) -> Tensor:
    logits: Tensor = output.logits[:, -1]
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
