"""How the mean safe weight spreads over each kind of input (the paper's figure), as a page and in a terminal.

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


def spread_page(groups: Mapping[str, Sequence[float]], title: str) -> str:
    """Draws a histogram for each kind of input.

    Args:
        groups: For each kind, the mean safe weight of every input, in [0, 1].
        title: The page's heading.

    Returns:
        One self-contained HTML document.
    """
    return render("spread.html.j2", title=title, groups=_summarise(groups, PAGE_BINS))


def spread_lines(groups: Mapping[str, Sequence[float]]) -> Table:
    """Draws the same histograms as a table with one line for each kind, for a terminal.

    Args:
        groups: For each kind, the mean safe weight of every input, in [0, 1].

    Returns:
        What a rich console prints.
    """
    axis = f"0{'safe weight':^{TERMINAL_BINS - 2}}1"
    table = Table("kind", axis, box=box.SIMPLE_HEAD, pad_edge=False)
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
