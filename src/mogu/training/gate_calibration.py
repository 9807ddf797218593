"""From the gate's logits to a probability and thresholds, by a rule, on logits of gates that had not seen the row."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from mogu.adapter.config import Thresholds
from mogu.adapter.gate import READ_EVERY, Gate
from mogu.data.requests import Request
from mogu.share import Share
from mogu.training.gate_fit import Evidence, Reading, likeness_to_others
from mogu.training.settings import TrainingSettings

CURVE_POINTS = 41
"""Thresholds at which the curve of the model card is drawn."""

RELIABILITY_BINS = 10
"""Bins of the reliability diagram, of equal width in probability."""

FALSE_ALARMS = (0.01, 0.001)
"""Shares of ordinary benign rows at which detection is told."""

ROW_GROUPS = ("malicious", "benign", "look_alike", "framed")
"""What calibration tells apart: malicious rows; benign ones that look dangerous by their words; benign ones in a
jailbreak frame; all other benign ones."""


def row_group(request: Request) -> str:
    """Which of `ROW_GROUPS` a request belongs to."""
    if request.label == "malicious":
        return "malicious"
    kinds = {"look_alike": "look_alike", "contrast": "look_alike", "jailbreak_frame": "framed"}
    return kinds.get(request.kind, "benign")


def budgets_of(settings: TrainingSettings) -> dict[str, float]:
    """The largest share (0 to 1) of each benign group that may be refused."""
    assert settings.benign_refusal_budget is not None  # the settings see to it
    return {
        "benign": settings.benign_refusal_budget,
        "look_alike": settings.look_alike_refusal_budget,
        "framed": settings.framed_refusal_budget,
    }


LIFTS = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
"""What may come to a logit in an attack's frame."""


@dataclass(frozen=True)
class Calibration:
    """How logits become probabilities, and from which probability on a reply is a refusal.

    Attributes:
        lift: times the probability of an attack's frame is added to the logits.
        scale: multiplies the logits.
        offset: is added then; the result is the log-odds of "malicious" among as many malicious as benign rows.
        threshold: probability, 0 to 1.
        figures: what the threshold does on the rows, for the model card.
    """

    lift: float
    scale: float
    offset: float
    threshold: float
    figures: dict[str, Any]

    def probability(self, evidence: Evidence) -> np.ndarray:
        """``(rows,)``, calibrated."""
        return _sigmoid(self.scale * evidence.lifted(self.lift) + self.offset)


def calibrate_gate(
    evidence: Evidence, groups: Sequence[str], attack: Sequence[bool], budgets: Mapping[str, float]
) -> Calibration:
    """Find the lift, probabilities (Platt's scaling) and the lowest threshold that keeps all budgets.

    The lift is the one under which the threshold refuses most malicious rows, those in the frame of an attack and all
    others counting for a half each; of equal ones the smallest.

    Args:
        evidence: ``(rows,)``, each of a gate that was fitted without the row.
        groups: of each row, one of `ROW_GROUPS`; malicious ones and others must be there.
        attack: of each row, whether it stands in the frame of an attack, whatever its label.
        budgets: of each benign group the largest share (0 to 1) that may be refused.
    """
    names = np.array(groups)
    malicious, in_attack = names == "malicious", np.array(attack)
    halves = [half for half in (malicious & in_attack, malicious & ~in_attack) if half.any()]

    def caught(lift: float) -> float:
        logits = evidence.lifted(lift)
        # No threshold yet: one lies half way between two scores, and where that is hangs on their scale.
        spared = [
            _first_spared(own, int(len(own) * budget))
            for own, budget in ((logits[names == group], budget) for group, budget in budgets.items())
        ]
        return float(np.mean([(logits[half] > max(spared)).mean() for half in halves]))

    lift = max(LIFTS, key=lambda lift: (caught(lift), -lift))
    logits = evidence.lifted(lift)
    weight = _even_weights(malicious)
    fit = LogisticRegression(C=1e6).fit(logits[:, None], malicious, sample_weight=weight * len(logits))
    scale, offset = float(fit.coef_[0, 0]), float(fit.intercept_[0])
    probability = _sigmoid(scale * logits + offset)
    rows = {group: probability[names == group] for group in ROW_GROUPS if (names == group).any()}
    benign = {group: values for group, values in rows.items() if group != "malicious"}
    threshold = _strictest(benign, budgets)

    def refused(at: float) -> dict[str, float]:
        return {group: round(float((values >= at).mean()), 4) for group, values in rows.items()}

    points = np.unique(np.quantile(probability, np.linspace(0, 1, CURVE_POINTS)))
    return Calibration(
        lift,
        scale,
        offset,
        threshold,
        {
            "rows": {group: len(values) for group, values in rows.items()},
            "lift": lift,
            "auroc": round(float(roc_auc_score(malicious, logits)), 4),
            "auroc_look_alike": _auroc_against(logits, names, "look_alike"),
            "threshold": threshold,
            "refused": refused(threshold),
            "threshold_interval": _interval(benign, budgets),
            "detection": {
                f"{share:.1%}": round(
                    float((rows["malicious"] >= lowest_threshold(benign["benign"], share)).mean()), 4
                )
                for share in FALSE_ALARMS
                if "benign" in benign
            },
            "curve": [{"threshold": round(float(at), 4), **refused(float(at))} for at in points],
            "reliability": _reliability(probability, malicious),
        },
    )


