"""Tables of all but refusals: scores, other judges, cost, the texts themselves, and how this was measured."""

from mogu.report.comparison.figures import BASE, LABELS, Cell, Defended, Figures
from mogu.report.comparison.judging import BROKEN
from mogu.report.comparison.table import Entry, Table, absent, absent_row, number, percent


def separation(figures: Figures) -> Table:
    """AUROC of the scores."""
    columns = [(label, name) for label in LABELS for name in figures.sets[label]]

    def entries(each: Defended) -> list[Entry]:
        if each.separation is None:
            return absent_row("needs scores of both kinds", 1 + len(columns))
        by_set = {"malicious": each.separation.malicious, "benign": each.separation.benign}
        cells = [by_set[label].get(name) for label, name in columns]
        overall = Entry(f"{each.separation.overall:.3f}")
        return [overall, *(absent("no scores") if cell is None else Entry(f"{cell:.3f}") for cell in cells)]

    return Table(
        "auroc",
        "How well scores tell attacks from benign requests",
        "AUROC: the probability that a malicious prompt has a higher score than a benign one; 0.5 is "
        "chance. First the mean over all pairs of a malicious and a benign set, then each set against all "
        "of the other kind, sets weighing equally.",
        ["defense", "overall", *(figures.titles(label)[name] for label, name in columns)],
        [(name, entries(each)) for name, each in figures.defenses.items() if any(each.scores.values())],
    )


def judges(figures: Figures) -> Table:
    """The other judges' mean scores."""
    asked = [
        (label, measure)
        for label in LABELS
        for measure in dict.fromkeys(
            measure for each in figures.defenses.values() for measure in each.pooled(label).measures or {}
        )
    ]

    def entry(cell: Cell, name: str) -> Entry:
        measure = (cell.measures or {}).get(name)
        if measure is None:
            return absent(cell.why)
        unjudged = f"{measure.unjudged} of {cell.replies} not judged" if measure.unjudged else ""
        return absent(unjudged) if measure.mean is None else Entry(f"{measure.mean:.2f}", unjudged)

    kinds = {"malicious": "attacks", "benign": "benign"}
    return Table(
        "judges",
        "Other judges",
        "Mean scores, the sets weighing equally; a reply is not judged where the judge's own answer could "
        "not be read.",
        ["defense", *(f"{measure}, {kinds[label]}" for label, measure in asked)],
        [
            (name, [entry(each.pooled(label), measure) for label, measure in asked])
            for name, each in figures.defenses.items()
        ]
        if asked
        else [],
    )


def contrasts(figures: Figures) -> Table:
    """Where the other judges contradict the refusal judge."""
    return Table(
        "disagreement",
        "Other judges against the refusal judge",
        "Mean scores of replies of all defenses that refuse and that do not. “Apart” is the probability "
        "that a refusal has the higher score: near 0 or 1 the judges agree, at 0.5 they have nothing to do "
        "with each other. The last column counts replies whose score is nearer to the mean of the other "
        "side.",
        ["measure", "replies", "mean, refused", "mean, not refused", "apart", "contradicted"],
        [
            (
                f"{measure}, {label}",
                [
                    Entry(f"{each.replies:,}"),
                    Entry(f"{each.refused:.2f}"),
                    Entry(f"{each.answered:.2f}"),
                    Entry(f"{each.apart:.2f}"),
                    absent("too little in common") if each.across is None else Entry(f"{each.across:,}"),
                ],
            )
            for label, by_measure in figures.contrasts.items()
            for measure, each in by_measure.items()
        ],
    )


def costs(figures: Figures) -> Table:
    """Seconds and memory."""

    def entries(each: Defended) -> list[Entry]:
        cost = each.cost
        if cost is None:
            return absent_row("not measured", 5)
        return [
            absent("nothing trained")
            if cost.training_seconds is None
            else Entry(f"{cost.training_seconds:,.0f}"),
            Entry(f"{cost.reply_seconds:,.1f}"),
            Entry(f"{cost.tokens:,}"),
            number(each.speed, ",.1f"),
            number(cost.memory, ",.0f"),
        ]

    return Table(
        "cost",
        "Cost",
        "Training, all replies, tokens generated in them (drafts and self-examinations "
        "included), and the process's peak memory while it ran, less that before.",
        ["defense", "training, s", "replies, s", "tokens", "tokens per s", "memory, MiB"],
        [(name, entries(each)) for name, each in figures.defenses.items()],
    )


def texts(figures: Figures) -> Table:
    """Lengths, repetition and what is the base's own."""

    def entries(cell: Cell) -> list[Entry]:
        if not cell.replies:
            return absent_row(cell.why, 4)
        shares = [
            absent("-") if share is None else Entry(percent(share))
            for share in (cell.repetition, cell.broken)
        ]
        return [
            number(cell.tokens, ".1f"),
            *shares,
            absent("-") if cell.identical is None else Entry(percent(cell.identical)),
        ]

    columns = ("tokens", "repeated", "broken", "as the base")
    return Table(
        "texts",
        "Length and repetition",
        "Mean tokens of a reply; share of 4-grams of words that its reply had before; share of replies "
        f"that are broken: empty, or with {BROKEN:.0%} or more repeated; share that is the base's, "
        "character for character. Sets weigh equally. A benign reply that is no refusal but broken shows "
        "here.",
        ["defense", *(f"{kind}, {column}" for kind in ("benign", "attacks") for column in columns)],
        [
            (name, [*entries(each.benign), *entries(each.malicious)])
            for name, each in figures.defenses.items()
        ],
    )


def divergence(figures: Figures) -> Table:
    """How far the first token moves on benign prompts."""
    measured = [each.divergence for each in figures.defenses.values() if not isinstance(each.divergence, str)]
    names = list(dict.fromkeys(name for by_set in measured for name in by_set))

    def entries(found: dict[str, float] | str) -> list[Entry]:
        if isinstance(found, str):
            return absent_row(found, len(names))
        return [number(found.get(name), ".3f") for name in names]

    return Table(
        "divergence",
        "Divergence from the base",
        "Mean KL(base || defense) of a benign reply's first token, in nats: 0 where the base itself replies.",
        ["defense", *names],
        [(name, entries(each.divergence)) for name, each in figures.defenses.items() if name != BASE]
        if names
        else [],
    )


def missing(figures: Figures) -> Table:
    """What has no reply."""
    return Table(
        "missing",
        "What is missing",
        "Cells that were not measured, and prompts whose reply ended in an error.",
        ["defense", "set", "prompts", "why"],
        [
            (
                each.defense,
                [
                    Entry(each.set),
                    Entry("all" if each.prompts is None else str(each.prompts)),
                    Entry(each.why),
                ],
            )
            for each in figures.missing
        ],
        words=("set", "prompts", "why"),
    )


def papers(figures: Figures) -> Table:
    """Where the defenses were described."""
    known = [(name, each.paper) for name, each in figures.defenses.items() if each.paper]
    return Table(
        "papers",
        "The defenses",
        "Where each was described.",
        ["defense", "described in"],
        [(name, [Entry(paper)]) for name, paper in known],
        words=("described in",),
    )


def facts(figures: Figures) -> Table:
    """Settings, seeds, versions, command."""
    return Table(
        "facts",
        "Facts",
        "How this was measured.",
        ["what", "value"],
        [(name, [Entry(value)]) for name, value in figures.facts.items()],
        words=("value",),
    )
