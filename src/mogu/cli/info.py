"""`mogu info`: what an adapter folder says of itself."""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from mogu.cli.console import out, tell
from mogu.cli.options import Folder

if TYPE_CHECKING:
    from mogu.adapter.config import AdapterConfig


def run(
    folder: Folder,
    *,
    everything: Annotated[
        bool, typer.Option("--all", help="Every setting, figure and package version, too.")
    ] = False,
) -> None:
    """Show the base model, the parts and the data of an adapter, and with --all how it was trained and measured."""
    from mogu.adapter.card import data_line, flat_items, shown
    from mogu.adapter.folder import read_config

    config = read_config(folder)
    training = {"dtype": config.dtype, "projection": config.projection} | config.training
    sections = {
        "Adapter": flat_items(_adapter(config), "."),
        "Base model": flat_items(config.base.model_dump(), "."),
        "Data": [(each.label, data_line(each)) for each in config.data],
    }
    details = {
        "Training": flat_items(training, "."),
        "Metrics": flat_items(config.metrics, "."),
        "Versions": flat_items(config.versions, "."),
    }
    for heading, rows in (sections | details if everything else sections).items():
        table = Table(title=heading, title_justify="left", title_style="bold", show_header=False, box=None)
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in rows:
            table.add_row(Text(name), Text(shown(value)))
        if table.rows:
            out.print(table, "")
    if not everything:
        tell(out, f"Settings, figures and versions: mogu info {folder} --all")


def _adapter(config: "AdapterConfig") -> dict[str, Any]:
    first, last, count = config.projections[0], config.projections[-1], len(config.projections)
    return {
        "created": config.created,
        "mogu version": config.mogu_version,
        "parts": config.parts,
        "projections": f"{count}, {first} to {last}" if count > 1 else first,
        "rank": config.rank,
        "lora_alpha": config.lora_alpha,
        "weights": f"by {config.weights}",
        **_routing(config),
    }


def _routing(config: "AdapterConfig") -> dict[str, Any]:
    """What belongs to the adapter's way of routing alone."""
    if config.gate is not None:
        reply = config.gate.reply_threshold
        return {
            "gate layers": config.gate.layers,
            "threshold": config.gate.threshold,
            "reply threshold": "none, replies are not read" if reply is None else reply,
        }
    m, k = config.routed_tokens, config.routed_prompt_tokens
    return {
        "routed reply tokens": "all" if m is None else m,
        "routed prompt tokens": "all" if k is None else f"the last {k}",
    }
