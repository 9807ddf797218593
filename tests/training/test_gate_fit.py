import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from mogu.adapter.gate import Gate, normalised
from mogu.training import gate_fit
from mogu.training.gate_calibration import apply_calibration, calibrate_gate, is_look_alike
from mogu.training.gate_fit import Reading, fit_gate, gate_logits, out_of_fold, separability

CPU = torch.device("cpu")


def toy(count=120, seed=0, groups=None) -> list[Reading]:
    """Rows of 3 to 14 tokens in two layers; in malicious ones a token of the second layer points one way."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for index in range(count):
        tokens = 3 + index % 12
        hidden = torch.randn(2, tokens, 16, generator=generator)
        malicious = index % 2 == 0
        if malicious:
            hidden[1, index % tokens, 4] += 6.0
        rows.append(Reading(normalised(hidden).half(), malicious, str(index % groups if groups else index)))
    return rows


def labels(rows):
    return np.array([row.malicious for row in rows])


def test_a_fitted_gate_tells_unseen_rows_apart():
    gate = fit_gate(toy(), [3, 5], 0, CPU)
    assert gate.layers == (3, 5)
    unseen = toy(seed=1)
    assert roc_auc_score(labels(unseen), gate_logits(gate, unseen)) > 0.97


def test_the_same_seed_gives_the_same_gate():
    first, again, other = (fit_gate(toy(40), [0, 1], seed, CPU).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert any(not torch.equal(value, other[name]) for name, value in first.items())


def test_logits_are_those_of_each_row_alone():
    rows = toy(30)
    gate = fit_gate(rows, [0, 1], 0, CPU)
    together = gate_logits(gate, rows)
    for row, logit in zip(rows, together, strict=True):
        hidden = row.hidden.float()[:, None]
        alone = gate(gate.token_scores(list(hidden)), torch.ones(1, hidden.shape[2], dtype=torch.bool))
        assert alone.item() == pytest.approx(logit, abs=1e-4)


def test_out_of_fold_never_asks_a_gate_that_has_seen_the_group(monkeypatch):
    rows = toy(60, groups=20)
    seen = []

    def fit(readings, layers, seed, device):
        seen.append({reading.group for reading in readings})
        return Gate(16, layers)

    def logits(gate, readings):
        assert not {reading.group for reading in readings} & seen[-1]
        return np.full(len(readings), float(len(seen)))

    monkeypatch.setattr(gate_fit, "fit_gate", fit)
    monkeypatch.setattr(gate_fit, "gate_logits", logits)
    found = out_of_fold(rows, [0, 1], 3, 0, CPU)
    assert set(found) == {1.0, 2.0, 3.0}
    by_group = {}
    for row, fold in zip(rows, found, strict=True):
        assert by_group.setdefault(row.group, fold) == fold


def test_separability_is_high_where_the_labels_differ_and_even_where_not():
    rng = np.random.default_rng(0)
    malicious = np.arange(200) % 2 == 0
    noise = rng.normal(size=(200, 10))
    told = noise + 2.0 * malicious[:, None]
    assert separability(told, malicious, 0) > 0.99
    assert 0.3 < separability(noise, malicious, 0) < 0.7


def scored(count=400, seed=0):
    rng = np.random.default_rng(seed)
    malicious = np.arange(count) % 2 == 0
    return rng.normal(size=count) + 2.0 * malicious, malicious, (np.arange(count) % 4 == 1)


@pytest.mark.parametrize(("budget", "alike_budget"), [(0.01, 0.06), (0.05, 0.01), (0.0, 0.0)])
def test_a_calibration_keeps_both_budgets_and_no_lower_threshold_would(budget, alike_budget):
    logits, malicious, alike = scored()
    found = calibrate_gate(logits, malicious, alike, budget, alike_budget)
    probability = 1 / (1 + np.exp(-(found.scale * logits + found.offset)))
    ordinary, alikes = probability[~malicious & ~alike], probability[alike]
    assert (ordinary >= found.threshold).mean() <= budget
    assert (alikes >= found.threshold).mean() <= alike_budget
    if budget:
        lower = min(np.sort(ordinary)[::-1][int(len(ordinary) * budget)], 1), np.sort(alikes)[::-1]
        most = max(lower[0], lower[1][int(len(alikes) * alike_budget)])
        assert most < found.threshold
        assert (ordinary >= most).mean() > budget or (alikes >= most).mean() > alike_budget


def test_probabilities_are_those_of_even_labels():
    rng = np.random.default_rng(0)
    malicious = np.arange(6000) % 3 == 0  # a third
    logits = rng.normal(size=6000) + 2.0 * malicious
    found = calibrate_gate(logits, malicious, np.zeros(6000, bool), 0.01, 0.06)
    # With even labels and unit normals at 0 and 2 the log-odds are 2 x - 2.
    assert (found.scale, found.offset) == pytest.approx((2.0, -2.0), abs=0.2)
    assert found.figures["auroc_look_alike"] is None
    assert "look_alike" not in found.figures["refused"]


def test_a_calibrated_gate_gives_the_log_odds():
    rows = toy(40)
    gate = fit_gate(rows, [0, 1], 0, CPU)
    raw = gate_logits(gate, rows)
    found = calibrate_gate(raw, labels(rows), np.zeros(40, bool), 0.1, 0.1)
    apply_calibration(gate, found)
    np.testing.assert_allclose(gate_logits(gate, rows), found.scale * raw + found.offset, atol=1e-3)


def test_only_benign_rows_look_alike():
    kinds = ["look_alike", "contrast", "contrast", "everyday", "history"]
    malicious = np.array([False, True, False, False, False])
    assert is_look_alike(kinds, malicious).tolist() == [True, False, True, False, True]
