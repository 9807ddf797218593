"""A few training rows, and stages that are trained on them."""

from pathlib import Path

import torch

from mogu.training.loop import train_stage
from mogu.training.stage import SafeStage, Stage
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
