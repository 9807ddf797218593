import json
import sys
from pathlib import Path

import pytest

from benchmarks import training
from benchmarks.training import Point


@pytest.fixture
def measured(monkeypatch):
    """The benchmark with made-up figures in place of trainings."""

    def point(_, __, settings, ___):
        pairs = settings.malicious_requests + settings.benign_requests
        seconds = {"safe": pairs / 10, "gate": 20 * settings.layer_share}
        return Point(pairs, settings.layer_share, round(8 * settings.layer_share), seconds, 900.0, 800.0)

    monkeypatch.setattr(training, "in_fresh_process", point)

    def run(output: Path) -> None:
        monkeypatch.setattr(sys, "argv", ["training", "--model", "some/model", "--output", str(output)])
        training.main()

    return run


def test_the_figures_are_written(measured, tmp_path):
    output = tmp_path / "new" / "training.json"
    measured(output)
    written = json.loads(output.read_text(encoding="utf-8"))
    assert written["model"] == "some/model"
    assert [(point["pairs"], point["layers"]) for point in written["points"]] == [
        (64, 4),
        (128, 2),
        (128, 4),
        (128, 8),
        (256, 4),
    ]
    assert written["points"][1]["seconds"] == {"safe": 12.8, "gate": 5.0}
    assert [file.name for file in output.parent.iterdir()] == ["training.json"]


def test_earlier_figures_stay_whole_when_writing_is_cut_short(measured, tmp_path, monkeypatch):
    output = tmp_path / "training.json"
    output.write_text("earlier", encoding="utf-8")

    def cut_short(_):
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", cut_short)
    with pytest.raises(OSError, match="no space left"):
        measured(output)
    assert output.read_text(encoding="utf-8") == "earlier"
    assert [file.name for file in tmp_path.iterdir()] == ["training.json"]
