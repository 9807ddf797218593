"""The order of training, what it comes to, and how it goes on after an interruption."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mogu.errors import TrainingDivergedError
from mogu.training.loop import last_whole_checkpoint
from mogu.training.stage import RouterStage, SafeStage
from tests.training.loops import (
    ALIKE,
    STEPS,
    TRAINING,
    VALIDATION,
    Stop,
    assert_same,
    new_stage,
    run,
    state_of,
    trained_rows,
)


def test_every_epoch_holds_each_row_once_in_batches_of_like_length(tmp_path):
    batches = trained_rows(new_stage(), tmp_path)
    assert [len(batch) for batch in batches] == [4, 4, 2] * 2
    for epoch in (batches[:3], batches[3:]):
        assert sorted(row for batch in epoch for row in batch) == TRAINING
        # Prompts grow by five tokens a row, and lengths are shaken by a tenth before they are sorted.
        assert all(max(batch) - min(batch) <= 5 for batch in epoch)


def test_the_order_is_the_seeds(tmp_path):
    first, again, other = (
        trained_rows(new_stage(seed=seed, batch_size=1), tmp_path / name)
        for seed, name in ((0, "a"), (0, "b"), (1, "c"))
    )
    assert first == again
    assert first != other
    assert first[:10] != first[10:]


def test_same_seed_same_result_and_the_model_is_frozen_again(tmp_path, uninterrupted):
    stage = new_stage()
    metrics = run(stage, tmp_path)
    assert_same(state_of(stage), uninterrupted[0])
    assert metrics == uninterrupted[1]
    assert not any(parameter.requires_grad for parameter in stage.parameters())


def test_steps_are_reported_and_figures_returned(tmp_path):
    heard = []
    metrics = run(new_stage(), tmp_path, progress=lambda done, total: heard.append((done, total)))
    assert heard == [(step, STEPS) for step in range(1, STEPS + 1)]
    assert metrics["steps"] == STEPS
    assert [entry["step"] for entry in metrics["history"]] == [2, 4, 6]
    assert all({"eval_loss", "eval_wanted"} <= entry.keys() for entry in metrics["history"])
    losses = [entry["eval_wanted"] for entry in metrics["history"]]
    assert metrics["best_step"] == [2, 4, 6][losses.index(min(losses))]


def test_training_lowers_the_loss(tmp_path):
    stage = new_stage()
    with torch.no_grad():
        before = float(stage(rows=torch.tensor(TRAINING))["loss"])
    run(stage, tmp_path, rate=0.05)
    with torch.no_grad():
        assert float(stage(rows=torch.tensor(TRAINING))["loss"]) < before - 0.1


def test_validation_is_the_mean_over_examples(tmp_path):
    stage = new_stage(RouterStage, batch_size=2)
    with torch.no_grad():
        expected = [float(stage(rows=torch.tensor([row]))["target"]) for row in VALIDATION]
    metrics = run(stage, tmp_path, rate=1e-12)
    assert metrics["history"][0]["eval_target"] == pytest.approx(sum(expected) / 3, abs=1e-6)


@pytest.mark.parametrize(
    ("kind", "figure"), [(SafeStage, "wanted"), (RouterStage, "loss")], ids=["variant", "routers"]
)
def test_what_is_kept_is_the_best_validation(tmp_path, kind, figure):
    scripted = iter([4.0, 3.0, 1.0, 2.0])  # the first one before training
    states = []

    class Scripted(kind):
        def losses(self, batch):
            if torch.is_grad_enabled():
                return super().losses(batch)
            states.append(state_of(self))
            return {"loss": torch.tensor(-len(states)), figure: torch.tensor(next(scripted))}

    stage = new_stage(Scripted)
    assert run(stage, tmp_path)["best_step"] == 4
    assert_same(state_of(stage), states[2])


@pytest.mark.parametrize("step", [1, 3, 4, 6])
def test_an_interrupted_training_comes_to_the_same_result(tmp_path, uninterrupted, step):
    def stop(done, total):
        if done == step:
            raise Stop

    with pytest.raises(Stop):
        run(new_stage(), tmp_path, progress=stop)
    heard = []
    stage = new_stage()
    metrics = run(stage, tmp_path, progress=lambda done, total: heard.append(done))
    assert heard == list(range((step - 1) // 2 * 2 + 1, STEPS + 1))
    assert_same(state_of(stage), uninterrupted[0])
    assert metrics == uninterrupted[1]


def test_a_stage_that_was_killed_at_its_end_is_not_trained_again(tmp_path, uninterrupted):
    run(new_stage(), tmp_path)
    stage = new_stage()
    heard = []
    metrics = run(stage, tmp_path, progress=lambda done, total: heard.append(done))
    assert heard == []
    assert_same(state_of(stage), uninterrupted[0])
    assert metrics == uninterrupted[1]


@pytest.mark.parametrize("file", ["trainer_state.json", "model.safetensors", "optimizer.pt", None])
def test_a_damaged_newest_checkpoint_is_passed_over(tmp_path, uninterrupted, file):
    def stop(done, total):
        if done == 5:
            raise Stop

    with pytest.raises(Stop):
        run(new_stage(), tmp_path, progress=stop)
    assert last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-4")
    if file:
        damaged = tmp_path / "checkpoint-4" / file
        damaged.write_bytes(damaged.read_bytes()[:-20])
    else:  # killed before the last file was begun
        (tmp_path / "checkpoint-4" / "trainer_state.json").unlink()
    assert last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")
    stage = new_stage()
    run(stage, tmp_path)
    assert_same(state_of(stage), uninterrupted[0])


def test_checkpoints_are_compared_by_number(tmp_path):
    assert last_whole_checkpoint(tmp_path) is None
    run(new_stage(), tmp_path)
    newest = sorted(tmp_path.glob("checkpoint-*"))[-1]
    newest.rename(tmp_path / "checkpoint-10")
    assert last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")


def test_a_run_goes_on_from_another_working_folder(tmp_path, uninterrupted, monkeypatch):
    def stop(done, total):
        if done == 5:
            raise Stop

    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Stop):
        run(new_stage(), Path("work"), progress=stop)
    monkeypatch.chdir(tmp_path / "elsewhere")
    stage = new_stage()
    run(stage, Path("../work"))
    assert_same(state_of(stage), uninterrupted[0])


def test_a_learning_rate_that_is_far_too_large_stops_with_what_to_change(tmp_path):
    with pytest.raises(
        TrainingDivergedError, match="variant_learning_rate or router_learning_rate"
    ) as caught:
        run(new_stage(dtype=torch.float32), tmp_path, rate=1e30)
    assert "the loss became" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("step", [3, 4], ids=["between validations", "before a validation"])
def test_after_a_divergence_the_last_good_checkpoint_stays(tmp_path, step):
    stage = new_stage()

    def poison(done, total):
        if done == step:
            next(stage.parameters()).data.fill_(float("nan"))

    with pytest.raises(TrainingDivergedError, match=r"checkpoint-2$"):
        run(stage, tmp_path, progress=poison)
    kept = last_whole_checkpoint(tmp_path)
    assert kept == str(tmp_path / "checkpoint-2")
    assert all(torch.isfinite(value).all() for value in load_file(f"{kept}/model.safetensors").values())


def test_a_bfloat16_base_with_float32_parts_is_trained(tmp_path):
    stage = new_stage(family="llama", dtype=torch.bfloat16, replies=ALIKE)
    stage.float()
    before = state_of(stage)
    metrics = run(stage, tmp_path)
    after = state_of(stage)
    assert all(value.dtype == torch.float32 for value in after.values())
    assert not any(torch.equal(before[name], after[name]) for name in before)
    assert len(metrics["history"]) == 3


def test_the_learning_rate_falls_linearly_to_zero(tmp_path):
    stage = new_stage(RouterStage)
    moved = []

    def see(done, total):
        moved.append([parameter.detach().clone() for parameter in stage.parameters()])

    moved.append([parameter.detach().clone() for parameter in stage.parameters()])
    run(stage, tmp_path, rate=1e-3, progress=see)
    # An update of Adam is about as large as the rate, if gradients keep their sign: never much larger.
    largest = [
        max(float((b - a).abs().max()) for a, b in zip(one, other, strict=True))
        for one, other in pairwise(moved)
    ]
    assert largest[0] == pytest.approx(1e-3, rel=1e-3)
    assert all(move < 1.5e-3 * (STEPS - step) / STEPS for step, move in enumerate(largest))
