"""`mogu ui`: a page in the browser, MoGU and its base side by side."""

from contextlib import closing, suppress
from typing import Annotated

import typer

from mogu.cli.console import err, tell
from mogu.cli.options import Base, Device, Dtype, Folder, TrustRemoteCode, open_model
from mogu.errors import MoguError


def run(
    folder: Folder,
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any free one.")] = 7860,
    public_without_key: Annotated[
        bool,
        typer.Option(
            "--public-without-key", help="Listen where other machines can reach it; the page asks for no key."
        ),
    ] = False,
    base: Base = None,
    device: Device = None,
    dtype: Dtype = "auto",
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Open a page that asks MoGU and its base the same, side by side, and shows how MoGU decides.

    Only this machine can reach it unless --host says otherwise. Ctrl-C ends it.
    """
    with err.status("Starting"):
        try:
            import uvicorn

            from mogu.serving.http.server import bind, url_of
            from mogu.serving.page import page_app
        except ModuleNotFoundError as error:
            raise MoguError(
                f"{error.name} is not installed; get it with: pip install 'mogu-llm[ui]'"
            ) from error
    remedy = "leave out --host, or give --public-without-key if something in front of the page asks for one"
    # Before the model is loaded: a mistake in the address is told at once.
    with closing(bind(host, port, public=public_without_key, remedy=remedy)) as bound:
        model = open_model(folder, base, device, dtype, trust_remote_code)
        # A page that is open in a browser never ends its connection by itself.
        config = uvicorn.Config(page_app(model), log_level="critical", timeout_graceful_shutdown=1)
        bound.listen()
        tell(err, f"Open {url_of(bound)} in a browser. Ctrl-C ends it.")
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run([bound])
    tell(err, "Stopped.")
