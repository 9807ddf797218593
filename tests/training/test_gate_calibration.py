import json
import math

import numpy as np
import pytest
import torch

from mogu.adapter.gate import READ_EVERY, Gate
from mogu.data.requests import Request
from mogu.training import gate_calibration
from mogu.training.gate_calibration import (
    CURVE_POINTS,
    LIFTS,
    RELIABILITY_BINS,
    ROW_GROUPS,
    Calibration,
    _interval,
    _reliability,
    apply_calibration,
    budgets_of,
    calibrate_gate,
    calibrate_replies,
    calibrate_traffic,
    figures_by_kind,
    lowest_threshold,
    row_group,
)
from mogu.training.gate_fit import Evidence, Reading
from mogu.training.settings import TrainingSettings

COUNTS = {"malicious": 300, "benign": 400, "look_alike": 100, "framed": 40}
CENTRES = {"malicious": 1.0, "benign": -1.0, "look_alike": -0.5, "framed": 0.2}


def rows(seed=0, apart=2.0, **counts):
    """Logits that overlap, of rows in no frame, and the group of each."""
    rng = np.random.default_rng(seed)
    counts = COUNTS | counts
    logits = np.concatenate([rng.normal(apart * CENTRES[group], 1, counts[group]) for group in ROW_GROUPS])
    groups = np.repeat(ROW_GROUPS, [counts[group] for group in ROW_GROUPS])
    order = rng.permutation(len(logits))
    return frameless(logits[order]), groups[order].tolist()


def calibrated(evidence, groups, allowed):
    """The calibration of rows that stand in an attack's frame where the gate says so."""
    return calibrate_gate(evidence, groups, list(evidence.frame >= 0.5), allowed)


def frameless(logits):
    """What a gate says that sees no frame in any row."""
    return Evidence(logits, np.zeros_like(logits))


def budgets(benign=0.05, look_alike=0.05, framed=0.2):
    return {"benign": benign, "look_alike": look_alike, "framed": framed}


def shares(calibration, evidence, groups):
    """What share of each group is refused."""
    refused = calibration.probability(evidence) >= calibration.threshold
    names = np.array(groups)
    return {group: refused[names == group].mean() for group in ROW_GROUPS if group in groups}


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
    ids=str,
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


# The lift of what stands in an attack's frame.


def framed_rows(seed=0, told=1.0):
    """Rows of which some stand in frames, which the gate sees more or less; malicious ones score lower in them."""
    rng = np.random.default_rng(seed)
    evidence, groups = rows(seed)
    names = np.array(groups)
    attack = (names == "framed") | ((names == "malicious") & (rng.random(len(names)) < 0.5))
    frame = np.where(attack, rng.beta(8, 2, len(names)), rng.beta(2, 8, len(names)))
    logit = evidence.logit - 2.0 * (attack & (names == "malicious")) - 2.5 * (names == "framed")
    return Evidence(logit, told * frame), groups


def caught_with(monkeypatch, lift, *data):
    """The share of malicious rows that is refused if there is this lift."""
    with monkeypatch.context() as patch:
        patch.setattr(gate_calibration, "LIFTS", (lift,))
        calibration = calibrated(*data)
    assert calibration.lift == lift
    return shares(calibration, *data[:2])["malicious"]


@pytest.mark.parametrize("seed", range(3))
def test_the_lift_is_the_one_that_lets_most_malicious_rows_be_refused(monkeypatch, seed):
    data, allowed = framed_rows(seed), budgets(0.02, 0.05, 0.15)
    calibration = calibrated(*data, allowed)
    found = shares(calibration, *data)
    assert all(found[group] <= budget for group, budget in allowed.items())
    assert calibration.figures["lift"] == calibration.lift in LIFTS
    by_lift = {lift: caught_with(monkeypatch, lift, *data, allowed) for lift in LIFTS}
    assert by_lift[0.0] + 0.03 < found["malicious"] == pytest.approx(max(by_lift.values()), abs=0.01)
    # All figures are those of lifted logits.
    lifted = data[0].lifted(calibration.lift)
    malicious = np.array(data[1]) == "malicious"
    above = (lifted[malicious][:, None] > lifted[~malicious][None]).mean()
    assert calibration.figures["auroc"] == pytest.approx(above, abs=1e-4)


