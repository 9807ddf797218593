"""`mogu chat`: talk to a hardened model."""

import re
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from mogu.cli.console import err, out, printable, wrapped
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

if TYPE_CHECKING:
    from mogu.adapter.config import GateConfig
    from mogu.chat import Message
    from mogu.generation.reply import Reply
    from mogu.generation.streaming import ReplyStream

COMMANDS = "/new begins a new conversation, /quit ends the chat."


def run(
    folder: Folder,
    *,
    mode: Mode = "mogu",
    threshold: Threshold = None,
    max_new_tokens: MaxNewTokens = 256,
    base: Base = None,
    device: Device = None,
    dtype: Dtype = "auto",
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Talk to the model; after each reply stands how it was routed.

    /new begins a new conversation, /quit or the end of the input ends the chat, Ctrl-C cuts a reply short.
    """
    model = open_model(folder, base, device, dtype, trust_remote_code)
    from mogu.generation.request import RoutingRequest, check_request

    check_request(RoutingRequest(mode, threshold=threshold), model.config.weights)
    answerer = {"base": "the base", "usable": "the usable variant"}.get(mode, model.config.answerer)
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
            case command if re.fullmatch(r"/\S*", command):
                err.print(COMMANDS, style="dim")
                continue
        turns.append({"role": "user", "content": line})
        reply = _show(model.stream(turns, mode=mode, threshold=threshold, max_new_tokens=max_new_tokens))
        if reply is None:
            turns.pop()
            out.print("\n[dim]cut short; the turn is forgotten[/dim]\n")
            continue
        turns.append({"role": "assistant", "content": reply.text})
        told = [_routing(reply, model.config.gate, threshold, answerer)]
        # Told too of the rare reply that ends with the very last token: a reply does not say how it ended.
        if reply.tokens >= max_new_tokens:
            told.insert(0, f"(cut at {max_new_tokens} tokens; --max-new-tokens gives more)")
        out.print("", *told, "", sep="\n", style="dim", highlight=False)


def _routing(reply: "Reply", gate: "GateConfig | None", threshold: float | None, answerer: str) -> str:
    """How a reply was routed, in one line.

    Args:
        reply: the reply.
        gate: of a sequence adapter.
        threshold: the probability (0 to 1) that the user chose in place of the gate's own.
        answerer: who writes what is not refused.
    """
    if gate is None:
        return f"safe {reply.safe_weight:.2f}, usable {reply.usable_weight:.2f}, {reply.tokens} tokens"
    outcome = "refused" if reply.safe_weight else f"{answerer}'s reply"
    if reply.score is None:
        return f"gate not asked: {outcome}"
    in_force = gate.thresholds(threshold)
    limits = f"threshold {in_force.prompt:.2f}"
    if in_force.reply is not None:
        limits += f", in the reply {in_force.reply:.2f}"
    return f"gate {reply.score:.2f} ({limits}): {outcome}"


def _show(stream: "ReplyStream") -> "Reply | None":
    """Prints a reply as it is written; None if the user interrupts it, which ends the generation too."""
    pieces: Iterable[str] = map(printable, stream)
    if out.is_terminal:
        pieces = wrapped(pieces, out.width)
    try:
        for piece in pieces:
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        return None
    return stream.reply


def _lines() -> Iterator[str]:
    """What the user types, or the lines of what is piped in."""
    if not sys.stdin.isatty():
        yield from (line.removesuffix("\n") for line in sys.stdin)
        return
    import readline  # noqa: F401  (gives the prompt its history and its arrow keys)

    err.print(COMMANDS, style="dim")
    while True:
        try:
            yield input("> ")
        except EOFError:
            return
