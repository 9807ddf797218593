"""All tables of a report and its one sentence, the same ones for the page and for Markdown."""

from mogu.report.comparison import other_tables as other
from mogu.report.comparison import refusal_tables as refusals
from mogu.report.comparison.figures import BASE, OURS, Defended, Figures
from mogu.report.comparison.table import Table, percent


def tables(figures: Figures) -> dict[str, Table]:
    """The tables that have rows, in their order, by key."""
    made = (
        refusals.points(figures),
        refusals.by_set(figures, "malicious"),
        refusals.by_set(figures, "benign"),
        refusals.differences(figures),
        refusals.false_alarms(figures),
        other.separation(figures),
        refusals.keywords(figures),
        other.judges(figures),
        other.contrasts(figures),
        other.costs(figures),
        other.texts(figures),
        other.divergence(figures),
        other.missing(figures),
        other.papers(figures),
        other.facts(figures),
    )
    return {table.key: table for table in made if table.rows}


def summary(figures: Figures) -> str:
    """What the plane shows, in one sentence."""
    standing = {name: each.standing for name, each in figures.defenses.items() if each.standing}
    if not standing:
        return "No defense has replies to both attacks and benign requests, so none can be placed."
    front = [name for name, each in standing.items() if each.on_front]
    if len(standing) == 1:
        return f"There is only one defense to place: {_refuses(front[0], figures.defenses[front[0]])}."
    sentence = (
        f"Of the {len(standing)} defenses in the plane {len(front)} {'is' if len(front) == 1 else 'are'} on "
        "the front, which means that no other one refuses clearly more attacks and clearly fewer benign "
        f"requests: {', '.join(front)}"
    )
    shown = [name for name in (OURS, BASE) if name in standing]
    return "; ".join([sentence, *(_refuses(name, figures.defenses[name]) for name in shown)]) + "."


def _refuses(name: str, defense: Defended) -> str:
    attacks, benign = defense.malicious.refused, defense.benign.refused
    assert attacks is not None and benign is not None  # it has a place on the plane
    who = "the base without a defense" if name == BASE else name
    shares = f"{percent(attacks.value)} of the attacks and {percent(benign.value)} of the benign requests"
    return f"{who} refuses {shares}"
