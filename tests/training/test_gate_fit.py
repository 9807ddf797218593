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
    left_out,
    likeness_to_others,
    running_evidence,
    separability,
)

FEATURES = 12
CPU = torch.device("cpu")
LAYERS = [3, 7]


def reading(rng, malicious, length, telling, request="", strength=4.0) -> Reading:
    """Noise in two layers; the tokens `telling` of a malicious one say so in its first layer."""
    generator = torch.Generator().manual_seed(rng.randrange(10**6))
    hidden = torch.randn(2, length, FEATURES, generator=generator)
    if malicious:
        hidden[0, telling, :2] += strength
    return Reading(normalised(hidden).half(), malicious, request)


def problem(count, seed=0, telling=slice(None)) -> list[Reading]:
    rng = random.Random(seed)
    return [reading(rng, n % 2 == 0, rng.randint(1, 30), telling, f"request {n}") for n in range(count)]


def gate_logits(gate, readings) -> np.ndarray:
    return evidence_of(gate, readings).logit


def shares_right(gate, readings) -> float:
    """Share of the readings on the right side of the middle between the two labels."""
    logits = gate_logits(gate, readings)
    malicious = np.array([row.malicious for row in readings])
    middle = (np.median(logits[malicious]) + np.median(logits[~malicious])) / 2
    return float(((logits > middle) == malicious).mean())


def in_frame(row, attack) -> Reading:
    """The reading, with a frame of attacks that shows in the second layer."""
    hidden = row.hidden.float()
    hidden[1, :, 7] += 3.0 * attack
    return replace(row, hidden=normalised(hidden).half(), attack=attack)


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


# Frames.


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


# Reading on while a reply is written.


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


# Gates for calibration.


def spied(monkeypatch):
    """The readings that each gate has learned from, instead of fitting; a gate is its number."""
    learned = []

    def fit(readings, layers, seed, device):
        assert (layers, device) == (LAYERS, CPU)
        learned.append(list(readings))
        return len(learned) - 1

    monkeypatch.setattr(gate_fit, "fit_gate", fit)
    return learned


FRAMES = ["", "", "", "persona", "encoding", "dialogue", "noise", "structure"]


def framed_readings(count, requests, frames=FRAMES, seed=0):
    """Requests in several frames and in none, some of them with a reply."""
    rng = random.Random(seed)
    return [
        Reading(
            torch.zeros(2, n + 1, FEATURES),
            n % 2 == 0,
            f"request {rng.randrange(requests)}",
            rng.choice(frames),
            rng.randint(0, n),
        )
        for n in range(count)
    ]


@pytest.mark.parametrize("folds", [2, 3, 5])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_gate_holds_a_request_or_a_group_of_frames_that_it_has_seen(monkeypatch, folds, seed):
    learned = spied(monkeypatch)
    readings = framed_readings(60, 40, seed=seed)
    heard = []
    found = list(left_out(readings, LAYERS, folds, seed, CPU, lambda *step: heard.append(step)))
    assert heard == [(fold, folds) for fold in range(1, folds + 1)]
    assert [gate for gate, _ in found] == list(range(folds))
    for gate, held in found:
        rows = [readings[index] for index in held]
        requests = {row.request for row in rows}
        frames = {row.frame for row in rows} - {""}
        assert requests.isdisjoint(row.request for row in learned[gate])
        assert frames.isdisjoint(row.frame for row in learned[gate])
        # It has seen all others, in their order.
        ids = set(held)
        assert [id(row) for row in learned[gate]] == [
            id(row) for index, row in enumerate(readings) if index not in ids and row.request not in requests
        ]
        assert learned[gate]
    assert sorted(index for _, held in found for index in held) == list(range(60))


def test_gates_are_fitted_one_after_the_other_as_they_are_asked_for(monkeypatch):
    learned = spied(monkeypatch)
    heard = []
    gates = left_out(framed_readings(30, 20), LAYERS, 3, 0, CPU, lambda *step: heard.append(step))
    assert (len(learned), heard) == (0, [])
    next(gates)
    assert (len(learned), heard) == (1, [])
    next(gates)
    assert (len(learned), heard) == (2, [(1, 3)])


def test_folds_hold_as_many_requests_and_groups_of_frames_each_and_follow_the_seed(monkeypatch):
    spied(monkeypatch)
    direct = [Reading(torch.zeros(2, 1, FEATURES), False, f"request {n}") for n in range(30)]
    groups = ["persona", "encoding", "dialogue", "noise", "structure", "pretext"]
    framed = [Reading(torch.zeros(2, 1, FEATURES), True, f"framed {n}", groups[n % 6]) for n in range(24)]
    held = [[rows for _, rows in left_out([*direct, *framed], LAYERS, 3, seed, CPU)] for seed in (0, 0, 1)]
    for folds in held:
        assert [sum(row < 30 for row in rows) for rows in folds] == [10, 10, 10]
        assert [len({groups[row % 6] for row in rows if row >= 30}) for rows in folds] == [2, 2, 2]
    assert held[0] == held[1] != held[2]


def test_one_group_of_frames_is_held_by_one_gate_and_seen_by_the_others(monkeypatch):
    learned = spied(monkeypatch)
    readings = [
        Reading(torch.zeros(2, 1, FEATURES), n % 2 == 0, f"request {n}", "persona" if n >= 9 else "")
        for n in range(15)
    ]
    found = list(left_out(readings, LAYERS, 3, 0, CPU))
    holding = [fold for fold, (_, held) in enumerate(found) if any(index >= 9 for index in held)]
    assert len(holding) == 1
    for fold, (gate, held) in enumerate(found):
        framed = [row.frame for row in learned[gate] if row.frame]
        assert framed == ([] if fold in holding else ["persona"] * 6)
        assert len(held) == (9 if fold in holding else 3)


