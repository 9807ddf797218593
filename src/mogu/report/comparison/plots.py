"""The plots, as plotly's own dictionaries of data and layout.

A colour is the name of a style variable, such as ``--ink``; the page's script puts in its value.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

from mogu.report.comparison.figures import LABELS, Defended, Figures, Label
from mogu.share import Share

Plot = dict[str, Any]

MOST_DOTS: Final = 100
"""Dots for one set; of more scores evenly spaced quantiles are drawn."""

FONT_SIZE: Final = 13

HUES: Final[Mapping[Label, str]] = {"malicious": "--safe", "benign": "--usable"}

# Told apart by shape as well: not everybody sees the colours.
_MARKERS: Final[Mapping[str, tuple[str, Plot]]] = {
    "front": ("on the front", {"symbol": "circle", "color": "--usable"}),
    "close": ("looks dominated, but within the intervals", {"symbol": "circle-open", "color": "--usable"}),
    "dominated": ("dominated", {"symbol": "x-thin", "color": "--faint"}),
}


def plane(figures: Figures) -> Plot | None:
    """Security against usability: a point for each defense that has both figures; None if there is none."""
    placed = {
        name: (each.standing.place, each.benign.refused, each.malicious.refused)
        for name, each in figures.defenses.items()
        if each.standing and each.benign.refused and each.malicious.refused
    }
    if not placed:
        return None
    traces = []
    for place, (title, marker) in _MARKERS.items():
        names = [name for name in placed if placed[name][0] == place]
        if names:
            benign, attacks = [placed[name][1] for name in names], [placed[name][2] for name in names]
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": title,
                    "text": [escape(name) for name in names],
                    "x": [share.value for share in benign],
                    "y": [share.value for share in attacks],
                    "error_x": _bars(benign),
                    "error_y": _bars(attacks),
                    "marker": marker | {"size": 11, "line": {"width": 2, "color": marker["color"]}},
                    "hovertemplate": "%{text}<br>attacks %{y:.1%}<br>benign %{x:.1%}<extra></extra>",
                }
            )
    right = max(benign.high for _, benign, _ in placed.values())
    low = min(attacks.low for *_, attacks in placed.values())
    layout = _layout()
    layout["xaxis"] |= {
        "title": _small("benign requests refused (less is better)"),
        "range": [-right / 40, right * 1.05],
    }
    layout["yaxis"] |= {
        "title": _small("attacks refused (more is better)"),
        "range": [low - (1 - low) / 12, 1 + (1 - low) / 30],
    }
    for axis in ("xaxis", "yaxis"):
        layout[axis]["tickformat"] = ".0%"
    layout["legend"] = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}
    return {"data": traces, "layout": layout}


def _bars(shares: Sequence[Share]) -> Plot:
    return {
        "type": "data",
        "array": [share.high - share.value for share in shares],
        "arrayminus": [share.value - share.low for share in shares],
        "thickness": 1,
        "width": 3,
        "color": "--faint",
    }


def scores(figures: Figures, defense: Defended) -> Plot | None:
    """How a defense's scores spread over each set; None if it has none."""
    traces = [
        {
            "type": "box",
            "orientation": "h",
            "name": escape(figures.titles(label)[name]),
            "x": _thinned(values),
            "boxpoints": "all",
            "pointpos": 0,
            "jitter": 0.7,
            "marker": {"color": HUES[label], "size": 4, "opacity": 0.5},
            "line": {"color": HUES[label], "width": 1.5},
            "fillcolor": "--empty",
            "hoverinfo": "x",
            "hoveron": "points",
        }
        for label in LABELS
        for name, values in defense.scores[label].items()
    ]
    if not traces:
        return None
    layout = _layout()
    layout["height"] = 90 + 34 * len(traces)
    layout["showlegend"] = False
    layout["xaxis"] |= {"range": [-0.03, 1.03], "title": _small("score")}
    layout["yaxis"] |= {"autorange": "reversed", "showgrid": False}
    return {"data": traces, "layout": layout}


def _thinned(values: Sequence[float]) -> list[float]:
    """Of ascending values evenly spaced ones, at most `MOST_DOTS`, the ends among them."""
    if len(values) > MOST_DOTS:
        values = [values[round(i * (len(values) - 1) / (MOST_DOTS - 1))] for i in range(MOST_DOTS)]
    return [round(value, 4) for value in values]


def _small(title: str) -> Plot:
    return {"text": title, "font": {"size": FONT_SIZE}}


def _layout() -> Plot:
    axis = {"gridcolor": "--line", "zeroline": False, "automargin": True, "fixedrange": True}
    return {
        "paper_bgcolor": "--surface",
        "plot_bgcolor": "--surface",
        "font": {"family": "system-ui, sans-serif", "size": FONT_SIZE, "color": "--ink"},
        "hoverlabel": {"bgcolor": "--empty", "bordercolor": "--line", "font": {"color": "--ink"}},
        "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
        "xaxis": dict(axis),
        "yaxis": dict(axis),
    }
