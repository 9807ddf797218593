"""How a weight or a probability spreads over each kind of input (the paper's figure), as a page and in a terminal.

Knows plain lists only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from rich import box
from rich.table import Table

from mogu.report.page import render

PAGE_BINS = 40
TERMINAL_BINS = 24

_BARS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class _Group:
    """One kind of input: bar heights over equal bins of [0, 1], the highest 1, and the median if any."""

    name: str
    count: int
    heights: list[float]
    median: float | None


def spread_page(
    groups: Mapping[str, Sequence[float]], title: str, measure: str, threshold: float | None = None
) -> str:
    """Draws a histogram for each kind of input.

    Args:
        groups: For each kind, the value of every input, in [0, 1].
        title: The page's heading.
        measure: What the values are, such as "the gate's probability".
        threshold: The value, in [0, 1], from which on an input is refused; None if there is none.

    Returns:
        One self-contained HTML document.
    """
    groups_shown = _summarise(groups, PAGE_BINS)
    return render("spread.html.j2", title=title, groups=groups_shown, measure=measure, threshold=threshold)


def spread_lines(
    groups: Mapping[str, Sequence[float]], measure: str, threshold: float | None = None
) -> Table:
    """Draws the same histograms as a table with one line for each kind, for a terminal.

    Args:
        groups: For each kind, the value of every input, in [0, 1].
        measure: What the values are, in a word or two.
        threshold: The value, in [0, 1], from which on an input is refused; None if there is none.

    Returns:
        What a rich console prints.
    """
    axis = f"0{measure:^{TERMINAL_BINS - 2}}1"
    table = Table("kind", axis, box=box.SIMPLE_HEAD, pad_edge=False, caption_justify="left")
    if threshold is not None:
        table.caption = f"Refused from {threshold:.2f} on."
    table.add_column("median", justify="right")
    table.add_column("n", justify="right")
    for group in _summarise(groups, TERMINAL_BINS):
        middle = "" if group.median is None else f"{group.median:.2f}"
        table.add_row(group.name, "".join(map(_bar, group.heights)), middle, str(group.count))
    return table


def _summarise(groups: Mapping[str, Sequence[float]], bins: int) -> list[_Group]:
    return [
        _Group(name, len(weights), _heights(weights, bins), median(weights) if weights else None)
        for name, weights in groups.items()
    ]


def _heights(weights: Sequence[float], bins: int) -> list[float]:
    counts = [0] * bins
    for weight in weights:
        counts[min(max(int(weight * bins), 0), bins - 1)] += 1
    highest = max(counts) or 1
    return [count / highest for count in counts]


def _bar(height: float) -> str:
    # Rounded up: a bin with a single input is seen.
    return _BARS[-int(-height * (len(_BARS) - 1) // 1)]
