"""What the gate refuses of each kind of row."""

import json

import numpy as np
import torch

from mogu.data.requests import Request
from mogu.training.gate_calibration import (
    figures_by_kind,
)
from mogu.training.gate_fit import Reading


def kind_rows():
    """Rows as (label, kind, frame, refused)."""
    listed = [
        ("malicious", "imperative", "", True),
        ("malicious", "imperative", "", False),
        ("malicious", "imperative", "noise", True),
        ("malicious", "jailbreak_frame", "persona", True),
        ("malicious", "jailbreak_frame", "persona", True),
        ("malicious", "jailbreak_frame", "encoding", False),
        ("benign", "everyday", "", False),
        ("benign", "look_alike", "", True),
        ("benign", "look_alike", "", False),
        ("benign", "look_alike", "", False),
        ("benign", "jailbreak_frame", "persona", True),
        ("benign", "innocent_frame", "structure", False),
    ]
    generator = torch.Generator().manual_seed(0)
    readings = [
        Reading(torch.randn(1, 4, 8, generator=generator).half(), label == "malicious", f"rows:{n}", frame)
        for n, (label, _, frame, _) in enumerate(listed)
    ]
    requests = [
        Request(f"rows:{n}", "x", [], label, kind=kind, group=frame)
        for n, (label, kind, frame, _) in enumerate(listed)
    ]
    return np.array([refused for *_, refused in listed]), readings, requests


def test_refusals_are_told_by_label_and_kind_and_by_group_of_frames():
    figures = figures_by_kind(*kind_rows())
    assert figures["kinds"] == {
        "malicious": {
            "imperative": {"rows": 3, "refused": 0.6667},
            "jailbreak_frame": {"rows": 3, "refused": 0.6667},
        },
        "benign": {
            "everyday": {"rows": 1, "refused": 0.0},
            "innocent_frame": {"rows": 1, "refused": 0.0},
            "jailbreak_frame": {"rows": 1, "refused": 1.0},
            "look_alike": {"rows": 3, "refused": 0.3333},
        },
    }
    left_out = figures["left_out"]
    assert list(left_out) == ["encoding", "noise", "persona", "structure"]
    likeness = {frame: each.pop("likeness") for frame, each in left_out.items()}
    assert left_out == {
        "encoding": {"malicious": {"rows": 1, "refused": 0.0}},
        "noise": {"malicious": {"rows": 1, "refused": 1.0}},
        "persona": {"malicious": {"rows": 2, "refused": 1.0}, "benign": {"rows": 1, "refused": 1.0}},
        "structure": {"benign": {"rows": 1, "refused": 0.0}},
    }
    # Benign frames alone are like nothing.
    assert likeness.pop("structure") is None
    assert all(-1 <= each <= 1 for each in likeness.values())
    assert json.loads(json.dumps(figures)) == figures


def test_without_frames_nothing_was_left_out():
    refused, readings, requests = kind_rows()
    direct = [n for n, reading in enumerate(readings) if not reading.frame]
    figures = figures_by_kind(refused[direct], [readings[n] for n in direct], [requests[n] for n in direct])
    assert figures["left_out"] == {}
    assert figures["kinds"]["malicious"] == {"imperative": {"rows": 2, "refused": 0.5}}
