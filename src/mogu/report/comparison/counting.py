"""From the rows of a comparison to its figures."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from mogu.evaluation.rows import Comparison, Row
from mogu.report.comparison import judging
from mogu.report.comparison.figures import (
    BASE,
    LABELS,
    STREAM,
    Cell,
    Defended,
    FalseAlarms,
    Figures,
    Label,
    Measure,
    Missing,
    Separation,
)
from mogu.report.comparison.front import Refusals, Standing, standings
from mogu.report.comparison.intervals import Difference, Outcomes, auroc, paired_difference, pooled_share
from mogu.share import Share


class _Counted:
    """The rows of a comparison by where they belong, and what is counted over all of them."""

    def __init__(self, comparison: Comparison) -> None:
        rows = comparison.rows
        named = (
            [row.defense for row in rows] + [*comparison.costs] + [name for name, *_ in comparison.missing]
        )
        self.defenses = sorted(dict.fromkeys(named), key=lambda name: name != BASE)
        self.sets = {label: list(dict.fromkeys(r.set for r in rows if r.label == label)) for label in LABELS}
        self.reasons = {(defense, name): why for defense, name, why in comparison.missing}
        self.replies: dict[tuple[str, Label, str], dict[str, Row]] = {}
        self.errors: dict[tuple[str, Label, str], list[str]] = {}
        for row in rows:
            place = (row.defense, row.label, row.set)
            if row.error is None:
                known = self.replies.setdefault(place, {})
                if row.id in known:
                    raise ValueError(
                        f"{row.defense} replied twice to {row.id} of {row.set}: ids pair prompts"
                    )
                known[row.id] = row
            else:
                self.errors.setdefault(place, []).append(row.error)
        answered = [row for row in rows if row.error is None]
        self.by_label = {label: [row for row in answered if row.label == label] for label in LABELS}
        # A judge that has judged none of a label's replies was not asked about them.
        self.measures = {
            label: list(dict.fromkeys(name for row in each for name in judging.measures(row)))
            for label, each in self.by_label.items()
        }

    def outcomes(self, defense: str, label: Label) -> Outcomes:
        """What was refused, by set and prompt; replies that nobody judged are left out."""
        return {
            name: {
                key: float(outcome)
                for key, row in self.replies.get((defense, label, name), {}).items()
                if (outcome := judging.refused(row)) is not None
            }
            for name in self.sets[label]
        }

    def cell(self, defense: str, label: Label, name: str) -> Cell:
        """One defense on one set."""
        place = (defense, label, name)
        replies, errors = self.replies.get(place, {}), self.errors.get(place, [])
        if not replies:
            why = f"errors only: {errors[0]}" if errors else self.reasons.get((defense, name), "no replies")
            return Cell(0, 0, len(errors), why)
        rows = list(replies.values())
        judged = [(judging.refused(row), judging.opens(row)) for row in rows]
        base = {} if defense == BASE else self.replies.get((BASE, label, name), {})
        pairs = [(row.reply, base[key].reply) for key, row in replies.items() if key in base]
        return Cell(
            sets=1,
            replies=len(rows),
            errors=len(errors),
            refused=_share([holds for holds, _ in judged if holds is not None]),
            opens=_share([opens for _, opens in judged if opens is not None]),
            opens_only=judged.count((False, True)),
            holds_only=judged.count((True, False)),
            flagged=_share([row.flagged for row in rows]),
            difference=self.difference(defense, label, [name]),
            measures={measure: _measure(rows, measure) for measure in self.measures[label]},
            tokens=fmean(row.tokens for row in rows),
            repetition=fmean(judging.repetition(row.reply) for row in rows),
            broken=fmean(judging.broken(row.reply) for row in rows),
            identical=fmean(ours == theirs for ours, theirs in pairs) if pairs else None,
        )

    def difference(self, defense: str, label: Label, names: Sequence[str]) -> Difference | None:
        """Refusals less the base's on some sets."""
        if defense == BASE:
            return None
        ours, theirs = self.outcomes(defense, label), self.outcomes(BASE, label)
        return paired_difference({name: ours[name] for name in names}, theirs)

    def pooled(self, defense: str, label: Label, cells: Sequence[Cell]) -> Cell:
        """The sets of one label together."""
        full = [cell for cell in cells if cell.replies]
        errors = sum(cell.errors for cell in cells)
        if not full:
            return Cell(0, 0, errors, cells[0].why if cells else f"no {label} sets")
        return Cell(
            sets=len(full),
            replies=sum(cell.replies for cell in full),
            errors=errors,
            refused=_pooled([cell.refused for cell in full]),
            opens=_pooled([cell.opens for cell in full]),
            opens_only=sum(cell.opens_only for cell in full),
            holds_only=sum(cell.holds_only for cell in full),
            flagged=_pooled([cell.flagged for cell in full]),
            difference=self.difference(defense, label, self.sets[label]),
            measures={
                name: _pooled_measure([each.measures[name] for each in full if each.measures])
                for name in self.measures[label]
            },
            tokens=_mean([cell.tokens for cell in full]),
            repetition=_mean([cell.repetition for cell in full]),
            broken=_mean([cell.broken for cell in full]),
            identical=_mean([cell.identical for cell in full]),
        )

    def false_alarms(self, defense: str) -> FalseAlarms | None:
        """Of the benign prompts that this defense and the base answered."""
        ours: list[tuple[bool, bool]] = []
        for name in self.sets["benign"]:
            base = self.replies.get((BASE, "benign", name), {})
            for key, row in self.replies.get((defense, "benign", name), {}).items():
                holds, base_holds = judging.refused(row), judging.refused(base[key]) if key in base else None
                if holds is not None and base_holds is not None:
                    ours.append(((holds or row.flagged) and not base_holds, holds and not base_holds))
        if not ours:
            return None
        alarms = Share.of(sum(alarm for alarm, _ in ours), len(ours))
        refused = sum(refusal for _, refusal in ours) / len(ours)
        return FalseAlarms(STREAM * alarms.value, STREAM * alarms.high, STREAM * refused, len(ours))

    def scores(self, defense: str) -> dict[Label, dict[str, list[float]]]:
        """By label and set."""
        found: dict[Label, dict[str, list[float]]] = {}
        for label, names in self.sets.items():
            rows = {name: self.replies.get((defense, label, name), {}).values() for name in names}
            scores = {n: sorted(r.score for r in each if r.score is not None) for n, each in rows.items()}
            found[label] = {name: each for name, each in scores.items() if each}
        return found


