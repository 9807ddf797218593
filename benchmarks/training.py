"""What training costs: seconds of every stage and peak memory, and how they grow with pairs and with layers.

    python -m benchmarks.training

Every column is one whole training in a process of its own: `PAIRS` with half of the layers routed, `SHARES`
of them with a middling number of pairs, each one pass over the data. A pair is a request and its wanted reply;
half of them are malicious. Takes about six minutes on 2 cores; the figures go to
`runs/benchmarks/training.json`.
"""

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.status import Status
from rich.table import Table

from benchmarks.machine import facts, in_fresh_process
from mogu.adapter.config import package_versions
from mogu.adapter.folder import read_config
from mogu.cli.demo import demo_model
from mogu.evaluation.memory import peak_memory, reset_peak_memory
from mogu.files import write_atomic
from mogu.training.pipeline import train
from mogu.training.settings import TrainingSettings

PAIRS = (64, 128, 256)
SHARES = (0.25, 0.5, 1.0)
MIDDLE_PAIRS, MIDDLE_SHARE = 128, 0.5
RESULT = Path("runs/benchmarks/training.json")


@dataclass(frozen=True)
class Point:
    """What one training cost.

    Attributes:
        pairs: requests trained on, of both labels together.
        layer_share: share of the layers that were routed, 0 to 1.
        layers: how many these are.
        seconds: of each stage, by its name.
        peak: the most memory the process held, in MiB, loading of the model included.
        training_peak: the same once the model was loaded and the first batch of replies written.
    """

    pairs: int
    layer_share: float
    layers: int
    seconds: dict[str, float]
    peak: float
    training_peak: float

    @property
    def name(self) -> str:
        """What stands above its column."""
        return f"{self.pairs} pairs\n{self.layers} layers"


class LoadingPeak:
    """Hears of training's progress and shows it; from its first step on memory counts without loading.

    Args:
        status: where to show it.
        title: what is being measured.

    Attributes:
        peak: the most memory that the process had held by then, in MiB.
    """

    def __init__(self, status: Status, title: str) -> None:
        self.peak: float | None = None
        self._status = status
        self._title = title

    def __call__(self, stage: str, done: int, total: int) -> None:
        """A step of a stage is done."""
        if self.peak is None:
            self.peak = peak_memory()
            reset_peak_memory()
        self._status.update(f"{self._title}: {stage}, {done} of {total}")


def measure(model: str, settings: TrainingSettings, title: str) -> Point:
    """Train once; to be called in a fresh process, whose memory is measured."""
    with Console(stderr=True).status(title) as status, tempfile.TemporaryDirectory() as folder:
        loading = LoadingPeak(status, title)
        config = read_config(train(model, Path(folder) / "adapter", settings, progress=loading))
    training_peak = peak_memory()
    return Point(
        pairs=settings.malicious_requests + settings.benign_requests,
        layer_share=settings.layer_share,
        layers=len(config.projections),
        seconds=config.metrics["seconds"],
        peak=max(training_peak, loading.peak or 0),
        training_peak=training_peak,
    )


def settings_of(pairs: int, layer_share: float) -> TrainingSettings:
    """The default recipe, one pass over so many pairs."""
    return TrainingSettings.model_validate(
        {
            "malicious_requests": pairs // 2,
            "benign_requests": pairs - pairs // 2,
            "validation_requests": 16,
            "layer_share": layer_share,
            "variant_epochs": 1,
            "router_epochs": 1,
            "evaluations": 1,
        }
    )


def points_table(points: list[Point]) -> Table:
    """Stages down, trainings across."""
    table = Table("seconds", title="What a training costs", title_justify="left")
    for point in points:
        table.add_column(point.name, justify="right")
    for stage in points[0].seconds:
        table.add_row(stage, *(f"{point.seconds[stage]:.1f}" for point in points))
    table.add_section()
    table.add_row("all stages", *(f"{sum(point.seconds.values()):.1f}" for point in points))
    table.add_row("peak, MiB", *(f"{point.peak:.0f}" for point in points))
    table.add_row("peak after loading, MiB", *(f"{point.training_peak:.0f}" for point in points))
    return table


def growth_lines(points: list[Point]) -> list[str]:
    """How seconds and memory grow, as the slope of a straight line through the points."""
    by_pairs = [point for point in points if point.layer_share == MIDDLE_SHARE]
    by_layers = [point for point in points if point.pairs == MIDDLE_PAIRS]
    return [
        f"100 more pairs: {_growth(by_pairs, [point.pairs / 100 for point in by_pairs])}",
        f"1 more layer: {_growth(by_layers, [point.layers for point in by_layers])}",
    ]


def _growth(points: list[Point], size: list[float]) -> str:
    seconds = statistics.linear_regression(size, [sum(point.seconds.values()) for point in points]).slope
    memory = statistics.linear_regression(size, [point.training_peak for point in points]).slope
    return f"{seconds:+.1f} s, {memory:+.0f} MiB"


def main() -> None:
    """Train, show, and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=None, help="hub id, folder or GGUF file; the demo's by default")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    model = options.model or str(demo_model())

    start = time.perf_counter()
    where = facts()
    console = Console()
    sizes = sorted({(pairs, MIDDLE_SHARE) for pairs in PAIRS} | {(MIDDLE_PAIRS, share) for share in SHARES})
    points = []
    for number, (pairs, share) in enumerate(sizes, 1):
        title = f"[{number} of {len(sizes)}] {pairs} pairs, {share:.0%} of the layers"
        point = in_fresh_process(measure, model, settings_of(pairs, share), title)
        points.append(point)
        console.print(f"{title}: {sum(point.seconds.values()):.0f} s, {point.peak:.0f} MiB", markup=False)
    console.print(points_table(points))
    for line in growth_lines(points):
        console.print(line, soft_wrap=True)
    written = where | {
        "model": model,
        "settings": settings_of(MIDDLE_PAIRS, MIDDLE_SHARE).model_dump(),
        "versions": package_versions(),
        "seconds": round(time.perf_counter() - start, 1),
        "points": [asdict(point) for point in points],
    }
    write_atomic(options.output, json.dumps(written, indent=2) + "\n")
    console.print(f"Took {written['seconds']:.0f} s. Figures: {options.output}")


if __name__ == "__main__":
    main()
