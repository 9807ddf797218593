"""The KV cache of rows that come and go.

Every row begins at column 0 of a place of its own, and its next token goes behind its last one: nothing is moved when a
row joins, and one row's place when one leaves. transformers' own cache makes all keys and values anew for each token.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer

COLUMNS = 64
"""Room is made for so many columns at a time."""


class RowCache(Cache):
    """Keys and values of some rows, each with its own length; one token a row is read at a time.

    Attributes:
        lengths: how many tokens of each row are held.
        width: columns that the next forward sees, its own token included.
    """

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.lengths: list[int] = []
        self.width = 0
        self.places: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def join(self, other: DynamicCache, paddings: Sequence[int]) -> None:
        """Take rows that were read apart, in a batch padded on the left.

        Args:
            other: their cache.
            paddings: how many first columns of each are padding.
        """
        if not self.lengths:
            self.layers = [RowLayer(self) for _ in other.layers]
        width = other.get_seq_length()
        first, joined = len(self.lengths), [width - padding for padding in paddings]
        rows, columns = first + len(joined), max(self.lengths + joined)
        for layer, read in zip(self._row_layers(), other.layers, strict=True):
            assert isinstance(read, DynamicLayer)
            layer.make_room(rows, columns, read)
            for row, padding in enumerate(paddings, start=first):
                layer.put(row, read, row - first, slice(padding, width))
        self.lengths += joined

    def keep(self, rows: Sequence[int]) -> None:
        """Leave only some rows, in this order; one that keeps its place costs nothing.

        Args:
            rows: their places; none moves further up, which could overwrite another.
        """
        for layer in self._row_layers():
            for to, origin in enumerate(rows):
                if to != origin:
                    layer.put(to, layer, origin, slice(0, self.lengths[origin]))
        self.lengths = [self.lengths[row] for row in rows]
        if not rows:
            self.layers = []

    def next_columns(self, device: torch.device) -> Tensor:
        """Make ready for one more token of each row; ``(rows,)``, the columns, which are positions, that they get."""
        self.width = max(self.lengths) + 1
        for layer in self._row_layers():
            layer.make_room(len(self.lengths), self.width)
        columns = torch.tensor(self.lengths, device=device)
        self.places = {device: (torch.arange(len(self.lengths), device=device), columns)}
        self.lengths = [length + 1 for length in self.lengths]
        return columns

    def _row_layers(self) -> "list[RowLayer]":
        return [layer for layer in self.layers if isinstance(layer, RowLayer)]


class RowLayer(DynamicLayer):
    """The keys and values of one decoder layer, ``(room for rows, heads, room for columns, features)``.

    Args:
        cache: that it belongs to.
    """

    def __init__(self, cache: RowCache) -> None:
        super().__init__()
        self._cache = cache

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Put one token of each row, ``(rows, heads, 1, features)``, behind its last; all of them, as views."""
        assert self.keys is not None and self.values is not None
        rows, columns = self._places(key_states.device)
        self.keys[rows, :, columns] = key_states[:, :, 0]
        self.values[rows, :, columns] = value_states[:, :, 0]
        count, width = len(rows), self._cache.width
        return self.keys[:count, :, :width], self.values[:count, :, :width]

    def get_seq_length(self) -> int:
        """Columns before the one that the forward writes."""
        return self._cache.width - 1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Columns that the forward sees, and the first of them."""
        return self._cache.width, 0

    def make_room(self, rows: int, columns: int, like: DynamicLayer | None = None) -> None:
        """Have room for so many; far more than is needed is given back when rows join.

        Args:
            rows: that are to fit.
            columns: that are to fit.
            like: a layer whose rows join.
        """
        if self.keys is None or self.values is None:
            assert like is not None and like.keys is not None and like.values is not None
            self.lazy_initialization(like.keys, like.values)
            self.keys, self.values = (each.new_zeros(0, *each.shape[1:]) for each in (like.keys, like.values))
        assert self.keys is not None and self.values is not None
        # More than is needed, so that making room again and again costs little.
        most_rows = 1 << (rows - 1).bit_length()
        most_columns = -(-columns * 5 // (4 * COLUMNS)) * COLUMNS
        room_rows, _, room_columns, _ = self.keys.shape
        fits = rows <= room_rows and columns <= room_columns
        wasteful = like is not None and most_rows * most_columns * 4 <= room_rows * room_columns
        if fits and not wasteful:
            return
        self.keys, self.values = (
            _moved(each, rows, columns, most_rows, most_columns) for each in (self.keys, self.values)
        )

    def put(self, row: int, origin: DynamicLayer, origin_row: int, columns: slice) -> None:
        """Fill a row's place with some columns of another; zeros behind them.

        What stood there is hidden by the mask, but of a row that overflowed a weight of 0 would make NaN.
        """
        for mine, theirs in ((self.keys, origin.keys), (self.values, origin.values)):
            assert mine is not None and theirs is not None
            length = columns.stop - columns.start
            mine[row, :, :length] = theirs[origin_row, :, columns]
            mine[row, :, length:] = 0

    def _places(self, device: torch.device) -> tuple[Tensor, Tensor]:
        places = self._cache.places
        if device not in places:  # layers spread over devices
            rows, columns = next(iter(places.values()))
            places[device] = (rows.to(device), columns.to(device))
        return places[device]


def _moved(held: Tensor, rows: int, columns: int, most_rows: int, most_columns: int) -> Tensor:
    _, heads, _, features = held.shape
    moved = held.new_zeros(most_rows, heads, most_columns, features)
    rows, columns = min(rows, held.shape[0]), min(columns, held.shape[2])
    moved[:rows, :, :columns] = held[:rows, :, :columns]
    return moved
