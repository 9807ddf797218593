from functools import cached_property
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer, TrainingArguments

from mogu.errors import TrainingDivergedError
from mogu.training.loop import last_whole_checkpoint, train_stage
from mogu.training.run import Run
from mogu.training.stage import RouterStage, SafeStage, Stage, UsableStage
from tests.training.prepared import prepared, token_rows

TRAINING = list(range(10))
VALIDATION = [10, 11, 12]
COUNT = len(TRAINING) + len(VALIDATION)
PROMPTS = token_rows([3 + 5 * n for n in range(10)] + [4, 9, 6])


def replies_of(refusals: list[list[int]]) -> list[tuple[list[int], list[int]]]:
    return list(zip(refusals, token_rows([3] * COUNT, seed=2), strict=True))


# Training on these makes the validation better at first, then worse: the checkpoint kept is not the last one.
REPLIES = replies_of(token_rows([4] * COUNT, seed=4))
ALIKE = replies_of(token_rows([4], seed=4) * COUNT)  # better throughout
UNLEARNABLE = replies_of(token_rows([4] * COUNT, seed=1))  # never better than before
LABELS = [n % 2 == 0 for n in range(COUNT)]

# Ten examples in batches of four, twice, are six steps; validation and checkpoint after 2, 4 and 6.
STEPS = 6


class Stop(Exception):  # noqa: N818
    """Ends a training as a kill would, as far as the disk is concerned."""


def new_stage(kind=SafeStage, family="gpt2", dtype=torch.float64, **changes) -> Stage:
    adapter, recorder, examples, settings = prepared(
        family,
        PROMPTS,
        malicious=LABELS,
        skip=2,
        dtype=dtype,
        **{"replies": REPLIES, "batch_size": 4, "evaluations": 3, **changes},
    )
    return kind(adapter, recorder, examples, settings)


def run(stage: Stage, folder: Path, *, rate: float = 0.01, progress=lambda done, total: None, rows=TRAINING):
    return train_stage(
        stage,
        training=rows,
        validation=VALIDATION,
        epochs=2,
        learning_rate=rate,
        settings=stage.settings,
        folder=folder,
        progress=progress,
    )


def trained_rows(stage: Stage, folder: Path, **options) -> list[list[int]]:
    """The batches of a training in their order."""
    batches = []

    def see(_, __, inputs):
        if torch.is_grad_enabled():
            batches.append(inputs["rows"].tolist())

    stage.register_forward_pre_hook(see, with_kwargs=True)
    run(stage, folder, **options)
    return batches


def state_of(stage: Stage) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in stage.state_dict().items()}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    stage = new_stage()
    before = state_of(stage)
    metrics = run(stage, tmp_path_factory.mktemp("whole"))
    after = state_of(stage)
    assert not any(torch.equal(before[name], after[name]) for name in before)
    return after, metrics


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


# Before training.


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


# One process, one device.


@pytest.fixture
def elsewhere(monkeypatch):
    """transformers and accelerate find two devices, and the stage is on neither of them."""
    find = TrainingArguments._setup_devices.func

    def claim(self):
        find(self)
        self._n_gpu = 2
        return torch.device("meta")

    found = cached_property(claim)
    found.__set_name__(TrainingArguments, "_setup_devices")
    monkeypatch.setattr(TrainingArguments, "_setup_devices", found)
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "meta")
    # Parts on several devices must stay apart, too.
    monkeypatch.setattr(Trainer, "_move_model_to_device", None)


@pytest.mark.usefixtures("elsewhere")
def test_however_many_devices_there_are_the_stage_stays_on_its_own_and_takes_one_batch_a_step(
    tmp_path, uninterrupted
):
    stage = new_stage()
    steps = []
    batches = trained_rows(stage, tmp_path, progress=lambda done, total: steps.append((done, total)))
    assert [len(batch) for batch in batches] == [4, 4, 2] * 2
    assert steps == [(step, STEPS) for step in range(1, STEPS + 1)]
    assert {parameter.device.type for parameter in stage.parameters()} == {"cpu"}
    assert_same(state_of(stage), uninterrupted[0])


@pytest.mark.usefixtures("elsewhere")
def test_a_stage_on_its_own_device_goes_on_there(tmp_path, uninterrupted):
    def stop(done, total):
        if done == 3:
            raise Stop

    with pytest.raises(Stop):
        run(new_stage(), tmp_path, progress=stop)
    stage = new_stage()
    assert run(stage, tmp_path) == uninterrupted[1]
    assert_same(state_of(stage), uninterrupted[0])
