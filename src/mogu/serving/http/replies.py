"""The replies to one request while the engine writes them: pieces from its thread, to the one that awaits them.

Their rows are freed when the client hangs up, the time is over or whoever awaits them leaves, whichever comes first.
Knows nothing of what an answer looks like.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Protocol, Self

from starlette.types import Receive

from mogu.errors import MoguError
from mogu.serving.engine.job import Closing, Full, Piece, Sampling, Verdict
from mogu.serving.http.faults import Fault
from mogu.serving.http.limits import Pace
from mogu.serving.http.prompts import Job
from mogu.serving.http.shapes import Usage


class Ticket(Protocol):
    """A reply that is being written."""

    def cancel(self) -> None:
        """Free its row."""


class Writer(Protocol):
    """What replies are asked of: the engine."""

    def submit(self, prompt: list[int], sampling: Sampling, heard: Callable[[Piece], None]) -> Ticket:
        """Ask for a reply, whose pieces are heard in another thread."""


def no_place(reason: str, retry_after: int) -> Fault:
    """The fault of a request that came when there were too many.

    Args:
        reason: in a sentence.
        retry_after: seconds after which it may try again.
    """
    return Fault(429, reason, code="queue_full", headers={"Retry-After": str(retry_after)})


class Replies:
    """Asynchronous context: asks for the replies when it is entered, and frees their rows when it is left.

    Args:
        writer: the engine.
        jobs: one for each reply.
        receive: tells when the client hangs up; the request's body has been read.
        began: when the request came, in the event loop's time.
        deadline: when its time is over, in the same.
        pace: told how long they took, and asked when there may be a place.

    Attributes:
        deadline: as given.
        texts: of each reply as far as it has come.
    """

    def __init__(
        self,
        writer: Writer,
        jobs: Sequence[Job],
        receive: Receive,
        *,
        began: float,
        deadline: float,
        pace: Pace,
    ) -> None:
        self.deadline = deadline
        self.texts = [""] * len(jobs)
        self._writer = writer
        self._jobs = jobs
        self._receive = receive
        self._began = began
        self._pace = pace
        self._tickets: list[Ticket] = []
        self._latest: list[Piece | None] = [None] * len(jobs)
        self._first: float | None = None  # when the first piece came, in the event loop's time
        self._last = began
        # As long as the replies at most, so that a client who reads slowly holds up nobody else.
        self._news: asyncio.Queue[tuple[int, Piece] | Fault] = asyncio.Queue()

    @property
    def usage(self) -> Usage:
        """Tokens as OpenAI counts them: of each prompt once, of all replies so far."""
        prompts = {id(job.prompt): len(job.prompt) for job in self._jobs}
        prompt, reply = sum(prompts.values()), sum(piece.tokens for piece in self._latest if piece)
        return {"prompt_tokens": prompt, "completion_tokens": reply, "total_tokens": prompt + reply}

    @property
    def verdicts(self) -> list[Verdict]:
        """What is known of the replies that have begun."""
        return [piece.verdict for piece in self._latest if piece]

    @property
    def first_seconds(self) -> float | None:
        """From the request to the first piece; None before it."""
        return None if self._first is None else self._first - self._began

    @property
    def token_seconds(self) -> float | None:
        """From one token of a reply to the next, on average over the longest; None before its second token."""
        steps = max((piece.tokens for piece in self._latest if piece), default=0) - 1
        return None if self._first is None or steps < 1 else (self._last - self._first) / steps

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        try:
            for index, job in enumerate(self._jobs):
                heard = partial(self._heard, index)
                self._tickets.append(self._writer.submit(job.prompt, job.sampling, heard))
        except MoguError as error:
            self._free()
            if isinstance(error, Full):
                raise no_place(str(error), self._pace.retry_after) from error
            if isinstance(error, Closing):
                raise Fault(503, str(error), code="closing") from error
            raise Fault(400, str(error), code="invalid_value") from error
        self._watcher = asyncio.create_task(self._watch())
        late = Fault(504, "The reply took longer than this server allows.", code="timeout")
        self._alarm = self._loop.call_at(self.deadline, self._end, late)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._alarm.cancel()
        self._watcher.cancel()
        self._free()

    async def __aiter__(self) -> AsyncIterator[tuple[int, Piece]]:
        """Which reply, and its next piece, until all have ended.

        Raises:
            Fault: 499 the client is gone, 500 the engine failed, 503 it closes, 504 the time is over.
        """
        unfinished = len(self._jobs)
        while unfinished:
            news = await self._news.get()
            if isinstance(news, Fault):
                raise news
            index, piece = news
            if piece.finish == "error":
                raise Fault(500, f"The reply failed: {piece.error}", code="engine_error")
            if piece.finish == "cancelled":
                raise Fault(503, "The server closed before the reply was finished.", code="closing")
            self._last = self._loop.time()
            if self._first is None:
                self._first = self._last
            self._latest[index] = piece
            self.texts[index] += piece.text
            unfinished -= piece.finish is not None
            if not unfinished:
                self._pace.took(self._last - self._began)
            yield index, piece

    def _heard(self, index: int, piece: Piece) -> None:
        """In the engine's thread."""
        with suppress(RuntimeError):  # the loop has closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._news.put_nowait, (index, piece))

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._end(Fault(499, "The client hung up.", code="client_closed"))

    def _end(self, fault: Fault) -> None:
        self._free()
        self._news.put_nowait(fault)

    def _free(self) -> None:
        for ticket in self._tickets:
            ticket.cancel()
