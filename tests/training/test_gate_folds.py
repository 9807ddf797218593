"""Gates that have not seen what they judge."""

import random

import numpy as np
import pytest
import torch

from mogu.adapter.gate import normalised
from mogu.training import gate_fit
from mogu.training.gate_fit import (
    Reading,
    fit_gate,
    left_out,
)
from tests.training.readings import (
    CPU,
    FEATURES,
    LAYERS,
    gate_logits,
    problem,
    reading,
)


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
