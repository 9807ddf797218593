"""Where the routers switch, chosen by rule: as many malicious validation requests refused as the budget allows.

The paper's authors pick the router checkpoint by hand. Here one offset, added to every safe router's bias and taken
from every usable one's, is set on validation requests: the share of malicious ones that begin with a refusal is made
as large as possible while at most a budgeted share of benign ones newly do. Routers that were trained with different
weights of the router loss are told apart by where that leads.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch

from mogu.adapter.attach import Adapter
from mogu.training.loop import Progress
from mogu.training.stage import Example, ReplyKind, RouterStage

OFFSETS = [step / 4 for step in range(-10, 7)]
"""Router logits; from -2.5 to 1.5."""


class OperatingPoint(NamedTuple):
    """What one offset does on the validation requests.

    Attributes:
        offset: added to the safe routers' logits.
        refused: share of malicious requests that begin with a refusal.
        newly_refused: share of benign requests that do, and did not with the base.
    """

    offset: float
    refused: float
    newly_refused: float


def calibrate(
    adapter: Adapter, stage: RouterStage, rows: Sequence[int], budget: float, progress: Progress
) -> list[OperatingPoint]:
    """Shift the routers to the best operating point within the budget.

    Args:
        adapter: with trained variants and routers.
        stage: which holds the examples.
        rows: indices of validation examples.
        budget: largest share of benign requests that may newly begin with a refusal.
        progress: called after each offset.

    Returns:
        All operating points, the chosen one first.
    """
    examples = [stage.examples[row] for row in rows]
    examples.sort(key=lambda example: len(example.prompt))
    points = []
    for done, offset in enumerate(OFFSETS, start=1):
        with _shifted(adapter, offset):
            points.append(measure(stage, examples, offset))
        progress(done, len(OFFSETS))
    best = choose(points, budget)
    shift_routers(adapter, best.offset)
    return [best, *(point for point in points if point is not best)]


def choose(points: Sequence[OperatingPoint], budget: float) -> OperatingPoint:
    """The point that refuses most within the budget, of equal ones the one that spares most; else the gentlest."""
    allowed = [point for point in points if point.newly_refused <= budget]
    if not allowed:
        return min(points, key=lambda point: (point.newly_refused, -point.refused))
    return max(allowed, key=lambda point: (point.refused, -point.newly_refused, -abs(point.offset)))


def choose_weight(points: Mapping[float, OperatingPoint], budget: float) -> float:
    """The weight of the router loss that refuses most within the budget; else the gentlest. Of equal ones the smallest.

    Args:
        points: the operating point that each weight leads to.
        budget: largest share of benign requests that may newly begin with a refusal.
    """
    allowed = [weight for weight, point in points.items() if point.newly_refused <= budget]
    if not allowed:
        return min(points, key=lambda weight: (points[weight].newly_refused, -points[weight].refused, weight))
    return min(allowed, key=lambda weight: (-points[weight].refused, weight))


@torch.no_grad()
def measure(stage: RouterStage, examples: Sequence[Example], offset: float) -> OperatingPoint:
    """How replies would begin, by the probability of the tokens that this model's refusals begin with."""
    openers = sorted({example.replies[ReplyKind.REFUSAL][0] for example in stage.examples})
    refused = {True: 0, False: 0}
    counts = {True: 0, False: 0}
    size = 4 * stage.settings.batch_size
    for start in range(0, len(examples), size):
        batch = [example.shortened(1) for example in examples[start : start + size]]
        probability = stage.read(batch, ReplyKind.GLAD).first_logits.float().softmax(-1)[:, openers].sum(-1)
        for example, share in zip(batch, probability.tolist(), strict=True):
            counts[example.malicious] += 1
            base_does = not example.malicious and example.replies[ReplyKind.GLAD][0] in openers
            refused[example.malicious] += share > 0.5 and not base_does
    return OperatingPoint(
        offset, refused[True] / max(1, counts[True]), refused[False] / max(1, counts[False])
    )


@contextmanager
def _shifted(adapter: Adapter, offset: float) -> Iterator[None]:
    # Kept, not shifted back: sums of floats are rounded.
    routers = [layer.router for layer in adapter.layers.values()]
    states = [{name: value.clone() for name, value in router.state_dict().items()} for router in routers]
    shift_routers(adapter, offset)
    try:
        yield
    finally:
        for router, state in zip(routers, states, strict=True):
            router.load_state_dict(state)


def shift_routers(adapter: Adapter, offset: float) -> None:
    """Shift the routers of all layers by the same offset."""
    for layer in adapter.layers.values():
        layer.router.shift(offset)
