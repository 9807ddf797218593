"""`mogu ui`: a page in the browser, MoGU and its base side by side."""

from contextlib import closing, suppress
from typing import Annotated

import typer

from mogu.cli.console import err, out, tell
from mogu.cli.listening import is_loopback, listen, url
from mogu.cli.options import Base, Device, Dtype, Folder, TrustRemoteCode, open_model
from mogu.errors import MoguError


def run(
    folder: Folder,
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free one.")] = 7860,
    force: Annotated[
        bool, typer.Option("--force", help="Listen where other machines reach it; the page asks for no key.")
    ] = False,
    base: Base = None,
    device: Device = None,
    dtype: Dtype = "auto",
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Open a page that asks MoGU and its base the same, and shows how MoGU decides."""
    with err.status("Starting"):
        try:
            import uvicorn

            from mogu.serving.page import page_app
        except ModuleNotFoundError as error:
            raise MoguError(
                f"{error.name} is not installed; get it with: pip install 'mogu-llm[ui]'"
            ) from error
    with closing(listen(host, port)) as listener:
        if not is_loopback(listener) and not force:
            raise MoguError(
                f"{host} can be reached from other machines, and the page asks for no key; "
                "leave out --host, or take the risk with --force"
            )
        model = open_model(folder, base, device, dtype, trust_remote_code)
        # A page that is open in a browser never ends its connection by itself.
        config = uvicorn.Config(page_app(model), log_level="critical", timeout_graceful_shutdown=1)
        tell(out, f"The page is at {url(listener)}")
        tell(err, "Ctrl-C stops it.")
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run([listener])