def test_of_lifts_that_refuse_equally_many_the_smallest_is_taken():
    logits = np.array([3.0] * 10 + [-3.0] * 10)
    groups = ["malicious"] * 10 + ["benign"] * 10
    for frame in (np.zeros(20), np.ones(20), np.linspace(0, 1, 20)[::-1]):
        assert calibrated(Evidence(logits, frame), groups, budgets()).lift == 0
    # Here one of at least a half is needed: a malicious row in a frame lies below the benign ones.
    logits[0], logits[-1], frame = -3.2, -2.9, np.zeros(20)
    frame[0] = 1.0
    calibration = calibrated(Evidence(logits, frame), groups, budgets(0.1))
    assert calibration.lift == 0.5 and calibration.figures["refused"] == {"malicious": 1.0, "benign": 0.1}


def test_few_rows_in_attack_frames_count_as_much_for_the_lift_as_many_others():
    # A lift of 1 raises the two malicious rows in frames above the benign one there, which passes three others.
    logits = np.array([1.0] * 98 + [0.2] * 3 + [-0.1] * 2 + [0.1])
    frame = np.array([0.0] * 101 + [1.0] * 2 + [0.6])
    groups = ["malicious"] * 103 + ["framed"]
    given = budgets(framed=0.0)
    assert calibrated(Evidence(logits, frame), groups, given).lift == 1
    assert calibrate_gate(Evidence(logits, frame), groups, [False] * 104, given).lift == 0


def test_frames_that_are_mostly_benign_are_not_lifted():
    logits = np.array([1.0] * 20 + [-1.0] * 40)
    frame = np.array([0.0] * 20 + [1.0] * 40)
    groups = ["malicious"] * 20 + ["framed"] * 40
    assert calibrated(Evidence(logits, frame), groups, budgets()).lift == 0


# Replies.


def trajectories(count, longest, seed=0, spread=1.5):
    """Probabilities that grow or fall while a reply is written; replies end where they like."""
    rng = np.random.default_rng(seed)
    logits = [
        rng.normal(-3, spread) + np.cumsum(rng.normal(0, 0.7, 1 + rng.integers(longest + 1)))
        for _ in range(count)
    ]
    return [1 / (1 + np.exp(-row)) for row in logits]


def refused_rows(running, threshold, reply_threshold):
    return np.array([row[0] >= threshold or (row[1:] >= reply_threshold).any() for row in running])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("given", [(0.1, 0.1, 0.2), (0.05, 0.5, 1.0), (0.02, 0.0, 0.3)], ids=str)
def test_prompts_and_replies_together_keep_the_budgets_and_use_one_up(given, seed):
    allowed = budgets(*given)
    running = trajectories(150, 16, seed)
    groups = [("benign", "look_alike", "framed")[n % 3] for n in range(150)]
    names = np.array(groups)
    # That prompts alone keep them is what the first calibration sees to.
    at_end = np.array([row[0] for row in running])
    threshold = max(lowest_threshold(at_end[names == group], allowed[group] / 2) for group in allowed)
    found = calibrate_replies(running, groups, allowed, threshold)["threshold"]
    assert found >= threshold
    own = {
        group: [row for row, name in zip(running, groups, strict=True) if name == group] for group in allowed
    }
    assert all(refused_rows(own[group], threshold, found).mean() <= allowed[group] for group in allowed)
    # One row more would be too much for one of them, unless it is the prompts' threshold.
    more = []
    for group, each in own.items():
        spared = [row[1:].max(initial=0.0) for row in each if row[0] < threshold]
        lower = max(peak for peak in spared if peak < found)
        more.append(refused_rows(each, threshold, lower).mean() > allowed[group])
    assert any(more) or found == threshold


def test_the_threshold_of_replies_is_the_lowest_that_keeps_the_budget_with_the_prompts():
    # Twenty replies, of which two may be refused. One is at its prompt; the highest of the others is at 0.8.
    peaks = [0.8, 0.6, 0.4, *[0.1] * 16]
    running = [np.array([0.05, 0.02, peak, 0.03]) for peak in peaks] + [np.array([0.7, 0.9, 0.9, 0.9])]
    found = calibrate_replies(running, ["benign"] * 20, {"benign": 0.1}, 0.5)
    assert found["threshold"] == pytest.approx(0.7)
    # With the prompt spared there is room for two.
    found = calibrate_replies([*running[:-1], running[-2]], ["benign"] * 20, {"benign": 0.1}, 0.5)
    assert found["threshold"] == pytest.approx(0.5)
    # Not below the threshold of prompts.
    found = calibrate_replies([*running[:-1], running[-2]], ["benign"] * 20, {"benign": 0.5}, 0.5)
    assert found["threshold"] == 0.5


