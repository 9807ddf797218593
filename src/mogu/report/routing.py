"""How one conversation was routed, as a page.

Token routing is drawn as weights, layers by tokens; sequence routing as a probability that grows over the words.
"""

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from mogu.report.page import render

if TYPE_CHECKING:
    from mogu.generation.reply import RoutingTrace

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


def routing_page(trace: "RoutingTrace", *, title: str) -> str:
    """Draws the weight of each variant for every layer and token.

    Args:
        trace: Of a conversation; the weights of tokens that are not routed are not shown.
        title: The page's heading.

    Returns:
        One self-contained HTML document.

    Raises:
        ValueError: The trace's lists do not fit each other.
    """
    tokens, layers, routed = trace.tokens, trace.layers, trace.routed
    shape = (len(layers), [len(tokens)] * len(layers))
    for name, rows in (("safe", trace.safe), ("usable", trace.usable)):
        if (found := (len(rows), [len(row) for row in rows])) != shape:
            raise ValueError(f"{name} has the shape {found}, not {shape} of layers and tokens")
    if len(routed) != len(tokens):
        raise ValueError(f"routed has {len(routed)} values for {len(tokens)} tokens")

    grid = [
        [_Cell(*pair) for pair in zip(*rows, strict=True)]
        for rows in zip(trace.safe, trace.usable, strict=True)
    ]
    mean = [_mean(column) for column in zip(*grid, strict=True)]
    labels = [token.translate(VISIBLE) for token in tokens]
    columns = [index for index, is_routed in enumerate(routed) if is_routed]
    return render(
        "routing.html.j2",
        title=title,
        levels=LEVELS,
        tokens=tokens,
        headings={0: "prompt", trace.prompt_length: "reply"},
        shades=[cell.classes if shown else "" for cell, shown in zip(mean, routed, strict=True)],
        labels=labels,
        prompt_length=trace.prompt_length,
        layers=layers,
        grid=grid,
        mean=mean,
        overall=_mean([mean[column] for column in columns]) if columns else None,
        columns=columns,
        column_labels=[labels[column] for column in columns],
        column_weights=[[row[column].rounded for column in columns] for row in (mean, *grid)],
    )


def gate_page(trace: "RoutingTrace", *, answerer: str, title: str) -> str:
    """Shades the words of a prompt by the gate's probability of malice, and says what was decided.

    Args:
        trace: Of a conversation with sequence routing.
        answerer: Who wrote the other tokens of the reply than the safe variant's, such as `the base`.
        title: The page's heading.

    Returns:
        One self-contained HTML document.

    Raises:
        ValueError: No gate made the trace, or its lists do not have the same length.
    """
    tokens, prompt_length, routed = trace.tokens, trace.prompt_length, trace.routed
    gate, threshold, reply_threshold = trace.gate, trace.threshold, trace.reply_threshold
    if gate is None or threshold is None:
        raise ValueError("the conversation was routed token by token, without a gate")
    for name, values in (("gate", gate), ("routed", routed)):
        if len(values) != len(tokens):
            raise ValueError(f"{name} has {len(values)} values for {len(tokens)} tokens")

    probability = gate[prompt_length - 1]
    refused = probability >= threshold
    begins = routed.index(True) if any(routed) else None
    # What a refusal says is not read, nor any reply by a gate that reads prompts alone.
    end = prompt_length if reply_threshold is None else begins or len(tokens)
    limits = [threshold] * prompt_length + [reply_threshold or threshold] * (len(tokens) - prompt_length)
    read = [each > 0 and index < end for index, each in enumerate(gate)]
    shades = [
        (f"s{_level(each)}" + " above" * (each >= limit)) * is_read
        for each, limit, is_read in zip(gate, limits, read, strict=True)
    ]
    headings = {0: "prompt", prompt_length: f"reply, by {answerer}"}
    if begins is not None:
        headings[begins] = "reply, by the safe variant"
    return render(
        "gate.html.j2",
        title=title,
        levels=LEVELS,
        tokens=tokens,
        headings=headings,
        shades=shades,
        probability=probability,
        threshold=threshold,
        refused=refused,
        turned=None if refused or begins is None else gate[begins - 1],
        reply_threshold=reply_threshold,
        answerer=answerer,
        readings=[
            (token.translate(VISIBLE), round(each, 4))
            for token, each, is_read in zip(tokens, gate, read, strict=True)
            if is_read
        ],
    )


def _mean(cells: Sequence[_Cell]) -> _Cell:
    return _Cell(fmean(cell.safe for cell in cells), fmean(cell.usable for cell in cells))


def _level(weight: float) -> int:
    return round(min(max(weight, 0.0), 1.0) * LEVELS)
