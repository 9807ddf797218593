"""From the gate's logits to a probability and a threshold, by a rule, on logits of gates that had not seen the row."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from mogu.adapter.gate import Gate

CURVE_POINTS = 41
"""Thresholds at which the curve of the model card is drawn."""


@dataclass(frozen=True)
class Calibration:
    """How logits become probabilities, and from which probability on a reply is a refusal.

    Attributes:
        scale: multiplies the logits.
        offset: is added then; the result is the log-odds of "malicious" among as many malicious as benign rows.
        threshold: probability, 0 to 1.
        figures: what the threshold does on the rows, for the model card.
    """

    scale: float
    offset: float
    threshold: float
    figures: dict[str, Any]


def calibrate_gate(
    logits: np.ndarray,
    malicious: np.ndarray,
    look_alike: np.ndarray,
    budget: float,
    look_alike_budget: float,
) -> Calibration:
    """Find probabilities (Platt's scaling) and the lowest threshold that keeps both budgets.

    Args:
        logits: ``(rows,)``, each of a gate that was fitted without the row.
        malicious: ``(rows,)`` bool.
        look_alike: ``(rows,)`` bool, benign rows that look dangerous.
        budget: largest share (0 to 1) of other benign rows that may be refused.
        look_alike_budget: the same of look-alikes.
    """
    weight = np.where(malicious, 0.5 / max(1, malicious.sum()), 0.5 / max(1, (~malicious).sum()))
    fit = LogisticRegression(C=1e6).fit(logits[:, None], malicious, sample_weight=weight * len(logits))
    scale, offset = float(fit.coef_[0, 0]), float(fit.intercept_[0])
    probability = 1 / (1 + np.exp(-(scale * logits + offset)))
    ordinary = probability[~malicious & ~look_alike]
    alike = probability[look_alike]
    threshold = max(_lowest(ordinary, budget), _lowest(alike, look_alike_budget))

    def refused(at: float) -> dict[str, float]:
        groups = {"malicious": probability[malicious], "benign": ordinary, "look_alike": alike}
        return {name: round(float((rows >= at).mean()), 4) for name, rows in groups.items() if len(rows)}

    points = np.unique(np.quantile(probability, np.linspace(0, 1, CURVE_POINTS)))
    return Calibration(
        scale,
        offset,
        threshold,
        {
            "rows": {"malicious": int(malicious.sum()), "benign": len(ordinary), "look_alike": len(alike)},
            "auroc": round(float(roc_auc_score(malicious, logits)), 4),
            "auroc_look_alike": _auroc_against(logits, malicious, look_alike),
            "threshold": threshold,
            "refused": refused(threshold),
            "threshold_interval": _interval([(ordinary, budget), (alike, look_alike_budget)]),
            "curve": [{"threshold": round(float(at), 4), **refused(float(at))} for at in points],
        },
    )


@torch.no_grad()
def apply_calibration(gate: Gate, calibration: Calibration) -> None:
    """Make the gate's logit the calibrated log-odds."""
    gate.mix.mul_(calibration.scale)
    gate.bias.mul_(calibration.scale).add_(calibration.offset)


def _lowest(probability: np.ndarray, budget: float) -> float:
    """The lowest threshold at or above which at most a share of the rows lies; 0 if there are no rows."""
    allowed = int(len(probability) * budget)
    if allowed == len(probability):
        return 0.0
    first_spared = np.sort(probability)[::-1][allowed]
    # Half way to the next score above: a threshold that is a row's own score would hang on its last bit.
    above = probability[probability > first_spared].min(initial=1.0)
    return float((first_spared + above) / 2)


def _interval(groups: Sequence[tuple[np.ndarray, float]], draws: int = 200) -> list[float]:
    """95% interval of the threshold over resampled rows of groups with a budget each."""
    rng = np.random.default_rng(0)
    drawn = [
        max(
            _lowest(rows[rng.integers(len(rows), size=len(rows))], budget)
            for rows, budget in groups
            if len(rows)
        )
        for _ in range(draws)
    ]
    return [round(float(np.quantile(drawn, at)), 4) for at in (0.025, 0.975)]


def _auroc_against(logits: np.ndarray, malicious: np.ndarray, others: np.ndarray) -> float | None:
    chosen = malicious | others
    return round(float(roc_auc_score(malicious[chosen], logits[chosen])), 4) if others.any() else None


LOOK_ALIKE_KINDS = {"look_alike", "contrast", "jailbreak_frame", "follow_up", "history"}
"""Kinds of benign requests that look dangerous: by their words, by their frame, or by what was refused before them."""


def is_look_alike(kinds: Sequence[str], malicious: np.ndarray) -> np.ndarray:
    """``(rows,)`` bool: the benign ones of a kind that looks dangerous."""
    return np.array([kind in LOOK_ALIKE_KINDS for kind in kinds]) & ~malicious
