"""What MoGU costs when it generates: speed, time to first token and memory, against the base, side by side.

    python -m benchmarks.generation --adapter runs/demo/adapter

Three sides answer the same prompts on the same weights: `plain` is transformers' model with the adapter taken
out, `mogu` reads every prompt with the gate and answers it (a token router routes it), `refused` reads every prompt
and refuses it, the costlier of the two outcomes. A round measures all three in random order, and only
figures of one round are divided by each other: a machine that is slower for a while slows both parts of a
ratio. The bars are judged on mogu over plain. Takes about five minutes on 2 cores; every round stands in
`runs/benchmarks/generation.json`.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table
from scipy.stats import bootstrap
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from benchmarks.machine import facts, in_fresh_process
from mogu.adapter.attach import Adapter
from mogu.adapter.config import AdapterConfig, package_versions
from mogu.adapter.folder import read_config
from mogu.corpus import corpus_requests
from mogu.evaluation.memory import peak_memory, reset_peak_memory
from mogu.files import write_atomic
from mogu.generation import Mode, MoguModel
from mogu.models import load_model

Side = Literal["plain", "mogu", "refused"]
SIDES: tuple[Side, ...] = get_args(Side)
RATIOS: tuple[tuple[Side, Side], ...] = (("mogu", "plain"), ("refused", "plain"))
RESULT = Path("runs/benchmarks/generation.json")
SEED = 0


class Measure(NamedTuple):
    """What is measured, in which unit, and the bar for mogu over plain: at least or at most."""

    name: str
    unit: str
    bar: float
    at_least: bool = False

    def meets(self, ratio: float) -> bool:
        """Whether a ratio meets the bar."""
        return ratio >= self.bar if self.at_least else ratio <= self.bar


SPEED = Measure("speed", "tokens/s", 0.97, at_least=True)
FIRST_TOKEN = Measure("first token", "ms", 1.10)
MEMORY = Measure("memory", "MiB", 1.05)


class Cell(NamedTuple):
    """One thing to time: so many prompts of so many tokens, and so many new tokens.

    `rounds` spends the benchmark's minutes: more where a round is cheap.
    """

    measure: Measure
    batch: int
    prompt_tokens: int
    new_tokens: int
    rounds: int

    def figure(self, seconds: float) -> float:
        """The seconds of one generation in the measure's unit."""
        return self.batch * self.new_tokens / seconds if self.measure is SPEED else 1000 * seconds


CELLS = (
    Cell(SPEED, 1, 32, 64, rounds=7),
    Cell(SPEED, 16, 32, 64, rounds=5),
    Cell(FIRST_TOKEN, 1, 32, 1, rounds=25),
    Cell(FIRST_TOKEN, 1, 128, 1, rounds=11),
    Cell(FIRST_TOKEN, 1, 512, 1, rounds=7),
    Cell(FIRST_TOKEN, 16, 32, 1, rounds=7),
    # 16 x 512 is left out: on a CPU one round of it takes most of a minute.
    Cell(FIRST_TOKEN, 16, 128, 1, rounds=5),
)
MEMORY_BATCHES = (1, 16)
MEMORY_PROMPT_TOKENS = 128
MEMORY_NEW_TOKENS = 16
MEMORY_ROUNDS = 1


@dataclass(frozen=True)
class Ratio:
    """The median of the rounds' ratios, with its 95% bootstrap interval (a point if there is one round)."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, above: list[float], below: list[float]) -> "Ratio":
        """The ratio of two sides, which were measured in the same rounds."""
        ratios = [a / b for a, b in zip(above, below, strict=True)]
        median = statistics.median(ratios)
        if min(ratios) == max(ratios):
            return cls(median, median, median)
        interval = bootstrap(
            (ratios,), np.median, method="percentile", rng=np.random.default_rng(SEED)
        ).confidence_interval
        return cls(median, float(interval.low), float(interval.high))


@dataclass
class Result:
    """One line of the tables.

    Attributes:
        measure: what was measured.
        batch: prompts at a time; None where it is no matter of batches.
        prompt_tokens: tokens of each.
        rounds: the figures in the measure's unit, by side.
    """

    measure: Measure
    batch: int | None
    prompt_tokens: int
    rounds: dict[Side, list[float]]

    @property
    def name(self) -> str:
        """What stands in the tables' first column."""
        where = f"{self.batch} x {self.prompt_tokens}" if self.batch else "with loading"
        return f"{self.measure.name}, {where}"

    def ratio(self, above: Side, below: Side) -> Ratio | None:
        """One side over another; None where one was not measured."""
        if above not in self.rounds or below not in self.rounds:
            return None
        return Ratio.of(self.rounds[above], self.rounds[below])

    @property
    def judged(self) -> Ratio:
        """The ratio that the bar is about."""
        return Ratio.of(self.rounds["mogu"], self.rounds["plain"])

    def facts(self) -> dict[str, Any]:
        """All of it, for a JSON file."""
        ratios = {f"{a}/{b}": vars(ratio) for a, b in RATIOS if (ratio := self.ratio(a, b))}
        return {
            "measure": self.measure.name,
            "unit": self.measure.unit,
            "batch": self.batch,
            "prompt_tokens": self.prompt_tokens,
            "median": {side: statistics.median(figures) for side, figures in self.rounds.items()},
            "ratios": ratios,
            "bar": self.measure.bar,
            "met": self.measure.meets(self.judged.median),
            "rounds": self.rounds,
        }


