"""The threshold of prompts and the probabilities, from scores of rows of every kind."""

import json
import math

import numpy as np
import pytest
import torch

from mogu.adapter.gate import Gate
from mogu.data.requests import Request
from mogu.training.gate_calibration import (
    CURVE_POINTS,
    RELIABILITY_BINS,
    ROW_GROUPS,
    Calibration,
    _interval,
    _reliability,
    apply_calibration,
    budgets_of,
    lowest_threshold,
    row_group,
)
from mogu.training.gate_fit import Evidence
from mogu.training.settings import TrainingSettings
from tests.training.calibrations import COUNTS, budgets, calibrated, frameless, rows, shares

BUDGETS = [
    (0.01, 0.06, 0.5),
    (0.05, 0.05, 0.1),
    (0.05, 0.05, 1.0),
    (0.0, 1.0, 1.0),
    (1.0, 0.0, 1.0),
    (1.0, 1.0, 0.0),
    (0.0, 0.0, 0.0),
    (0.3, 0.02, 0.5),
    (1.0, 1.0, 1.0),
]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("given", BUDGETS, ids=str)
def test_all_budgets_are_kept_and_one_of_them_is_used_up(given, seed):
    data, allowed = rows(seed), budgets(*given)
    calibration = calibrated(*data, allowed)
    found = shares(calibration, *data)
    assert all(found[group] <= budget for group, budget in allowed.items())
    # One row more would be too much for one of them.
    more = [found[group] + 1 / COUNTS[group] > budget for group, budget in allowed.items()]
    assert any(more) or calibration.threshold == 0
    assert calibration.figures["refused"] == {name: pytest.approx(x, abs=1e-4) for name, x in found.items()}
    assert 0 <= calibration.threshold <= 1


@pytest.mark.parametrize("group", ["benign", "look_alike", "framed"])
def test_each_group_may_be_the_one_that_decides(group):
    evidence, groups = rows()
    free = dict.fromkeys(budgets(), 1.0)
    calibration = calibrated(evidence, groups, free | {group: 0.1})
    own = calibration.probability(evidence)[np.array(groups) == group]
    assert calibration.threshold == lowest_threshold(own, 0.1) > 0


def test_the_threshold_stands_between_two_scores():
    evidence, groups = rows()
    calibration = calibrated(evidence, groups, budgets())
    assert np.abs(calibration.probability(evidence) - calibration.threshold).min() > 1e-7
    assert shares(calibration, frameless(evidence.logit + 1e-12), groups) == shares(
        calibration, evidence, groups
    )


def test_probabilities_are_right_on_balanced_labels():
    # Two normal distributions of spread 1 at +1 and -1: the log-odds of a logit x are 2 x, among equally many of each.
    rng = np.random.default_rng(0)
    logits = np.concatenate([rng.normal(1, 1, 2000), rng.normal(-1, 1, 40_000)])
    malicious = np.arange(len(logits)) < 2000
    groups = np.where(malicious, "malicious", "benign").tolist()
    calibration = calibrated(frameless(logits), groups, budgets())
    assert calibration.scale == pytest.approx(2, abs=0.1)
    assert calibration.offset == pytest.approx(0, abs=0.1)
    # Of rows that are said to be malicious with a probability, that share is, if both labels counted alike.
    found = calibration.probability(frameless(logits))
    weight = np.where(malicious, 1 / 2000, 1 / 40_000)
    for low in (0.1, 0.3, 0.5, 0.7):
        inside = (found >= low) & (found < low + 0.2)
        share = weight[inside & malicious].sum() / weight[inside].sum()
        assert share == pytest.approx(low + 0.1, abs=0.05)
    # The model card says the same.
    bins = calibration.figures["reliability"]
    assert len(bins) == RELIABILITY_BINS and sum(each["rows"] for each in bins) == 42_000
    for each in bins[:-1]:  # in the last one stand 25 benign rows
        assert each["malicious"] == pytest.approx(each["probability"], abs=0.06)


def test_probabilities_are_those_of_the_lifted_and_scaled_logits():
    calibration = Calibration(3.0, 2.0, -1.0, 0.5, {})
    found = calibration.probability(Evidence(np.array([0.5, 1.0, 0.0]), np.array([0.0, 0.0, 0.5])))
    expected = [0.5, 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-(2 * 1.5 - 1)))]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_shift_or_scale_of_the_logits_changes_no_probability():
    evidence, groups = rows()
    moved = frameless(7 * evidence.logit - 30)
    one, other = (calibrated(each, groups, budgets()) for each in (evidence, moved))
    np.testing.assert_allclose(one.probability(evidence), other.probability(moved), rtol=0, atol=1e-3)
    assert one.figures["auroc"] == other.figures["auroc"]


