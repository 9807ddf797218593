"""The thresholds of prompts and replies that keep one budget together."""

import json

import numpy as np
import pytest

from mogu.adapter.gate import READ_EVERY
from mogu.training.gate_calibration import (
    calibrate_replies,
    calibrate_traffic,
    lowest_threshold,
)
from tests.training.calibrations import budgets


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
