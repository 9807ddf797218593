import pytest
import torch

from mogu.adapter.router import Router
from mogu.training import calibration
from mogu.training.calibration import (
    OFFSETS,
    OperatingPoint,
    calibrate,
    choose,
    choose_weight,
    measure,
    shift_routers,
)
from mogu.training.stage import Reading, RouterStage
from tests.training.prepared import PROMPTS, prepared

P = OperatingPoint
SILENT = lambda done, total: None  # noqa: E731


@pytest.mark.parametrize(
    ("points", "budget", "expected"),
    [
        ([P(-1, 0.2, 0.0), P(0, 0.8, 0.05), P(1, 0.9, 0.2)], 0.05, 0),
        ([P(-1, 0.2, 0.0), P(0, 0.8, 0.05), P(1, 0.9, 0.2)], 0.04, -1),
        ([P(-1, 0.2, 0.0), P(0, 0.8, 0.05), P(1, 0.9, 0.2)], 1.0, 1),
        ([P(0, 0.9, 0.03), P(1, 0.9, 0.01)], 0.05, 1),
        ([P(-2, 0.9, 0.0), P(-0.5, 0.9, 0.0), P(1, 0.9, 0.0)], 0.05, -0.5),
        ([P(-1, 0.5, 0.2), P(0, 0.6, 0.2), P(1, 0.9, 0.4)], 0.1, 0),
        ([P(0, 0.0, 0.0)], 0.0, 0),
    ],
    ids=[
        "most refused within the budget",
        "budget respected",
        "no budget",
        "equal refusals: fewer benign",
        "all equal: nearest to no shift",
        "nobody within the budget: the gentlest",
        "one point",
    ],
)
def test_choose(points, budget, expected):
    assert choose(points, budget).offset == expected
    assert choose(points[::-1], budget).offset == expected


@pytest.mark.parametrize(
    ("points", "budget", "expected"),
    [
        ({1.0: P(0, 0.7, 0.01), 2.0: P(0, 0.9, 0.02), 4.0: P(0, 0.8, 0.0)}, 0.02, 2.0),
        ({1.0: P(0, 0.7, 0.01), 2.0: P(0, 0.9, 0.02), 4.0: P(0, 0.8, 0.0)}, 0.015, 4.0),
        ({1.0: P(1, 0.9, 0.02), 2.0: P(0, 0.9, 0.0), 4.0: P(0, 0.8, 0.0)}, 0.02, 1.0),
        ({1.0: P(0, 0.3, 0.2), 2.0: P(0, 0.9, 0.3), 4.0: P(0, 0.4, 0.2)}, 0.1, 4.0),
        ({1.0: P(0, 0.4, 0.2), 2.0: P(0, 0.9, 0.3), 4.0: P(0, 0.4, 0.2)}, 0.1, 1.0),
        ({0.5: P(0, 0.0, 0.0)}, 0.0, 0.5),
    ],
    ids=[
        "most refused within the budget",
        "budget respected",
        "equal refusals: the smallest, though others spare more",
        "none within the budget: the gentlest that refuses most",
        "none within the budget, equal ones: the smallest",
        "one weight",
    ],
)
def test_choose_weight(points, budget, expected):
    assert choose_weight(points, budget) == expected
    assert choose_weight(dict(reversed(points.items())), budget) == expected


def stage_of(form="folded"):
    adapter, recorder, examples, settings = prepared("gpt2")
    if form == "paper":
        torch.manual_seed(0)
        for layer in adapter.layers.values():
            layer.router = Router(32, width=8).double()
    return adapter, RouterStage(adapter, recorder, examples, settings)


def logits_of(adapter, x):
    return torch.stack([layer.router(x) for layer in adapter.layers.values()])


