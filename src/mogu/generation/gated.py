"""Sequence routing of one generation: each row is the base, or from some reply token on the safe variant.

The base reads the prompt in its ordinary prefill, and at the prompt's end the gate its hidden states there. A row below
the threshold is the base, token for token. A row at or above it switches: its next token is the first one of a refusal,
by a finite bias on the logits, and it is the safe variant from that token on. While the reply is written the gate reads
on, and every few tokens may switch the row there. A reply that has begun is left with a paragraph break, and more than
the first token of its refusal is given, for what was said before pulls back to it. Where a row switches is a position,
and everything else a rule of positions, so that beams, sampling, padding and chunked prefill need no case of their own.
Knows nothing of text.

An adapter may hold the usable variant too, for a base that refuses what it need not. Then a row below the threshold
is the usable variant in place of the base, and its first token is none that only refusals begin with.
"""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mogu.adapter.attach import Adapter
from mogu.adapter.config import GateConfig, Thresholds
from mogu.adapter.gate import looks_at
from mogu.adapter.layer import SAFE, USABLE
from mogu.generation.forwards import Forwards, RowState
from mogu.generation.reading import Reading, watch
from mogu.generation.rule import RoutedSpan, routed_positions

FORCED = 30.0
"""Added to the logits of the tokens that a switch begins with, in nats: all the probability, in the model's shares.
Taken from them where the usable variant begins."""

NEVER = torch.iinfo(torch.int64).max - 1
"""The position at which a row switches that does not."""