@pytest.mark.parametrize(
    "absent",
    [{"look_alike"}, {"benign"}, {"framed"}, {"look_alike", "framed"}, {"benign", "framed"}],
    ids=lambda absent: ", ".join(sorted(absent)),
)
def test_without_some_kinds_of_benign_rows_the_others_decide(absent):
    data, allowed = rows(**dict.fromkeys(absent, 0)), budgets(framed=0.05)
    calibration = calibrated(*data, allowed)
    found, figures = shares(calibration, *data), calibration.figures
    present = set(ROW_GROUPS) - absent
    assert found.keys() == figures["refused"].keys() == figures["rows"].keys() == present
    assert 0.03 < max(found[group] for group in present - {"malicious"}) <= 0.05
    assert (figures["auroc_look_alike"] is None) == ("look_alike" in absent)
    assert figures["detection"].keys() == (set() if "benign" in absent else {"1.0%", "0.1%"})
    low, high = figures["threshold_interval"]
    assert low <= calibration.threshold <= high


@pytest.mark.parametrize("budget", [0.0, 0.05, 0.5, 0.99])
def test_where_all_scores_are_equal_nobody_is_refused(budget):
    _, groups = rows()
    evidence = frameless(np.full(len(groups), 3.0))
    calibration = calibrated(evidence, groups, budgets(budget, budget, budget))
    assert calibration.figures["refused"] == dict.fromkeys(ROW_GROUPS, 0.0)
    assert 0.5 < calibration.threshold <= 1 and calibration.figures["auroc"] == 0.5


def test_equal_scores_at_the_limit_are_all_spared():
    scores = np.array([0.9, 0.8, 0.8, 0.8, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1])
    assert lowest_threshold(scores, 0.2) == pytest.approx(0.85)
    assert lowest_threshold(scores, 0.4) == pytest.approx(0.45)


@pytest.mark.parametrize(
    ("scores", "budget", "expected"),
    [
        ([], 0.5, 0.0),
        ([0.2, 0.6], 0.0, 0.8),
        ([0.2, 0.6], 0.5, 0.4),
        ([0.2, 0.6], 1.0, 0.0),
        ([0.6, 0.2, 0.4], 0.34, 0.5),
        ([1.0, 1.0], 0.0, 1.0),
    ],
)
def test_the_lowest_threshold_within_a_budget(scores, budget, expected):
    assert lowest_threshold(np.array(scores), budget) == pytest.approx(expected)


