"""The router weights of one conversation as a page: layers by tokens. Knows plain lists only."""

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from mogu.report.page import render

LEVELS = 20
"""Shades between the weights 0 and 1."""

# How white space that would not be seen is shown in a token's label.
VISIBLE = str.maketrans({"\n": "⏎", "\t": "⇥", "\r": "⏎", " ": "·"})


class _Cell(NamedTuple):
    """The weights of one token in one layer, in [0, 1]."""

    safe: float
    usable: float

    @property
    def rounded(self) -> tuple[float, float]:
        """The two weights, short enough to stand in the page a thousand times."""
        return round(self.safe, 3), round(self.usable, 3)

    @property
    def classes(self) -> str:
        """The style classes of its two shades."""
        return f"s{_level(self.safe)} u{_level(self.usable)}"


def routing_page(
    tokens: Sequence[str],
    prompt_length: int,
    *,
    layers: Sequence[int],
    safe: Sequence[Sequence[float]],
    usable: Sequence[Sequence[float]],
    routed: Sequence[bool],
    title: str,
) -> str:
    """Draws the weight of each variant for every layer and token.

    Args:
        tokens: The text of each token of prompt and reply.
        prompt_length: How many of them are the prompt, in 0 ... len(tokens).
        layers: The numbers of the routed layers.
        safe: Weights of the safe variant, (layers, tokens), in [0, 1].
        usable: Weights of the usable variant, (layers, tokens), in [0, 1].
        routed: For each token, whether it is routed; the weights of the others are not shown.
        title: The page's heading.

    Returns:
        One self-contained HTML document.

    Raises:
        ValueError: The lists do not have the shapes above.
    """
    shape = (len(layers), [len(tokens)] * len(layers))
    for name, rows in (("safe", safe), ("usable", usable)):
        if (found := (len(rows), [len(row) for row in rows])) != shape:
            raise ValueError(f"{name} has the shape {found}, not {shape} of layers and tokens")
    if len(routed) != len(tokens):
        raise ValueError(f"routed has {len(routed)} values for {len(tokens)} tokens")

    grid = [[_Cell(*pair) for pair in zip(*rows, strict=True)] for rows in zip(safe, usable, strict=True)]
    mean = [_mean(column) for column in zip(*grid, strict=True)]
    labels = [token.translate(VISIBLE) for token in tokens]
    columns = [index for index, is_routed in enumerate(routed) if is_routed]
    return render(
        "routing.html.j2",
        title=title,
        levels=LEVELS,
        tokens=tokens,
        labels=labels,
        prompt_length=prompt_length,
        layers=layers,
        grid=grid,
        mean=mean,
        overall=_mean([mean[column] for column in columns]) if columns else None,
        columns=columns,
        column_labels=[labels[column] for column in columns],
        column_weights=[[row[column].rounded for column in columns] for row in (mean, *grid)],
    )


def _mean(cells: Sequence[_Cell]) -> _Cell:
    return _Cell(fmean(cell.safe for cell in cells), fmean(cell.usable for cell in cells))


def _level(weight: float) -> int:
    return round(min(max(weight, 0.0), 1.0) * LEVELS)
