import json

import pytest

from mogu.adapter.folder import read_config, save_adapter, save_config
from mogu.cli import demo
from mogu.generation import MoguModel
from mogu.models import load_model
from mogu.training import pipeline
from tests.adapter.adapters import gated, random_adapter
from tests.tiny import save_tiny


@pytest.fixture
def trainings(monkeypatch, tmp_path):
    """The folders that were trained; a training leaves random parts in a tiny model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "demo_model", lambda: tmp_path / "base")
    monkeypatch.setattr(demo, "NEW_TOKENS", 2)
    save_tiny(tmp_path / "base")
    folders = []

    def train(model, output, settings, *, progress):
        folders.append(str(output))
        loaded = load_model(model, device="cpu")
        adapter = random_adapter(loaded.model)
        update = {"base": loaded.identity, "training": settings.model_dump()}
        save_adapter(output, adapter, gated(adapter).model_copy(update=update))

    monkeypatch.setattr(pipeline, "train", train)
    return folders


def files_in(folder):
    """Of every file what it holds, and when it was written."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_a_second_call_shows_the_same_and_leaves_the_files_as_they_are(
    mogu, trainings, tmp_path, monkeypatch
):
    code, out, err = mogu("demo", "--quick")
    assert (code, trainings) == (0, ["runs/demo-quick/adapter"]), err
    before = files_in(tmp_path / "runs")
    result = json.loads(before["demo-quick/result.json"][0])
    assert [(row["mode"], row["group"]) for row in result["replies"]] == [
        (mode, kind) for mode in ("base", "mogu") for kind in demo.SHOWN for _ in range(8)
    ]
    monkeypatch.setattr(MoguModel, "from_pretrained", None)
    assert mogu("demo", "--quick")[:2] == (0, out)
    assert files_in(tmp_path / "runs") == before
    assert len(trainings) == 1


def test_the_quick_form_leaves_the_full_one_alone(mogu, trainings, tmp_path, monkeypatch):
    prompts = demo.demo_prompts
    monkeypatch.setattr(demo, "demo_prompts", lambda count: prompts(2))
    assert mogu("demo")[0] == 0
    before = files_in(tmp_path / "runs" / "demo")
    assert mogu("demo", "--quick")[0] == 0
    assert mogu("demo", "--output", "elsewhere")[0] == 0
    assert trainings == ["runs/demo/adapter", "runs/demo-quick/adapter", "elsewhere/adapter"]
    assert files_in(tmp_path / "runs" / "demo") == before


def test_with_thresholds_that_were_moved_the_prompts_are_answered_anew(
    mogu, trainings, tmp_path, monkeypatch
):
    prompts = demo.demo_prompts
    monkeypatch.setattr(demo, "demo_prompts", lambda count: prompts(1))

    def weights():
        assert mogu("demo", "--quick")[0] == 0
        result = json.loads((tmp_path / "runs/demo-quick/result.json").read_text(encoding="utf-8"))
        return [row["safe_weight"] for row in result["replies"] if row["mode"] == "mogu"]

    adapter = tmp_path / "runs/demo-quick/adapter"
    weights()
    for threshold, weight in ((1.0, 0.0), (0.0, 1.0)):
        config = read_config(adapter)
        config.gate.threshold = threshold
        save_config(adapter, config)
        assert set(weights()) == {weight}
    assert len(trainings) == 1
