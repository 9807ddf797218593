import json
import math

import numpy as np
import pytest
import torch

from mogu.adapter.gate import Gate
from mogu.training.gate_calibration import (
    CURVE_POINTS,
    Calibration,
    _interval,
    _lowest,
    apply_calibration,
    calibrate_gate,
    is_look_alike,
)


def rows(malicious=300, ordinary=400, alike=100, seed=0, apart=2.0):
    """Logits that overlap, labels and which of the benign rows look dangerous."""
    rng = np.random.default_rng(seed)
    logits = np.concatenate(
        [
            rng.normal(apart, 1, malicious),
            rng.normal(-apart, 1, ordinary),
            rng.normal(-apart / 2, 1, alike),
        ]
    )
    label = np.arange(len(logits)) < malicious
    look_alike = np.arange(len(logits)) >= malicious + ordinary
    order = rng.permutation(len(logits))
    return logits[order], label[order], look_alike[order]


def probabilities(calibration, logits):
    return 1 / (1 + np.exp(-(calibration.scale * logits + calibration.offset)))


def shares(calibration, logits, malicious, look_alike):
    refused = probabilities(calibration, logits) >= calibration.threshold
    groups = {"malicious": malicious, "benign": ~malicious & ~look_alike, "look_alike": look_alike}
    return {name: refused[group].mean() for name, group in groups.items() if group.any()}


BUDGETS = [(0.01, 0.06), (0.05, 0.05), (0.0, 1.0), (1.0, 0.0), (0.0, 0.0), (0.3, 0.02), (1.0, 1.0)]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("budgets", BUDGETS, ids=str)
def test_both_budgets_are_kept_and_one_of_them_is_used_up(budgets, seed):
    data = rows(seed=seed)
    calibration = calibrate_gate(*data, *budgets)
    found = shares(calibration, *data)
    assert found["benign"] <= budgets[0] and found["look_alike"] <= budgets[1]
    # One row more would be too much for one of them.
    more = (found["benign"] + 1 / 400 > budgets[0], found["look_alike"] + 1 / 100 > budgets[1])
    assert any(more) or calibration.threshold == 0
    assert calibration.figures["refused"] == {name: pytest.approx(x, abs=1e-4) for name, x in found.items()}
    assert 0 <= calibration.threshold <= 1


def test_the_threshold_stands_between_two_scores():
    data = rows()
    calibration = calibrate_gate(*data, 0.05, 0.05)
    scores = probabilities(calibration, data[0])
    assert np.abs(scores - calibration.threshold).min() > 1e-7
    assert shares(calibration, data[0] + 1e-12, *data[1:]) == shares(calibration, *data)


def test_probabilities_are_right_on_balanced_labels():
    # Two normal distributions of spread 1 at +1 and -1: the log-odds of a logit x are 2 x, among equally many of each.
    rng = np.random.default_rng(0)
    logits = np.concatenate([rng.normal(1, 1, 2000), rng.normal(-1, 1, 40_000)])
    malicious = np.arange(len(logits)) < 2000
    calibration = calibrate_gate(logits, malicious, np.zeros(len(logits), bool), 0.05, 0.05)
    assert calibration.scale == pytest.approx(2, abs=0.1)
    assert calibration.offset == pytest.approx(0, abs=0.1)
    # Of rows that are said to be malicious with a probability, that share is, if both labels counted alike.
    found = probabilities(calibration, logits)
    weight = np.where(malicious, 1 / 2000, 1 / 40_000)
    for low in (0.1, 0.3, 0.5, 0.7):
        inside = (found >= low) & (found < low + 0.2)
        share = weight[inside & malicious].sum() / weight[inside].sum()
        assert share == pytest.approx(low + 0.1, abs=0.05)


def test_a_shift_or_scale_of_the_logits_changes_no_probability():
    logits, *labels = rows()
    one, other = (calibrate_gate(x, *labels, 0.05, 0.05) for x in (logits, 7 * logits - 30))
    np.testing.assert_allclose(
        probabilities(one, logits), probabilities(other, 7 * logits - 30), rtol=0, atol=1e-3
    )
    assert one.figures["auroc"] == other.figures["auroc"]


@pytest.mark.parametrize("absent", ["alike", "ordinary"])
def test_without_a_kind_of_benign_rows_the_other_decides(absent):
    data = rows(**{absent: 0})
    calibration = calibrate_gate(*data, 0.05, 0.05)
    found = shares(calibration, *data)
    present = "benign" if absent == "alike" else "look_alike"
    assert found.keys() == calibration.figures["refused"].keys() == {"malicious", present}
    assert 0.03 < found[present] <= 0.05
    assert (calibration.figures["auroc_look_alike"] is None) == (absent == "alike")
    low, high = calibration.figures["threshold_interval"]
    assert low <= calibration.threshold <= high