@torch.no_grad()
def apply_calibration(gate: Gate, calibration: Calibration) -> None:
    """Make the gate's logit the calibrated log-odds."""
    gate.mix.mul_(calibration.scale)
    gate.lift.fill_(calibration.lift * calibration.scale)
    gate.bias.mul_(calibration.scale).add_(calibration.offset)


def calibrate_replies(
    running: Sequence[np.ndarray], groups: Sequence[str], budgets: Mapping[str, float], threshold: float
) -> dict[str, Any]:
    """Find the lowest threshold for replies that keeps the budgets jointly for prompt and reply.

    Args:
        running: of each benign row ``(1 + looks,)``, probabilities at the prompt's end and at each look at the base's
            reply, of a gate that was fitted without the row.
        groups: of each row, a benign one of `ROW_GROUPS`.
        budgets: as for :func:`calibrate_gate`.
        threshold: of prompts.

    Returns:
        For the model card: ``threshold``, a probability, at least the prompt's; the ``rows`` of each group; the longest
        reply's ``tokens``; ``refused_by_length``, the share that was refused by so many reply tokens.
    """
    at_end = np.array([row[0] for row in running])
    at_most = np.array([row[1:].max(initial=0.0) for row in running])
    names = np.array(groups)
    found = max(
        _reply_threshold(at_end[names == group], at_most[names == group], budget, threshold)
        for group, budget in budgets.items()
    )
    longest = max(len(row) - 1 for row in running)
    lengths = [looks for looks in (0, 1, 2, 4, 8, 16, 32) if looks < longest] + [longest]
    return {
        "threshold": found,
        "rows": dict(Counter(groups)),
        "tokens": longest * READ_EVERY,
        "refused_by_length": {
            str(looks * READ_EVERY): round(
                float(
                    np.mean([row[0] >= threshold or (row[1 : looks + 1] >= found).any() for row in running])
                ),
                4,
            )
            for looks in lengths
        },
    }


def _reply_threshold(at_end: np.ndarray, at_most: np.ndarray, budget: float, threshold: float) -> float:
    """The lowest threshold for replies, at least the prompt's, that keeps a budget for prompt and reply together.

    Args:
        at_end: ``(rows,)``, probabilities at the prompts' ends.
        at_most: ``(rows,)``, the highest ones in their replies.
        budget: share of the rows that may be refused.
        threshold: of prompts.
    """
    flagged = at_end >= threshold
    # Prompts that are refused have spent their part of the budget.
    left = max(0, int(len(at_end) * budget) - int(flagged.sum()))
    return max(threshold, _lowest(at_most[~flagged], left))


def calibrate_traffic(
    prompts: Sequence[float], replies: Sequence[float], budget: float
) -> tuple[Thresholds, dict[str, Any]]:
    """Thresholds for an operator's own traffic, from an adapter's own gate, which has not seen it.

    Args:
        prompts: of each benign request the gate's probability at its end.
        replies: the same, the highest up to the end of its reply.
        budget: largest share (0 to 1) that may be refused, at the prompt or in the reply.

    Returns:
        The thresholds, and what they do on the requests: ``refused`` with its 95% Wilson ``interval``.
    """
    at_end, at_most = np.array(prompts), np.array(replies)
    threshold = lowest_threshold(at_end, budget)
    reply = _reply_threshold(at_end, at_most, budget, threshold)
    thresholds = Thresholds(threshold, reply)
    refused = Share.of(sum(map(thresholds.refuse, prompts, replies)), len(at_end))
    return thresholds, {
        "rows": len(at_end),
        "budget": budget,
        "threshold": threshold,
        "reply_threshold": reply,
        "refused": round(refused.value, 4),
        "interval": [round(refused.low, 4), round(refused.high, 4)],
    }


