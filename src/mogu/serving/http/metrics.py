"""What Prometheus reads of a server: requests, tokens, times, the queue and refusals. Knows nothing of HTTP."""

from collections.abc import Callable
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from mogu.serving.http.replies import Replies

FIRST_TOKEN = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
"""Buckets of the time to the first token, in seconds."""

TOKEN = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
"""Buckets of the time from one token to the next."""

REQUEST = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
"""Buckets of the time that a request takes."""


class State(Protocol):
    """What the engine is at."""

    @property
    def running(self) -> int:
        """Replies that are being written."""

    @property
    def waiting(self) -> int:
        """Replies that wait for a row."""


class Metrics:
    """The metrics of one server.

    Args:
        state: what the engine is at, now.
    """

    def __init__(self, state: Callable[[], State]) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter(
            "mogu_requests", "Requests, by route and status", ["route", "status"], registry=registry
        )
        self._prompt_tokens = Counter("mogu_prompt_tokens", "Tokens of prompts", registry=registry)
        self._reply_tokens = Counter("mogu_reply_tokens", "Tokens of replies", registry=registry)
        self._replies = Counter("mogu_replies", "Replies that have begun", registry=registry)
        self._refused = Counter(
            "mogu_refused_replies", "Replies that the safe variant wrote or ended", registry=registry
        )
        self._first = Histogram(
            "mogu_time_to_first_token_seconds",
            "From the request to the reply's first token",
            buckets=FIRST_TOKEN,
            registry=registry,
        )
        self._token = Histogram(
            "mogu_time_per_token_seconds",
            "From one token of a reply to the next, on average",
            buckets=TOKEN,
            registry=registry,
        )
        self._seconds = Histogram(
            "mogu_request_seconds",
            "From a request to its answer's end",
            ["route"],
            buckets=REQUEST,
            registry=registry,
        )
        running = Gauge("mogu_running_replies", "Replies that are being written", registry=registry)
        running.set_function(lambda: state().running)
        waiting = Gauge("mogu_waiting_replies", "Replies that wait for a row", registry=registry)
        waiting.set_function(lambda: state().waiting)

    def count(self, route: str, status: int, seconds: float, replies: Replies | None) -> None:
        """Count a request that has been answered.

        Args:
            route: its path, one of a few.
            status: of HTTP.
            seconds: that it took.
            replies: of one that got so far.
        """
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
        if replies is None:
            return
        usage, verdicts = replies.usage, replies.verdicts
        self._reply_tokens.inc(usage["completion_tokens"])
        self._replies.inc(len(verdicts))
        self._refused.inc(sum(verdict.refused for verdict in verdicts))
        if replies.first_seconds is not None:
            self._prompt_tokens.inc(usage["prompt_tokens"])
            self._first.observe(replies.first_seconds)
        if replies.token_seconds is not None:
            self._token.observe(replies.token_seconds)

    def text(self) -> bytes:
        """All of them, in Prometheus' text format."""
        return generate_latest(self._registry)
