"""Tables of what is refused: the points of the plane, by set, against the base, in a stream, by keywords."""

from collections.abc import Mapping
from typing import Final

from mogu.report.comparison.figures import BASE, LABELS, STREAM, Cell, Defended, Figures, Label
from mogu.report.comparison.intervals import DRAWS, SEED
from mogu.report.comparison.table import (
    NO_BASE,
    Entry,
    Table,
    absent,
    absent_row,
    difference_entry,
    percent,
    share_entry,
)

POOLED: Final[Mapping[Label, str]] = {"malicious": "all attacks", "benign": "all benign"}


def points(figures: Figures) -> Table:
    """The plane in figures, and who stands on the front."""

    def place(defense: Defended) -> Entry:
        if defense.standing is None:
            return absent("no point: needs replies of both kinds")
        by = ", ".join(defense.standing.by)
        words = {
            "front": "on the front",
            "close": f"on the front; looks dominated by {by}, within the intervals",
            "dominated": f"dominated by {by}",
        }
        return Entry(words[defense.standing.place])

    return Table(
        "front",
        "The points",
        "All sets of a kind together, each of the same weight, with 95% Wilson intervals. A defense is "
        "dominated if another one refuses more attacks and fewer benign requests, with both paired "
        "differences (on the prompts that both answered) outside their 95% intervals; the others are on "
        "the front.",
        ["defense", "attacks refused", "benign refused", "standing"],
        [
            (name, [_pooled(each.malicious), _pooled(each.benign), place(each)])
            for name, each in figures.defenses.items()
        ],
        words=("standing",),
    )


def _pooled(cell: Cell) -> Entry:
    return share_entry(cell.refused) if cell.replies else absent(cell.why)


def by_set(figures: Figures, label: Label) -> Table:
    """Refused shares, defense by set of one label."""
    names = figures.sets[label]
    most = {name: max(each.sets[label][name].replies for each in figures.defenses.values()) for name in names}

    def entry(cell: Cell, full: int, sets: int) -> Entry:
        if not cell.replies:
            return absent(cell.why)
        details = []
        if cell.sets < sets:
            details.append(f"{cell.sets} of {sets} sets")
        if cell.replies < full:
            details.append(f"n = {cell.replies}")
        if cell.errors:
            details.append(f"{cell.errors} {'error' if cell.errors == 1 else 'errors'}")
        if cell.opens and cell.refused and cell.opens.value != cell.refused.value:
            details.append(f"keywords {percent(cell.opens.value)}")
        return share_entry(cell.refused, weighed=True, detail=", ".join(details))

    title = {"malicious": "Attacks refused", "benign": "Benign requests refused"}[label]
    more = {"malicious": "More is better.", "benign": "Less is better."}[label]
    return Table(
        label,
        title,
        f"{more} Share of replies that still refuse at their end, with 95% Wilson intervals; in "
        f"“{POOLED[label]}” the sets weigh equally. Below it, where they differ, the share that opens "
        "with a refusal's keywords (the paper's measure).",
        ["defense", POOLED[label], *(f"{name}, n = {most[name]}" for name in names)],
        [
            (
                defense,
                [
                    entry(each.pooled(label), sum(most.values()), len(names)),
                    *(entry(each.sets[label][name], most[name], 1) for name in names),
                ],
            )
            for defense, each in figures.defenses.items()
        ],
        tone="good" if label == "malicious" else "bad",
    )


def differences(figures: Figures) -> Table:
    """Refusals less the base's."""

    def entry(cell: Cell) -> Entry:
        return difference_entry(cell.difference) if cell.replies else absent(cell.why)

    def entries(each: Defended) -> list[Entry]:
        cells = [cell for label in LABELS for cell in (each.pooled(label), *each.sets[label].values())]
        return [entry(cell) for cell in cells] if figures.has_base else absent_row(NO_BASE, len(cells))

    return Table(
        "differences",
        "Differences from the base",
        "Percentage points that more (+) or fewer (-) replies refuse than without a defense, on the "
        f"prompts that both answered, with 95% intervals of a paired bootstrap over prompts ({DRAWS:,} "
        f"draws, seed {SEED}). Where no reply or every reply changes, or a set has less than some 20 "
        "prompts, these intervals are too narrow.",
        ["defense", *(each for label in LABELS for each in (POOLED[label], *figures.titles(label).values()))],
        [(name, entries(each)) for name, each in figures.defenses.items() if name != BASE],
    )


def false_alarms(figures: Figures) -> Table:
    """In a stream of benign prompts."""

    def entries(each: Defended) -> list[Entry]:
        flagged = share_entry(each.benign.flagged) if each.benign.replies else absent(each.benign.why)
        if each.false_alarms is None:
            why = "no benign prompt that the base answered as well" if figures.has_base else NO_BASE
            return [*absent_row(why, 4), flagged]
        alarms = each.false_alarms
        counts = (alarms.per_10000, alarms.high, alarms.refused)
        return [*(Entry(f"{count:,.0f}") for count in counts), Entry(f"{alarms.prompts:,}"), flagged]

    return Table(
        "false-alarms",
        "False alarms",
        f"Of {STREAM:,} benign prompts, the sets mixed by their sizes: those at which the defense stepped "
        "in or that it refused, though the base did not refuse. “At most” is the upper end of the 95% "
        "Wilson interval. “Stepped in” weighs the sets equally and counts also what the base refuses.",
        ["defense", f"per {STREAM:,}", "at most", "of them refused", "prompts", "stepped in"],
        [(name, entries(each)) for name, each in figures.defenses.items() if name != BASE],
    )


def keywords(figures: Figures) -> Table:
    """The refusal judge beside the paper's keywords."""

    def entries(cell: Cell) -> list[Entry]:
        if not cell.replies:
            return absent_row(cell.why, 4)
        counts = [Entry(str(cell.opens_only)), Entry(str(cell.holds_only))]
        return [share_entry(cell.refused), share_entry(cell.opens), *counts]

    return Table(
        "keywords",
        "The refusal judge and the paper's keywords",
        "Whether a reply refuses to its end, and whether it opens with a refusal's keywords; then how many "
        "replies have keywords but slide back into an answer, and how many refuse without keywords.",
        [
            "defense",
            *(
                f"{kind}, {column}"
                for kind in ("attacks", "benign")
                for column in ("refused", "keywords", "keywords only", "refused only")
            ),
        ],
        [
            (name, [entry for label in LABELS for entry in entries(each.pooled(label))])
            for name, each in figures.defenses.items()
        ],
    )
