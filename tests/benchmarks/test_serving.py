"""A benchmark of what fails must not give a figure."""

import asyncio

import httpx
import pytest
import torch

from benchmarks import load, serving
from mogu.serving.engine.loop import Engine
from tests.generation.gated import PROMPTS, gated


def test_a_reply_that_fails_ends_the_benchmark(monkeypatch):
    first, second = (serving.Asked(prompt, 2) for prompt in PROMPTS[:2])
    figures, written = serving.loaded(gated(), "mogu", [[first] * 2, [second]])
    assert figures.speed > 0 and written == [[2, 2], [2]]

    def fail(*_):
        raise torch.OutOfMemoryError("no memory left")

    monkeypatch.setattr(Engine, "_write", fail)
    with pytest.raises(SystemExit, match="the engine failed while it wrote"):
        serving.loaded(gated(), "base", [[first] * 2])
    monkeypatch.undo()
    assert serving.loaded(gated(), "base", [[first] * 2])[1] == [[2, 2]]  # the model is free again


def test_memory_that_cannot_be_read_is_no_flat_memory(monkeypatch):
    def fail(_):
        raise httpx.ReadTimeout("no answer")

    async def loaded(*_):
        await asyncio.sleep(0.2)
        return load.Load([0.1], 5, [], 1.0)

    monkeypatch.setattr(load, "loaded", loaded)
    monkeypatch.setattr(load.Server, "memory", fail)
    with pytest.raises(httpx.ReadTimeout):
        asyncio.run(load.endured(load.Server("http://127.0.0.1:9/v1", "m", 0.0), [], 0.2))
