"""Generation with a hardened model, on top of transformers' own."""

from mogu.generation.model import MoguModel
from mogu.generation.reply import Reply, RoutingTrace
from mogu.generation.request import Handoff, Mode
from mogu.generation.rule import RoutedSpan, routed_positions
from mogu.generation.streaming import ReplyStream

__all__ = [
    "Handoff",
    "Mode",
    "MoguModel",
    "Reply",
    "ReplyStream",
    "RoutedSpan",
    "RoutingTrace",
    "routed_positions",
]
