"""`mogu train`: harden a model."""

from pathlib import Path
from typing import Annotated

import typer

from mogu.cli.console import err, out, tell
from mogu.cli.options import Device, Dtype, TrustRemoteCode
from mogu.cli.progress import StageBars
from mogu.errors import MoguError
from mogu.settings import merge_settings


def run(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A hub id, a local folder or a GGUF file.")],
    *,
    output: Annotated[Path, typer.Option(help="The adapter folder to write.")],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the adapter that is there.")
    ] = False,
    malicious: Annotated[
        str | None,
        typer.Option(help="Your malicious requests, in place of the corpus: JSONL, CSV or a dataset id."),
    ] = None,
    benign: Annotated[str | None, typer.Option(help="Your benign requests, likewise.")] = None,
    preset: Annotated[
        str, typer.Option(help="The settings to start from: default, full, token, paper or quick.")
    ] = "default",
    config: Annotated[
        Path | None, typer.Option(help="A TOML file with settings; wins over the preset.")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One setting; wins over the file. May be repeated."),
    ] = None,
    usable: Annotated[
        bool,
        typer.Option(
            "--usable",
            help="Train the usable variant too, even if the base refuses little that is harmless.",
        ),
    ] = False,
    seed: Annotated[int | None, typer.Option(help="Short for --set seed=...")] = None,
    device: Device = None,
    dtype: Dtype = "auto",
    projection: Annotated[
        str | None,
        typer.Option(help="Path of the attention output projection in a decoder layer, if it is not found."),
    ] = None,
    chat_template: Annotated[
        Path | None, typer.Option(help="A jinja file in place of the tokenizer's chat template.")
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Harden MODEL: train the safe variant and the gate, or both variants and the routers.

    An interrupted training goes on where it was when the same command is given again.
    """
    from mogu.training.settings import TrainingSettings

    given = [
        *(assignments or []),
        *(["usable_variant=true"] if usable else []),
        *([] if seed is None else [f"seed={seed}"]),
    ]
    settings = merge_settings(TrainingSettings.preset(preset), file=config, assignments=given)
    with err.status("Starting"):
        from mogu.adapter.folder import CONFIG_FILE
        from mogu.training.pipeline import train, unfinished_work
    # With unfinished work beside it, this goes on with a training that was allowed to replace the adapter.
    going_on = unfinished_work(output.absolute()).exists()
    if (output / CONFIG_FILE).exists() and not (overwrite or going_on):
        raise MoguError(
            f"{output} holds an adapter (mogu info {output} shows which); "
            "choose another --output, or give --overwrite to replace it"
        )
    with StageBars(err) as bars:
        train(
            model,
            output,
            settings,
            malicious=malicious,
            benign=benign,
            projection=projection,
            chat_template=chat_template,
            device=device,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            progress=bars,
        )
    for line in (f"Adapter: {output}", f"Next:    mogu chat {output}"):
        tell(out, line)
