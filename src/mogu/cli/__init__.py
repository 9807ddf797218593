"""The command `mogu`: its subcommands, one file each, and what becomes of their errors.

No file here imports torch, or what imports it, before a command runs: `mogu --help` answers at once.
"""

import logging
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from mogu.cli import calibrate, chat, demo, eval, generate, info, inspect, serve, train, ui
from mogu.cli.console import err, log_handler, tell
from mogu.errors import MoguError

app = typer.Typer(
    help="Make an open language model safer without making it less useful.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("train")(train.run)
app.command("chat")(chat.run)
app.command("generate")(generate.run)
app.command("inspect")(inspect.run)
app.command("calibrate")(calibrate.run)
app.command("eval")(eval.run)
app.command("serve")(serve.run)
app.command("ui")(ui.run)
app.command("info")(info.run)
app.command("demo")(demo.run)


@app.callback()
def _root(debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False) -> None:
    """Declares the option for the help; `main` acts on it, wherever it stands on the line."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command line and leaves with 0, with 2 for what the user can mend, with 1 for any other error.

    Args:
        arguments: The line without the program's name; by default this process's.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    logging.basicConfig(format="%(message)s", handlers=[log_handler])
    try:
        app([argument for argument in given if argument != "--debug"], prog_name="mogu")
    except Exception as error:
        if debug:
            traceback.print_exc()
        tell(err, f"error: {_one_line(error)}")
        sys.exit(2 if isinstance(error, MoguError | OSError) else 1)


def _one_line(error: Exception) -> str:
    if isinstance(error, MoguError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        # Of a failed rename the second name is the one that the user knows: the first is a temporary file's.
        place = error.filename2 or error.filename
        return f"{place}: {error.strerror}" if place else error.strerror
    reason = str(error).strip().partition("\n")[0] or "no message"
    return f"{type(error).__name__}: {reason}; run with --debug for the traceback"
