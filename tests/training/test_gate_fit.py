"""A gate is fitted to readings."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch.nn import functional as F

from mogu.adapter.gate import SCORES, normalised
from mogu.training import gate_fit
from mogu.training.gate_fit import (
    BATCH_ROWS,
    EPOCHS,
    FRAME_PENALTY,
    Evidence,
    Reading,
    evidence_of,
    fit_gate,
    running_evidence,
)
from tests.training.readings import (
    CPU,
    FEATURES,
    LAYERS,
    gate_logits,
    in_frame,
    problem,
    reading,
    shares_right,
)


@pytest.fixture(scope="module")
def fitted():
    # A frame of attacks shows in the second layer, under either label.
    readings = [in_frame(row, n % 4 < 2) for n, row in enumerate(problem(160))]
    return fit_gate(readings, LAYERS, 0, CPU)


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
                # No pooled score hangs on the frame's.
                scores = F.pad(F.linear(units, probe.vectors, probe.offsets), (0, 1), value=9.0)
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
    readings = [replace(row, attack=n % 3 == 0) for n, row in enumerate(problem(40))]
    for row in readings:
        row.hidden[:, :, 5] = 0.5
    gate = fit_gate(readings, LAYERS, 0, CPU)
    assert all(torch.isfinite(parameter).all() for parameter in gate.parameters())
    assert all(np.isfinite(each).all() for each in evidence_of(gate, readings))


def test_logits_come_in_the_order_of_the_readings_whatever_their_lengths(fitted):
    readings = problem(3 * BATCH_ROWS + 1, seed=4)
    together, reverse = evidence_of(fitted, readings), evidence_of(fitted, readings[::-1])
    alone = [evidence_of(fitted, [row]) for row in readings]
    for part in (0, 1):
        expected = np.array([each[part][0] for each in alone])
        np.testing.assert_allclose(together[part], expected, rtol=0, atol=1e-5)
        np.testing.assert_allclose(reverse[part][::-1], expected, rtol=0, atol=1e-5)
    # The same one twice is no other.
    np.testing.assert_allclose(gate_logits(fitted, [readings[0]] * 2), [together.logit[0]] * 2, atol=1e-5)


def test_batches_are_of_like_lengths_and_bounded(monkeypatch):
    monkeypatch.setattr(gate_fit, "BATCH_TOKENS", 120)
    readings = problem(90, seed=5)
    batches = list(gate_fit._by_length(readings))
    lengths = [[readings[row].hidden.shape[1] for row in batch] for batch in batches]
    assert [length for batch in lengths for length in batch] == sorted(
        row.hidden.shape[1] for row in readings
    )
    assert all(
        len(batch) <= BATCH_ROWS and (len(batch) - 1) * batch[-2] < 120 for batch in lengths if len(batch) > 1
    )
    assert sorted(row for batch in batches for row in batch) == list(range(90))


def test_what_an_attacks_frame_looks_like_is_learned_whatever_the_label(fitted):
    unseen = [in_frame(row, n % 4 < 2) for n, row in enumerate(problem(100, seed=1))]
    attack, malicious = (np.array([getattr(row, name) for row in unseen]) for name in ("attack", "malicious"))
    frame = evidence_of(fitted, unseen).frame
    assert ((frame >= 0) & (frame <= 1)).all()
    assert ((frame > 0.5) == attack).mean() >= 0.95
    assert abs(frame[malicious].mean() - frame[~malicious].mean()) < 0.05


def test_the_probability_of_a_frame_is_a_logistic_fit_on_mean_states(monkeypatch):
    """The standardisation is folded exactly."""
    monkeypatch.setattr(gate_fit, "_fit_probe", lambda *_: None)
    generator = torch.Generator().manual_seed(0)
    shift = 3 * torch.randn(2, 1, FEATURES, generator=generator)
    scale = torch.rand(2, 1, FEATURES, generator=generator) + 0.05
    readings = [
        Reading(normalised(torch.randn(2, 5 + n, FEATURES, generator=generator) * scale + shift), n % 2 == 0)
        for n in range(40)
    ]
    readings = [replace(row, attack=n % 3 == 0) for n, row in enumerate(readings)]
    gate = fit_gate(readings, LAYERS, 0, CPU)
    means = np.stack([row.hidden.mean(1).flatten().numpy() for row in readings])
    means = StandardScaler().fit_transform(means)
    attack = [row.attack for row in readings]
    logistic = LogisticRegression(C=FRAME_PENALTY, class_weight="balanced", max_iter=300).fit(means, attack)
    expected = logistic.predict_proba(means)[:, 1]
    assert expected.max() - expected.min() > 0.1
    np.testing.assert_allclose(evidence_of(gate, readings).frame, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("attack", [True, False])
def test_where_all_readings_are_alike_the_frame_is_certain(attack):
    readings = [replace(row, attack=attack) for row in problem(12)]
    gate = fit_gate(readings, LAYERS, 0, CPU)
    evidence = evidence_of(gate, problem(6, seed=1))
    assert evidence.frame.tolist() == [float(attack)] * 6
    assert np.isfinite(evidence.lifted(3.0)).all()


def test_a_lift_comes_to_the_logit_as_far_as_there_is_a_frame():
    evidence = Evidence(np.array([1.0, -2.0, 0.5]), np.array([0.0, 0.5, 1.0]))
    assert evidence.lifted(2.0).tolist() == [1.0, -1.0, 2.5]
    assert evidence.lifted(0.0).tolist() == [1.0, -2.0, 0.5]


def test_a_fitted_gate_lifts_nothing(fitted):
    assert fitted.lift.item() == 0


@pytest.mark.parametrize("reply", [0, 1, 7, 8, 9, 16, 23, 24, 40])
@pytest.mark.parametrize("prompt", [1, 5, 30])
def test_running_evidence_is_that_of_readings_that_end_at_each_look(fitted, prompt, reply):
    (row,) = problem(1, seed=6)
    whole = Reading(
        normalised(
            torch.randn(2, prompt + reply, FEATURES, generator=torch.Generator().manual_seed(reply))
        ).half(),
        row.malicious,
        reply=reply,
    )
    ends = [prompt, *range(prompt + 8, prompt + reply + 1, 8)]
    cut = [Reading(whole.hidden[:, :end], whole.malicious) for end in ends]
    found, expected = running_evidence(fitted, whole), evidence_of(fitted, cut)
    for some, others in zip(found, expected, strict=True):
        assert some.shape == (1 + reply // 8,)
        np.testing.assert_allclose(some, others, rtol=0, atol=1e-5)
    assert len(set(found.logit.round(4))) == len(found.logit)


def test_of_nothing_there_is_no_evidence(fitted):
    assert [each.shape for each in evidence_of(fitted, [])] == [(0,), (0,)]
