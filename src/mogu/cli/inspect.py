"""`mogu inspect`: how one prompt and its reply are routed, as a picture."""

from pathlib import Path
from typing import Annotated

import typer

from mogu.cli.console import err, out, tell
from mogu.cli.options import Base, Device, Dtype, Folder, MaxNewTokens, Threshold, TrustRemoteCode, open_model
from mogu.files import write_atomic


def run(
    folder: Folder,
    *,
    prompt: Annotated[str, typer.Option(help="What a user asks.")],
    output: Annotated[Path, typer.Option(help="The HTML file to write.")],
    threshold: Threshold = None,
    max_new_tokens: MaxNewTokens = 32,
    base: Base = None,
    device: Device = None,
    dtype: Dtype = "auto",
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Draw how one prompt and its reply are routed.

    Sequence routing: where in the prompt the gate's probability rises. Token routing: the weights by layer and token.
    """
    model = open_model(folder, base, device, dtype, trust_remote_code)
    from mogu.chat import as_conversation
    from mogu.report.routing import gate_page, routing_page

    with err.status("Writing the reply"):
        trace = model.trace(
            as_conversation({"prompt": prompt}), threshold=threshold, max_new_tokens=max_new_tokens
        )
    if trace.gate is None:
        page = routing_page(trace, title=prompt)
    else:
        page = gate_page(trace, answerer=model.config.answerer, title=prompt)
    write_atomic(output, page)
    tell(out, f"Picture: {output}")
