"""How far the logit is lifted where a conversation looks like an attack's frame."""

import numpy as np
import pytest

from mogu.training import gate_calibration
from mogu.training.gate_calibration import (
    LIFTS,
    calibrate_gate,
)
from mogu.training.gate_fit import Evidence
from tests.training.calibrations import budgets, calibrated, rows, shares


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
