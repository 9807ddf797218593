"""The comparison as one HTML page that opens anywhere, without a network."""

from collections.abc import Mapping
from typing import Any, Final

from markupsafe import Markup
from plotly.offline import get_plotlyjs

from mogu.report import page
from mogu.report.comparison.figures import Figures
from mogu.report.comparison.judging import said
from mogu.report.comparison.plots import plane, scores
from mogu.report.comparison.replies import Reading
from mogu.report.comparison.tables import summary, tables

LONGEST: Final = 1500
"""Characters of a prompt or a reply that are shown."""


def comparison_page(figures: Figures, replies: Mapping[str, list[Reading]]) -> str:
    """Draws everything.

    Args:
        figures: What was counted.
        replies: Replies worth reading, by the title of their kind.

    Returns:
        One self-contained HTML document.
    """
    by_defense = {name: scores(figures, each) for name, each in figures.defenses.items()}
    return page.render(
        "comparison.html.j2",
        title="Defenses against attacks, and what they cost in usability",
        summary=summary(figures),
        replies_in_all=sum(
            each.malicious.replies + each.benign.replies for each in figures.defenses.values()
        ),
        figures=figures,
        tables=tables(figures),
        plane=plane(figures),
        scores={name: plot for name, plot in by_defense.items() if plot is not None},
        replies={title: [_shown(reading) for reading in each] for title, each in replies.items()},
        # The library itself, which holds no "</script".
        plotly=Markup(get_plotlyjs()),
    )


def _shown(reading: Reading) -> dict[str, Any]:
    row = reading.row
    return {
        "place": " · ".join(filter(None, (row.defense, row.set, row.kind, row.id))),
        "remark": reading.remark,
        "prompt": _cut(row.prompt),
        "opener": _cut(row.opener),
        "reply": _cut(row.reply),
        "verdicts": ", ".join(f"{name} {value:g}" for name, value in said(row).items()),
        "score": row.score,
        "flagged": row.flagged,
        "tokens": row.tokens,
    }


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text) - LONGEST:,} more characters)"
