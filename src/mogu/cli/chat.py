"""`mogu chat`: talk to a hardened model."""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mogu.cli.console import err, out, printable
from mogu.cli.options import Base, Device, Dtype, Folder, MaxNewTokens, Mode, TrustRemoteCode, open_model

if TYPE_CHECKING:
    from mogu.chat import Message
    from mogu.generation.reply import Reply
    from mogu.generation.streaming import ReplyStream


def run(
    folder: Folder,
    *,
    mode: Mode = "mogu",
    max_new_tokens: MaxNewTokens = 256,
    base: Base = None,
    device: Device = None,
    dtype: Dtype = "auto",
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Talk to the model; after each reply stand the weights it was written with.

    /new begins a new conversation, /quit or the end of the input ends the chat, Ctrl-C cuts a reply short.
    """
    model = open_model(folder, base, device, dtype, trust_remote_code)
    turns: list[Message] = []
    for line in _lines():
        match line.strip():
            case "":
                continue
            case "/quit":
                return
            case "/new":
                turns = []
                err.print("A new conversation.", style="dim")
                continue
        turns.append({"role": "user", "content": line})
        reply = _show(model.stream(turns, mode=mode, max_new_tokens=max_new_tokens))
        if reply is None:
            turns.pop()
            out.print("\n[dim]cut short; the turn is forgotten[/dim]\n")
            continue
        turns.append({"role": "assistant", "content": reply.text})
        weights = f"safe {reply.safe_weight:.2f}, usable {reply.usable_weight:.2f}, {reply.tokens} tokens"
        if reply.score is not None:
            weights = f"gate {reply.score:.2f}, {weights}"
        out.print(f"\n{weights}\n", style="dim", highlight=False)


def _show(stream: "ReplyStream") -> "Reply | None":
    """Prints a reply as it is written; None if the user interrupts it, which ends the generation too."""
    try:
        for piece in stream:
            print(printable(piece), end="", flush=True)
    except KeyboardInterrupt:
        return None
    return stream.reply


def _lines() -> Iterator[str]:
    """What the user types, or the lines of what is piped in."""
    if not sys.stdin.isatty():
        yield from (line.removesuffix("\n") for line in sys.stdin)
        return
    import readline  # noqa: F401  (gives the prompt its history and its arrow keys)

    err.print("/new begins a new conversation, /quit ends the chat.", style="dim")
    while True:
        try:
            yield input("> ")
        except EOFError:
            return
