"""The engine: one thread that writes the replies of many jobs at once, each as if it were alone.

Rows join and leave between two forwards. A job's prompt is read apart from the running rows, and its first token is
given out at once; then it is one more row of the next forward. Why not transformers' own continuous batching (5.19):
it packs all rows into one of `(1, tokens)` with paged keys, where no hook can tell them apart, samples by settings of
the whole batch but for temperature, top_k and top_p, and on a CPU every token attends under a mask to all rows' keys.
"""

import logging
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from threading import Condition, Thread
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mogu.errors import MoguError
from mogu.generation import MoguModel
from mogu.generation.attention import grouped
from mogu.generation.forwards import RowState
from mogu.generation.reply import end_and_pad_ids
from mogu.generation.request import RoutingRequest
from mogu.serving.engine.batch import Batch, Prefill
from mogu.serving.engine.job import Closing, Full, Piece, Sampling, Verdict
from mogu.serving.engine.row import Row, Vocabulary
from mogu.serving.engine.sampling import check_sampling, choose
from mogu.serving.engine.servable import check_rows, longest_text

log = logging.getLogger(__name__)

PADDING = 32
"""Prompts are read together with at most so many columns of padding beside half as many as they have tokens: a prompt
that would add more waits for the next step."""


class EngineState(NamedTuple):
    """What the engine does, and what it has done since its start.

    Attributes:
        running: replies that are written now.
        waiting: jobs that wait for a row.
        prompt_tokens: read.
        reply_tokens: written, end tokens included.
        refused: replies of which the safe variant wrote any.
        steps: forwards in which all rows went on by a token.
    """

    running: int
    waiting: int
    prompt_tokens: int
    reply_tokens: int
    refused: int
    steps: int


class Ticket:
    """A job that was taken.

    Args:
        row: its reply.
        wake: called when the engine has to look.
    """

    def __init__(self, row: Row, wake: Callable[[], None]) -> None:
        self._row = row
        self._wake = wake

    def cancel(self) -> None:
        """Free the row at the next step; a last piece "cancelled" follows, unless the reply has ended."""
        self._row.cancelled = True
        self._wake()


