"""How much one request may ask of the server."""

from dataclasses import dataclass

MIB = 2**20

KEYS = 1024
"""Of an object, at most: each could be a mistake to tell of, or a bias to add at every token."""


@dataclass(frozen=True)
class Limits:
    """What a request may have; beyond it, it is answered with the status in brackets.

    Attributes:
        body: bytes (413).
        prompt: tokens of a prompt (400); None for what the model takes.
        reply: tokens of a reply (400), and the longest one where none is given; None for what the model takes.
        replies: of one request, all its prompts together (400).
        seconds: from the request's first byte to the reply's last one (504).
    """

    body: int = 2 * MIB
    prompt: int | None = None
    reply: int | None = None
    replies: int = 16
    seconds: float = 600.0


class Pace:
    """How long replies take, for telling a client when there may be a place.

    Args:
        rows: replies that are written at once.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._seconds = 0.0  # a running mean

    def took(self, seconds: float) -> None:
        """A reply took so long."""
        self._seconds += (seconds - self._seconds) / 8

    @property
    def retry_after(self) -> int:
        """Seconds, 1 to 60, in which a row becomes free."""
        return min(60, max(1, round(self._seconds / self._rows)))
