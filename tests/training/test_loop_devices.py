"""The stage stays on its own device."""

from functools import cached_property

import pytest
import torch
from transformers import Trainer, TrainingArguments

from tests.training.loops import (
    STEPS,
    Stop,
    assert_same,
    new_stage,
    run,
    state_of,
    trained_rows,
)


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
