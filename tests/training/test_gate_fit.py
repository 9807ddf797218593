import random

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mogu.adapter.gate import SCORES, normalised
from mogu.training import gate_fit
from mogu.training.gate_fit import (
    BATCH_ROWS,
    EPOCHS,
    Reading,
    fit_gate,
    gate_logits,
    out_of_fold,
    separability,
)

FEATURES = 12
CPU = torch.device("cpu")
LAYERS = [3, 7]


def reading(rng, malicious, length, telling, group="", strength=4.0) -> Reading:
    """Noise in two layers; the tokens `telling` of a malicious one say so in its first layer."""
    generator = torch.Generator().manual_seed(rng.randrange(10**6))
    hidden = torch.randn(2, length, FEATURES, generator=generator)
    if malicious:
        hidden[0, telling, :2] += strength
    return Reading(normalised(hidden).half(), malicious, group)


def problem(count, seed=0, telling=slice(None)) -> list[Reading]:
    rng = random.Random(seed)
    return [reading(rng, n % 2 == 0, rng.randint(1, 30), telling, f"request {n}") for n in range(count)]


def shares_right(gate, readings) -> float:
    """Share of the readings on the right side of the middle between the two labels."""
    logits = gate_logits(gate, readings)
    malicious = np.array([row.malicious for row in readings])
    middle = (np.median(logits[malicious]) + np.median(logits[~malicious])) / 2
    return float(((logits > middle) == malicious).mean())


@pytest.fixture(scope="module")
def fitted():
    return fit_gate(problem(160), LAYERS, 0, CPU)


def test_a_gate_learns_to_tell_readings_that_differ(fitted):
    assert fitted.layers == tuple(LAYERS)
    unseen = problem(100, seed=1)
    assert shares_right(fitted, unseen) >= 0.95
    # Nothing in the second layer tells them apart.
    with torch.no_grad():
        fitted.mix[0] = 0
        assert 0.3 < shares_right(fitted, unseen) < 0.7
        fitted.mix[0] = fitted.mix[1]
        assert shares_right(fitted, unseen) >= 0.95


@pytest.mark.parametrize(
    ("pooling", "telling"),
    [(0, slice(None)), (1, slice(-12, None)), (2, slice(-5, -4)), (3, slice(-1, None))],
    ids=["attention", "window", "maximum", "last"],
)
def test_every_pooling_learns_what_it_can_see_by_itself(pooling, telling):
    rng = random.Random(3)
    train, unseen = (
        [reading(rng, n % 2 == 0, rng.randint(12, 20), telling, strength=6.0) for n in range(count)]
        for count in (96, 60)
    )
    gate = fit_gate(train, LAYERS, 0, CPU)
    with torch.no_grad():
        gate.mix.zero_()
        gate.mix[0, pooling] = 1
    assert shares_right(gate, unseen) >= 0.9


def test_the_same_seed_gives_the_same_gate_whatever_the_global_state_is():
    readings = problem(24)
    torch.manual_seed(1)
    first = fit_gate(readings, LAYERS, 5, CPU).state_dict()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again = fit_gate(readings, LAYERS, 5, CPU).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    other = fit_gate(readings, LAYERS, 6, CPU).state_dict()
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["probes.0.inner"], other["probes.0.inner"])


def test_progress_counts_the_passes_of_all_layers():
    heard = []
    fit_gate(problem(8), LAYERS, 0, CPU, lambda *step: heard.append(step))
    assert heard == [(step, 2 * EPOCHS) for step in range(1, 2 * EPOCHS + 1)]


def test_standardisation_is_folded_exactly(monkeypatch):
    """Whatever the probe would say of standardised features, the gate says of them as they are."""
    # Features of very different means and spreads, as some of a model's are.
    generator = torch.Generator().manual_seed(0)
    shift, scale = (
        3 * torch.randn(FEATURES, generator=generator),
        torch.rand(FEATURES, generator=generator) + 0.05,
    )
    readings = [
        Reading(normalised(torch.randn(2, 5 + n, FEATURES, generator=generator) * scale + shift), n % 2 == 0)
        for n in range(6)
    ]
    seen = []

    def keep(probe, batches, generator, on_epoch):
        with torch.no_grad():
            for parameter in probe.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
            for batch in batches:
                standard = batch.x[batch.read]
                assert (batch.x[~batch.read] == 0).all()
                units = F.gelu(F.linear(batch.x, probe.inner, probe.inner_bias))
                scores = F.linear(units, probe.vectors, probe.offsets)
                seen.append((standard, probe.pool(scores, batch.read)))

    monkeypatch.setattr(gate_fit, "_fit_probe", keep)
    gate = fit_gate(readings, LAYERS, 0, CPU)
    for layer, (standard, pooled) in enumerate(seen):
        torch.testing.assert_close(standard.mean(0), torch.zeros(FEATURES), rtol=0, atol=1e-4)
        # The spread has a floor of a thousandth.
        assert (standard.std(0, correction=0) < 1.001).all() and (standard.std(0) > 0.9).all()
        x, read = gate_fit._stacked([row.hidden[layer] for row in readings])
        with torch.no_grad():
            scores = gate.probes[layer].token_scores(x)
            assert scores.shape[-1] == SCORES
            found = gate.probes[layer].pool(scores, read)
        torch.testing.assert_close(found, pooled, rtol=1e-4, atol=1e-4)


