"""How far a long command is: bars with a time estimate in a terminal, now and then a line elsewhere."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from mogu.cli.console import tell

SECONDS_BETWEEN_LINES = 15

STAGES = {
    "load model": "Loading the base model",
    "base replies": "Base writes its own replies",
    "record activations": "Recording hidden states",
    "safe": "Training the safe variant",
    "glad replies": "Base writes helpful replies",
    "usable": "Training the usable variant",
    "choose layers": "Choosing the gate's layers",
    "read conversations": "Reading conversations",
    "calibrate": "Calibrating when to refuse",
    "fit gate": "Fitting the gate",
    "fit routers": "Fitting the routers",
    "routers": "Training the routers",
}
"""What is shown for a stage of training; short, so that its bar fits into 80 columns."""


def _shown(name: str) -> str:
    """What is shown for a stage: as `STAGES` has it, with the number of a candidate behind, or else its name."""
    stage, _, candidate = name.partition("-")
    if stage not in STAGES:
        return name
    return f"{STAGES[stage]} ({candidate})" if candidate else STAGES[stage]


class StageBars:
    """One bar for each stage, in a `with` block; call it with a stage's name, the steps done and all steps.

    Args:
        console: Where to show them.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            # Steps may take minutes each: an estimate from the last half minute would have nothing to go by.
            speed_estimate_period=600,
        )
        self._tasks: dict[str, TaskID] = {}
        self._last_line = 0.0

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def __call__(self, name: str, done: int, total: int) -> None:
        """Shows that of a stage's steps so many are done."""
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(_shown(name), total=total)
        self._bars.update(self._tasks[name], completed=done, total=total)
        now = self._console.get_time()
        due = done >= total or now - self._last_line >= SECONDS_BETWEEN_LINES
        if not self._console.is_terminal and due:
            self._last_line = now
            tell(self._console, self._line(name))

    def _line(self, name: str) -> str:
        task = next(task for task in self._bars.tasks if task.id == self._tasks[name])
        line = f"{task.description}: {task.completed:.0f} of {task.total:.0f}"
        left = None if task.finished else task.time_remaining
        return line if left is None else f"{line}, about {left:.0f} s left"
