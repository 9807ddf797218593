"""What the gate has read of the rows that are generated: token scores by column, and what they say of a row.

A column is a place in the padded batch, prompts and replies. Knows nothing of thresholds, refusals or text.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.utils.hooks import RemovableHandle

from mogu.adapter.gate import Gate


class Reading:
    """The token scores of some rows, from the first column that was read to the last.

    Args:
        gate: that reads.
        starts: of each row, the column that its reading begins with.
        device: where decisions are wanted.

    Attributes:
        hidden: of the last forward, by layer; filled by `watch`.
        end: the column after the last one that was read.
    """

    def __init__(self, gate: Gate, starts: list[int], device: torch.device) -> None:
        self.hidden: dict[int, Tensor] = {}
        self.end = 0
        self._begin = 0
        self._gate = gate
        self._device = device
        self._starts = starts
        self._unscored: list[list[Tensor]] = []  # by forward and layer, (batch, seq, features)
        self._scores: list[Tensor] = []  # token scores of the columns that were read, in their order

    def watch(self, layers: nn.ModuleList) -> list[RemovableHandle]:
        """Hooks that put what the gate's of all decoder layers give into `hidden`."""
        return watch(layers, self._gate, self.hidden)

    def read(self, first: int, after: int) -> None:
        """Take what a forward of the columns `first` to `after` gave for those that have not been read before."""
        if self.end == 0:
            self._begin = self.end = first  # a cache that the caller gave holds the columns before
        self._unscored.append([self.hidden[index][:, self.end - first :] for index in self._gate.layers])
        self.end = after
        self.hidden.clear()

    def score(self) -> None:
        """Score what was read since the last time: hidden states are far larger than scores."""
        if self._unscored:
            hidden = [torch.cat(layer, dim=1) for layer in zip(*self._unscored, strict=True)]
            self._scores.append(self._gate.token_scores(hidden))
            self._unscored.clear()

    def holds_more_than(self, columns: int) -> bool:
        """Whether so many last columns can be left out."""
        return self.end - columns > self._begin

    def judge(self, rows: Sequence[int], left_out: int = 0) -> Tensor:
        """The probability of some rows, as far as they have been read.

        Args:
            rows: their places in the batch.
            left_out: how many last columns do not count.

        Returns:
            ``(rows,)``, each 0 to 1; 1 where the model gave what is no number, for nobody knows what that is.
        """
        scores = self._all_scores()
        copies = scores.shape[1] // len(self._starts)
        starts = torch.tensor([self._starts[row // copies] for row in rows], device=scores.device)
        read = torch.arange(self._begin, self.end - left_out, device=scores.device) >= starts[:, None]
        if len(rows) < scores.shape[1]:
            scores = scores[:, torch.tensor(rows, device=scores.device)]
        probability = torch.sigmoid(self._gate(scores[:, :, : read.shape[1]], read)).to(self._device)
        return probability.nan_to_num(nan=1.0)

    def reorder(self, rows: Tensor) -> None:
        """Move the rows of the batch as beams do, within their prompt's."""
        self._scores = [scores[:, rows] for scores in self._scores]
        self._unscored = [[hidden[rows] for hidden in layers] for layers in self._unscored]

    def join(self, other: "Reading", moved: int) -> None:
        """Take the rows of another one, whose columns are as many further on as `moved` says."""
        mine, theirs = self._all_scores(), other._all_scores()
        begin = min(self._begin, other._begin + moved)
        fill = (self._begin - begin, other._begin + moved - begin)
        both = [pad(scores, (0, 0, left, 0)) for scores, left in zip((mine, theirs), fill, strict=True)]
        self._scores = [torch.cat(both, dim=1)]
        self._starts = self._starts + [start + moved for start in other._starts]
        self._begin = begin

    def keep(self, rows: Sequence[int]) -> None:
        """Leave only some rows, and the columns that they need."""
        scores = self._all_scores()
        self._starts = [self._starts[row] for row in rows]
        begin = max(self._begin, min(self._starts, default=self.end))
        self._scores = [scores[:, list(rows), begin - self._begin :]]
        self._begin = begin

    def _all_scores(self) -> Tensor:
        """``(layers, batch, columns, SCORES)``."""
        self.score()
        if len(self._scores) > 1:
            self._scores = [torch.cat(self._scores, dim=2)]
        return self._scores[0]


def watch(layers: nn.ModuleList, gate: Gate, hidden: dict[int, Tensor]) -> list[RemovableHandle]:
    """Hooks that put what the gate's of all decoder layers give into `hidden`, by the layer's index."""

    def keep_at(index: int) -> Callable[[nn.Module, Any, Any], None]:
        def keep(_: nn.Module, __: Any, output: Any) -> None:
            hidden[index] = output[0] if isinstance(output, tuple) else output

        return keep

    return [layers[index].register_forward_hook(keep_at(index)) for index in gate.layers]
