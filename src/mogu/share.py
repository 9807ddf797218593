"""A share of replies or requests, with how sure it is."""

from typing import NamedTuple

from scipy.stats import binomtest


class Share(NamedTuple):
    """A share with its 95% Wilson interval, all 0 to 1, of ``replies`` replies."""

    value: float
    low: float
    high: float
    replies: int

    @classmethod
    def of(cls, hits: int, count: int) -> "Share":
        """The share of ``hits`` in ``count``, at least 1."""
        interval = binomtest(hits, count).proportion_ci(method="wilson")
        return cls(hits / count, float(interval.low), float(interval.high), count)
