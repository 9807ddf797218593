"""What is kept where training makes nothing better, and what counts as a divergence."""

import pytest
import torch

from mogu.errors import TrainingDivergedError
from mogu.training.run import Run
from mogu.training.stage import RouterStage, SafeStage, UsableStage
from tests.training.loops import (
    TRAINING,
    UNLEARNABLE,
    VALIDATION,
    Stop,
    assert_same,
    new_stage,
    run,
    state_of,
)


@pytest.mark.parametrize("kind", [SafeStage, RouterStage], ids=["variant", "routers"])
def test_the_figures_before_training_are_those_of_the_untrained_parts(tmp_path, kind):
    stage = new_stage(kind)
    with torch.no_grad():
        each = [stage(rows=torch.tensor([row])) for row in VALIDATION]
    metrics = run(stage, tmp_path)
    assert metrics["start"].keys() == {f"eval_{name}" for name in each[0]}
    for name in each[0]:
        mean = sum(float(figures[name]) for figures in each) / 3
        # The weights of a batch and of a row are means over other numbers of tokens.
        assert metrics["start"][f"eval_{name}"] == pytest.approx(
            mean, abs=0.05 if name in ("loss", "apart") else 1e-9
        )


def scripted_stage(kind, figures, **changes):
    """A stage whose validations give these figures, the first one before training."""
    scripted = iter(figures)

    class Scripted(kind):
        def losses(self, batch):
            found = super().losses(batch)
            if torch.is_grad_enabled():
                return found
            return {"loss": torch.tensor(0.0), self.figure: torch.tensor(next(scripted))}

    return new_stage(Scripted, **changes)


NOTHING_BETTER = {
    "worse": ([2.0, 5e25, 3.0, 4.0], 3.0),
    "as good": ([2.0, 3.0, 2.0, 4.0], 2.0),
}
NOT_A_NUMBER = ([2.0, *[float("nan")] * 3], float("inf"))


@pytest.mark.parametrize(
    ("kind", "figures", "best"),
    [(SafeStage, *each) for each in (*NOTHING_BETTER.values(), NOT_A_NUMBER)]
    + [(UsableStage, *NOT_A_NUMBER)],
)
def test_a_variant_that_is_never_better_than_before_training_has_diverged(tmp_path, kind, figures, best):
    with pytest.raises(TrainingDivergedError) as caught:
        run(scripted_stage(kind, figures), tmp_path / "adapter.training" / "safe")
    assert f"(eval_wanted was 2 before training and {best:.4g} at best after)" in str(caught.value)
    assert "last good state" not in str(caught.value)


# The usable variant learns the base's own replies, at which it begins.
@pytest.mark.parametrize(
    ("kind", "preset"), [(RouterStage, "token"), (UsableStage, "token"), (UsableStage, "default")]
)
@pytest.mark.parametrize(("figures", "best"), NOTHING_BETTER.values(), ids=NOTHING_BETTER)
def test_parts_that_begin_well_stay_there_if_nothing_is_better(tmp_path, caplog, kind, preset, figures, best):
    stage = scripted_stage(kind, figures, preset=preset)
    before = state_of(stage)
    metrics = run(stage, tmp_path / "routers")
    assert_same(state_of(stage), before)
    assert metrics["best_step"] == 0
    assert [entry["step"] for entry in metrics["history"]] == [2, 4, 6]
    assert not any(parameter.requires_grad for parameter in stage.parameters())
    (warning,) = [record.getMessage() for record in caplog.records if record.name.startswith("mogu")]
    assert f"eval_{kind.figure} was 2 before training and {best:.4g} at best after" in warning


def test_routers_that_begin_at_random_do_not(tmp_path):
    with pytest.raises(TrainingDivergedError, match="no validation was better than before the first step"):
        run(scripted_stage(RouterStage, [2.0, 3.0, 4.0, 5.0], router_start="random"), tmp_path)


def test_a_usable_variant_that_is_no_number_has_diverged_in_sequence_routing_too(tmp_path):
    figures, _ = NOT_A_NUMBER
    with pytest.raises(TrainingDivergedError, match="eval_wanted was 2 before training"):
        run(scripted_stage(UsableStage, figures, preset="default"), tmp_path)


def test_a_later_validation_that_is_better_is_enough(tmp_path):
    assert run(scripted_stage(SafeStage, [2.0, 5e25, 7.0, 1.9]), tmp_path)["best_step"] == 6


def test_a_divergence_to_a_finite_loss_is_one_when_it_is_gone_on_with_too(tmp_path):
    with pytest.raises(TrainingDivergedError, match="no validation was better") as caught:
        run(new_stage(), tmp_path, rate=1e25)
    heard = []
    with pytest.raises(TrainingDivergedError) as again:
        run(new_stage(), tmp_path, rate=1e25, progress=lambda done, total: heard.append(done))
    assert str(again.value) == str(caught.value)
    assert heard == []


@pytest.mark.parametrize("step", [1, 3, 6])
def test_what_is_kept_from_before_training_survives_an_interruption(tmp_path, step):
    def stop(done, total):
        if done == step:
            raise Stop

    expected = new_stage(RouterStage, replies=UNLEARNABLE)
    before = state_of(expected)
    metrics = run(expected, tmp_path / "whole")
    assert metrics["best_step"] == 0
    with pytest.raises(Stop):
        run(new_stage(RouterStage, replies=UNLEARNABLE), tmp_path / "stopped", progress=stop)
    stage = new_stage(RouterStage, replies=UNLEARNABLE)
    assert run(stage, tmp_path / "stopped") == metrics
    assert_same(state_of(stage), before)


@pytest.mark.parametrize(
    ("dtype", "rate", "what"),
    [
        (torch.float32, 1e30, "the loss became nan at step 1"),
        (torch.float64, 1e25, "no validation was better than before the first step"),
    ],
    ids=["not a number", "finite"],
)
def test_a_divergence_says_what_to_try_and_what_to_remove(tmp_path, dtype, rate, what):
    work = tmp_path / "adapter.training"
    stage = new_stage(dtype=dtype)
    with pytest.raises(TrainingDivergedError) as caught:
        Run(work, lambda *_: None).train("safe", stage, TRAINING, VALIDATION, 2, rate)
    message = str(caught.value)
    assert message.startswith(f"training of safe diverged: {what}")
    assert "Try a smaller variant_learning_rate or router_learning_rate, or dtype float32" in message
    assert f"before that, remove {work.resolve()}: it holds the unfinished work" in message
    assert "\n" not in message
    assert not (work / "safe.safetensors").exists()