def test_the_prompts_end_is_no_look_at_the_reply():
    # What a prompt scores, below its threshold, is no news in the reply.
    running = [np.array([0.45, 0.1, 0.1])] * 10
    assert calibrate_replies(running, ["benign"] * 10, {"benign": 0.0}, 0.5)["threshold"] == pytest.approx(
        0.55
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.9, 1.0])
def test_replies_are_never_read_more_sternly_than_prompts(seed, threshold):
    running = trajectories(40, 6, seed)
    for budget in (0.0, 0.1, 0.7, 1.0):
        found = calibrate_replies(running, ["framed"] * 40, {"framed": budget}, threshold)
        assert threshold <= found["threshold"] <= 1


def test_where_prompts_have_overspent_no_reply_is_refused_on_top():
    running = [np.array([0.9, 0.95]) for _ in range(5)] + [np.array([0.1, 0.2 + n / 50]) for n in range(15)]
    found = calibrate_replies(running, ["benign"] * 20, {"benign": 0.1}, 0.5)
    assert refused_rows(running, 0.5, found["threshold"]).sum() == 5
    # It stands clear of those that are spared, but does not give up on the replies.
    assert found["threshold"] == pytest.approx((1 + 0.2 + 14 / 50) / 2)
    assert found["refused_by_length"] == {"0": 0.25, "8": 0.25}


def test_the_groups_strictest_budget_decides_and_absent_groups_do_not():
    running = [np.array([0.1, 0.2]), np.array([0.1, 0.6]), np.array([0.1, 0.3]), np.array([0.1, 0.8])]
    groups = ["benign", "benign", "framed", "framed"]
    both = calibrate_replies(running, groups, budgets(0.0, 0.0, 0.5), 0.15)
    assert both["threshold"] == pytest.approx((0.6 + 1) / 2)
    assert both["rows"] == {"benign": 2, "framed": 2}
    framed = calibrate_replies(running, groups, budgets(1.0, 0.0, 0.5), 0.15)
    assert framed["threshold"] == pytest.approx((0.3 + 0.8) / 2)
    one = calibrate_replies(running[2:], groups[2:], budgets(0.0, 0.0, 0.5), 0.15)
    assert one["threshold"] == framed["threshold"] and one["rows"] == {"framed": 2}


def test_refusals_grow_with_the_length_of_the_reply():
    # In a budget of four of eight: one at the prompt, and replies that rise at looks one, three and four.
    high = {1: [0.9], 3: [0.1, 0.1, 0.9], 4: [0.1, 0.1, 0.1, 0.8]}
    running = [np.array([0.6, *[0.1] * 4]), *(np.array([0.1, *row]) for row in high.values())]
    running += [np.array([0.1] * 5)] * 4
    found = calibrate_replies(running, ["benign"] * 8, {"benign": 0.5}, 0.5)
    assert found["threshold"] == 0.5
    assert found["tokens"] == 4 * READ_EVERY
    assert found["refused_by_length"] == {"0": 0.125, "8": 0.25, "16": 0.25, "32": 0.5}


@pytest.mark.parametrize("seed", range(5))
def test_refusals_by_length_never_fall_and_begin_with_the_prompts(seed):
    running = trajectories(80, 20, seed, spread=2.5)
    threshold = lowest_threshold(np.array([row[0] for row in running]), 0.1)
    found = calibrate_replies(running, ["benign"] * 80, {"benign": 0.4}, threshold)
    shares = list(found["refused_by_length"].values())
    assert shares == sorted(shares) and shares[-1] > shares[0]
    assert shares[0] == np.mean([row[0] >= threshold for row in running])
    lengths = [int(length) for length in found["refused_by_length"]]
    assert lengths == sorted(lengths) and lengths[:3] == [0, 8, 16] and lengths[-1] <= found["tokens"]
    assert json.loads(json.dumps(found)) == found


def test_replies_too_short_for_a_look_are_refused_at_the_prompt_or_not_at_all():
    running = [np.array([0.7]), *[np.array([0.2])] * 9]
    found = calibrate_replies(running, ["benign"] * 10, {"benign": 0.1}, 0.5)
    assert found["threshold"] >= 0.5
    assert (found["tokens"], found["refused_by_length"]) == (0, {"0": 0.1})
    assert calibrate_replies([np.array([0.2])], ["framed"], budgets(), 0.5)["rows"] == {"framed": 1}


