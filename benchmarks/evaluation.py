"""How fast a comparison asks: requests per second of each defense, beside a loop of single `generate` calls.

    python -m benchmarks.evaluation --adapter runs/demo/adapter

Prompts of up to 64 tokens from the project's own test split, half of them malicious, in one run on one loaded base: the
loop, then each defense in batches of 16, alternating over the rounds. Defenses that need training train before they are
timed. The figures go to ``runs/benchmarks/evaluation.json``, which is not committed.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.machine import facts
from mogu.chat import encode_chat
from mogu.defenses import DEFENSES, make_defense
from mogu.defenses.base import Defense, Host, Talk
from mogu.evaluation.sets import SETS
from mogu.files import write_atomic
from mogu.generation import MoguModel

BATCH = 16
LONGEST = 64
NEW_TOKENS = 32
OUTPUT = Path("runs/benchmarks/evaluation.json")


def short_talks(mogu: MoguModel, count: int) -> list[Talk]:
    """So many talks of at most `LONGEST` tokens, malicious and benign ones in turn."""
    talks = []
    for pair in zip(SETS["own_direct"].load(), SETS["own_everyday"].load(), strict=False):
        talks += [
            sample.talk
            for sample in pair
            if len(encode_chat(mogu.tokenizer, sample.talk.messages).ids) <= LONGEST
        ]
    return talks[:count]


def single(mogu: MoguModel, talks: list[Talk]) -> float:
    """Requests per second of a loop that asks the base one by one."""
    start = time.perf_counter()
    for talk in talks:
        mogu.reply([talk.messages], mode="base", max_new_tokens=NEW_TOKENS)
    return len(talks) / (time.perf_counter() - start)


def batched(defense: Defense, talks: list[Talk]) -> float:
    """Requests per second of a defense."""
    start = time.perf_counter()
    defense.reply(talks, NEW_TOKENS)
    return len(talks) / (time.perf_counter() - start)


def main() -> None:
    """Measure, show a table and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapter", type=Path, default=Path("runs/demo/adapter"))
    parser.add_argument("--trained", type=Path, default=Path("runs/benchmarks/trained"))
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--defenses", default=",".join(name for name in DEFENSES if name != "guard"))
    options = parser.parse_args()
    console = Console()
    mogu = MoguModel.from_pretrained(options.adapter)
    host = Host(mogu, options.trained, BATCH)
    talks = short_talks(mogu, options.requests)
    defenses = {name: make_defense(name, host) for name in options.defenses.split(",")}
    for name, defense in defenses.items():
        with console.status(f"preparing {name}"):
            defense.prepare(lambda done, total: None)
    rates: dict[str, list[float]] = {}
    for number in range(options.rounds):
        console.print(f"round {number + 1} of {options.rounds}")
        rates.setdefault("single generate", []).append(single(mogu, talks))
        for name, defense in defenses.items():
            with defense:
                rates.setdefault(name, []).append(batched(defense, talks))
    loop = rates["single generate"]
    figures: dict[str, Any] = {}
    table = Table("defense", "requests a second", "times the loop (lowest to highest)")
    for name, each in rates.items():
        ratios = [rate / alone for rate, alone in zip(each, loop, strict=True)]
        figures[name] = {"rates": each, "ratio": statistics.median(ratios)}
        spread = f"{statistics.median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"
        table.add_row(name, f"{statistics.median(each):.2f}", spread)
    console.print(table)
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(
        OUTPUT, json.dumps({"facts": facts(), "requests": len(talks), "defenses": figures}, indent=1)
    )


if __name__ == "__main__":
    main()