def test_a_feature_that_never_changes_does_no_harm():
    readings = problem(40)
    for row in readings:
        row.hidden[:, :, 5] = 0.5
    gate = fit_gate(readings, LAYERS, 0, CPU)
    assert all(torch.isfinite(parameter).all() for parameter in gate.parameters())
    assert np.isfinite(gate_logits(gate, readings)).all()


def test_logits_come_in_the_order_of_the_readings_whatever_their_lengths(fitted):
    readings = problem(3 * BATCH_ROWS + 1, seed=4)
    together = gate_logits(fitted, readings)
    alone = np.array([gate_logits(fitted, [row])[0] for row in readings])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)
    np.testing.assert_allclose(gate_logits(fitted, readings[::-1]), together[::-1], rtol=0, atol=1e-5)


def test_batches_are_of_like_lengths_and_bounded(monkeypatch):
    monkeypatch.setattr(gate_fit, "BATCH_TOKENS", 120)
    readings = problem(90, seed=5)
    batches = list(gate_fit._by_length(readings))
    lengths = [[row.hidden.shape[1] for row in batch] for batch in batches]
    assert [length for batch in lengths for length in batch] == sorted(
        row.hidden.shape[1] for row in readings
    )
    assert all(
        len(batch) <= BATCH_ROWS and (len(batch) - 1) * batch[-2] < 120 for batch in lengths if len(batch) > 1
    )
    assert {id(row) for batch in batches for row in batch} == {id(row) for row in readings}


# Gates for calibration.


def spied(monkeypatch):
    """The readings that each gate has learned from and those that it scores, instead of fitting."""
    learned, scored = [], []

    def fit(readings, layers, seed, device):
        learned.append(list(readings))
        return len(learned) - 1

    def logits(gate, readings):
        scored.append((gate, list(readings)))
        return np.array([float(row.hidden.shape[1]) for row in readings])

    monkeypatch.setattr(gate_fit, "fit_gate", fit)
    monkeypatch.setattr(gate_fit, "gate_logits", logits)
    return learned, scored


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_no_gate_scores_a_request_that_it_has_seen_in_any_frame(monkeypatch, folds):
    learned, scored = spied(monkeypatch)
    rng = random.Random(0)
    readings = [reading(rng, n % 2 == 0, n + 1, slice(None), f"request {n % 13}") for n in range(40)]
    heard = []
    logits = out_of_fold(readings, LAYERS, folds, 0, CPU, lambda *step: heard.append(step))
    assert heard == [(fold, folds) for fold in range(1, folds + 1)]
    assert len(learned) == len(scored) == folds
    for gate, rows in scored:
        assert {id(row) for row in rows}.isdisjoint(id(row) for row in learned[gate])
        assert {row.group for row in rows}.isdisjoint(row.group for row in learned[gate])
        assert len(rows) + len(learned[gate]) == len(readings)
    # Each of them once, at its own place.
    assert sorted(id(row) for _, rows in scored for row in rows) == sorted(map(id, readings))
    assert logits.tolist() == [float(n + 1) for n in range(40)]


def test_folds_are_alike_in_size_and_follow_the_seed(monkeypatch):
    readings = problem(30)
    sizes, held = [], []
    for seed in (0, 0, 1):
        _, scored = spied(monkeypatch)
        out_of_fold(readings, LAYERS, 3, seed, CPU)
        sizes.append([len(rows) for _, rows in scored])
        held.append([[row.group for row in rows] for _, rows in scored])
    assert sizes == [[10, 10, 10]] * 3
    assert held[0] == held[1] != held[2]


def test_logits_out_of_fold_tell_the_labels_apart_only_if_the_readings_do():
    malicious = np.array([n % 2 == 0 for n in range(90)])
    real = out_of_fold(problem(90), LAYERS, 3, 0, CPU)
    assert np.mean(real[malicious]) > np.mean(real[~malicious]) + 1
    rng = random.Random(7)
    noise = [
        Reading(reading(rng, False, 8, slice(None)).hidden, bool(label), f"request {n}")
        for n, label in enumerate(malicious)
    ]
    blind = out_of_fold(noise, LAYERS, 3, 0, CPU)
    assert abs(np.mean(blind[malicious]) - np.mean(blind[~malicious])) < 0.5


# Choosing layers.


def test_separability_is_high_where_a_direction_tells_the_labels_and_even_where_none_does():
    rng = np.random.default_rng(0)
    malicious = np.arange(120) % 3 == 0
    noise = rng.normal(size=(120, 20))
    telling = noise + np.outer(malicious, rng.normal(size=20)) * 3
    assert separability(telling, malicious, 0) > 0.98
    assert 0.3 < separability(noise, malicious, 0) < 0.7
    assert separability(telling, malicious, 0) == separability(telling, malicious, 0)


def test_separability_of_noise_is_even_on_average_with_few_rows():
    """Folds with unlike shares of a label, or scores with each fold's own intercept, would press it below a half."""
    malicious = np.arange(24) % 2 == 0
    found = [
        separability(np.random.default_rng(seed).normal(size=(24, 20)), malicious, seed)
        for seed in range(60)
    ]
    assert 0.47 < np.mean(found) < 0.53
