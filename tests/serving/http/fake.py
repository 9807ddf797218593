"""An engine that writes what it is told to, so that the HTTP half is tested without a model."""

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event, Lock, Thread

from mogu.serving.engine.job import Closing, Full, Piece, Sampling, TokenLogprob, Verdict

ANSWERED = Verdict(0.125, 0.5, 0.625, refused=False, refused_from=None)
REFUSED = Verdict(0.75, 0.5, 0.625, refused=True, refused_from=0)


@dataclass
class State:
    running: int
    waiting: int


class Ticket:
    def __init__(self) -> None:
        self.cancelled = Event()

    def cancel(self) -> None:
        self.cancelled.set()


def words(text: str, verdict: Verdict = ANSWERED, logprobs: bool = False) -> list[Piece]:
    """A piece a word, and a last one without text."""
    parts = text.split(" ")
    texts = [part if not index else f" {part}" for index, part in enumerate(parts)]
    pieces = []
    for index, each in enumerate(texts):
        raw = each.encode()
        top = ((each, raw, -0.5), (" x", b" x", float("-inf")))
        told = (TokenLogprob(each, raw, -0.5, top),) if logprobs else ()
        pieces.append(Piece(each, index + 1, told, verdict, None))
    return [*pieces, Piece("", len(texts) + 1, (), verdict, "stop")]


@dataclass
class FakeEngine:
    """Writes the same pieces to each job, in a thread of its own.

    Attributes:
        pieces: of a reply, by the index of the job.
        places: jobs that may be there at once.
        go: each piece waits for it.
        jobs: what was asked.
        tickets: of each job.
        closing: whether it takes none any more.
        failed: whether an error has ended it.
    """

    pieces: Callable[[int, Sampling], list[Piece]] = lambda index, sampling: words(
        "Hello there, friend.", logprobs=sampling.logprobs is not None
    )
    places: int = 64
    go: Event = field(default_factory=Event)
    longest: int = 2048
    closing: bool = False
    failed: bool = False
    closed: list[float] = field(default_factory=list)
    jobs: list[tuple[list[int], Sampling]] = field(default_factory=list)
    tickets: list[Ticket] = field(default_factory=list)
    running: int = 0
    lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        self.go.set()

    @property
    def state(self) -> State:
        return State(self.running, 0)

    def submit(self, prompt: list[int], sampling: Sampling, heard: Callable[[Piece], None]) -> Ticket:
        if self.closing:
            raise Closing("The server is closing.")
        with self.lock:
            if self.running >= self.places:
                raise Full("64 jobs wait already.")
            self.running += 1
        self.jobs.append((prompt, sampling))
        ticket = Ticket()
        self.tickets.append(ticket)
        Thread(target=self._write, args=(len(self.jobs) - 1, sampling, heard, ticket), daemon=True).start()
        return ticket

    def _write(self, index: int, sampling: Sampling, heard: Callable[[Piece], None], ticket: Ticket) -> None:
        for piece in self.pieces(index, sampling):
            while not self.go.wait(0.005) and not ticket.cancelled.is_set():
                pass
            if ticket.cancelled.is_set():
                break
            heard(piece)
        with self.lock:
            self.running -= 1

    def close(self, patience: float) -> None:
        self.closing = True
        self.closed.append(patience)
