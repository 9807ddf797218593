"""How alike groups of readings are, and how far a layer tells the labels apart."""

import numpy as np
import pytest
import torch

from mogu.training.gate_fit import (
    Reading,
    likeness_to_others,
    separability,
)


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
