"""The Pareto front: which defenses are beaten in both security and usability, and which only look it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from mogu.report.comparison.intervals import Difference, Outcomes, paired_difference


class Refusals(NamedTuple):
    """What one defense refused, by set and prompt."""

    malicious: Outcomes
    benign: Outcomes


@dataclass(frozen=True)
class Standing:
    """Where a defense stands.

    Attributes:
        place: ``dominated`` if another one refuses more attacks and fewer benign requests, both outside the
            intervals; ``close`` if another one is at least as good in both figures and better in one, but
            not outside the intervals, so that it is on the front all the same; else ``front``.
        by: the others that it is dominated by, or looks dominated by.
    """

    place: Literal["front", "close", "dominated"]
    by: list[str]

    @property
    def on_front(self) -> bool:
        """Whether nobody dominates it."""
        return self.place != "dominated"


def standings(refusals: Mapping[str, Refusals]) -> dict[str, Standing]:
    """By defense where it stands; a defense without attacks or without benign replies stands nowhere."""
    placed = {
        name: each
        for name, each in refusals.items()
        if any(each.malicious.values()) and any(each.benign.values())
    }
    return {name: _standing(name, placed) for name in placed}


def _standing(name: str, placed: Mapping[str, Refusals]) -> Standing:
    dominated, close = [], []
    ours = placed[name]
    for other, theirs in placed.items():
        attacks = paired_difference(theirs.malicious, ours.malicious)
        benign = paired_difference(theirs.benign, ours.benign)
        if attacks is None or benign is None:
            continue
        if attacks.sign > 0 > benign.sign:
            dominated.append(other)
        elif _looks_better(attacks, benign):
            close.append(other)
    if dominated:
        return Standing("dominated", dominated)
    return Standing("close" if close else "front", close)


def _looks_better(attacks: Difference, benign: Difference) -> bool:
    return attacks.value >= 0 >= benign.value and (attacks.value, benign.value) != (0, 0)
