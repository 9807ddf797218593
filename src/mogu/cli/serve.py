"""`mogu serve`: an OpenAI-compatible server."""

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table
from rich.text import Text

from mogu.cli.console import err, tell
from mogu.cli.options import (
    Base,
    Device,
    Dtype,
    Folder,
    Threshold,
    TrustRemoteCode,
    open_model,
    without_collecting,
)
from mogu.errors import MoguError

if TYPE_CHECKING:
    from mogu.generation.model import MoguModel

MIB = 2**20


def run(
    folder: Folder,
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any free one.")] = 8000,
    name: Annotated[
        str | None,
        typer.Option(help="Of the model, as requests give it; by default the base's and -mogu (or -base)."),
    ] = None,
    keys: Annotated[
        Path | None,
        typer.Option(help="File with API keys, one a line; those of MOGU_API_KEYS are taken as well."),
    ] = None,
    public_without_key: Annotated[
        bool,
        typer.Option("--public-without-key", help="Listen where other machines can reach it, without a key."),
    ] = False,
    threshold: Threshold = None,
    mode: Annotated[
        Literal["mogu", "base"], typer.Option(help="mogu: routed; base: without the adapter.")
    ] = "mogu",
    rows: Annotated[int, typer.Option(min=1, help="Replies that are written at once.")] = 16,
    waiting: Annotated[int, typer.Option(min=0, help="Replies that may wait beside them, else 429.")] = 64,
    max_prompt_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest prompt, else 400; by default what the model takes.")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest reply, else 400; by default what the model takes.")
    ] = None,
    max_body: Annotated[float, typer.Option(min=0.001, help="Largest request in MiB, else 413.")] = 2,
    max_seconds: Annotated[float, typer.Option(min=1, help="Longest time for a request, else 504.")] = 600,
    patience: Annotated[
        float, typer.Option(min=0, help="Seconds that running replies have when the server is stopped.")
    ] = 30,
    hide_verdict: Annotated[
        bool, typer.Option("--hide-verdict", help="Leave the `mogu` object out of answers.")
    ] = False,
    log: Annotated[
        Path | None,
        typer.Option(help="File for one JSON line a request; by default standard output, if no terminal."),
    ] = None,
    log_text: Annotated[
        bool, typer.Option("--log-text", help="Write prompts and replies into those lines.")
    ] = False,
    base: Base = None,
    device: Device = None,
    dtype: Dtype = "auto",
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Serve the model to OpenAI's clients: /v1/chat/completions, /v1/completions, /v1/models, /health, /metrics.

    Only this machine can reach it unless --host says otherwise, which takes an API key. Ctrl-C ends it once the
    replies in progress are finished; a second Ctrl-C ends it at once.
    """
    with err.status("Starting"), without_collecting():
        try:
            from mogu.serving.http.app import make_app
            from mogu.serving.http.keys import read_keys
            from mogu.serving.http.server import Server, bind, url_of
        except ModuleNotFoundError as error:
            raise MoguError(
                f"{error.name} is not installed; get it with: pip install 'mogu-llm[serve]'"
            ) from error
        from mogu.serving.engine.loop import Engine
        from mogu.serving.http.limits import Limits
    digests = read_keys(keys)
    # Before the model is loaded: a mistake in the address is told at once.
    public = bool(digests) or public_without_key
    remedy = "give --keys FILE, or --public-without-key if something in front of the server asks for one"
    with closing(bind(host, port, public=public, remedy=remedy)) as bound, _lines(log) as lines:
        model = open_model(folder, base, device, dtype, trust_remote_code)
        engine = Engine(model, rows=rows, waiting=waiting, threshold=threshold, mode=mode)
        served = name or Path(model.config.base.name).name.removesuffix(".gguf") + f"-{mode}"
        limits = Limits(round(max_body * MIB), max_prompt_tokens, max_new_tokens, rows, max_seconds)
        app = make_app(
            engine,
            model.tokenizer,
            served,
            limits=limits,
            keys=digests,
            log=lines,
            log_text=log_text,
            with_mogu=not hide_verdict,
        )
        longest = engine.longest - 1
        facts = {
            "address": f"{url_of(bound)}/v1",
            "model": served,
            "adapter": f"{folder} on {model.model.device}, {_refuses(model, mode, threshold)}",
            "API key": f"one of {len(digests)}" if digests else "none asked for",
            "limits": f"{rows} replies at once, {waiting} may wait; prompts of "
            f"{min(max_prompt_tokens or longest, longest)} tokens, replies of {max_new_tokens or longest}, "
            f"bodies of {max_body:g} MiB, {max_seconds:g} seconds",
        }

        def end() -> None:
            if replies := engine.state.running + engine.state.waiting:
                tell(
                    err,
                    f"Finishing what runs ({replies}), {patience:g} seconds at most; Ctrl-C again ends it at once.",
                )

        server = Server(app, engine, patience, lambda: _show(facts, asks_key=bool(digests)), end)
        engine.start()
        # The server's own handlers take these signals, and raise them once more when it has ended: that is no news.
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, lambda *_: None)
        server.run(sockets=[bound])
    tell(err, "Stopped.")


@contextmanager
def _lines(log: Path | None) -> Iterator[IO[str] | None]:
    """Where the lines about requests go: a file, or standard output where nobody looks at it."""
    if log is None:
        yield None if sys.stdout.isatty() else sys.stdout
        return
    with log.open("a", encoding="utf-8") as lines:
        yield lines


def _refuses(model: "MoguModel", mode: str, threshold: float | None) -> str:
    """What is refused, in a few words."""
    if mode == "base":
        return "not routed: the base answers"
    if model.config.gate is None:
        return "routed token by token"
    in_force = model.config.gate.thresholds(threshold)
    reply = "" if in_force.reply is None else f", replies from {in_force.reply:.2f}"
    return f"prompts refused from {in_force.prompt:.2f} on{reply}"


def _show(facts: dict[str, str], *, asks_key: bool) -> None:
    """One screen: what is served, and how to ask it."""
    table = Table.grid(padding=(0, 2))
    for name, fact in facts.items():
        table.add_row(Text(name, style="dim"), Text(fact))
    err.print(table)
    body = json.dumps({"model": facts["model"], "messages": [{"role": "user", "content": "Hello"}]})
    lines = [f"curl {facts['address']}/chat/completions", "-H 'content-type: application/json'"]
    if asks_key:
        lines.append('-H "Authorization: Bearer $KEY"')
    err.print()
    tell(err, " \\\n  ".join([*lines, f"-d '{body}'"]))
    err.print("\nCtrl-C ends it.", style="dim")
