"""The options that several commands have, and opening the adapter that they name."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mogu.cli.console import err

if TYPE_CHECKING:
    from mogu.generation.model import MoguModel

BASE = "Base model"
"""The group of options in the help that say which base is loaded, and how."""

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The adapter folder that `mogu train` wrote.")]
Base = Annotated[
    str | None,
    typer.Option(
        help="Where the base model is, if not where it was in training: hub id, folder or GGUF file.",
        rich_help_panel=BASE,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(help="Such as cpu or cuda:1; by default the best there is.", rich_help_panel=BASE),
]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    typer.Option(
        help="Of the base model; auto: float32 on a CPU, else the checkpoint's own.", rich_help_panel=BASE
    ),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option("--trust-remote-code", help="Let code in the model's repository run.", rich_help_panel=BASE),
]
Mode = Annotated[
    Literal["mogu", "base", "usable", "safe"],
    typer.Option(help="mogu: routed; base: without the adapter; usable, safe: that variant alone."),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Sequence routing: refuse from this probability of malice on, 0 to 1; by default the adapter's own.",
    ),
]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Longest reply, in tokens.")]


def open_model(
    folder: Path, base: str | None, device: str | None, dtype: str, trust_remote_code: bool
) -> "MoguModel":
    """Loads an adapter with its base model, and shows that it does.

    Raises:
        MoguError: The folder is no adapter, or does not fit the base model.
    """
    with err.status(f"Loading {folder}"), without_collecting():
        from mogu.generation.model import MoguModel

        return MoguModel.from_pretrained(
            folder, base=base, device=device, dtype=dtype, trust_remote_code=trust_remote_code
        )


@contextmanager
def without_collecting() -> Iterator[None]:
    """Look for no garbage: while libraries and models are loaded there is none, and it takes two seconds of ten."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
