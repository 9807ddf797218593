"""Engines of tiny models, and listeners that collect what they write."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event
from typing import NamedTuple

from mogu.generation import MoguModel
from mogu.serving.engine.job import Finish, Piece, Sampling, TokenLogprob, Verdict
from mogu.serving.engine.loop import Engine, Ticket

PATIENCE = 60.0
"""Seconds after which a test fails instead of hanging."""


@contextmanager
def serving(mogu: MoguModel, **settings) -> Iterator[Engine]:
    """A running engine, closed at the end."""
    engine = Engine(mogu, **settings)
    engine.start()
    try:
        yield engine
    finally:
        engine.close(patience=0)


class Heard(NamedTuple):
    """A whole reply."""

    text: str
    tokens: int
    logprobs: tuple[TokenLogprob, ...]
    verdict: Verdict
    finish: Finish | None
    error: str | None


@dataclass
class Listener:
    """Is given pieces; what it does at the first of them may be set."""

    pieces: list[Piece] = field(default_factory=list)
    ended: Event = field(default_factory=Event)
    begun: Event = field(default_factory=Event)

    def __call__(self, piece: Piece) -> None:
        assert not self.ended.is_set(), "a piece after the last one"
        self.pieces.append(piece)
        self.begun.set()
        if piece.finish is not None:
            self.ended.set()

    def whole(self) -> Heard:
        """Wait for the end."""
        assert self.ended.wait(PATIENCE), "the reply never ended"
        last = self.pieces[-1]
        assert all(piece.finish is None for piece in self.pieces[:-1])
        return Heard(
            "".join(piece.text for piece in self.pieces),
            last.tokens,
            tuple(each for piece in self.pieces for each in piece.logprobs),
            last.verdict,
            last.finish,
            last.error,
        )


def submitted(engine: Engine, prompt: list[int], sampling: Sampling) -> tuple[Ticket, Listener]:
    listener = Listener()
    return engine.submit(prompt, sampling, listener), listener


def answers(engine: Engine, jobs: Sequence[tuple[list[int], Sampling]]) -> list[Heard]:
    """The replies to jobs that are submitted at once."""
    listeners = [submitted(engine, prompt, sampling)[1] for prompt, sampling in jobs]
    return [listener.whole() for listener in listeners]
