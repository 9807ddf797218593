"""The report of `mogu eval`: defenses against attacks and benign requests, as a page, JSON and Markdown."""

from pathlib import Path

from mogu.evaluation.rows import Comparison
from mogu.files import write_atomic
from mogu.report.comparison.breaches import breaches, check_limits
from mogu.report.comparison.counting import figures_of
from mogu.report.comparison.page import comparison_page
from mogu.report.comparison.plain import figures_json, tables_markdown
from mogu.report.comparison.replies import worst_replies

__all__ = ["breaches", "check_limits", "markdown", "write_report"]


def write_report(comparison: Comparison, folder: Path) -> None:
    """Writes report.html, report.json and report.md, each whole or not at all.

    Args:
        comparison: What was measured.
        folder: Where to; made if it is not there, and older reports in it are replaced.

    Raises:
        OSError: A file cannot be written.
    """
    figures = figures_of(comparison)
    replies = worst_replies(comparison, figures)
    # All of them are made before one is written: a failure leaves no report of two runs.
    files = {
        "report.html": comparison_page(figures, replies),
        "report.json": figures_json(figures, replies),
        "report.md": tables_markdown(figures, 1),
    }
    for name, text in files.items():
        write_atomic(folder / name, text)


def markdown(comparison: Comparison, level: int = 3) -> str:
    """The tables of the report, such as for a section of a README.

    Args:
        comparison: What was measured.
        level: Of the tables' headings, 1 to 6.
    """
    return tables_markdown(figures_of(comparison), level)
