"""What the stages of one training share: unfinished work on disk, progress, times, and stages that resume."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save
from torch import nn

from mogu.adapter.attach import Adapter
from mogu.files import write_atomic
from mogu.training.loop import rate_at_width, train_stage
from mogu.training.stage import Stage, VariantStage

StageProgress = Callable[[str, int, int], None]
"""Called with the name of a stage, the steps done and the steps in all."""


_SECONDS = "seconds.json"


@dataclass
class Run:
    """Where unfinished work lies, who hears of progress, and how long each stage took.

    Attributes:
        work: the folder of unfinished work.
        progress: hears of every step.
        seconds: by the name of each stage, in this process and in those before it that were killed.
    """

    work: Path
    progress: StageProgress
    seconds: dict[str, float] = field(init=False)

    def __post_init__(self) -> None:
        kept = self.work / _SECONDS
        self.seconds = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[int, int], None]]:
        """Time what happens within, and give the function that hears of its steps."""
        start = time.perf_counter() - self.seconds.get(name, 0.0)

        def count() -> None:
            self.seconds[name] = round(time.perf_counter() - start, 1)
            if (
                self.work.exists()
            ):  # it is made when all that is wrong with the arguments would have been said
                write_atomic(self.work / _SECONDS, json.dumps(self.seconds))

        def step(done: int, total: int) -> None:
            count()
            self.progress(name, done, total)

        yield step
        count()

    def finished(self, name: str) -> bool:
        """Whether the parts of a stage were trained to the end, in this process or one that was killed."""
        return (self.work / f"{name}.safetensors").exists()

    def read(self, name: str, parts: nn.Module) -> dict[str, Any]:
        """Fill parts with those of a finished stage; its facts."""
        parts.load_state_dict(load_file(self.work / f"{name}.safetensors"))
        return self.facts(name)

    def facts(self, name: str) -> dict[str, Any]:
        """What a finished stage has left beside its parts."""
        facts: dict[str, Any] = json.loads((self.work / f"{name}.json").read_text(encoding="utf-8"))
        return facts

    def keep(self, name: str, parts: nn.Module, facts: dict[str, Any]) -> None:
        """Write the parts of a stage, which is finished then, and facts about them."""
        write_atomic(self.work / f"{name}.json", json.dumps(facts))
        # Last: its presence says that the stage is finished.
        write_atomic(self.work / f"{name}.safetensors", save(parts.state_dict()))

    def train(
        self,
        name: str,
        stage: Stage,
        training: list[int],
        validation: list[int],
        epochs: int,
        learning_rate: float,
    ) -> dict[str, Any]:
        """Train a stage, or read its finished parts; its metrics.

        Args:
            name: of the stage, and of its files.
            stage: what to train.
            training: indices of its training examples; those that it does not take are left out.
            validation: the same for validation.
            epochs: passes over the training examples.
            learning_rate: at the start.
        """
        if self.finished(name):
            return self.read(name, stage)
        with self.stage(name) as step:
            metrics = train_stage(
                stage,
                training=[row for row in training if stage.takes(stage.examples[row])],
                validation=[row for row in validation if stage.takes(stage.examples[row])],
                epochs=epochs,
                learning_rate=learning_rate,
                settings=stage.settings,
                folder=self.work / name,
                progress=step,
            )
        self.keep(name, stage, metrics)
        return metrics

    def train_variant(
        self, name: str, stage: VariantStage, adapter: Adapter, training: list[int], validation: list[int]
    ) -> dict[str, Any]:
        """Train the stage of a variant as its settings say; arguments as :meth:`train` takes them.

        Args:
            name: of the stage.
            stage: what to train.
            adapter: whose width the learning rate hangs on, where the settings give none.
            training: indices of its training examples.
            validation: the same for validation.
        """
        settings = stage.settings
        rate = settings.variant_learning_rate or rate_at_width(adapter)
        return self.train(name, stage, training, validation, settings.variant_epochs, rate)