def test_the_interval_holds_the_threshold_and_narrows_with_more_rows():
    few, many = (rows(apart=1.0, benign=n, look_alike=n // 4, framed=n // 8) for n in (100, 2000))
    widths = []
    for data in (few, many):
        calibration = calibrated(*data, budgets())
        low, high = calibration.figures["threshold_interval"]
        assert low <= calibration.threshold <= high
        widths.append(high - low)
    assert widths[1] < widths[0]
    assert _interval({"benign": np.array([0.3] * 5)}, {"benign": 0.2}) == [0.65, 0.65]
    # The strictest of two groups.
    two = {"benign": np.array([0.3] * 5), "framed": np.array([0.5] * 4)}
    assert _interval(two, {"benign": 0.2, "framed": 0.0, "look_alike": 0.0}) == [0.75, 0.75]
    assert _interval(two, {"benign": 0.2, "framed": 1.0}) == [0.65, 0.65]


def test_the_figures_are_those_of_the_rows():
    evidence, groups = rows()
    logits = evidence.logit
    calibration = calibrated(evidence, groups, budgets(look_alike=0.1))
    figures = calibration.figures
    assert figures["rows"] == COUNTS
    assert figures["lift"] == calibration.lift == 0
    assert 0.5 < figures["auroc_look_alike"] < figures["auroc"] < 1
    curve = figures["curve"]
    assert len(curve) == CURVE_POINTS
    assert [point["threshold"] for point in curve] == sorted(point["threshold"] for point in curve)
    for name in ROW_GROUPS:
        falling = [point[name] for point in curve]
        assert falling == sorted(falling, reverse=True) and falling[0] == 1.0
    # Separate by hand: how many of all pairs are in the right order.
    names = np.array(groups)
    malicious = names == "malicious"
    for name, others in (("auroc", ~malicious), ("auroc_look_alike", names == "look_alike")):
        above = (logits[malicious][:, None] > logits[others][None]).mean()
        assert figures[name] == pytest.approx(above, abs=1e-4)


def test_detection_is_told_at_shares_of_ordinary_benign_rows():
    # Of a thousand benign rows ten may lie above for 1%, one for 0.1%; look-alikes and frames do not count.
    benign = np.linspace(-5, 0, 1000)
    malicious = np.array([benign[-11] + 1e-4] * 30 + [benign[-2] + 1e-3] * 50 + [benign[-12]] * 20)
    logits = np.concatenate([benign, malicious, [9.0] * 5, [9.0] * 5])
    groups = ["benign"] * 1000 + ["malicious"] * 100 + ["look_alike"] * 5 + ["framed"] * 5
    # Half way between two benign rows stands the threshold: the first thirty are below it.
    free = budgets(1.0, 1.0, 1.0)
    assert calibrated(frameless(logits), groups, free).figures["detection"] == {
        "1.0%": 0.5,
        "0.1%": 0.0,
    }
    logits[1000:1030] = benign[-10] - 1e-4
    logits[1030:1040] = 1.0
    assert calibrated(frameless(logits), groups, free).figures["detection"] == {
        "1.0%": 0.8,
        "0.1%": 0.1,
    }


def test_the_figures_can_be_written_as_json():
    figures = calibrated(*rows(), budgets()).figures
    assert json.loads(json.dumps(figures)) == figures


def test_reliability_weighs_both_labels_alike():
    probability = np.array([0.0, 0.04, 0.05, 0.15, 0.5, 0.5, 0.999, 1.0])
    malicious = np.array([False, False, True, False, True, False, True, True])
    # Four of each, so that all weigh the same.
    assert _reliability(probability, malicious) == [
        {"probability": 0.03, "malicious": pytest.approx(1 / 3, abs=1e-4), "rows": 3},
        {"probability": 0.15, "malicious": 0.0, "rows": 1},
        {"probability": 0.5, "malicious": 0.5, "rows": 2},
        {"probability": pytest.approx(0.9995, abs=1e-4), "malicious": 1.0, "rows": 2},
    ]
    # One malicious row weighs as much as three benign ones.
    assert _reliability(np.array([0.2, 0.24, 0.28, 0.28]), np.array([False, False, False, True])) == [
        {
            "probability": pytest.approx((0.2 + 0.24 + 0.28 + 3 * 0.28) / 6, abs=1e-4),
            "malicious": 0.5,
            "rows": 4,
        }
    ]
    assert _reliability(np.array([0.1, 0.12, 0.9]), np.array([False, True, False])) == [
        {"probability": pytest.approx((0.1 + 2 * 0.12) / 3, abs=1e-4), "malicious": 0.6667, "rows": 2},
        {"probability": 0.9, "malicious": 0.0, "rows": 1},
    ]


def test_applied_to_a_gate_its_logit_is_the_log_odds():
    generator = torch.Generator().manual_seed(0)
    gate = Gate(6, [1, 2]).double()
    with torch.no_grad():
        for parameter in gate.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    hidden = torch.randn(2, 5, 4, 6, generator=generator, dtype=torch.float64)
    read = torch.ones(5, 4, dtype=torch.bool)
    with torch.no_grad():
        gate.lift.zero_()
        logit, frame = gate.evidence(gate.token_scores(hidden), read)
        calibration = Calibration(2.5, 1.7, -0.3, 0.5, {})
        apply_calibration(gate, calibration)
        after = gate(gate.token_scores(hidden), read)
    torch.testing.assert_close(after, 1.7 * (logit + 2.5 * frame) - 0.3, rtol=0, atol=1e-9)
    expected = calibration.probability(Evidence(logit.numpy(), frame.numpy()))
    np.testing.assert_allclose(torch.sigmoid(after).numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("label", "kind", "expected"),
    [
        ("malicious", "look_alike", "malicious"),
        ("malicious", "jailbreak_frame", "malicious"),
        ("benign", "look_alike", "look_alike"),
        ("benign", "contrast", "look_alike"),
        ("benign", "jailbreak_frame", "framed"),
        ("benign", "innocent_frame", "benign"),
        ("benign", "history", "benign"),
        ("benign", "follow_up", "benign"),
        ("benign", "everyday", "benign"),
        ("benign", "", "benign"),
    ],
)
def test_the_group_of_a_row_is_its_label_or_its_kind(label, kind, expected):
    assert row_group(Request("rows:1", "x", [], label, kind=kind)) == expected
    # Noise is no frame.
    assert row_group(Request("rows:1", "x", [], label, kind=kind, group="noise")) == expected


def test_every_benign_group_has_the_budget_of_the_settings():
    settings = TrainingSettings(
        benign_refusal_budget=0.01, look_alike_refusal_budget=0.02, framed_refusal_budget=0.3
    )
    assert budgets_of(settings) == {"benign": 0.01, "look_alike": 0.02, "framed": 0.3}
    assert {"malicious", *budgets_of(settings)} == set(ROW_GROUPS)


def test_calibration_is_the_same_every_time():
    assert calibrated(*rows(), budgets()) == calibrated(*rows(), budgets())


def test_labels_that_are_fully_apart_give_finite_odds():
    logits = np.array([5.0] * 10 + [-5.0] * 10)
    groups = ["malicious"] * 10 + ["benign"] * 10
    calibration = calibrated(frameless(logits), groups, budgets(0.0, 0.0, 0.0))
    assert math.isfinite(calibration.scale) and math.isfinite(calibration.offset)
    assert calibration.figures["refused"] == {"malicious": 1.0, "benign": 0.0}


def test_one_row_of_each_label_is_enough():
    evidence = Evidence(np.array([1.0, -1.0]), np.array([0.5, 1.0]))
    calibration = calibrated(evidence, ["malicious", "framed"], budgets())
    assert calibration.figures["refused"] == {"malicious": 1.0, "framed": 0.0}
    assert calibration.figures["detection"] == {}
    assert json.loads(json.dumps(calibration.figures)) == calibration.figures
