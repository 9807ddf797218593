"""Rows that the model reads together: prompts join when they have been read, and rows leave, between two forwards.

Each row's cache, its positions and its routing are its own; what a row is given never depends on its neighbours. Knows
ids and logits, nothing of jobs, sampling or text.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache

from mogu.chat import batch_left_pad
from mogu.generation import MoguModel
from mogu.generation.forwards import Forwards, RowState
from mogu.generation.request import RoutingRequest
from mogu.serving.engine.cache import RowCache


class Read(NamedTuple):
    """Prompts that have been read.

    Attributes:
        logits: ``(rows, vocabulary)`` of their first reply tokens, at least float32.
        cache: their keys and values, padded on the left.
        paddings: how many columns of each row are padding.
        forwards: their routing; None without one.
    """

    logits: Tensor
    cache: DynamicCache
    paddings: list[int]
    forwards: Forwards | None

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
        self._cache = RowCache()
        self._forwards: Forwards | None = None
        # Of a prompt only the last logits are of use; not every model can leave the others out.
        language_model: Any = model.model
        self._last_only = {"logits_to_keep": 1} if language_model._supports_logits_to_keep() else {}

    def __len__(self) -> int:
        return len(self._cache.lengths)

    def read(self, prompts: Sequence[Sequence[int]]) -> Read:
        """Read prompts, apart from the rows; they may `join` these then.

        Args:
            prompts: token ids, at least one each.
        """
        device = self._model.model.device
        ids, mask = (each.to(device) for each in batch_left_pad(prompts, 0))
        paddings = [ids.shape[1] - len(prompt) for prompt in prompts]
        cache = DynamicCache()
        forwards = self._model.generator.forwards(ids, mask, self._request)
        output = self._forward(
            forwards,
            input_ids=ids,
            attention_mask=mask if any(paddings) else None,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            past_key_values=cache,
        )
        return Read(_last_logits(output), cache, paddings, forwards)

    def join(self, read: Read) -> None:
        """Take rows that have been read, behind those that are there."""
        self._cache.join(read.cache, read.paddings)
        if self._forwards is None:
            self._forwards = read.forwards
        elif read.forwards is not None:
            self._forwards.join(read.forwards)

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
        output = self._forward(
            self._forwards,
            input_ids=tokens[:, None],
            attention_mask=None if alike else (columns <= positions[:, None]).long(),
            position_ids=positions[:, None],
            past_key_values=self._cache,
        )
        return _last_logits(output)

    def states(self) -> list[RowState]:
        """What routing has made of each row."""
        return _states(self._forwards, len(self))

    def _forward(self, forwards: Forwards | None, **kwargs: Any) -> Any:
        kwargs |= {"use_cache": True, **self._last_only}
        return self._model.model(**kwargs) if forwards is None else forwards.forward(**kwargs)


def _states(forwards: Forwards | None, rows: int) -> list[RowState]:
    return [RowState(None, None)] * rows if forwards is None else forwards.row_states()


def _last_logits(output: Any) -> Tensor:
    logits: Tensor = output.logits[:, -1]
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
