"""How the base takes over after the routed tokens: on the same KV cache, or by reading everything again (the paper).

    python -m benchmarks.handoff --adapter runs/demo/adapter

Prompts are the test split of the project's own corpus. Both ways write the same routed tokens; they differ in what the
base sees of them afterwards.
"""

import argparse
import time
from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.table import Table

from mogu.cli.demo import demo_prompts
from mogu.generation import Handoff, MoguModel
from mogu.judges.refusal import judge_refusal


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapter", type=Path, default=Path("runs/token/adapter"))
    parser.add_argument("--base", default=None, help="other place of the base model")
    parser.add_argument("--prompts", type=int, default=40, help="of each kind")
    options = parser.parse_args()
    model = MoguModel.from_pretrained(options.adapter, base=options.base)
    groups = demo_prompts(options.prompts)
    table = Table("m", "hand-off", *groups, "seconds")
    for routed_tokens in (5, 24):
        for handoff in get_args(Handoff):
            start = time.perf_counter()
            cells = []
            for talks in groups.values():
                replies = model.reply(
                    talks, routed_tokens=routed_tokens, handoff=handoff, max_new_tokens=48, batch_size=32
                )
                verdicts = [judge_refusal(reply.text) for reply in replies]
                opens, holds = (sum(v.opens for v in verdicts), sum(v.holds for v in verdicts))
                cells.append(f"{holds / len(talks):.1%} (opens {opens / len(talks):.1%})")
            table.add_row(str(routed_tokens), handoff, *cells, f"{time.perf_counter() - start:.0f}")
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