class GatedForwards(Forwards):
    """Forwards of a generation in which rows switch from the base to the safe variant.

    Args:
        adapter: attached to the model that generates.
        input_ids: ``(rows, columns)``, the prompts.
        attention_mask: the same shape, padding (0) on the left.
        config: the marks of turns, the break and what refusals begin with.
        thresholds: a row whose score is at or above them switches; None switches all rows, and nothing is read.
        usable: whether rows that have not switched are the usable variant, and not the base.
    """

    def __init__(
        self,
        adapter: Adapter,
        input_ids: Tensor,
        attention_mask: Tensor,
        config: GateConfig,
        thresholds: Thresholds | None,
        *,
        usable: bool = False,
    ) -> None:
        variants = torch.eye(2, device=attention_mask.device)
        super().__init__(adapter, attention_mask, variants[SAFE][None, None])
        self._variants = variants
        self._usable = usable
        self._config = config
        self._thresholds = thresholds
        rows = [row[mask.bool()].tolist() for row, mask in zip(input_ids, attention_mask, strict=True)]
        marks, device = config.marks, self._padding.device
        self._reading: Reading | None = None  # None once nothing more is read
        if thresholds is not None and adapter.gate is not None:
            padding = self._padding.tolist()
            starts = [marks.reading_start(row) + pad for row, pad in zip(rows, padding, strict=True)]
            self._reading = Reading(adapter.gate, starts, device)
        self._begun = torch.tensor([marks.is_begun(row) for row in rows], device=device)
        # Of each row, how many last tokens may be a reply that the caller has begun.
        self._openers = [{len(row) - start for start in marks.reply_starts(row)} for row in rows]
        longest = max(map(len, config.refusal_beginnings), default=1)
        self._beginnings = torch.full((len(config.refusal_beginnings), longest), -1, device=device)
        for number, tokens in enumerate(config.refusal_beginnings):
            self._beginnings[number, : len(tokens)] = torch.tensor(tokens, device=device)
        self._columns = (0, 0)  # the first and the one after the last that the forward reads
        self._switch: Tensor | None = None  # (batch,) position whose logits begin the refusal
        self._first: Tensor | None = (
            None  # (batch,) the token that a begun reply's refusal begins with, once read
        )
        self._forcing_until = (
            0  # in columns from this one on no row begins its refusal; 0 while none has switched
        )
        self._gate_hooks: list[RemovableHandle] = []
        self._probability: Tensor | None = None
        self._states: list[RowState] | None = None  # None where they may have changed
        self._followed: Any = None

    def join(self, other: Self) -> None:
        """Take the rows of another one, whose prompts have been read as one's own have."""
        moved = self._column - other._column
        super().join(other)
        assert self._switch is not None and self._first is not None
        assert other._switch is not None and other._first is not None
        self._begun = torch.cat((self._begun, other._begun))
        self._switch = torch.cat((self._switch, other._switch))
        self._first = torch.cat((self._first, other._first))
        if self._probability is not None and other._probability is not None:
            self._probability = torch.cat((self._probability, other._probability))
        if self._reading is not None and other._reading is not None:
            self._reading.join(other._reading, moved)
        if other._forcing_until:
            self._forcing_until = max(self._forcing_until, other._forcing_until + moved)
        self._states = None

    def keep(self, rows: Sequence[int]) -> None:
        """Leave only some rows, in this order."""
        if all(self.row_states()[row].safe_from is None for row in rows):
            self._forcing_until = 0
        super().keep(rows)
        assert self._switch is not None and self._first is not None
        chosen = torch.tensor(rows, dtype=torch.int64, device=self._padding.device)
        self._begun, self._switch, self._first = (
            each[chosen] for each in (self._begun, self._switch, self._first)
        )
        self._probability = None if self._probability is None else self._probability[chosen]
        if self._reading is not None:
            self._reading.keep(rows)
        self._states = None

    def row_states(self) -> list[RowState]:
        """What the gate has made of each row: once its prompt has been read."""
        if self._states is None:
            assert self._switch is not None
            scores = [None] * len(self._begins) if self._probability is None else self._probability.tolist()
            begins = (self._switch - self._lengths + 1).tolist()
            never = (self._switch == NEVER).tolist()
            self._states = [
                RowState(score, None if base else begin)
                for score, begin, base in zip(scores, begins, never, strict=True)
            ]
        return self._states

    def _open(self) -> None:
        super()._open()
        if self._reading is not None:
            self._gate_hooks = self._reading.watch(self._adapter.decoder_layers)
            self._hooks += self._gate_hooks

    def row_weights(self, columns: list[int], beam_indices: Tensor | None) -> list[tuple[float, float]]:
        """Per sequence the share of its reply that the safe variant wrote, and the share of the base.

        With beams a switch in mid-reply does not count: the sequence has come from several rows.
        """
        if self._switch is None:
            return [(0.0, 1.0)] * len(columns)
        copies = len(columns) // self._padding.shape[0]
        padding = self._padding.repeat_interleave(copies).tolist()
        switched = self._of_sequences(self._switch, len(columns))
        weights = []
        for end, position, pad in zip(columns, switched, padding, strict=True):
            begins = self._width if position == NEVER else position + pad + 1  # as a column
            if position == NEVER or (beam_indices is not None and begins > self._width):
                weights.append((0.0, 1.0))
                continue
            share = max(0, end + 1 - begins) / max(1, end + 1 - self._width)
            weights.append((share, 1 - share))
        return weights

    def row_scores(self, sequences: int) -> list[float] | None:
        """The gate's calibrated probability for each sequence, the highest of its reply; None if it was not asked."""
        if self._probability is None:
            return None
        return self._of_sequences(self._probability, sequences)

    def before(self, first: int, after: int, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Route what switched rows have written."""
        self._columns = (first, after)
        routing = self._adapter.routing
        routing.routed = None
        if self._switch is not None and (self._usable or self._forcing_until):
            positions = self._positions(first, after, kwargs["input_ids"].shape[0])
            never = torch.full_like(self._switch, NEVER)
            routing.routed = refusing = routed_positions(positions, RoutedSpan(self._switch + 1, never))
            if self._usable:
                written = RoutedSpan(self._prompt_ends(positions.shape[0]) + 1, never)
                routing.routed = routed_positions(positions, written)
                routing.weights = self._variants[torch.where(refusing, SAFE, USABLE)]
        if self._first is not None and first < self._forcing_until:
            self._note_first(kwargs["input_ids"], self._positions(first, after, kwargs["input_ids"].shape[0]))
        return kwargs

    def after(self, output: Any) -> None:
        """Ask the gate, and begin the refusals of rows that switch."""
        batch = output.logits.shape[0]
        first, after = self._columns
        reading, thresholds = self._reading, self._thresholds
        if thresholds is None or self._adapter.gate is None:
            if self._switch is None:
                ends = self._prompt_ends(batch)
                self._switch_rows(torch.ones_like(ends).bool(), ends)
        elif reading is not None and reading.hidden and after > reading.end:
            reading.read(first, after)
            if self._switch is None:
                reading.score()  # a prompt's hidden states would stay until all its chunks are read
                if after >= self._width:
                    self._probability = self._judge_prompts(reading, batch)
                    self._switch_rows(self._probability >= thresholds.prompt, self._prompt_ends(batch))
                    if thresholds.reply is None:
                        self._stop_reading()
            elif thresholds.reply is not None:
                self._look(reading, thresholds.reply, after, batch)
        if self._switch is not None and max(first, self._width - 1) < self._forcing_until:
            self._force(output, self._positions(after - output.logits.shape[1], after, batch))

    def _prompt_ends(self, batch: int) -> Tensor:
        """``(batch,)``, the position of each row's last prompt token."""
        return self._lengths.repeat_interleave(batch // self._lengths.shape[0]) - 1

    def _stop_reading(self) -> None:
        """Leave the layers alone from here on: every token of the reply would pay for it."""
        for hook in self._gate_hooks:
            hook.remove()
        self._reading = None

    def _judge_prompts(self, reading: Reading, batch: int) -> Tensor:
        """``(batch,)``, the higher probability of a prompt's end and of where its reply begins.

        What the caller writes of the reply may raise suspicion, but talks no request down.
        """
        copies = batch // len(self._openers)
        probability = reading.judge(range(batch))
        for length in sorted(set().union(*self._openers)):
            if reading.holds_more_than(length):  # else the reply began in the caller's cache
                rows = [row for row in range(batch) if length in self._openers[row // copies]]
                probability[rows] = torch.maximum(probability[rows], reading.judge(rows, length))
        return probability

    def _look(self, reading: Reading, threshold: float, after: int, batch: int) -> None:
        """Judge the replies that are due, and switch those that have turned harmful."""
        assert self._switch is not None and self._probability is not None
        copies = batch // len(self._begins)
        due = [looks_at(after - begin) for begin in self._begins for _ in range(copies)]
        if not any(due):
            return
        answered = (self._switch == NEVER).tolist()  # what a refusal says is no news
        rows = [row for row, looks in enumerate(due) if looks and answered[row]]
        if not rows:
            reading.score()  # or hidden states would stay until somebody asks
            return
        news = torch.zeros_like(self._probability)
        news[rows] = reading.judge(rows)
        self._probability = torch.maximum(self._probability, news)
        last = self._positions(after - 1, after, batch)[:, 0]
        looked_at = torch.zeros_like(self._switch, dtype=torch.bool)
        looked_at[rows] = True
        self._switch_rows(looked_at & (news >= threshold), last)

    def _switch_rows(self, flagged: Tensor, positions: Tensor) -> None:
        before = torch.full_like(positions, NEVER) if self._switch is None else self._switch
        begins = self._usable and self._switch is None  # replies that are not refused, too
        self._switch = torch.where(flagged, positions, before)
        if self._first is None:
            self._first = torch.full_like(positions, -1)
        self._states = None
        if begins or bool(flagged.any()):
            forced = len(self._config.break_ids) + self._beginnings.shape[1]
            self._forcing_until = max(self._columns[1], self._width) + forced - 1

    def _note_first(self, tokens: Tensor, positions: Tensor) -> None:
        """Keep the token that a refusal behind a reply begins with, where it is among those ``(batch, seq)``."""
        assert self._switch is not None and self._first is not None
        place = positions - self._switch[:, None] == 1 + len(self._config.break_ids)
        self._first = torch.where(place.any(1), (tokens * place).sum(1), self._first)

    def _force(self, output: Any, positions: Tensor) -> None:
        """Raise the logits, at ``positions`` ``(batch, seq)``, of the tokens that a refusal begins with.

        Where the usable variant begins, those that only refusals begin with are lowered.
        """
        assert self._switch is not None and self._first is not None
        copies = positions.shape[0] // self._lengths.shape[0]
        lengths, by_caller = (rows.repeat_interleave(copies) for rows in (self._lengths, self._begun))
        begun = by_caller | (self._switch >= lengths)
        step = positions - self._switch[:, None]  # 0 where the row switches
        logits = output.logits
        for index, token in enumerate(self._config.break_ids):
            logits[..., token] += FORCED * (begun[:, None] & (step == index)).to(logits)
        starts = begun * len(self._config.break_ids)
        refuses = (step == starts[:, None]).to(logits)
        logits[..., self._config.refusal_starts] += FORCED * refuses[..., None]
        alike = (self._first[:, None] == self._beginnings[:, 0]) & begun[:, None]  # (batch, beginnings)
        if bool(alike.any()):
            going_on = self._beginnings[alike.int().argmax(1)].masked_fill(~alike.any(1)[:, None], -1)
            for index in range(1, going_on.shape[1]):
                tokens = going_on[:, index]
                goes_on = ((tokens >= 0)[:, None] & (step == (starts + index)[:, None])).to(logits)
                place = tokens.clamp(min=0)[:, None, None].expand(-1, logits.shape[1], 1)
                logits.scatter_add_(2, place, FORCED * goes_on[..., None])
        if self._usable and self._config.barred_starts:
            answered = (self._switch >= lengths) & ~by_caller
            answers = (answered[:, None] & (positions == lengths[:, None] - 1)).to(logits)
            logits[..., self._config.barred_starts] -= FORCED * answers[..., None]

    def _before(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args, kwargs = super()._before(module, args, kwargs)
        self._follow(kwargs.get("past_key_values"))
        return args, kwargs

    def _follow(self, cache: Any) -> None:
        """Reorder the rows' state with the cache: beams move rows between two forwards."""
        if cache is None or cache is self._followed:
            return
        self._followed = cache
        reorder = cache.reorder_cache

        def reorder_all(rows: Tensor) -> Any:
            if self._switch is not None:
                self._switch = self._switch[rows]
                self._first = None if self._first is None else self._first[rows]
                self._probability = None if self._probability is None else self._probability[rows]
                if self._reading is not None:
                    self._reading.reorder(rows)
            return reorder(rows)

        cache.reorder_cache = reorder_all

    def _of_sequences(self, values: Tensor, sequences: int) -> list[Any]:
        """One value for each returned sequence: those of a prompt stand together, as its rows do."""
        each = values.shape[0] // self._padding.shape[0]
        return values[::each].repeat_interleave(sequences // self._padding.shape[0]).tolist()


@torch.no_grad()
def running_scores(
    adapter: Adapter, config: GateConfig, input_ids: Tensor, prompt_length: int, *, usable: bool
) -> list[float]:
    """What the gates would say if the text ended at each token: how the probability grows along a conversation.

    Args:
        adapter: with its gate.
        input_ids: ``(1, columns)``, prompt and reply.
        prompt_length: how many of them are the prompt's.
        usable: whether the reply is the usable variant's, and not the base's.

    Returns:
        A probability for each token; 0 before the gate begins to read.
    """
    gate = adapter.gate
    assert gate is not None
    hidden: dict[int, Tensor] = {}
    hooks = watch(adapter.decoder_layers, gate, hidden)
    routing = adapter.routing
    if usable:
        columns = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        routing.routed = columns >= prompt_length
        routing.weights = torch.eye(2, device=input_ids.device)[USABLE][None, None]
    try:
        adapter.model(input_ids=input_ids, use_cache=False, logits_to_keep=1)
    finally:
        routing.routed = routing.weights = None
        for hook in hooks:
            hook.remove()
    start = config.marks.reading_start(input_ids[0, :prompt_length].tolist())
    scores = gate.token_scores([hidden[index][:, start:] for index in gate.layers])
    running = [0.0] * start
    for end in range(1, scores.shape[2] + 1):
        read = torch.ones(1, end, dtype=torch.bool, device=scores.device)
        running.append(float(torch.sigmoid(gate(scores[:, :, :end], read))[0]))
    return running
