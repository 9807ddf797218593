import json
import shutil

import numpy as np
import pytest

from mogu.adapter.folder import read_config, save_config
from mogu.files import write_jsonl
from mogu.generation import MoguModel
from mogu.training.gate_calibration import calibrate_traffic, lowest_threshold

ROWS = [{"prompt": f"{'word ' * (n % 7)}number {n}"} for n in range(40)]


@pytest.fixture
def folder(sequence_folder, tmp_path):
    """A copy that may be changed, whose gate reads replies."""
    copy = tmp_path / "adapter"
    shutil.copytree(sequence_folder, copy)
    config = read_config(copy)
    config.gate.reply_threshold = 1.0
    save_config(copy, config)
    return copy


@pytest.fixture
def calibrate(mogu, folder, tmp_path):
    write_jsonl(tmp_path / "benign.jsonl", ROWS)

    def run(*more, benign=tmp_path / "benign.jsonl"):
        given = ["--benign", benign, "--max-new-tokens", 8, "--batch-size", 16]
        return mogu("calibrate", folder, *given, *more)

    return run


def scores_of(folder, tokens):
    model = MoguModel.from_pretrained(folder)
    talks = [[{"role": "user", "content": row["prompt"]}] for row in ROWS]
    return [
        reply.score
        for reply in model.reply(talks, threshold=1.0, max_new_tokens=tokens, batch_size=len(ROWS))
    ]


def test_the_budget_holds_on_the_traffic_and_the_folder_says_so(calibrate, folder):
    at_end, at_most = scores_of(folder, 1), scores_of(folder, 8)
    code, out, err = calibrate("--benign-refusal-budget", 0.1)
    assert code == 0, err
    config = read_config(folder)
    assert config.gate.threshold == pytest.approx(lowest_threshold(np.array(at_end), 0.1), abs=1e-6)
    flagged = [
        end >= config.gate.threshold or most >= config.gate.reply_threshold
        for end, most in zip(at_end, at_most, strict=True)
    ]
    assert sum(flagged) == 4
    figures = config.metrics["traffic"]
    assert (figures["source"], figures["rows"], figures["refused"]) == ("benign.jsonl", 40, 0.1)
    assert "Refused of them: 10.0% (95% interval 4.0% to 23.1%)" in out
    assert f"{config.gate.threshold:.4g} now" in out
    assert "With the thresholds before:" in out
    assert sum("refused now: " in line and "benign.jsonl:" in line for line in out.splitlines()) == 4
    assert figures["before"] == {"prompt": 0.52, "reply": 1.0}
    assert f"**{config.gate.threshold:.4g}**" in (folder / "README.md").read_text(encoding="utf-8")
    assert not folder.with_name("adapter.calibration.partial").exists()


def test_what_training_had_set_stays_known_however_often_the_thresholds_are_moved(calibrate, folder):
    first, second = (
        (calibrate("--benign-refusal-budget", budget), read_config(folder)) for budget in (0.1, 0.3)
    )
    assert first[1].gate.threshold != second[1].gate.threshold
    for (code, _, _), config in (first, second):
        assert code == 0
        assert config.metrics["traffic"]["before"] == {"prompt": 0.52, "reply": 1.0}
    # What it says itself is beside the last ones.
    assert (
        f"Threshold: {first[1].gate.threshold:.4g} before, {second[1].gate.threshold:.4g} now" in second[0][1]
    )


def test_the_tensors_stay_as_they_are(calibrate, folder):
    before = {path.name: path.read_bytes() for path in folder.rglob("*.safetensors")}
    assert calibrate("--benign-refusal-budget", 0.1)[0] == 0
    assert {path.name: path.read_bytes() for path in folder.rglob("*.safetensors")} == before
    MoguModel.from_pretrained(folder)


def test_an_interrupted_run_goes_on_to_the_same_thresholds(calibrate, folder, monkeypatch):
    before = (folder / "mogu_config.json").read_text(encoding="utf-8")
    reply, calls = MoguModel.reply, []

    def interrupted(self, conversations, **settings):
        calls.append(len(conversations))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return reply(self, conversations, **settings)

    monkeypatch.setattr(MoguModel, "reply", interrupted)
    assert calibrate("--benign-refusal-budget", 0.1)[0] != 0
    assert (folder / "mogu_config.json").read_text(encoding="utf-8") == before
    partial = folder.with_name("adapter.calibration.partial").read_text(encoding="utf-8").splitlines()
    assert len(partial) == 1 + 16
    monkeypatch.setattr(MoguModel, "reply", reply)
    assert calibrate("--benign-refusal-budget", 0.1)[0] == 0
    resumed = json.loads((folder / "mogu_config.json").read_text(encoding="utf-8"))
    (folder / "mogu_config.json").write_text(before, encoding="utf-8")
    assert calibrate("--benign-refusal-budget", 0.1)[0] == 0
    assert json.loads((folder / "mogu_config.json").read_text(encoding="utf-8")) == resumed


def test_a_gate_that_does_not_read_replies_goes_on_not_reading_them(calibrate, folder, monkeypatch):
    config = read_config(folder)
    config.gate.reply_threshold = None
    save_config(folder, config)
    reply, lengths = MoguModel.reply, []

    def spy(self, conversations, *, max_new_tokens, **settings):
        lengths.append(max_new_tokens)
        return reply(self, conversations, max_new_tokens=max_new_tokens, **settings)

    monkeypatch.setattr(MoguModel, "reply", spy)
    code, out, _ = calibrate("--benign-refusal-budget", 0.1)
    assert set(lengths) == {1}  # nobody would look at the rest
    assert code == 0 and "Threshold of replies" not in out
    config = read_config(folder)
    assert config.gate.reply_threshold is None
    assert "reply_threshold" not in config.metrics["traffic"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--benign-refusal-budget", 0.01], "40 requests cannot show a share of 0.01; give at least 100"),
        (["--benign-refusal-budget", 0.023], "40 requests cannot show a share of 0.023; give at least 44"),
        (["--benign", "nothing.jsonl"], "nothing.jsonl"),
    ],
)
def test_what_cannot_be_used_is_one_clear_line(calibrate, more, message):
    code, out, err = calibrate(*more)
    assert code == 2 and message in err and not out


def test_token_routing_has_no_threshold(mogu, adapter_folder, tmp_path):
    code, _, err = mogu("calibrate", adapter_folder, "--benign", tmp_path / "x.jsonl")
    assert code == 2 and "routes token by token and has no threshold" in err


def test_prompts_spend_the_budget_before_replies():
    prompts = [0.1] * 8 + [0.9, 0.95]
    replies = [0.2] * 7 + [0.8, 0.9, 0.95]
    thresholds, figures = calibrate_traffic(prompts, replies, 0.2)
    assert 0.1 < thresholds.prompt < 0.9 and thresholds.reply > 0.8
    assert figures["refused"] == 0.2
    # With a budget for three, the third one is spent on the reply that looks worst.
    thresholds, figures = calibrate_traffic([0.1] * 8 + [0.9, 0.9], replies, 0.3)
    assert thresholds.prompt <= 0.5 and figures["refused"] <= 0.3


def test_a_budget_of_nothing_refuses_nothing():
    thresholds, figures = calibrate_traffic([0.3, 0.4], [0.5, 0.6], 0.0)
    assert thresholds.prompt > 0.4 and thresholds.reply > 0.6 and figures["refused"] == 0
