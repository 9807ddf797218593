"""A host whose adapter has a gate that flags some of the talks of `TALKS`."""

from pathlib import Path

from mogu.defenses.base import Host
from mogu.generation import MoguModel
from tests.defenses.talks import TALKS
from tests.generation.gated import gated


def gated_host(tmp_path: Path) -> Host:
    """The threshold lies between the highest score of `TALKS` and the others."""
    mogu = gated()
    replies = mogu.reply([t.messages for t in TALKS], opener=[t.opener for t in TALKS], max_new_tokens=1)
    *_, second, highest = sorted(reply.score for reply in replies)
    gate = mogu.config.gate.model_copy(update={"threshold": (second + highest) / 2})
    config = mogu.config.model_copy(update={"gate": gate})
    return Host(MoguModel(mogu.model, mogu.tokenizer, mogu.adapter, config), tmp_path, batch_size=2)
