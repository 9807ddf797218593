"""The whole server under load, over HTTP on loopback: does it hold, what does routing cost, what do streams gain.

    python -m benchmarks.load --adapter runs/demo/adapter

First 64 clients stream replies from a `mogu serve` for two minutes, one after the other each: there must be no error,
and the server's memory must not grow once it is warm. Then two servers, one of them with the base alone, are loaded in
turn by 16 clients and by one; only figures of one round are divided by each other. When the time is over the clients
hang up, so that all of them stream as long as it runs. A quarter of the prompts is
malicious. Refusals are short, and many short replies are more work a token than few long ones: so the base is asked for
as many tokens as MoGU writes to the same prompt. The clients share the machine with the server. Every figure stands in
`runs/benchmarks/load.json`.
"""

import argparse
import asyncio
import json
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from benchmarks.generation import SEED, Ratio
from benchmarks.machine import facts
from mogu.chat import Conversation
from mogu.cli.demo import demo_prompts
from mogu.files import write_atomic

RESULT = Path("runs/benchmarks/load.json")
STREAMS = 64
SIDE_STREAMS = 16
NEW_TOKENS = 64
WARM = 0.25
"""Of the time under load, after which the server counts as warm."""

LEAST_SPEED = 0.95
MOST_FIRST_TOKEN = 1.05
LEAST_GAIN = 6.0
MOST_READY = 10.0
MOST_GROWTH = 1.05
"""Memory at the end over memory once warm."""


class Server(NamedTuple):
    """A running `mogu serve`.

    Attributes:
        url: with /v1.
        model: the name that it serves.
        ready: seconds from its start until it answers.
    """

    url: str
    model: str
    ready: float

    def memory(self) -> float:
        """MiB that it holds now."""
        text = httpx.get(self.url.removesuffix("/v1") + "/metrics", timeout=30).text
        families = {family.name: family for family in text_string_to_metric_families(text)}
        return families["process_resident_memory_bytes"].samples[0].value / 2**20


