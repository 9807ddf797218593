"""Figures that a run must reach, for continuous integration."""

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from mogu.errors import MoguError
from mogu.evaluation.rows import Comparison
from mogu.report.comparison.counting import figures_of
from mogu.report.comparison.figures import OURS, Defended
from mogu.share import Share

FIGURES: Final[Mapping[str, Callable[[Defended], float | None]]] = {
    "refusal": lambda ours: _value(ours.malicious.refused),
    "benign_refusal": lambda ours: _value(ours.benign.refused),
    "auroc": lambda ours: None if ours.separation is None else ours.separation.overall,
    "false_alarms_per_10000": lambda ours: None if ours.false_alarms is None else ours.false_alarms.per_10000,
}
"""What a limit can be set for, by name: shares and AUROC 0 to 1, false alarms 0 to 10,000."""


def check_limits(names: Iterable[str]) -> None:
    """Check that limits are set for figures that there are, before anything is measured.

    Raises:
        MoguError: If one is not in `FIGURES`.
    """
    for name in names:
        if name not in FIGURES:
            raise MoguError(f"there is no figure {name!r} to set a limit for; there are {', '.join(FIGURES)}")


def breaches(
    comparison: Comparison, fail_under: Mapping[str, float], fail_over: Mapping[str, float]
) -> list[str]:
    """Which limits the defense ``mogu`` does not keep.

    Args:
        comparison: What was measured.
        fail_under: By figure, the lowest value that is allowed.
        fail_over: By figure, the highest value that is allowed.

    Returns:
        One line for each breach; a figure that could not be measured is one, too.

    Raises:
        MoguError: A limit is set for something that is not in `FIGURES`.
    """
    check_limits([*fail_under, *fail_over])
    ours = figures_of(comparison).defenses.get(OURS)
    found = {name: None if ours is None else figure(ours) for name, figure in FIGURES.items()}
    lines = []
    for limits, side, broken in ((fail_under, "under", operator.lt), (fail_over, "over", operator.gt)):
        for name, limit in limits.items():
            value = found[name]
            if value is None:
                lines.append(f"{name} of {OURS} was not measured; {limit:g} is the limit")
            elif broken(value, limit):
                lines.append(f"{name} of {OURS} is {value:.6g}, {side} {limit:g}")
    return lines


def _value(share: Share | None) -> float | None:
    return None if share is None else share.value