@pytest.mark.parametrize("budget", [0.0, 0.05, 0.5, 0.99])
def test_where_all_scores_are_equal_nobody_is_refused(budget):
    _, malicious, look_alike = rows()
    calibration = calibrate_gate(np.full(len(malicious), 3.0), malicious, look_alike, budget, budget)
    assert calibration.figures["refused"] == {"malicious": 0.0, "benign": 0.0, "look_alike": 0.0}
    assert 0.5 < calibration.threshold <= 1 and calibration.figures["auroc"] == 0.5


def test_equal_scores_at_the_limit_are_all_spared():
    scores = np.array([0.9, 0.8, 0.8, 0.8, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1])
    assert _lowest(scores, 0.2) == pytest.approx(0.85)
    assert _lowest(scores, 0.4) == pytest.approx(0.45)


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
    assert _lowest(np.array(scores), budget) == pytest.approx(expected)


def test_the_interval_holds_the_threshold_and_narrows_with_more_rows():
    few, many = (rows(300, n, n // 4, apart=1.0) for n in (100, 2000))
    widths = []
    for data in (few, many):
        calibration = calibrate_gate(*data, 0.05, 0.05)
        low, high = calibration.figures["threshold_interval"]
        assert low <= calibration.threshold <= high
        widths.append(high - low)
    assert widths[1] < widths[0]
    assert _interval([(np.array([0.3] * 5), 0.2)]) == [0.65, 0.65]


def test_the_figures_are_those_of_the_rows():
    data = rows()
    figures = calibrate_gate(*data, 0.05, 0.1).figures
    assert figures["rows"] == {"malicious": 300, "benign": 400, "look_alike": 100}
    assert 0.5 < figures["auroc_look_alike"] < figures["auroc"] < 1
    curve = figures["curve"]
    assert len(curve) == CURVE_POINTS
    assert [point["threshold"] for point in curve] == sorted(point["threshold"] for point in curve)
    for name in ("malicious", "benign", "look_alike"):
        falling = [point[name] for point in curve]
        assert falling == sorted(falling, reverse=True) and falling[0] == 1.0
    # Separate by hand: how many of all pairs are in the right order.
    logits, malicious, _ = data
    above = (logits[malicious][:, None] > logits[~malicious][None]).mean()
    assert figures["auroc"] == pytest.approx(above, abs=1e-4)


def test_the_figures_can_be_written_as_json():

    figures = calibrate_gate(*rows(), 0.05, 0.1).figures
    assert json.loads(json.dumps(figures)) == figures


def test_applied_to_a_gate_its_logit_is_the_log_odds():
    generator = torch.Generator().manual_seed(0)
    gate = Gate(6, [1, 2]).double()
    with torch.no_grad():
        for parameter in gate.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    hidden = torch.randn(2, 5, 4, 6, generator=generator, dtype=torch.float64)
    read = torch.ones(5, 4, dtype=torch.bool)
    with torch.no_grad():
        before = gate(gate.token_scores(hidden), read)
        apply_calibration(gate, Calibration(1.7, -0.3, 0.5, {}))
        after = gate(gate.token_scores(hidden), read)
    torch.testing.assert_close(after, 1.7 * before - 0.3, rtol=0, atol=1e-9)


def test_look_alikes_are_benign_rows_of_certain_kinds():
    kinds = ["look_alike", "look_alike", "contrast", "everyday", "jailbreak_frame", "chat", "", "imperative"]
    malicious = np.array([False, True, False, False, False, False, False, True])
    assert is_look_alike(kinds, malicious).tolist() == [True, False, True, False, True, False, False, False]


def test_calibration_is_the_same_every_time():
    assert calibrate_gate(*rows(), 0.05, 0.1) == calibrate_gate(*rows(), 0.05, 0.1)


def test_labels_that_are_fully_apart_give_finite_odds():
    logits = np.array([5.0] * 10 + [-5.0] * 10)
    calibration = calibrate_gate(logits, logits > 0, np.zeros(20, bool), 0.0, 0.0)
    assert math.isfinite(calibration.scale) and math.isfinite(calibration.offset)
    assert calibration.figures["refused"] == {"malicious": 1.0, "benign": 0.0}