@contextmanager
def without_adapter(adapter: Adapter) -> Iterator[None]:
    """The model as transformers made it, with nothing wrapped."""
    adapter.detach()
    try:
        yield
    finally:
        for name, layer in adapter.layers.items():
            adapter.model.set_submodule(name, layer)


def prompts(tokenizer: PreTrainedTokenizerBase, batch: int, tokens: int) -> Tensor:
    """``(batch, tokens)`` ids: ordinary text, cut to rows of one length."""
    text = "\n".join(request.text for request in corpus_requests("benign", "train"))
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    needed = batch * tokens
    return torch.tensor((ids * (1 + needed // len(ids)))[:needed]).view(batch, tokens)


def greedy(generate: Callable[..., Any], ids: Tensor, new_tokens: int, **settings: Any) -> float:
    """The seconds of one greedy generation that writes exactly so many tokens in every row."""
    start = time.perf_counter()
    output: Tensor = generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        do_sample=False,
        **settings,
    )
    written = output[:, ids.shape[1] :].tolist()  # waits for an accelerator, too
    seconds = time.perf_counter() - start
    assert {len(row) for row in written} == {new_tokens}
    return seconds


def seconds_of(model: MoguModel, side: Side, ids: Tensor, new_tokens: int) -> float:
    """The seconds of one generation by one side."""
    if side == "plain":
        plain: Any = model.model
        with without_adapter(model.adapter):
            return greedy(plain.generate, ids, new_tokens)
    if model.config.weights == "token":
        mode: Mode = "safe" if side == "refused" else "mogu"
        return greedy(model.generate, ids, new_tokens, mode=mode)
    return greedy(model.generate, ids, new_tokens, threshold=0.0 if side == "refused" else 1.0)


def time_cell(
    model: MoguModel, cell: Cell, rounds: int, rng: random.Random, step: Callable[[], None]
) -> Result:
    """Measure one cell, after a warm-up of its shape."""
    ids = prompts(model.tokenizer, cell.batch, cell.prompt_tokens).to(model.model.device)
    seconds_of(model, "mogu", ids, min(2, cell.new_tokens))
    figures: dict[Side, list[float]] = {side: [] for side in SIDES}
    for _ in range(rounds):
        for side in rng.sample(SIDES, len(SIDES)):
            figures[side].append(cell.figure(seconds_of(model, side, ids, cell.new_tokens)))
        step()
    return Result(cell.measure, cell.batch, cell.prompt_tokens, figures)


def memory_of(side: Side, adapter: Path, base: str | None) -> dict[int | None, float]:
    """The peak memory of this process, in MiB, by batch size while it generates; by None with loading.

    To be called in a fresh process. The plain side never sees the adapter.
    """
    model: Any
    if side == "plain":
        identity = read_config(adapter).base
        name, revision = (identity.name, identity.revision) if base is None else (base, None)
        loaded = load_model(name, revision=revision)
        model, tokenizer, device = loaded.model, loaded.tokenizer, loaded.model.device
    else:
        model = MoguModel.from_pretrained(adapter, base=base)
        tokenizer, device = model.tokenizer, model.model.device
    peaks: dict[int | None, float] = {None: peak_memory()}
    for batch in MEMORY_BATCHES:
        ids = prompts(tokenizer, batch, MEMORY_PROMPT_TOKENS).to(device)
        reset_peak_memory()
        greedy(model.generate, ids, MEMORY_NEW_TOKENS)
        peaks[batch] = peak_memory()
    peaks[None] = max(peaks.values())
    return peaks


def memory_results(
    adapter: Path, base: str | None, rounds: int, rng: random.Random, step: Callable[[], None]
) -> list[Result]:
    """Peak memory of plain and mogu, each in fresh processes."""
    sides: tuple[Side, ...] = ("plain", "mogu")
    peaks: dict[Side, list[dict[int | None, float]]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side in rng.sample(sides, len(sides)):
            peaks[side].append(in_fresh_process(memory_of, side, adapter, base))
        step()
    return [
        Result(
            MEMORY,
            batch,
            MEMORY_PROMPT_TOKENS,
            {side: [peak[batch] for peak in peaks[side]] for side in sides},
        )
        for batch in (*MEMORY_BATCHES, None)
    ]


def figures_table(results: list[Result]) -> Table:
    """The medians of every side."""
    table = Table("batch x prompt", "", box=None, padding=(0, 1, 0, 0))
    for name in (*SIDES, "rounds"):
        table.add_column(name, justify="right")
    for result in results:
        medians = [
            f"{statistics.median(result.rounds[side]):.1f}" if side in result.rounds else "" for side in SIDES
        ]
        table.add_row(result.name, result.measure.unit, *medians, str(len(result.rounds["mogu"])))
    return table


def ratio_table(results: list[Result]) -> Table:
    """The ratios within the rounds, and whether the bars are met."""
    table = Table(Column("", no_wrap=True), box=None, padding=(0, 1, 0, 0))
    for name in (*(f"{above}/{below}" for above, below in RATIOS), "bar", "met"):
        table.add_column(name)
    for result in results:
        judged, measure = result.judged, result.measure
        others = [result.ratio(above, below) for above, below in RATIOS[1:]]
        certain = measure.meets(judged.low) == measure.meets(judged.high)
        table.add_row(
            result.name,
            f"{judged.median:.3f} ({judged.low:.3f}-{judged.high:.3f})",
            *("" if ratio is None else f"{ratio.median:.3f}" for ratio in others),
            f"{'>=' if measure.at_least else '<='} {measure.bar:.2f}",
            ("yes" if measure.meets(judged.median) else "no") + ("" if certain else "?"),
        )
    return table


def bar_lines(results: list[Result]) -> list[str]:
    """One line for each bar: its worst ratio, and whether that meets it."""
    lines = []
    for measure in (SPEED, FIRST_TOKEN, MEMORY):
        ratios = {result.name: result.judged.median for result in results if result.measure == measure}
        worst = (min if measure.at_least else max)(ratios, key=lambda name: ratios[name])
        bar = f"{'at least' if measure.at_least else 'at most'} {measure.bar:.2f} of the base's"
        verdict = "met" if measure.meets(ratios[worst]) else "not met"
        lines.append(f"{measure.name} {bar}: {verdict} (worst {ratios[worst]:.3f}: {worst})")
    return lines


def main() -> None:
    """Measure, show, and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--adapter", type=Path, default=Path("runs/demo/adapter"))
    parser.add_argument("--base", default=None, help="other place of the base model")
    parser.add_argument("--repeats", type=int, default=None, help="rounds of every line, in place of its own")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    if not options.adapter.exists():
        parser.exit(2, f"there is no {options.adapter}: make it with `make demo`, or give --adapter FOLDER\n")
    if options.repeats is not None and options.repeats < 1:
        parser.error(f"--repeats is {options.repeats}; give at least 1")

    start = time.perf_counter()
    where = facts()
    console = Console()
    rng = random.Random(SEED)
    rounds = {cell: options.repeats or cell.rounds for cell in CELLS}
    memory_rounds = options.repeats or MEMORY_ROUNDS
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("peak memory", total=sum(rounds.values()) + memory_rounds)
        step = partial(progress.advance, task)
        memory = memory_results(options.adapter, options.base, memory_rounds, rng, step)
        progress.update(task, description="load model")
        model = MoguModel.from_pretrained(options.adapter, base=options.base)
        results = []
        for cell in CELLS:
            progress.update(task, description=f"{cell.measure.name}, {cell.batch} x {cell.prompt_tokens}")
            results.append(time_cell(model, cell, rounds[cell], rng, step))
            progress.console.print(f"[dim]{results[-1].name}: done[/dim]")
    results += memory
    console.print("[bold]Medians of three sides on one model[/bold]")
    console.print(figures_table(results))
    console.print("\n[bold]Ratios within a round[/bold] (95% interval; ? where it reaches over the bar)")
    console.print(ratio_table(results), end="\n\n")
    for line in bar_lines(results):
        console.print(line, soft_wrap=True)
    written: dict[str, Any] = where | {
        "adapter": str(options.adapter),
        "model": _model_facts(model.config),
        "versions": package_versions(),
        "seed": SEED,
        "seconds": round(time.perf_counter() - start, 1),
        "results": [result.facts() for result in results],
    }
    write_atomic(options.output, json.dumps(written, indent=2) + "\n")
    console.print(f"Took {written['seconds']:.0f} s. Every round: {options.output}")


def _model_facts(config: AdapterConfig) -> dict[str, Any]:
    return {
        "base": config.base.model_dump(),
        "layers": len(config.projections),
        "rank": config.rank,
        "routed_tokens": config.routed_tokens,
        "routed_prompt_tokens": config.routed_prompt_tokens,
    }


if __name__ == "__main__":
    main()