def test_a_fold_may_hold_nothing(monkeypatch):
    learned = spied(monkeypatch)
    readings = [
        Reading(torch.zeros(2, 1, FEATURES), n < 2, f"request {n}", ("persona", "encoding")[n % 2])
        for n in range(4)
    ]
    found = list(left_out(readings, LAYERS, 3, 0, CPU))
    assert sorted(map(len, (held for _, held in found))) == [0, 2, 2]
    assert [len(learned[gate]) for gate, held in found if not held] == [4]


def test_of_nothing_there_is_no_evidence(fitted):
    assert [each.shape for each in evidence_of(fitted, [])] == [(0,), (0,)]


def logits_of_unknowing_gates(readings):
    logits = np.zeros(len(readings))
    for gate, held in left_out(readings, LAYERS, 3, 0, CPU):
        logits[held] = gate_logits(gate, [readings[index] for index in held])
    return logits


def test_logits_of_unknowing_gates_tell_the_labels_apart_only_if_the_readings_do():
    malicious = np.array([n % 2 == 0 for n in range(90)])
    real = logits_of_unknowing_gates(problem(90))
    assert np.mean(real[malicious]) > np.mean(real[~malicious]) + 1
    rng = random.Random(7)
    noise = [
        Reading(reading(rng, False, 8, slice(None)).hidden, bool(label), f"request {n}")
        for n, label in enumerate(malicious)
    ]
    blind = logits_of_unknowing_gates(noise)
    assert abs(np.mean(blind[malicious]) - np.mean(blind[~malicious])) < 0.5


def test_an_attack_of_its_own_kind_is_not_known_to_the_gate_that_holds_it():
    """Malicious rows of one group say so in a way of their own: whoever has seen the others does not know them."""
    rng = random.Random(0)
    readings = problem(60)
    for n in range(30):
        row = reading(rng, False, 8, slice(None))
        row.hidden[1, :, 5:8] += 4.0 * (n % 2 == 0)
        hidden = normalised(row.hidden.float()).half()
        readings.append(Reading(hidden, n % 2 == 0, f"framed {n}", "persona"))
    malicious = np.array([row.malicious for row in readings])
    logits = logits_of_unknowing_gates(readings)

    def apart(logits):
        return np.mean(logits[malicious[60:]]) - np.mean(logits[~malicious[60:]])

    assert np.mean(logits[:60][malicious[:60]]) > np.mean(logits[:60][~malicious[:60]]) + 1
    assert apart(logits[60:]) < 0.5
    assert apart(gate_logits(fit_gate(readings, LAYERS, 0, CPU), readings[60:])) > 1


# How near a group of frames comes to what stands outside of it.


def states(mean, malicious=True, frame="") -> Reading:
    """Two tokens of this mean in the first layer, of another one in the second."""
    x = torch.tensor(mean)
    spread = torch.tensor([8.0, -4.0])
    return Reading(
        torch.stack([torch.stack([x + spread, x - spread]), torch.ones(2, 2)]).half(), malicious, frame=frame
    )


def test_likeness_is_the_median_cosine_to_the_nearest_malicious_reading_outside():
    outside = [states([1.0, 0.0]), states([-1.0, 0.0], frame="encoding")]
    inside = [states([3.0, 4.0], frame="persona"), states([-3.0, -4.0], frame="persona")]
    # Benign ones do not count.
    benign = [states([3.0, 4.0], False), states([5.0, 5.0], False, "persona")]
    readings = [*inside, *benign, *outside]
    assert likeness_to_others(readings, "persona") == pytest.approx(0.6, abs=1e-3)
    # Of those outside of its own group, one in another frame is nearest.
    assert likeness_to_others(readings, "encoding") == pytest.approx(0.6, abs=1e-3)
    # The mean of all is taken off before: a shift of all changes nothing.
    moved = [
        Reading(row.hidden + torch.tensor([2.0, -1.0]).half(), row.malicious, frame=row.frame)
        for row in readings
    ]
    assert likeness_to_others(moved, "persona") == pytest.approx(0.6, abs=1e-3)


def test_a_copy_of_what_stands_outside_has_likeness_one():
    generator = torch.Generator().manual_seed(0)
    outside = [Reading(torch.randn(2, 6, 12, generator=generator).half(), True) for _ in range(20)]
    copied = [Reading(row.hidden, True, frame="persona") for row in outside[:7]]
    strange = [
        Reading(torch.randn(2, 6, 12, generator=generator).half(), True, frame="encoding") for _ in range(7)
    ]
    readings = [*outside, *copied, *strange]
    assert likeness_to_others(readings, "persona") == pytest.approx(1.0, abs=1e-5)
    found = likeness_to_others(readings, "encoding")
    assert isinstance(found, float) and 0 < found < 0.9


def test_without_malicious_readings_on_both_sides_there_is_no_likeness():
    one, other = states([1.0, 0.0], frame="persona"), states([0.0, 1.0])
    benign = [states([1.0, 1.0], False, frame) for frame in ("", "persona")]
    assert likeness_to_others([one, other, *benign], "persona") is not None
    assert likeness_to_others([one, *benign], "persona") is None
    assert likeness_to_others([other, *benign], "persona") is None


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
        separability(np.random.default_rng(seed).normal(size=(24, 20)), malicious, seed) for seed in range(60)
    ]
    assert 0.47 < np.mean(found) < 0.53
