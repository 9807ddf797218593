"""The figures without a picture: as JSON and as Markdown."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from math import isfinite
from typing import Any

from mogu.report.comparison.figures import Figures
from mogu.report.comparison.intervals import DRAWS, SEED
from mogu.report.comparison.replies import Reading
from mogu.report.comparison.table import Entry, Table
from mogu.report.comparison.tables import summary, tables


def figures_json(figures: Figures, replies: Mapping[str, list[Reading]]) -> str:
    """All figures, and the replies worth reading; keys stand in the order of the fields and of the rows."""
    whole = {
        "summary": summary(figures),
        "bootstrap": {"draws": DRAWS, "seed": SEED},
        **_plain(figures),
        "replies": _plain(replies),
    }
    return json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        # JSON has no infinities; six digits are more than any interval here is good for.
        return round(value, 6) if isfinite(value) else None
    return value


def tables_markdown(figures: Figures, level: int) -> str:
    """What the plane shows in a sentence, then every table below a heading of that level, 1 to 6."""
    parts = [_escape(summary(figures)), *(_table(table, level) for table in tables(figures).values())]
    return "\n\n".join(parts) + "\n"


def _table(table: Table, level: int) -> str:
    first, *rest = table.columns
    aligned = ["---", *("---" if column in table.words else "---:" for column in rest)]
    lines = [_line([first, *rest]), f"|{'|'.join(aligned)}|"]
    lines += [_line([name, *map(_text, entries)]) for name, entries in table.rows]
    return f"{'#' * level} {table.title}\n\n{table.note}\n\n" + "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(map(_escape, cells))} |"


def _text(entry: Entry) -> str:
    return f"{entry.text}; {entry.detail}" if entry.detail else entry.text


def _escape(text: str) -> str:
    # One line, no cell of its own, no HTML: texts may come from data.
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
