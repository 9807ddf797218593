"""What a table is, and how figures are written in it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from mogu.report.comparison.figures import BASE
from mogu.report.comparison.intervals import Difference
from mogu.share import Share


class Entry(NamedTuple):
    """One cell.

    Attributes:
        text: its figure.
        detail: what stands below it, smaller.
        weight: how much colour it has, 0 to 1; None for none.
        absent: whether the text says why there is no figure.
    """

    text: str
    detail: str = ""
    weight: float | None = None
    absent: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        key: its name in addresses.
        title: as people read it.
        note: how it is to be read.
        columns: headers; the first is that of the row headers.
        rows: row headers, then entries for all other columns.
        tone: what colour means: ``good`` or ``bad``.
        words: the columns that hold words, not figures.
    """

    key: str
    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Entry]]]
    tone: Literal["good", "bad"] = "good"
    words: Collection[str] = ()


def absent(why: str) -> Entry:
    """A cell without a figure, and why."""
    return Entry(why, absent=True)


def absent_row(why: str, columns: int) -> list[Entry]:
    """So many cells without a figure, the first of which says why."""
    return [absent(why), *[absent("-")] * (columns - 1)]


NOT_MEASURED = absent("not measured")
NO_BASE = f"no replies of “{BASE}” to compare with"


def percent(value: float) -> str:
    """A share, 0 to 1, as people read it."""
    return f"{value:.1%}"


def number(value: float | None, form: str) -> Entry:
    """A figure in the format that `form` says; None if it was not measured."""
    return NOT_MEASURED if value is None else Entry(format(value, form))


def share_entry(share: Share | None, *, weighed: bool = False, detail: str = "") -> Entry:
    """A share with its interval in brackets; None if no reply was judged."""
    if share is None:
        return absent("not judged")
    interval = f"({100 * share.low:.1f}-{100 * share.high:.1f})"
    text = f"{percent(share.value)} {interval}"
    return Entry(text, detail, share.value if weighed else None)


def difference_entry(difference: Difference | None) -> Entry:
    """A difference in percentage points, with its interval."""
    if difference is None:
        return absent("no prompt in common")
    value, low, high = (_points(each) for each in difference[:3])
    return Entry(f"{value} ({low} to {high})")


def _points(difference: float) -> str:
    text = f"{100 * difference:+.1f}"
    return "0.0" if float(text) == 0 else text