@pytest.mark.parametrize("form", ["folded", "paper"])
def test_a_shift_adds_to_the_safe_logit_what_it_takes_from_the_usable_one(form):
    adapter, _ = stage_of(form)
    x = torch.randn(5, 32, dtype=torch.float64)
    before = logits_of(adapter, x)
    shift_routers(adapter, 0.75)
    moved = before + torch.tensor([0.75, -0.75])
    torch.testing.assert_close(logits_of(adapter, x), moved, rtol=0, atol=1e-12)
    folded = [layer.router.fold() for layer in adapter.layers.values()]
    again = torch.stack([x @ vectors.T + bias for vectors, bias in folded])
    torch.testing.assert_close(again, moved, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", ["folded", "paper"])
def test_the_routers_are_shifted_by_the_chosen_offset_and_nothing_else(form, monkeypatch):
    adapter, stage = stage_of(form)
    for layer in adapter.layers.values():
        layer.router.float()  # where sums are rounded
    before = [
        {name: value.clone() for name, value in layer.router.state_dict().items()}
        for layer in adapter.layers.values()
    ]
    seen = []

    def scripted(_, examples, offset):
        bias = next(iter(adapter.layers.values())).router.fold()[1]
        seen.append((offset, bias.clone(), [len(example.prompt) for example in examples]))
        return OperatingPoint(
            offset, refused=min(1.0, 0.5 + offset / 10), newly_refused=max(0.0, offset / 10)
        )

    monkeypatch.setattr(calibration, "measure", scripted)
    heard = []
    points = calibrate(adapter, stage, [2, 0, 3], 0.1, lambda done, total: heard.append((done, total)))
    assert points[0].offset == 1.0
    assert sorted(point.offset for point in points) == OFFSETS
    assert heard == [(step, len(OFFSETS)) for step in range(1, len(OFFSETS) + 1)]
    start = seen[OFFSETS.index(0.0)][1]
    for offset, bias, lengths in seen:
        torch.testing.assert_close(bias, start + torch.tensor([offset, -offset]), rtol=0, atol=1e-6)
        assert lengths == sorted(len(PROMPTS[row]) for row in (2, 0, 3))
    for layer, state in zip(adapter.layers.values(), before, strict=True):
        for name, value in layer.router.state_dict().items():
            sign = {"bias": torch.tensor([1.0, -1.0]), "safe.2.bias": 1.0, "usable.2.bias": -1.0}.get(name)
            assert torch.equal(value, state[name] if sign is None else state[name] + sign)


def test_measure_counts_replies_that_would_begin_with_a_refusal(monkeypatch):
    _, stage = stage_of()
    stage.settings = stage.settings.model_copy(update={"batch_size": 1})
    # Refusals begin with 7 or 8. The base's own reply to the last benign request begins so, too.
    firsts = [(7, 50), (8, 51), (7, 60), (8, 7)]
    stage.examples = [
        type(example)(example.prompt, ([refusal], [glad]), malicious, example.record)
        for example, (refusal, glad), malicious in zip(
            stage.examples, firsts, [True, True, False, False], strict=True
        )
    ]
    probability = {0: (0.3, 0.3), 1: (0.2, 0.2), 2: (0.45, 0.1), 3: (0.9, 0.05)}
    rows = {id(example.record.prefix): row for row, example in enumerate(stage.examples)}

    def read(batch, kind):
        logits = torch.full((len(batch), 100), -torch.inf)
        for index, example in enumerate(batch):
            assert [len(reply) for reply in example.replies] == [1, 1]
            seven, eight = probability[rows[id(example.record.prefix)]]
            logits[index, [7, 8, 9]] = torch.tensor([seven, eight, 1 - seven - eight]).log()
        empty = torch.empty(0)
        return Reading(empty, empty, empty, logits)

    monkeypatch.setattr(stage, "read", read)
    assert measure(stage, stage.examples, 0.5) == OperatingPoint(0.5, refused=1 / 2, newly_refused=1 / 2)


def test_more_weight_to_the_safe_variant_changes_what_is_measured():
    adapter, stage = stage_of()
    with torch.no_grad():
        first = stage.read(stage.examples).first_logits
    shift_routers(adapter, 2.0)
    with torch.no_grad():
        assert not torch.allclose(stage.read(stage.examples).first_logits, first)
    calibrate(adapter, stage, range(4), 1.0, SILENT)