# An operator's own traffic.


@pytest.mark.parametrize("budget", [0.0, 0.02, 0.1, 0.5])
@pytest.mark.parametrize("seed", [0, 1])
def test_thresholds_for_traffic_keep_the_budget_at_the_prompt_and_in_the_reply(seed, budget):
    running = trajectories(200, 10, seed)
    prompts = [float(row[0]) for row in running]
    replies = [float(row.max()) for row in running]
    thresholds, figures = calibrate_traffic(prompts, replies, budget)
    assert thresholds.prompt <= thresholds.reply
    refused = [
        prompt >= thresholds.prompt or reply >= thresholds.reply
        for prompt, reply in zip(prompts, replies, strict=True)
    ]
    assert np.mean(refused) <= budget
    assert figures["refused"] == pytest.approx(np.mean(refused), abs=1e-4)
    low, high = figures["interval"]
    assert low <= figures["refused"] <= high and (low < high)
    assert (figures["rows"], figures["budget"]) == (200, budget)
    assert (figures["threshold"], figures["reply_threshold"]) == thresholds
    assert json.loads(json.dumps(figures)) == figures


# By kind.


def kind_rows():
    """Rows as (label, kind, frame, refused)."""
    listed = [
        ("malicious", "imperative", "", True),
        ("malicious", "imperative", "", False),
        ("malicious", "imperative", "noise", True),
        ("malicious", "jailbreak_frame", "persona", True),
        ("malicious", "jailbreak_frame", "persona", True),
        ("malicious", "jailbreak_frame", "encoding", False),
        ("benign", "everyday", "", False),
        ("benign", "look_alike", "", True),
        ("benign", "look_alike", "", False),
        ("benign", "look_alike", "", False),
        ("benign", "jailbreak_frame", "persona", True),
        ("benign", "innocent_frame", "structure", False),
    ]
    generator = torch.Generator().manual_seed(0)
    readings = [
        Reading(torch.randn(1, 4, 8, generator=generator).half(), label == "malicious", f"rows:{n}", frame)
        for n, (label, _, frame, _) in enumerate(listed)
    ]
    requests = [
        Request(f"rows:{n}", "x", [], label, kind=kind, group=frame)
        for n, (label, kind, frame, _) in enumerate(listed)
    ]
    return np.array([refused for *_, refused in listed]), readings, requests


def test_refusals_are_told_by_label_and_kind_and_by_group_of_frames():
    figures = figures_by_kind(*kind_rows())
    assert figures["kinds"] == {
        "malicious": {
            "imperative": {"rows": 3, "refused": 0.6667},
            "jailbreak_frame": {"rows": 3, "refused": 0.6667},
        },
        "benign": {
            "everyday": {"rows": 1, "refused": 0.0},
            "innocent_frame": {"rows": 1, "refused": 0.0},
            "jailbreak_frame": {"rows": 1, "refused": 1.0},
            "look_alike": {"rows": 3, "refused": 0.3333},
        },
    }
    left_out = figures["left_out"]
    assert list(left_out) == ["encoding", "noise", "persona", "structure"]
    likeness = {frame: each.pop("likeness") for frame, each in left_out.items()}
    assert left_out == {
        "encoding": {"malicious": {"rows": 1, "refused": 0.0}},
        "noise": {"malicious": {"rows": 1, "refused": 1.0}},
        "persona": {"malicious": {"rows": 2, "refused": 1.0}, "benign": {"rows": 1, "refused": 1.0}},
        "structure": {"benign": {"rows": 1, "refused": 0.0}},
    }
    # Benign frames alone are like nothing.
    assert likeness.pop("structure") is None
    assert all(-1 <= each <= 1 for each in likeness.values())
    assert json.loads(json.dumps(figures)) == figures


def test_without_frames_nothing_was_left_out():
    refused, readings, requests = kind_rows()
    direct = [n for n, reading in enumerate(readings) if not reading.frame]
    figures = figures_by_kind(refused[direct], [readings[n] for n in direct], [requests[n] for n in direct])
    assert figures["left_out"] == {}
    assert figures["kinds"]["malicious"] == {"imperative": {"rows": 2, "refused": 0.5}}
