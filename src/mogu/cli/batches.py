"""How the commands cut many conversations into batches."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mogu.chat import Conversation


def longest_first(conversations: "Sequence[Conversation]", size: int) -> list[list[int]]:
    """Indices of conversations in batches of like length, longest first: what does not fit fails at once.

    They depend on the conversations alone, so that every mode and every restart has the same ones.

    Args:
        conversations: of any lengths.
        size: how many in a batch, but for the last.
    """
    lengths = [sum(len(turn["content"]) for turn in conversation) for conversation in conversations]
    order = sorted(range(len(conversations)), key=lambda index: -lengths[index])
    return [order[start : start + size] for start in range(0, len(order), size)]
