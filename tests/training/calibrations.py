"""Scores of made-up rows, and what was calibrated on them."""

import numpy as np

from mogu.training.gate_calibration import (
    ROW_GROUPS,
    calibrate_gate,
)
from mogu.training.gate_fit import Evidence

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
