"""The command `mogu`: its subcommands, one file each, and what becomes of their errors.

No file here imports torch, or what imports it, before a command runs: `mogu --help` answers at once.
"""

import logging
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.logging import RichHandler

from mogu.cli import chat, demo, generate, info, inspect, train
from mogu.cli.console import err
from mogu.errors import MoguError

app = typer.Typer(
    name="mogu",
    help="Make an open language model safer without making it less useful.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("train")(train.run)
app.command("chat")(chat.run)
app.command("generate")(generate.run)
app.command("inspect")(inspect.run)
app.command("info")(info.run)
app.command("demo")(demo.run)


@app.callback()
def _root(debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False) -> None:
    """Declares the option for the help; `main` acts on it, wherever it stands on the line."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command line and leaves with 0, with 2 for a mistake of the user's, with 1 for any other error.

    Args:
        arguments: The line without the program's name; by default this process's.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    logging.basicConfig(
        format="%(message)s", handlers=[RichHandler(console=err, show_time=False, show_path=False)]
    )
    try:
        app([argument for argument in given if argument != "--debug"], prog_name="mogu")
    except Exception as error:
        if debug:
            traceback.print_exc()
        mistake = isinstance(error, MoguError)
        line = (
            f"error: {error}" if mistake else f"error: {_summary(error)}; run with --debug for the traceback"
        )
        err.print(line, markup=False, highlight=False, soft_wrap=True)
        sys.exit(2 if mistake else 1)


def _summary(error: Exception) -> str:
    first_line = str(error).strip().partition("\n")[0]
    return ": ".join(filter(None, (type(error).__name__, first_line)))
