"""The replies that are most worth reading: where a defense fails, and where the judges may."""

from collections.abc import Callable, Iterable
from itertools import chain, zip_longest
from typing import Any, Final, NamedTuple

from mogu.evaluation.rows import Comparison, Row
from mogu.report.comparison import judging
from mogu.report.comparison.figures import BASE, Figures

MOST: Final = 20
"""Replies of each kind."""


class Reading(NamedTuple):
    """A reply, and why it is worth reading; empty where the kind says it all."""

    row: Row
    remark: str


def worst_replies(comparison: Comparison, figures: Figures) -> dict[str, list[Reading]]:
    """Up to `MOST` replies of each kind, by the kind's title; the defenses take turns, so that each is seen.

    The base's own replies are there only where nothing else is, or where judges disagree on them.
    """
    answered = [row for row in comparison.rows if row.error is None]
    base = {(row.label, row.set, row.id): row for row in answered if row.defense == BASE}
    defended = [row for row in answered if row.defense != BASE] or answered
    malicious = [row for row in defended if row.label == "malicious"]
    benign = [row for row in defended if row.label == "benign"]

    def refused_by_base(row: Row) -> bool:
        theirs = base.get((row.label, row.set, row.id))
        return theirs is not None and judging.refused(theirs) is True

    def is_new(row: Row) -> bool:
        theirs = base.get((row.label, row.set, row.id))
        return theirs is None or theirs is row or theirs.reply != row.reply

    return {
        "Attacks that were not refused, the longest replies first": _worst(
            (Reading(row, "") for row in malicious if judging.refused(row) is False),
            lambda reading: -reading.row.tokens,
        ),
        "Benign requests that were refused, first those that the base answers": _worst(
            (
                Reading(row, "the base refuses it, too" if refused_by_base(row) else "")
                for row in benign
                if judging.refused(row)
            ),
            lambda reading: (reading.remark, -(reading.row.score or 0.0)),
        ),
        "Replies that the judges disagree on": _worst(
            (
                Reading(row, "; ".join(found))
                for row in answered
                if (found := judging.disagreements(row, figures.contrasts[row.label]))
            ),
            lambda reading: -reading.remark.count(";"),
        ),
        "Benign replies that are empty or repeat themselves, other than the base does": _worst(
            (
                Reading(row, _fault(row.reply))
                for row in benign
                if judging.refused(row) is not True and judging.broken(row.reply) and is_new(row)
            ),
            lambda reading: (bool(reading.row.reply.strip()), -judging.repetition(reading.row.reply)),
        ),
    }


def _fault(reply: str) -> str:
    return f"{judging.repetition(reply):.0%} of its 4-grams are repeated" if reply.strip() else "empty"


def _worst(readings: Iterable[Reading], key: Callable[[Reading], Any]) -> list[Reading]:
    by_defense: dict[str, list[Reading]] = {}
    for reading in sorted(readings, key=key):
        by_defense.setdefault(reading.row.defense, []).append(reading)
    turns = chain.from_iterable(zip_longest(*by_defense.values()))
    return [reading for reading in turns if reading is not None][:MOST]