def figures_of(comparison: Comparison) -> Figures:
    """Counts everything once.

    Raises:
        ValueError: A defense has two replies to one prompt.
    """
    counted = _Counted(comparison)
    places = standings(
        {
            name: Refusals(counted.outcomes(name, "malicious"), counted.outcomes(name, "benign"))
            for name in counted.defenses
        }
    )
    return Figures(
        defenses={name: _defended(comparison, counted, name, places.get(name)) for name in counted.defenses},
        sets=counted.sets,
        has_base=any(row.defense == BASE and row.error is None for row in comparison.rows),
        contrasts={label: judging.contrasts(rows) for label, rows in counted.by_label.items()},
        missing=[
            *(Missing(defense, name, why, None) for defense, name, why in comparison.missing),
            *(
                Missing(defense, name, error, errors.count(error))
                for (defense, _, name), errors in counted.errors.items()
                for error in dict.fromkeys(errors)
            ),
        ],
        facts=comparison.facts,
    )


def _defended(comparison: Comparison, counted: _Counted, name: str, standing: Standing | None) -> Defended:
    cells = {
        label: {each: counted.cell(name, label, each) for each in counted.sets[label]} for label in LABELS
    }
    scores, cost = counted.scores(name), comparison.costs.get(name)
    return Defended(
        paper=comparison.papers.get(name, ""),
        cost=cost,
        speed=cost.tokens / cost.reply_seconds if cost and cost.reply_seconds else None,
        malicious=counted.pooled(name, "malicious", list(cells["malicious"].values())),
        benign=counted.pooled(name, "benign", list(cells["benign"].values())),
        sets=cells,
        false_alarms=counted.false_alarms(name),
        scores=scores,
        separation=_separation(scores["malicious"], scores["benign"]),
        divergence=comparison.divergence.get(name, "not measured"),
        standing=standing,
    )


def _separation(malicious: Mapping[str, list[float]], benign: Mapping[str, list[float]]) -> Separation | None:
    pairs = {(m, b): auroc(high, low) for m, high in malicious.items() for b, low in benign.items()}
    if not pairs:
        return None
    return Separation(
        fmean(pairs.values()),
        {m: fmean(pairs[m, b] for b in benign) for m in malicious},
        {b: fmean(pairs[m, b] for m in malicious) for b in benign},
    )


def _share(hits: Sequence[bool]) -> Share | None:
    return Share.of(sum(hits), len(hits)) if hits else None


def _measure(rows: Sequence[Row], name: str) -> Measure:
    values = [value for row in rows if (value := judging.measures(row).get(name)) is not None]
    return Measure(fmean(values) if values else None, len(values), len(rows) - len(values))


def _pooled(shares: Sequence[Share | None]) -> Share | None:
    known = [share for share in shares if share is not None]
    return pooled_share(known) if known else None


def _pooled_measure(each: Sequence[Measure]) -> Measure:
    return Measure(_mean([m.mean for m in each]), sum(m.judged for m in each), sum(m.unjudged for m in each))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
