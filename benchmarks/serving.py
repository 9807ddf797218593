"""What routing costs under load: the engine beside the same engine with the base, and what many streams gain over one.

    python -m benchmarks.serving --adapter runs/demo/adapter

Clients ask one prompt after the other, each the next one when its reply has ended; they begin a while apart, so that
prompts join rows that are written. Of the prompts a quarter is malicious, which the hardened model refuses (its
costlier outcome) and the base does not. The base is asked for as many tokens as MoGU writes to the same prompt, for
many short replies are more work a token than few long ones. A round loads both sides in random order, and only
figures of one round are divided by each other. Takes about ten minutes on 2 cores; every round stands in
`runs/benchmarks/serving.json`.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, cycle, islice
from pathlib import Path
from threading import Event, Lock, Timer
from typing import Literal, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.generation import SEED, Ratio
from benchmarks.machine import facts
from mogu.chat import encode_chat
from mogu.cli.demo import demo_prompts
from mogu.files import write_atomic
from mogu.generation import MoguModel
from mogu.serving.engine.job import Piece, Sampling
from mogu.serving.engine.loop import Engine

Side = Literal["mogu", "base"]
SIDES: tuple[Side, ...] = ("mogu", "base")
RESULT = Path("runs/benchmarks/serving.json")
STREAMS = 16
APART = 0.2
"""Seconds between the first prompts of two clients."""

LEAST_SPEED = 0.95
MOST_FIRST_TOKEN = 1.05
LEAST_GAIN = 6.0
MOST_READY = 10.0


class Figures(NamedTuple):
    """What one load showed.

    Attributes:
        speed: reply tokens per second of all streams together.
        first_token: median seconds from asking to the first piece.
        ready: seconds that the engine took to start.
    """

    speed: float
    first_token: float
    ready: float


class Asked(NamedTuple):
    """What a client asks: token ids of a prompt, and for how many of a reply at most."""

    prompt: list[int]
    tokens: int


@dataclass
class Load:
    """Some clients, each of which asks one thing after the other.

    Args:
        engine: started.
        clients: what each asks.

    Attributes:
        written: tokens of the reply to each thing that was asked, by client and in its order.
    """

    engine: Engine
    clients: list[list[Asked]]
    written: list[list[int]] = field(default_factory=list)
    first_tokens: list[float] = field(default_factory=list)
    error: str | None = None
    _left: int = 0
    _lock: Lock = field(default_factory=Lock)
    _over: Event = field(default_factory=Event)

    def run(self) -> float:
        """Seconds from the first prompt to the last token; a reply that fails ends the benchmark."""
        self._left = len(self.clients)
        self.written = [[] for _ in self.clients]
        start = time.perf_counter()
        for number, asked in enumerate(self.clients):
            Timer(number * APART, self._ask, [iter(asked), self.written[number]]).start()
        self._over.wait()
        if self.error:
            raise SystemExit(self.error)
        return time.perf_counter() - start

    def _ask(self, rest: Iterator[Asked], written: list[int]) -> None:
        asked = next(rest, None)
        if asked is None:
            with self._lock:
                self._left -= 1
                if not self._left:
                    self._over.set()
            return
        start, pieces = time.perf_counter(), 0

        def hear(piece: Piece) -> None:
            nonlocal pieces
            if not pieces:
                self.first_tokens.append(time.perf_counter() - start)
            pieces += 1
            if piece.error:
                self.error = piece.error
                self._over.set()
            elif piece.finish is not None:
                written.append(piece.tokens)
                self._ask(rest, written)

        self.engine.submit(asked.prompt, Sampling(asked.tokens, temperature=0), hear)


def loaded(model: MoguModel, side: Side, clients: list[list[Asked]]) -> tuple[Figures, list[list[int]]]:
    """Start an engine, load it, and close it; what it showed, and the tokens that it wrote to each client."""
    start = time.perf_counter()
    engine = Engine(model, rows=STREAMS, mode=side)
    engine.start()
    ready = time.perf_counter() - start
    load = Load(engine, clients)
    try:
        seconds = load.run()
    finally:
        engine.close(patience=0)
    speed = sum(map(sum, load.written)) / seconds
    return Figures(speed, statistics.median(load.first_tokens), ready), load.written


def asked_by_clients(model: MoguModel, streams: int, replies: int, tokens: int) -> list[list[Asked]]:
    """What each client asks, `[streams][replies]`; a quarter of all is malicious."""
    kinds = demo_prompts(max(8, streams * replies // 4))
    order = (kinds["malicious"], kinds["benign"], kinds["look-alike"], kinds["benign"][::-1])
    mixed = islice(cycle(chain.from_iterable(zip(*order, strict=False))), streams * replies)
    # So that no client asks malicious prompts alone.
    asked = [Asked(encode_chat(model.tokenizer, talk).ids, tokens) for talk in mixed]
    random.Random(SEED).shuffle(asked)
    return [asked[client * replies : (client + 1) * replies] for client in range(streams)]


def main() -> None:
    """Measure, show, and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--adapter", type=Path, default=Path("runs/demo/adapter"))
    parser.add_argument("--base", default=None, help="other place of the base model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--replies", type=int, default=4, help="of each client in a round")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    if not options.adapter.exists():
        parser.exit(2, f"there is no {options.adapter}: make it with `make demo`, or give --adapter FOLDER\n")

    start = time.perf_counter()
    model = MoguModel.from_pretrained(options.adapter, base=options.base)
    load_seconds = time.perf_counter() - start
    many = asked_by_clients(model, STREAMS, options.replies, options.new_tokens)
    # What is slow the first time is done with, too.
    _, lengths = loaded(model, "mogu", many)
    many = [
        [each._replace(tokens=tokens) for each, tokens in zip(*client, strict=True)]
        for client in zip(many, lengths, strict=True)
    ]
    one = many[:1]
    rng = random.Random(SEED)
    loads: dict[Side, list[Figures]] = {side: [] for side in SIDES}
    single: list[Figures] = []
    for _ in range(options.rounds):
        for side in rng.sample(SIDES, len(SIDES)):
            loads[side].append(loaded(model, side, many)[0])
        single.append(loaded(model, "mogu", one)[0])

    mogu, base = loads["mogu"], loads["base"]
    ratios = {
        "tokens per second, mogu over base": Ratio.of([f.speed for f in mogu], [f.speed for f in base]),
        "time to first token, mogu over base": Ratio.of(
            [f.first_token for f in mogu], [f.first_token for f in base]
        ),
        f"tokens per second, {STREAMS} streams over one": Ratio.of(
            [f.speed for f in mogu], [f.speed for f in single]
        ),
    }
    ready = load_seconds + max(figures.ready for figures in mogu)
    speed, first_token, gain = (ratio.median for ratio in ratios.values())
    met = (speed >= LEAST_SPEED, first_token <= MOST_FIRST_TOKEN, gain >= LEAST_GAIN, ready <= MOST_READY)
    table = Table("", "median", "95% interval", "bar", "met")
    bars = (f">= {LEAST_SPEED}", f"<= {MOST_FIRST_TOKEN}", f">= {LEAST_GAIN}")
    for (name, ratio), bar, meets in zip(ratios.items(), bars, met, strict=False):
        interval = f"{ratio.low:.3f} to {ratio.high:.3f}"
        table.add_row(name, f"{ratio.median:.3f}", interval, bar, "yes" if meets else "no")
    table.add_row(
        "seconds to load and start", f"{ready:.1f}", "", f"<= {MOST_READY}", "yes" if met[-1] else "no"
    )
    console = Console(width=110)
    console.print(table)
    for name, figures in (("mogu", mogu), ("base", base), ("one stream", single)):
        rate = statistics.median(each.speed for each in figures)
        first = statistics.median(each.first_token for each in figures)
        console.print(f"{name}: {rate:.1f} tokens per second, first token after {first:.2f} s")
    written = facts() | {
        "adapter": str(options.adapter),
        "streams": STREAMS,
        "replies": options.replies,
        "new_tokens": options.new_tokens,
        "load_seconds": round(load_seconds, 2),
        "rounds": {side: [each._asdict() for each in figures] for side, figures in loads.items()},
        "one_stream": [each._asdict() for each in single],
    }
    write_atomic(options.output, json.dumps(written, indent=2) + "\n")
    console.print(f"Every round: {options.output}")


if __name__ == "__main__":
    main()