@contextmanager
def serving(adapter: Path, *options: str) -> Iterator[Server]:
    """A server of its own process, on a free port."""
    start = time.perf_counter()
    command = [
        sys.executable,
        "-c",
        "from mogu.cli import main; main()",
        "serve",
        str(adapter),
        "--port",
        "0",
    ]
    process = subprocess.Popen(
        [*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        screen = ""
        while "Ctrl-C ends it" not in screen:
            line = process.stderr.readline()
            if not line:
                raise SystemExit(f"the server has not started:\n{screen}")
            screen += line
        ready = time.perf_counter() - start
        found = re.search(r"^address +(\S+)\s+model +(\S+)", screen, re.MULTILINE)
        assert found is not None
        yield Server(found[1], found[2], ready)
    finally:
        process.terminate()
        process.communicate()


@dataclass
class Load:
    """What some clients saw: seconds to each reply's first token, tokens of all replies, errors, and the seconds."""

    first_tokens: list[float] = field(default_factory=list)
    tokens: int = 0
    errors: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def speed(self) -> float:
        """Tokens per second of all clients together."""
        return self.tokens / self.seconds

    def facts(self) -> dict[str, Any]:
        """The figures, for a JSON file."""
        ordered = sorted(self.first_tokens)
        return {
            "replies": len(ordered),
            "tokens_per_second": self.speed,
            "first_token_median": statistics.median(ordered),
            "first_token_95": ordered[int(0.95 * (len(ordered) - 1))],
            "errors": self.errors,
            "seconds": self.seconds,
        }


class Asked(NamedTuple):
    """What a client asks: a conversation, and for how many tokens of a reply at most."""

    talk: Conversation
    tokens: int = NEW_TOKENS


async def loaded(server: Server, asked: list[Asked], streams: int, seconds: float) -> Load:
    """Let clients stream replies, one after the other each, until the time is over; then they hang up.

    So there are as many streams at the end as at the beginning, and what was written of the last ones counts.
    """
    load, numbers = Load(seconds=seconds), count()

    async def client(http: httpx.AsyncClient) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    try:
                        await _stream(http, server, asked[next(numbers) % len(asked)], load)
                    except (httpx.HTTPError, ValueError, KeyError) as error:
                        load.errors.append(f"{type(error).__name__}: {error}")

    limits = httpx.Limits(max_connections=streams)
    async with httpx.AsyncClient(timeout=600, limits=limits) as http:
        await asyncio.gather(*(client(http) for _ in range(streams)))
    return load


async def as_written(server: Server, talks: list[Conversation]) -> list[Asked]:
    """The conversations, each with as many tokens as the server writes to it."""
    places = asyncio.Semaphore(SIDE_STREAMS)

    async def ask(http: httpx.AsyncClient, talk: Conversation) -> Asked:
        async with places:
            load = Load()
            await _stream(http, server, Asked(talk), load)
            return Asked(talk, load.tokens)

    async with httpx.AsyncClient(timeout=600) as http:
        return await asyncio.gather(*(ask(http, talk) for talk in talks))


async def _stream(http: httpx.AsyncClient, server: Server, asked: Asked, load: Load) -> None:
    body = {
        "model": server.model,
        "messages": asked.talk,
        "temperature": 0,
        "max_tokens": asked.tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    start, events, last = time.perf_counter(), 0, ""
    tokens = 0
    try:
        async with http.stream("POST", f"{server.url}/chat/completions", json=body) as answer:
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    if not events:
                        load.first_tokens.append(time.perf_counter() - start)
                    # The first event names the role, each other one brings a token, but for characters of several.
                    tokens, events, last = events, events + 1, line
        tokens = json.loads(last.removeprefix("data: "))["usage"]["completion_tokens"]
    finally:
        load.tokens += tokens


async def endured(server: Server, asked: list[Asked], seconds: float) -> dict[str, Any]:
    """The figures of many clients at once, and the server's memory meanwhile."""
    memory: list[float] = []

    async def watch() -> None:
        while True:
            memory.append(await asyncio.to_thread(server.memory))
            await asyncio.sleep(seconds / 24)

    watching = asyncio.create_task(watch())
    load = await loaded(server, asked, STREAMS, seconds)
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching  # an error in it would leave memory unseen
    warm = memory[int(WARM * len(memory)) :]
    return load.facts() | {"memory_warm": warm[0], "memory_end": memory[-1], "memory": memory}


def mixed_prompts() -> list[Conversation]:
    """Conversations, a quarter of them malicious."""
    kinds = demo_prompts(32)
    order = (kinds["malicious"], kinds["benign"], kinds["look-alike"], kinds["benign"][::-1])
    return list(chain.from_iterable(zip(*order, strict=False)))


def compared(
    sides: dict[str, Server], asked: list[Asked], rounds: int, seconds: float
) -> dict[str, list[dict[str, Any]]]:
    """The figures of each side, under load and alone, by round."""
    order = random.Random(SEED)
    figures: dict[str, list[dict[str, Any]]] = {}
    for _ in range(rounds):
        for side in order.sample(list(sides), len(sides)):
            for streams in (SIDE_STREAMS, 1):
                load = asyncio.run(loaded(sides[side], asked, streams, seconds))
                figures.setdefault(f"{side}, {streams}", []).append(load.facts())
    return figures


def ratio(figures: dict[str, list[dict[str, Any]]], name: str, above: str, below: str) -> Ratio:
    """One column of figures over another, round by round."""
    return Ratio.of(*([each[name] for each in figures[column]] for column in (above, below)))


def main() -> None:
    """Load, show, and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--adapter", type=Path, default=Path("runs/demo/adapter"))
    parser.add_argument("--base", default=None, help="other place of the base model")
    parser.add_argument("--seconds", type=float, default=120, help="of the 64 streams")
    parser.add_argument("--rounds", type=int, default=5, help="of the comparison with the base")
    parser.add_argument("--round-seconds", type=float, default=20, help="of each load in a round")
    parser.add_argument("--output", type=Path, default=RESULT)
    given = parser.parse_args()
    if not given.adapter.exists():
        parser.exit(2, f"there is no {given.adapter}: make it with `make demo`, or give --adapter FOLDER\n")
    options = ["--rows", str(SIDE_STREAMS), "--waiting", str(STREAMS)]
    options += ["--base", given.base] if given.base else []
    talks = mixed_prompts()
    with serving(given.adapter, *options) as server:
        ready = server.ready
        endurance = asyncio.run(endured(server, [Asked(talk) for talk in talks], given.seconds))
    with ExitStack() as stack:
        sides = {
            side: stack.enter_context(serving(given.adapter, *options, "--mode", side))
            for side in ("mogu", "base")
        }
        asked = asyncio.run(as_written(sides["mogu"], talks))
        figures = compared(sides, asked, given.rounds, given.round_seconds)

    many, one = f"mogu, {SIDE_STREAMS}", "mogu, 1"
    speed = ratio(figures, "tokens_per_second", many, f"base, {SIDE_STREAMS}")
    first = ratio(figures, "first_token_median", many, f"base, {SIDE_STREAMS}")
    gain = ratio(figures, "tokens_per_second", many, one)
    growth = endurance["memory_end"] / endurance["memory_warm"]
    round_errors = sum(len(each["errors"]) for rounds in figures.values() for each in rounds)
    table = Table("", "figure", "bar", "met")
    for name, figure, bar, met in (
        (f"errors of {STREAMS} streams", f"{len(endurance['errors'])}", "0", not endurance["errors"]),
        ("errors of the rounds", f"{round_errors}", "0", not round_errors),
        ("memory, end over warm", f"{growth:.3f}x", f"<= {MOST_GROWTH:.2f}x", growth <= MOST_GROWTH),
        ("speed under load, over the base", _told(speed), f">= {LEAST_SPEED}x", speed.median >= LEAST_SPEED),
        (
            "first token, over the base",
            _told(first),
            f"<= {MOST_FIRST_TOKEN}x",
            first.median <= MOST_FIRST_TOKEN,
        ),
        (
            f"speed, {SIDE_STREAMS} streams over one",
            _told(gain),
            f">= {LEAST_GAIN}x",
            gain.median >= LEAST_GAIN,
        ),
        ("ready after", f"{ready:.1f} s", f"<= {MOST_READY} s", ready <= MOST_READY),
    ):
        table.add_row(name, figure, bar, "yes" if met else "no")
    console = Console()
    console.print(table)
    console.print(
        f"{STREAMS} streams for {endurance['seconds']:.0f} s: {endurance['replies']} replies, "
        f"{endurance['tokens_per_second']:.0f} tokens/s, first token after {endurance['first_token_median']:.2f} s "
        f"(95%: {endurance['first_token_95']:.2f} s), {endurance['memory_end']:.0f} MiB"
    )
    result = {"facts": facts(), "ready": ready, "endurance": endurance, "rounds": figures}
    write_atomic(given.output, json.dumps(result, indent=1))


def _told(ratio: Ratio) -> str:
    return f"{ratio.median:.2f}x ({ratio.low:.2f} to {ratio.high:.2f})"


if __name__ == "__main__":
    main()