def figures_by_kind(
    refused: np.ndarray, readings: Sequence[Reading], requests: Sequence[Request]
) -> dict[str, Any]:
    """What a threshold refuses, for the model card.

    Args:
        refused: ``(rows,)`` bool.
        readings: the rows; none of a frame was judged by a gate that had seen its group.
        requests: theirs.

    Returns:
        ``kinds``: by label and kind, rows and share refused. ``left_out``: the same by group of frames and label, and
        how near the malicious ones come to those outside the group.
    """
    kinds: dict[str, dict[str, list[bool]]] = {"malicious": {}, "benign": {}}
    frames: dict[str, dict[str, list[bool]]] = {}
    for hit, reading, request in zip(refused.tolist(), readings, requests, strict=True):
        kinds[request.label].setdefault(request.kind, []).append(hit)
        if reading.frame:
            frames.setdefault(reading.frame, {}).setdefault(request.label, []).append(hit)
    return {
        "kinds": {
            label: {kind: _counted(hits) for kind, hits in sorted(by_kind.items())}
            for label, by_kind in kinds.items()
        },
        "left_out": {
            frame: {label: _counted(hits) for label, hits in by_label.items()}
            | {"likeness": likeness_to_others(readings, frame)}
            for frame, by_label in sorted(frames.items())
        },
    }


def _counted(hits: list[bool]) -> dict[str, float]:
    return {"rows": len(hits), "refused": round(sum(hits) / len(hits), 4)}


def lowest_threshold(probability: np.ndarray, budget: float) -> float:
    """The lowest threshold at or above which at most a share of some rows lies.

    Args:
        probability: ``(rows,)``, 0 to 1.
        budget: the share, 0 to 1.

    Returns:
        A probability; 0 if all rows may be refused.
    """
    return _lowest(probability, int(len(probability) * budget))


def _lowest(probability: np.ndarray, allowed: int) -> float:
    """The lowest threshold at or above which at most `allowed` rows lie; 0 if all may."""
    first_spared = _first_spared(probability, allowed)
    if first_spared == -np.inf:
        return 0.0
    # Half way to the next score above: a threshold that is a row's own score would hang on its last bit.
    above = probability[probability > first_spared].min(initial=1.0)
    return float((first_spared + above) / 2)


def _first_spared(scores: np.ndarray, allowed: int) -> float:
    """The highest score that is spared when as many rows as are allowed lie above it; -inf if all may."""
    return float(np.sort(scores)[::-1][allowed]) if allowed < len(scores) else -np.inf


def _strictest(rows: Mapping[str, np.ndarray], budgets: Mapping[str, float]) -> float:
    """The threshold that keeps the budget of every group that has rows."""
    return max((lowest_threshold(rows[group], budgets[group]) for group in rows), default=0.0)


def _interval(rows: Mapping[str, np.ndarray], budgets: Mapping[str, float], draws: int = 200) -> list[float]:
    """95% interval of the threshold over resampled rows."""
    rng = np.random.default_rng(0)
    drawn = [
        _strictest(
            {group: each[rng.integers(len(each), size=len(each))] for group, each in rows.items()}, budgets
        )
        for _ in range(draws)
    ]
    return [round(float(np.quantile(drawn, at)), 4) for at in (0.025, 0.975)]


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def _even_weights(malicious: np.ndarray) -> np.ndarray:
    """``(rows,)``, weights under which both labels count for a half."""
    return np.where(malicious, 0.5 / max(1, malicious.sum()), 0.5 / max(1, (~malicious).sum()))


def _auroc_against(logits: np.ndarray, groups: np.ndarray, others: str) -> float | None:
    chosen = (groups == "malicious") | (groups == others)
    if not (groups == others).any():
        return None
    return round(float(roc_auc_score(groups[chosen] == "malicious", logits[chosen])), 4)


def _reliability(probability: np.ndarray, malicious: np.ndarray) -> list[dict[str, float]]:
    """Bins of the probability, their mean, and the share of malicious rows if both labels were equally many."""
    bins = np.minimum((probability * RELIABILITY_BINS).astype(int), RELIABILITY_BINS - 1)
    weight = _even_weights(malicious)
    return [
        {
            "probability": round(float(np.average(probability[inside], weights=weight[inside])), 4),
            "malicious": round(float(np.average(malicious[inside], weights=weight[inside])), 4),
            "rows": int(inside.sum()),
        }
        for inside in (bins == each for each in range(RELIABILITY_BINS))
        if inside.any()
    ]
