"""Tiny models with recorded examples: what the tests of training run on."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from mogu.adapter.attach import Adapter
from mogu.models import find_projections
from mogu.training.recording import Recorder
from mogu.training.settings import PRESETS, TrainingSettings
from mogu.training.stage import Example
from tests.adapter.adapters import random_adapter
from tests.tiny import tiny_model

SHARED = [7, 101, 44, 19, 88, 230, 5]


def token_rows(lengths: Sequence[int], seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(2, 250, (length,), generator=generator).tolist() for length in lengths]


# Longer and shorter than the sliding window of Gemma 3, and one shorter than three routed tokens.
PROMPTS = token_rows((24, 5, 9, 2))
PROMPTS_ALIKE = [SHARED + row for row in token_rows((17, 1, 6, 4), seed=1)]
REPLIES = list(zip(token_rows((6, 1, 4, 9), seed=2), token_rows((2, 8, 5, 3), seed=3), strict=True))
MALICIOUS = [True, False, True, False]


class Prepared(NamedTuple):
    adapter: Adapter
    recorder: Recorder
    examples: list[Example]
    settings: TrainingSettings


def settings_of(preset: str = "token", **changes) -> TrainingSettings:
    """Settings of a run of seconds."""
    small = {"batch_size": 2, "evaluations": 2, "rank": 4, "lora_alpha": 6}
    if PRESETS[preset].get("routing") == "token":
        small["router_loss_weight"] = 2.0
    return TrainingSettings.model_validate(PRESETS[preset] | small | changes)


def prepared(
    family: str = "llama",
    prompts: Sequence[list[int]] = PROMPTS,
    *,
    replies: Sequence[tuple[list[int], list[int]]] = REPLIES,
    malicious: Sequence[bool] = MALICIOUS,
    skip: int = 1,
    dtype: torch.dtype = torch.float64,
    preset: str = "token",
    **changes,
) -> Prepared:
    """Examples recorded as one batch from a model whose layers from `skip` on are wrapped."""
    settings = settings_of(preset, **changes)
    model = tiny_model(family, dtype)
    first_layer = find_projections(model)[skip].layer
    adapter = random_adapter(model, skip=skip)
    recorder = Recorder(model, first_layer)
    routed = None if settings.gradient_checkpointing else settings.routed_prompt_tokens
    records = recorder.record(prompts, replies, routed)
    examples = [
        Example(prompt, reply, label, record)
        for prompt, reply, label, record in zip(prompts, replies, malicious, records, strict=True)
    ]
    return Prepared(adapter, recorder, examples, settings)
