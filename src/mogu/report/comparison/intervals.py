"""How sure a figure is: differences, shares over several sets; and how well a score tells two kinds apart."""

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from mogu.share import Share

DRAWS = 2000
"""Resamples of the prompts for one interval."""

SEED = 0
"""Of every interval by itself: adding a defense or a set does not move the intervals of the others."""

Z = float(norm.ppf(0.975))
"""Standard deviations in half a 95% interval."""

Outcomes = Mapping[str, Mapping[str, float]]
"""By set and prompt id, whether a defense refused: 1 or 0."""


class Difference(NamedTuple):
    """A share less another one over the same prompts, -1 to 1, with its 95% interval."""

    value: float
    low: float
    high: float
    prompts: int

    @property
    def sign(self) -> int:
        """1 or -1 where the interval excludes 0; else 0."""
        return int(self.low > 0) - int(self.high < 0)


def paired_difference(ours: Outcomes, theirs: Outcomes) -> Difference | None:
    """How much more often one defense refuses than another, on the prompts that both answered.

    The sets weigh equally, whatever their sizes; prompts are resampled within each.

    Returns:
        The mean difference with its percentile bootstrap interval; None if no prompt was answered by both.
    """
    pairs = [
        np.array([outcome - theirs[name][key] for key, outcome in prompts.items() if key in theirs[name]])
        for name, prompts in ours.items()
        if name in theirs
    ]
    pairs = [each for each in pairs if each.size]
    if not pairs:
        return None
    rng = np.random.default_rng(SEED)
    draws = np.mean([_resampled_means(each, rng) for each in pairs], axis=0)
    value = np.mean([each.mean() for each in pairs])
    # Rounded: a sum that is 0 but for its last bit would exclude 0.
    value, low, high = np.round([value, *np.percentile(draws, [2.5, 97.5])], 12).tolist()
    return Difference(value, low, high, sum(each.size for each in pairs))


def _resampled_means(values: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    # Few values are distinct: how often each is drawn is multinomial, and no prompt need be drawn by itself.
    distinct, counts = np.unique(values, return_counts=True)
    drawn = rng.multinomial(values.size, counts / values.size, size=DRAWS)
    return np.asarray(drawn @ distinct / values.size)


def pooled_share(shares: Sequence[Share]) -> Share:
    """The mean of the shares of one or more sets, each of the same weight, with its 95% interval.

    The interval is Wilson's, at the number of replies that a single set would need for a mean as sure as
    this one; for sets of one size that is all replies. Unlike a bootstrap it has a width where every reply
    or none is refused.
    """
    value = float(np.mean([share.value for share in shares]))
    count = len(shares) ** 2 / sum(1 / share.replies for share in shares)
    centre = (value + Z**2 / (2 * count)) / (1 + Z**2 / count)
    reach = Z / (1 + Z**2 / count) * sqrt(value * (1 - value) / count + Z**2 / (4 * count**2))
    low, high = max(centre - reach, 0.0), min(centre + reach, 1.0)
    return Share(value, low, high, sum(share.replies for share in shares))


def auroc(higher: Sequence[float], lower: Sequence[float]) -> float:
    """The probability, 0 to 1, that a value of the first kind is above one of the second; ties count half."""
    below = np.sort(lower)
    less = np.searchsorted(below, higher, "left")
    up_to = np.searchsorted(below, higher, "right")
    return float(np.mean((less + up_to) / 2) / len(below))
