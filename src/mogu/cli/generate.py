"""`mogu generate`: replies to the rows of a file."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mogu.cli.batches import longest_first
from mogu.cli.console import err, out, tell
from mogu.cli.options import (
    Base,
    Device,
    Dtype,
    Folder,
    MaxNewTokens,
    Mode,
    Threshold,
    TrustRemoteCode,
    open_model,
)
from mogu.cli.partial import PartialFile
from mogu.cli.progress import StageBars
from mogu.errors import MoguError
from mogu.files import write_jsonl

if TYPE_CHECKING:
    from mogu.chat import Message


@dataclass(frozen=True)
class _Row:
    fields: dict[str, Any]
    conversation: "list[Message]"


def run(
    folder: Folder,
    *,
    source: Annotated[
        Path, typer.Option("--input", help="JSONL; each row has `prompt` (a text) or `messages` (turns).")
    ],
    output: Annotated[Path, typer.Option(help="JSONL to write: the same rows with response and weights.")],
    mode: Mode = "mogu",
    threshold: Threshold = None,
    max_new_tokens: MaxNewTokens = 256,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows that are generated together.")] = 16,
    base: Base = None,
    device: Device = None,
    dtype: Dtype = "auto",
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Reply greedily to each row of a file, in order.

    Finished rows are kept in OUTPUT.partial until all are there; an interrupted run goes on from them.
    """
    with err.status("Starting"):
        from mogu.adapter.folder import read_config
        from mogu.generation.request import RoutingRequest, check_request
    config = read_config(folder)
    check_request(RoutingRequest(mode, threshold=threshold), config.weights)
    rows = _read(source)
    if output.exists() and output.samefile(source):
        raise MoguError(f"{output} is the input too; choose another output")
    partial = PartialFile(
        output,
        {
            "input": hashlib.sha256(source.read_bytes()).hexdigest(),
            "adapter": config.sha256,
            "mode": mode,
            "threshold": threshold,
            "max-new-tokens": max_new_tokens,
            "batch-size": batch_size,
            "dtype": dtype,
        },
    )
    batches = longest_first([row.conversation for row in rows], batch_size)
    missing = [batch for batch in batches if not partial.results.keys() >= set(batch)]
    kept = len(rows) - sum(map(len, missing))
    if kept:
        tell(err, f"{kept} of {len(rows)} rows are kept from {partial.path}")
    if missing:
        model = open_model(folder, base, device, dtype, trust_remote_code)
        with StageBars(err) as bars:
            bars("rows", kept, len(rows))
            for batch in missing:
                replies = model.reply(
                    [rows[index].conversation for index in batch],
                    mode=mode,
                    threshold=threshold,
                    max_new_tokens=max_new_tokens,
                    batch_size=batch_size,
                )
                results = [
                    {
                        "response": reply.text,
                        "safe_weight": round(reply.safe_weight, 6),
                        "usable_weight": round(reply.usable_weight, 6),
                        "score": None if reply.score is None else round(reply.score, 6),
                    }
                    for reply in replies
                ]
                partial.append(dict(zip(batch, results, strict=True)))
                kept += len(batch)
                bars("rows", kept, len(rows))
    write_jsonl(output, (row.fields | partial.results[index] for index, row in enumerate(rows)))
    partial.remove()
    tell(out, f"{len(rows)} {'row' if len(rows) == 1 else 'rows'}: {output}")


def _read(source: Path) -> list[_Row]:
    from mogu.chat import as_conversation

    try:
        text = source.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise MoguError(f"{source}: cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise MoguError(f"{source}: not UTF-8 ({error.reason}). Save the file as UTF-8.") from error
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
            if not isinstance(fields, dict):
                raise MoguError("not an object with named fields")
            # Half a surrogate pair can be read from JSON, but not be written as UTF-8 again.
            json.dumps(fields, ensure_ascii=False).encode()
            rows.append(_Row(fields, as_conversation(fields)))
        except json.JSONDecodeError as error:
            raise MoguError(
                f"{source}:{number}: not JSON ({error.msg} at column {error.colno}). Write one object a line."
            ) from error
        except (MoguError, ValueError) as error:
            raise MoguError(f"{source}:{number}: {error}") from error
    if not rows:
        raise MoguError(f"{source}: there are no rows")
    return rows