class Engine:
    """Writes the replies of many jobs with one model, which nobody else may use meanwhile.

    Args:
        model: hardened.
        rows: replies that are written at once, from 1.
        waiting: jobs that may wait beside them, from 0.
        threshold: of sequence routing, the probability from which on a reply is a refusal; None for the adapter's own.
        mode: `base` writes without routing, to compare with.
        prompt_tokens: most prompt tokens, padding included, that are read at once while replies wait; a longer prompt
            is read alone and in parts, between which the replies go on.

    Attributes:
        longest: most tokens of prompt and reply together.
        failed: whether an error has ended it: it writes nothing any more.

    Raises:
        MoguError: If a number is too low, or the model or the adapter cannot be served so.
    """

    def __init__(
        self,
        model: MoguModel,
        *,
        rows: int = 16,
        waiting: int = 64,
        threshold: float | None = None,
        mode: Literal["mogu", "base"] = "mogu",
        prompt_tokens: int = 1024,
    ) -> None:
        for name, value, lowest in (
            ("rows", rows, 1),
            ("waiting", waiting, 0),
            ("prompt_tokens", prompt_tokens, 1),
        ):
            if value < lowest:
                raise MoguError(f"{name} is {value}; give at least {lowest}")
        self._model = model
        self._most_rows = rows
        self._most_waiting = waiting
        self._prompt_tokens = prompt_tokens
        self._request = RoutingRequest(mode, threshold=threshold)
        model.generator.check(self._request)
        self.longest = longest_text(model)
        gate = model.config.gate if mode == "mogu" else None
        self._thresholds = None if gate is None else gate.thresholds(threshold)
        # Of token routing, so many tokens of each reply are drawn from routed logits.
        self._routed_tokens: float = 0
        if mode == "mogu" and gate is None:
            m = model.config.routed_tokens
            self._routed_tokens = float("inf") if m is None else m
        ends, _ = end_and_pad_ids(model.model.generation_config, model.tokenizer)
        self._vocabulary = Vocabulary(model.tokenizer, ends if isinstance(ends, Collection) else (ends,))
        self._ids: int = model.model.config.get_text_config(decoder=True).vocab_size

        self._batch = Batch(model, self._request)
        self._rows: list[Row] = []  # those of the batch, in its order
        self._tokens: Tensor | None = None  # (rows,) their last tokens, which the model has not read yet
        self._joining: list[Row] = []  # those whose prompts are read
        self._prefill: Prefill | None = None
        self._queue: deque[Row] = deque()
        # Guards the queue and what follows; the rows are the thread's own.
        self._changed = Condition()
        self._unfinished = 0
        self._closing = self._cut = self.failed = False
        self._thread: Thread | None = None
        self._totals = EngineState(0, 0, 0, 0, 0, 0)

    @property
    def state(self) -> EngineState:
        """What the engine does now; cheap, from any thread."""
        with self._changed:
            waiting = len(self._queue)
            return self._totals._replace(running=self._unfinished - waiting, waiting=waiting)

    def start(self) -> None:
        """Take the model and begin to serve.

        Raises:
            MoguError: If the model is in use, or does not read rows as if they were alone.
        """
        held = ExitStack()
        with held:
            held.enter_context(self._model.generator.alone())
            held.enter_context(grouped(self._model.model))
            with torch.inference_mode():
                check_rows(self._model)
            self._thread = Thread(target=self._serve, args=(held.pop_all(),), name="engine", daemon=True)
            self._thread.start()

    def close(self, patience: float) -> None:
        """Take no more jobs, finish those that there are, and give the model back.

        Args:
            patience: seconds to wait for them; then the rest ends "cancelled".
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(patience)
        with self._changed:
            self._cut = True
            self._changed.notify()
        if self._thread is None:
            self._cancel()
        else:
            self._thread.join()

    def submit(self, prompt: list[int], sampling: Sampling, heard: Callable[[Piece], None]) -> Ticket:
        """Ask for a reply.

        Args:
            prompt: token ids.
            sampling: how it is written.
            heard: is given its pieces, the last one with a finish. Called in the engine's thread: it must not block.

        Raises:
            Full: If as many jobs wait as may.
            Closing: If the engine takes no more.
            MoguError: If the prompt is empty, too long or no prompt of this model, or `sampling` asks for what is not
                allowed.
        """
        room = self.longest - len(prompt)
        if room < 1:
            raise MoguError(
                f"the prompt has {len(prompt)} tokens; with a reply of at least one the model takes {self.longest}"
            )
        if not prompt or not all(0 <= token < self._ids for token in prompt):
            raise MoguError(f"a prompt is at least one token id from 0 to {self._ids - 1}")
        check_sampling(sampling, self._ids)
        row = Row(prompt, sampling, heard, self._vocabulary, room)
        with self._changed:
            if self._closing:
                reason = "has failed" if self.failed else "is closing"
                raise Closing(f"the engine {reason} and takes no more jobs")
            if self._unfinished >= self._most_rows + self._most_waiting:
                raise Full(f"{self._unfinished} jobs are running and waiting already; try again later")
            self._unfinished += 1
            self._queue.append(row)
            self._changed.notify()
        return Ticket(row, self._wake)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify()

    def _serve(self, held: ExitStack) -> None:
        try:
            with held, torch.inference_mode():
                while self._has_work():
                    try:
                        self._step()
                        continue
                    except Exception as error:
                        self._fail(self._rows, error)
                    self._start_afresh()  # only here is nothing of the failed step held any more
        except Exception as error:  # such as a GPU that answers nothing any more
            with self._changed:
                self._closing = self.failed = True
                waiting = list(self._queue)
                self._queue.clear()
            self._fail((*self._rows, *self._joining, *waiting), error)

    def _has_work(self) -> bool:
        """Wait until there is something to do; False if there never will be."""
        with self._changed:
            while not self._unfinished and not self._closing:
                self._changed.wait()
            return bool(self._unfinished)

    def _step(self) -> None:
        """Let rows leave and join, and write one token of each."""
        self._cancel()
        self._leave()
        if not self._joining:
            self._joining = self._next_jobs()
        if self._joining:
            self._read()
            self._leave()
        if self._rows:
            assert self._tokens is not None
            logits = self._batch.step(self._tokens)
            self._tokens = self._write(self._rows, logits, self._batch.states())
            self._totals = self._totals._replace(steps=self._totals.steps + 1)
            self._leave()

    def _cancel(self) -> None:
        with self._changed:
            waiting = [row for row in self._queue if row.cancelled or self._cut]
            for row in waiting:
                self._queue.remove(row)
        running = [row for row in (*self._rows, *self._joining) if row.cancelled or self._cut]
        for row in (*waiting, *running):
            row.end("cancelled")
            self._tell(row)
        if self._joining and all(row.finish is not None for row in self._joining):
            self._joining, self._prefill = [], None

    def _leave(self) -> None:
        """Let rows go that have ended."""
        if ended := [place for place, row in enumerate(self._rows) if row.finish is not None]:
            order = self._batch.drop(ended)
            self._rows = [self._rows[place] for place in order]
            assert self._tokens is not None
            self._tokens = self._tokens[torch.tensor(order, dtype=torch.int64, device=self._tokens.device)]

    def _next_jobs(self) -> list[Row]:
        """The oldest job that waits, if a row is free, and those behind it that can be read with it."""
        chosen: list[Row] = []
        with self._changed:
            for row in list(self._queue):
                if len(self._rows) + len(chosen) == self._most_rows:
                    break
                lengths = [len(each.prompt) for each in (*chosen, row)]
                columns, tokens = max(lengths) * len(lengths), sum(lengths)
                fits = columns <= self._prompt_tokens and columns - tokens <= tokens / 2 + PADDING
                if fits or not chosen:
                    self._queue.remove(row)
                    chosen.append(row)
        return chosen

    def _read(self) -> None:
        """Read on in the prompts of new rows; at their end write their first tokens and let them join."""
        try:
            prefill = self._prefill
            if prefill is None:
                prompts = [row.prompt for row in self._joining]
                prefill = self._prefill = Prefill(self._model, self._request, prompts)
            if not prefill.read(self._prompt_tokens):
                return
        except Exception as error:  # the rows that run have no part in it
            self._fail(self._joining, error)
            self._joining, self._prefill = [], None
            return
        joining, self._joining, self._prefill = self._joining, [], None
        self._rows += joining  # what fails from here on, fails with them
        prompt_tokens = self._totals.prompt_tokens + sum(len(row.prompt) for row in joining)
        self._totals = self._totals._replace(prompt_tokens=prompt_tokens)
        tokens = self._write(joining, prefill.logits, prefill.states())
        self._batch.join(prefill)
        self._tokens = tokens if self._tokens is None else torch.cat((self._tokens, tokens))

    def _write(self, rows: Sequence[Row], logits: Tensor, states: Sequence[RowState]) -> Tensor:
        """Choose the next token of each row and give out what is new; ``(rows,)``, the tokens."""
        refused = [state.safe_from is not None for state in states]
        guarded = [safe or row.tokens < self._routed_tokens for safe, row in zip(refused, rows, strict=True)]
        chosen = choose(logits, [row.chooser for row in rows], guarded)
        newly_refused = sum(safe and not row.verdict.refused for safe, row in zip(refused, rows, strict=True))
        self._totals = self._totals._replace(
            reply_tokens=self._totals.reply_tokens + len(rows), refused=self._totals.refused + newly_refused
        )
        prompt_threshold, reply_threshold = self._thresholds or (None, None)
        for row, token, chances, state in zip(rows, chosen.ids, chosen.chances, states, strict=True):
            row.verdict = Verdict(
                score=state.score,
                threshold=prompt_threshold,
                reply_threshold=reply_threshold,
                refused=state.safe_from is not None,
                refused_from=state.safe_from,
            )
            row.add(token, chances)
            self._tell(row)
        return chosen.tokens

    def _tell(self, row: Row) -> None:
        """Give out what is new of a row."""
        if row.finish is not None:
            with self._changed:
                self._unfinished -= 1
        if (piece := row.piece()) is None:
            return
        try:
            row.heard(piece)
        except Exception:
            log.exception("whoever listens to a reply failed: it is cancelled")
            row.cancelled = True

    def _fail(self, rows: Sequence[Row], error: Exception) -> None:
        """End rows by an error."""
        log.error("a step of %d rows failed", len(rows), exc_info=error)
        for row in rows:
            if row.finish is None:
                row.fail("the engine failed while it wrote; its log says why")
                self._tell(row)

    def _start_afresh(self) -> None:
        """Go on with an empty batch; prompts that were half read are read from their beginning."""
        self._rows, self._tokens, self._prefill = [], None, None
        self._batch = Batch(self._model, self._request)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
