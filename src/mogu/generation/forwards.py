"""Routes the forwards of one generation, and keeps the weights that they used.

A hook before each forward of the model asks the cache where in the rows the forward begins and applies the
rule of positions. So it does not matter how often or with how many tokens the model is called: beams, chunked
prefill, drafts that are rejected, no cache at all. Knows nothing of text or of what generation was asked for.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import DynamicCache

from mogu.adapter.attach import Adapter
from mogu.adapter.layer import SAFE, USABLE
from mogu.generation.rule import RoutedSpan, routed_positions


class TokenWeights(NamedTuple):
    """What the routed forwards of a generation used.

    Attributes:
        weights: ``(layers, rows, columns, 2)`` float32, (safe, usable); (0, 1) where a token is not routed.
        routed: ``(rows, columns)`` bool. A column is a place in the padded batch, prompt and reply; the
            last columns, which no routed forward read, are left out.
    """

    weights: Tensor
    routed: Tensor

    def row_means(self, columns: list[int]) -> list[tuple[float, float]]:
        """Per row the mean (safe, usable) over layers and the routed ones of its first columns.

        Args:
            columns: for each row, how many of its columns count.

        Returns:
            (0, 1) for a row of which none is routed.
        """
        place = torch.arange(self.routed.shape[1], device=self.routed.device)
        counted = self.routed & (place < torch.tensor(columns, device=place.device)[:, None])
        totals = (self.weights.mean(0) * counted[..., None]).sum(1)  # (rows, 2)
        counts = counted.sum(1, keepdim=True)
        unrouted = totals.new_tensor((0.0, 1.0))
        means = torch.where(counts > 0, totals / counts.clamp(min=1), unrouted)
        return [(row[SAFE], row[USABLE]) for row in means.tolist()]


class RowState(NamedTuple):
    """What the routing has made of a row so far.

    Attributes:
        score: the gate's calibrated probability, 0 to 1, the highest of its prompt and reply; None without a gate.
        safe_from: the reply token from which on the safe variant writes it, 0 for the first; None if it does not.
    """

    score: float | None
    safe_from: int | None


class _Forward(NamedTuple):
    first_column: int
    routed: Tensor  # (batch, seq) bool
    weights: Tensor  # (layers, batch, seq, 2)


class Forwards(ABC):
    """The routing of some rows, in one of two ways.

    As a context, in which hooks stand before and after each forward of the model, whoever calls it; after it no token
    is routed. Or for a loop of one's own, `forward` by `forward`: then rows may `join` between two of them, and those
    that are not kept leave. Columns count the forwards of such a loop, so that a row's place among them is its own.

    Args:
        adapter: attached to the model that generates.
        attention_mask: ``(rows, columns)`` of the prompts, padding (0) on the left.
        weights: ``(1, 1, 2)`` float32, the weights of every routed token; None for the routers' own.
    """

    def __init__(self, adapter: Adapter, attention_mask: Tensor, weights: Tensor | None) -> None:
        self._adapter = adapter
        self._width = attention_mask.shape[1]
        self._lengths = attention_mask.sum(1).long()
        self._padding = self._width - self._lengths  # (rows,) columns before a row's first token
        self._begins = [self._width] * len(
            self._lengths
        )  # of each row, the column that its reply begins with
        self._column = 0  # the one that the next forward of one's own begins with
        self._given_weights = weights
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        self._open()
        model = self._adapter.model
        self._hooks += [
            model.register_forward_pre_hook(self._before, with_kwargs=True),
            model.register_forward_hook(self._after),
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def forward(self, **kwargs: Any) -> Any:
        """One forward of the model, routed.

        Args:
            **kwargs: of the model: `input_ids` ``(rows, columns)``, at first the prompts, then what follows.

        Returns:
            What the model does.
        """
        after = self._column + kwargs["input_ids"].shape[1]
        self._open()
        try:
            output = self._adapter.model(**self.before(self._column, after, kwargs))
            self.after(output)
        finally:
            self._close()
        self._column = after
        return output

    def join(self, other: Self) -> None:
        """Take the rows of another one, which have been read apart, behind one's own.

        Args:
            other: of the same adapter, asked for the same.
        """
        moved = self._column - other._column
        self._lengths = torch.cat((self._lengths, other._lengths))
        self._padding = torch.cat((self._padding, other._padding + moved))
        self._begins = self._begins + [begin + moved for begin in other._begins]

    def keep(self, rows: Sequence[int]) -> None:
        """Leave only some rows, in this order."""
        chosen = torch.tensor(rows, dtype=torch.int64, device=self._padding.device)
        self._lengths, self._padding = self._lengths[chosen], self._padding[chosen]
        self._begins = [self._begins[row] for row in rows]

    @abstractmethod
    def row_states(self) -> list[RowState]:
        """What has become of each row."""

    def _open(self) -> None:
        self._adapter.routing.weights = self._given_weights

    def _close(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        routing = self._adapter.routing
        routing.routed = routing.weights = None

    @abstractmethod
    def row_weights(self, columns: list[int], beam_indices: Tensor | None) -> list[tuple[float, float]]:
        """Per sequence the mean (safe, usable) over layers and the routed ones of its first `columns` tokens."""

    def _before(
        self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        cache = kwargs.get("past_key_values")
        first = 0 if cache is None else int(cache.get_seq_length())
        return args, self.before(first, first + kwargs["input_ids"].shape[1], kwargs)

    def _after(self, _: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        self.after(output)

    @abstractmethod
    def before(self, first: int, after: int, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Set the routing of the forward that reads the columns `first` to `after`; its arguments, as they go on."""

    @abstractmethod
    def after(self, output: Any) -> None:
        """Look at, and change in place, what the forward gave."""

    def _positions(self, first_column: int, after: int, batch: int) -> Tensor:
        """``(batch, columns)``, the places of some columns within their rows; negative on padding."""
        columns = torch.arange(first_column, after, device=self._padding.device)
        padding = self._padding.repeat_interleave(batch // self._padding.shape[0])
        return columns - padding[:, None]


class RoutedForwards(Forwards):
    """Token routing: forwards routed by position, with the routers' weights or given ones.

    Args:
        adapter: attached to the model that generates.
        attention_mask: ``(rows, columns)`` of the prompts, padding (0) on the left.
        routed_tokens: m, from 1; None for the whole reply.
        routed_prompt_tokens: k; None for the whole prompt.
        weights: ``(1, 1, 2)`` float32, the weights of every routed token; None for the routers' own.
        refill: whether the base, when it takes over, reads everything again instead of the cache as it is.
    """

    def __init__(
        self,
        adapter: Adapter,
        attention_mask: Tensor,
        routed_tokens: int | None,
        routed_prompt_tokens: int | None,
        *,
        weights: Tensor | None = None,
        refill: bool = False,
    ) -> None:
        super().__init__(adapter, attention_mask, weights)
        self._span = RoutedSpan.of_prompts(self._lengths, routed_tokens, routed_prompt_tokens)
        self._routed_tokens = routed_tokens
        # The widest row's span as columns: known without asking the device, so that after it nothing runs.
        self._first = 0 if routed_prompt_tokens is None else self._width - routed_prompt_tokens
        self._end = self._last_end()
        self._refill = refill
        self._read: list[Tensor] = []  # token ids of the forwards so far, kept for a refill only
        self._forwards: list[_Forward] = []
        self._first_routed = 0

    def row_weights(self, columns: list[int], beam_indices: Tensor | None) -> list[tuple[float, float]]:
        """Per row the mean (safe, usable) over its routed tokens, as `TokenWeights.row_means`."""
        if self._given_weights is not None:
            return [tuple(self._given_weights.flatten().tolist())] * len(columns)
        used = self.token_weights(beam_indices)
        return used.row_means(columns) if used else [(0.0, 1.0)] * len(columns)

    def token_weights(self, beam_indices: Tensor | None = None) -> TokenWeights | None:
        """What was used for each token; None if nothing was routed.

        Args:
            beam_indices: ``(sequences, steps)``, as `generate` returns them with beams: for each returned
                sequence and each of its tokens the batch row that the token was drawn from, -1 after its end.
        """
        if not self._forwards:
            return None
        start = self._forwards[0]
        rows = start.routed.shape[0] if beam_indices is None else beam_indices.shape[0]
        columns = max(forward.first_column + forward.routed.shape[1] for forward in self._forwards)
        weights = start.weights.new_tensor((0.0, 1.0)).repeat(start.weights.shape[0], rows, columns, 1)
        routed = start.routed.new_zeros(rows, columns)
        target = torch.arange(rows, device=routed.device)
        for first_column, forward_routed, forward_weights in self._forwards:
            after = first_column + forward_routed.shape[1]
            sources = target
            if beam_indices is not None:
                step = max(0, after - self._width)
                if step >= beam_indices.shape[1]:
                    break
                sources = beam_indices[:, step]
            alive = sources >= 0
            # A column that is read twice (a rejected draft, no cache) counts as it was read last.
            weights[:, target[alive], first_column:after] = forward_weights[:, sources[alive]]
            routed[target[alive], first_column:after] = forward_routed[sources[alive]]
        return TokenWeights(weights, routed)

    def before(self, first: int, after: int, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Route the columns that the rule of positions names."""
        if self._refill and self._end is not None:
            if after <= self._end:
                self._read.append(kwargs["input_ids"])
            else:
                self._adapter.routing.routed = None
                return self._read_again(kwargs) if self._read and first else kwargs
        if after <= self._first or (self._end is not None and first >= self._end):
            self._adapter.routing.routed = None
        else:
            # The layers mix only the columns that the rule may route: of a prompt these are the last few.
            self._first_routed = max(first, self._first)
            positions = self._positions(self._first_routed, after, kwargs["input_ids"].shape[0])
            self._adapter.routing.routed = routed_positions(positions, self._span)
        return kwargs

    def after(self, output: Any) -> None:
        """Leave it as it is."""

    def join(self, other: Self) -> None:
        """Take the rows of another one, as `Forwards.join`."""
        super().join(other)
        spans = zip(self._span, other._span, strict=True)
        self._span = RoutedSpan(*(torch.cat(bounds) for bounds in spans))
        self._end = self._last_end()

    def keep(self, rows: Sequence[int]) -> None:
        """Leave only some rows, in this order."""
        super().keep(rows)
        chosen = torch.tensor(rows, dtype=torch.int64, device=self._padding.device)
        self._span = RoutedSpan(*(bound[chosen] for bound in self._span))
        self._end = self._last_end()

    def row_states(self) -> list[RowState]:
        """Routers neither judge nor refuse."""
        return [RowState(None, None)] * len(self._begins)

    def _last_end(self) -> int | None:
        """The column from which on no row is routed."""
        if self._routed_tokens is None:
            return None
        return max(self._begins, default=0) + self._routed_tokens - 1

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        super()._after(module, args, output)
        routed = self._adapter.routing.routed
        if routed is None or self._given_weights is not None:
            return
        if (weights := self._adapter.last_weights()) is not None:
            self._forwards.append(_Forward(self._first_routed, routed, weights))

    def _read_again(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The same forward with everything that came before it in its input, and an empty cache."""
        input_ids = torch.cat([*self._read, kwargs["input_ids"]], dim=1)
        self._read = []
        again = kwargs | {
            "input_ids": input_ids,
            "past_key_values": DynamicCache(config=self._adapter.model.config.get_text_config(decoder=True)),
        }
        if "position_ids" in kwargs:
            batch, columns = input_ids.shape
            again["position_ids"] = self._positions(0, columns, batch).clamp(min=0)
        return again
