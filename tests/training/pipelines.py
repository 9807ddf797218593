"""Whole trainings of seconds, on a tiny model and a few requests: what their tests share."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from mogu.training.pipeline import train
from mogu.training.settings import PRESETS, TrainingSettings

SMALL = {
    "malicious_requests": 8,
    "benign_requests": 12,
    "variant_requests": 8,
    "validation_requests": 8,
    "reply_tokens": 3,
    "routed_tokens": 3,
    "rank": 2,
    "variant_epochs": 1,
    "router_epochs": 1,
    "router_loss_weight": 2.0,
    "batch_size": 4,
    "evaluations": 2,
}


PARTS = ["safe/adapter_model.safetensors", "usable/adapter_model.safetensors", "routers.safetensors"]


def settings_of(preset="token", **changes) -> TrainingSettings:
    return TrainingSettings.model_validate(PRESETS[preset] | SMALL | changes)


class Stop(Exception):  # noqa: N818
    """Ends a training as a kill would, as far as the disk is concerned."""


def stop_at(stage, step):
    def progress(name, done, total):
        if (name, done) == (stage, step):
            raise Stop

    return progress


SEQUENCE = {
    "router_loss_weight": None,
    "routed_tokens": None,
    "validation_requests": 12,
    "malicious_requests": 24,
    "benign_requests": 24,
}


def sequence_settings(**changes) -> TrainingSettings:
    return settings_of("default", **SEQUENCE | changes)


def train_on(files: Path, output: Path, settings=None, **options) -> Path:
    data = {label: str(files / f"{label}.jsonl") for label in ("malicious", "benign")}
    return train(files / "model", output, settings or settings_of(), **{**data, "device": "cpu", **options})


def parts_of(folder: Path, parts=PARTS) -> list[bytes]:
    return [(folder / part).read_bytes() for part in parts]


def start(target, *arguments):
    """A process of its own that begins with what this one has imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training.pipelines", "peft"])
    process = context.Process(target=target, args=arguments)
    process.start()
    return process


def run_to_end(target, *arguments) -> None:
    process = start(target, *arguments)
    process.join()
    assert process.exitcode == 0


def kill_when(found, process) -> None:
    for _ in range(6000):
        if found():
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            return
        assert process.is_alive(), "the training ended before it could be killed"
        time.sleep(0.01)
    pytest.fail("no checkpoint appeared")
