"""Writes the comparison's section of the README from the figures of a report.

python -m benchmarks.readme --report runs/report/report.json
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mogu.files import write_atomic

BEGINS, ENDS = "<!-- comparison: begins -->", "<!-- comparison: ends -->"
TITLES = {"malicious": "attacks refused", "benign": "benign requests refused"}


def share(cell: dict[str, Any]) -> str:
    """A share with its interval, in percent; a dash where there is none."""
    found = cell["refused"]
    if found is None:
        return "-"
    value, low, high = (100 * found[end] for end in ("value", "low", "high"))
    return f"{value:.0f}% ({low:.0f}-{high:.0f})"


def section(figures: dict[str, Any]) -> str:
    """The section's text: both labels' tables, what each defense costs, and how to make it again."""
    defenses, facts = figures["defenses"], figures["facts"]
    return "\n".join(
        [
            figures["summary"],
            "",
            *_table(defenses, figures["sets"], "malicious"),
            "",
            *_table(defenses, figures["sets"], "benign"),
            "",
            *_costs(defenses),
            "",
            f"Made on {facts['date']} ({facts['machine']}) by `{facts['command']}`.",
        ]
    )


def _table(defenses: dict[str, Any], sets: dict[str, list[str]], label: str) -> Iterator[str]:
    names = sets[label]
    yield f"| {TITLES[label]} | all | {' | '.join(names)} |"
    yield "|---" * (len(names) + 2) + "|"
    for name, each in defenses.items():
        cells = [each[label], *(each["sets"][label][set_] for set_ in names)]
        yield f"| `{name}` | {' | '.join(map(share, cells))} |"


def _costs(defenses: dict[str, Any]) -> Iterator[str]:
    yield "| defense | standing | training, s | tokens per second |"
    yield "|---|---|---|---|"
    for name, each in defenses.items():
        standing = each["standing"]
        place = "-" if standing is None else standing["place"]
        if standing and standing["by"]:
            place += f" ({', '.join(standing['by'])})"
        training = each["cost"] and each["cost"]["training_seconds"]
        seconds = "" if training is None else f"{training:.0f}"
        speed = "-" if each["speed"] is None else f"{each['speed']:.0f}"
        yield f"| `{name}` | {place} | {seconds} | {speed} |"


def main() -> None:
    """Replace what stands between the marks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--report", type=Path, required=True)
    parser.add_argument("--readme", type=Path, default=Path("README.md"))
    options = parser.parse_args()
    figures = json.loads(options.report.read_text(encoding="utf-8"))
    before, _, rest = options.readme.read_text(encoding="utf-8").partition(BEGINS)
    _, _, after = rest.partition(ENDS)
    if not rest or not after:
        parser.error(f"{options.readme} has no {BEGINS} ... {ENDS}")
    write_atomic(options.readme, f"{before}{BEGINS}\n{section(figures)}\n{ENDS}{after}")


if __name__ == "__main__":
    main()
