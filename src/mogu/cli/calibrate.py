"""`mogu calibrate`: move the thresholds of an adapter to its operator's own traffic."""

from math import ceil
from typing import TYPE_CHECKING, Annotated

import typer

from mogu.cli.batches import longest_first
from mogu.cli.console import err, out, tell
from mogu.cli.options import Base, Device, Dtype, Folder, TrustRemoteCode, open_model
from mogu.cli.partial import PartialFile
from mogu.cli.progress import StageBars
from mogu.errors import MoguError

if TYPE_CHECKING:
    from mogu.chat import Conversation
    from mogu.generation import MoguModel

SHOWN = 5
"""Refused requests that are named, at most."""


def run(
    folder: Folder,
    *,
    benign: Annotated[
        str, typer.Option(help="Benign requests as your users write them: JSONL, CSV or a dataset id.")
    ],
    benign_refusal_budget: Annotated[
        float, typer.Option(min=0, max=1, help="Share of them that may be refused, at the prompt or later.")
    ] = 0.01,
    max_new_tokens: Annotated[
        int, typer.Option(min=8, help="Length of the replies over which the budget holds, in tokens.")
    ] = 256,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows that are read together.")] = 16,
    base: Base = None,
    device: Device = None,
    dtype: Dtype = "auto",
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Set the lowest thresholds at which at most a share of your own benign requests is refused.

    They may go up or down; the folder keeps those of training as traffic.before. Nothing is trained: each request
    is answered, whatever the gate says of it meanwhile. An interrupted run goes on where it was when the same command
    is given again.
    """
    with err.status("Starting"):
        from mogu.adapter.folder import read_config, save_config
        from mogu.data.requests import sha256_of
        from mogu.data.sources import FEWEST, read_requests, source_name
        from mogu.training.gate_calibration import calibrate_traffic
    config = read_config(folder)
    if config.gate is None:
        raise MoguError(f"{folder} routes token by token and has no threshold; train with the preset default")
    requests = read_requests(benign, "benign", minimum=1)
    needed = max(FEWEST, ceil(1 / benign_refusal_budget) if benign_refusal_budget else 0)
    if len(requests) < needed:
        raise MoguError(
            f"{len(requests)} requests cannot show a share of {benign_refusal_budget:g}; give at least {needed}, or a "
            "larger --benign-refusal-budget"
        )
    digest = sha256_of(requests)
    partial = PartialFile(
        folder.with_name(f"{folder.name}.calibration"),
        {
            "benign": digest,
            "adapter": config.sha256,
            "max-new-tokens": max_new_tokens,
            "batch-size": batch_size,
            "dtype": dtype,
        },
    )
    if len(partial.results) < len(requests):
        model = open_model(folder, base, device, dtype, trust_remote_code)
        with StageBars(err) as bars:
            _read(
                model, [request.messages for request in requests], max_new_tokens, batch_size, partial, bars
            )
    rows = [partial.results[row] for row in range(len(requests))]
    thresholds, figures = calibrate_traffic(
        [row["prompt"] for row in rows], [row["reply"] for row in rows], benign_refusal_budget
    )
    before = config.gate.thresholds(None)
    config.gate.threshold = thresholds.prompt
    if before.reply is None:
        del figures["reply_threshold"]
    else:
        config.gate.reply_threshold = thresholds.reply
    # Of several calibrations the first one has found the thresholds of training.
    of_training = config.metrics.get("traffic", {}).get("before", before._asdict())
    config.metrics["traffic"] = {
        "source": source_name(benign),
        "sha256": digest,
        "reply_tokens": 0 if before.reply is None else max_new_tokens,
        "before": of_training,
        **figures,
    }
    save_config(folder, config)
    partial.remove()
    tell(out, f"{len(requests)} requests of {source_name(benign)}")
    tell(out, f"Threshold: {before.prompt:.4g} before, {thresholds.prompt:.4g} now")
    if before.reply is not None:
        tell(out, f"Threshold of replies: {before.reply:.4g} before, {config.gate.reply_threshold:.4g} now")
    low, high = figures["interval"]
    tell(out, f"Refused of them: {figures['refused']:.1%} (95% interval {low:.1%} to {high:.1%})")
    refused_before = sum(before.refuse(row["prompt"], row["reply"]) for row in rows) / len(rows)
    tell(out, f"With the thresholds before: {refused_before:.1%}")
    refused = [
        request.id
        for request, row in zip(requests, rows, strict=True)
        if thresholds.refuse(row["prompt"], row["reply"])
    ]
    for name in refused[:SHOWN]:
        tell(out, f"  refused now: {name}")
    if len(refused) > SHOWN:
        tell(out, f"  and {len(refused) - SHOWN} more")


def _read(
    model: "MoguModel",
    talks: "list[Conversation]",
    max_new_tokens: int,
    batch_size: int,
    partial: PartialFile,
    bars: StageBars,
) -> None:
    """Keep what the gate says of each request at its end, and at most while it is answered."""

    def scores(batch: list[int], tokens: int) -> list[float | None]:
        # At the highest threshold all are answered, while the gate says what it would have done.
        replies = model.reply(
            [talks[row] for row in batch], threshold=1.0, max_new_tokens=tokens, batch_size=len(batch)
        )
        return [reply.score for reply in replies]

    gate = model.config.gate
    reads_replies = gate is not None and gate.reply_threshold is not None
    bars("requests", len(partial.results), len(talks))
    for batch in longest_first(talks, batch_size):
        if partial.results.keys() >= set(batch):
            continue
        at_end = scores(batch, 1)
        at_most = scores(batch, max_new_tokens) if reads_replies else at_end
        partial.append(
            {
                row: {"prompt": end, "reply": most}
                for row, end, most in zip(batch, at_end, at_most, strict=True)
            }
        )
        bars("requests", len(partial.results), len(talks))
