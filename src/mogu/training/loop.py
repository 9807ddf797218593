"""Runs one stage on transformers' Trainer: order of the data, validation, checkpoints, resuming and divergence."""

import json
import logging
import math
import random
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from mogu.adapter.attach import Adapter
from mogu.errors import TrainingDivergedError
from mogu.training.settings import TrainingSettings
from mogu.training.stage import Stage

log = logging.getLogger(__name__)

T = TypeVar("T")

Progress = Callable[[int, int], None]
"""Called with the steps done and the steps in all."""


RATE_TIMES_WIDTH = 1.152
"""Learning rate times the width of the layer: 2e-3 at the width 576 where it was found. An update of Adam moves a
layer's output in proportion to rate and width, so wider models learn at a smaller rate."""


def rate_at_width(adapter: Adapter) -> float:
    """The learning rate at which parts of an adapter are trained where no other is asked for."""
    return RATE_TIMES_WIDTH / next(iter(adapter.layers.values())).safe.A.shape[1]


class _Batches(Dataset[list[int]]):
    """Batches of indices of examples in the order of training, all passes laid end to end."""

    def __init__(self, batches: list[list[int]]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> list[int]:
        return self.batches[index]


@dataclass
class _Arguments(TrainingArguments):
    """Arguments of a Trainer that works where the stage is, in one process on one device, however many are visible.

    Left to itself it moves the stage to the first GPU, and where there are more it takes a batch for each at a time.

    Attributes:
        stage_device: such as ``cuda:1``.
    """

    stage_device: str = "cpu"

    @property
    def device(self) -> torch.device:
        """The stage's."""
        _ = super().device  # sets up more than it returns
        return torch.device(self.stage_device)

    @property
    def n_gpu(self) -> int:
        """How many devices share a step."""
        return 1

    @property
    def place_model_on_device(self) -> bool:
        """Whether the Trainer moves the stage."""
        return False


class _StageTrainer(Trainer):
    """A Trainer whose model gives the loss, and whose validation is the mean of the stage's figures."""

    def __init__(self, stage: Stage, *, validation: list[list[int]], **kwargs: Any) -> None:
        super().__init__(model=stage, **kwargs)
        self.accelerator.device_placement = False  # it would move the stage by itself, and the batches
        self.stage = stage
        self.validation = validation

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor | Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The stage's loss; raises TrainingDivergedError when it is not a number."""
        outputs = model(**inputs)
        self._require_finite(float(outputs["loss"].detach()))
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    def figures(self) -> dict[str, float]:
        """The stage's figures on the validation examples, each the mean over batches weighed by their size.

        Raises:
            TrainingDivergedError: if the loss is not a number.
        """
        sums: dict[str, float] = {}
        with torch.no_grad():
            for batch in self.validation:
                for name, figure in self.stage(rows=torch.tensor(batch)).items():
                    sums[name] = sums.get(name, 0.0) + float(figure) * len(batch)
        count = sum(map(len, self.validation))
        metrics = {f"eval_{name}": value / count for name, value in sums.items()}
        self._require_finite(metrics["eval_loss"])
        return metrics

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The figures, logged; they are taken before the checkpoint that follows is written."""
        metrics = self.figures()
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def diverged(self, what: str) -> TrainingDivergedError:
        """An error that says what happened, what to try, and what must be removed for that."""
        folder = Path(str(self.args.output_dir))
        return TrainingDivergedError(
            f"training of {folder.name} diverged: {what}. Try a smaller variant_learning_rate or "
            f"router_learning_rate, or dtype float32; before that, remove {folder.parent}: it holds the unfinished "
            "work, from which other settings cannot go on."
        )

    def _require_finite(self, loss: float) -> None:
        if math.isfinite(loss):
            return
        error = self.diverged(f"the loss became {loss} at step {self.state.global_step}")
        kept = last_whole_checkpoint(Path(str(self.args.output_dir)))
        raise TrainingDivergedError(f"{error} The last good state is in {kept}") if kept else error


class _ReportSteps(TrainerCallback):
    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.progress(state.global_step, state.max_steps)


def train_stage(
    stage: Stage,
    *,
    training: Sequence[int],
    validation: Sequence[int],
    epochs: int,
    learning_rate: float,
    settings: TrainingSettings,
    folder: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Train the stage's parts in place and leave them as they were at the best validation.

    The learning rate falls linearly to 0. Validation is evenly spread; the checkpoint with the lowest validation
    figure that the stage names is kept. Where none is lower than before training, a stage that may keeps its parts
    as they were then, and for another that is a divergence. A run that was killed goes on from its last whole
    checkpoint, to the same result.

    Args:
        stage: what to train; its parts are those to begin with, in a run that goes on as well.
        training: indices of its training examples.
        validation: indices of its validation examples.
        epochs: passes over the training examples.
        learning_rate: at the start.
        settings: batch size, number of evaluations, seed.
        folder: where checkpoints lie, named after the stage, in the folder of unfinished work.
        progress: called after each step.

    Returns:
        ``start``: the validation figures before training; ``history``: those by step; ``best_step``: the step whose
        parts are kept, 0 for those before training; ``steps``: how many there were.

    Raises:
        TrainingDivergedError: if the loss is not a number, or no validation is better than before training.
    """
    lengths = {index: len(stage.examples[index].prompt) for index in (*training, *validation)}
    order = [batch for epoch in range(epochs) for batch in _epoch(training, lengths, settings, epoch)]
    steps = len(order)
    every = max(1, steps // settings.evaluations)
    figure = f"eval_{stage.figure}"
    device = next(stage.parameters()).device
    arguments = _Arguments(
        # Checkpoints name the best of them by its path.
        output_dir=str(folder.resolve()),
        num_train_epochs=1,
        per_device_train_batch_size=1,  # the data set's items are batches
        train_sampling_strategy="sequential",
        learning_rate=learning_rate,
        lr_scheduler_type="linear",
        weight_decay=0.0,
        max_grad_norm=1.0,
        seed=settings.seed,
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model=figure,
        greater_is_better=False,
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        use_cpu=device.type == "cpu",
        stage_device=str(device),
    )
    batches = batches_of(sorted(validation, key=lengths.__getitem__), settings.batch_size)
    for parameter in stage.parameters():
        parameter.requires_grad_(True)
    trainer = _StageTrainer(
        stage,
        args=arguments,
        train_dataset=_Batches(order),
        eval_dataset=_Batches(batches),
        data_collator=_collate,
        validation=batches,
        callbacks=[_ReportSteps(progress)],
    )
    trainer.remove_callback(PrinterCallback)
    # A checkpoint is read after this, so that a run that goes on starts from the same parts and figures.
    start = trainer.figures()
    untrained = stage.copied_state()
    trainer.train(resume_from_checkpoint=last_whole_checkpoint(folder))
    best, best_step = trainer.state.best_metric, trainer.state.best_global_step
    assert best is not None
    if not best < start[figure]:  # not a number is not better either
        found = f"{figure} was {start[figure]:.4g} before training and {best:.4g} at best after"
        if not (stage.may_keep_start and math.isfinite(best)):
            raise trainer.diverged(f"no validation was better than before the first step ({found})")
        log.warning(
            "training has not made the %s better (%s): they are kept as they were", folder.name, found
        )
        stage.load_state_dict(untrained)
        best_step = 0
    for parameter in stage.parameters():
        parameter.requires_grad_(False)
    history = [entry for entry in trainer.state.log_history if figure in entry]
    return {"start": start, "history": history, "best_step": best_step, "steps": steps}


def last_whole_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint of a folder that was written whole; None if there is none."""
    checkpoints = sorted(
        folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]), reverse=True
    )
    return next((str(checkpoint) for checkpoint in checkpoints if _is_whole(checkpoint)), None)


def _is_whole(checkpoint: Path) -> bool:
    try:
        # Written last: a killed run lacks it. The others may be cut short when the machine itself went down.
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        with safe_open(checkpoint / "model.safetensors", "pt"):
            pass
    except (OSError, ValueError, SafetensorError):
        return False
    return all(map(zipfile.is_zipfile, (*checkpoint.glob("*.pt"), *checkpoint.glob("*.pth"))))


def _collate(batches: list[list[int]]) -> dict[str, Tensor]:
    (rows,) = batches
    return {"rows": torch.tensor(rows)}


def _epoch(
    rows: Sequence[int], lengths: dict[int, int], settings: TrainingSettings, epoch: int
) -> list[list[int]]:
    """One pass: batches of like lengths in random order, the short last batch at the end of the pass."""
    rng = random.Random(f"{settings.seed}/{epoch}")
    jitter = {row: lengths[row] * (1 + 0.1 * rng.random()) for row in rows}
    batches = batches_of(sorted(rows, key=jitter.__getitem__), settings.batch_size)
    last = [batches.pop()] if len(batches[-1]) < settings.batch_size else []
    rng.shuffle(batches)
    return batches + last


def batches_of(rows: Sequence[T], size: int) -> list[list[T]]:
    """Rows cut into batches, the last one as short as it comes."""
    return [list(rows[start : start + size]) for start in range(0, len(rows), size)]
