"""Made-up readings of conversations, and what a gate makes of them."""

import random
from dataclasses import replace

import numpy as np
import torch

from mogu.adapter.gate import normalised
from mogu.training.gate_fit import (
    Reading,
    evidence_of,
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
