"""Where the turns of a prompt lie in its token ids, by the marks that a chat template writes between them.

For prompts that arrive as ids, without the conversation that they were made of. Knows ids only.
"""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict
from transformers import PreTrainedTokenizerBase

from mogu.chat import Message, encode_chat
from mogu.errors import MoguError


class TurnMarks(BaseModel):
    """The token ids that a chat template writes around texts; empty where it writes none.

    Attributes:
        preamble: before the first user's text, when the conversation has no system message.
        border: between an assistant's text and the next user's.
        header: between the last user's text and the reply.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    preamble: list[int]
    border: list[int]
    header: list[int]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> "TurnMarks":
        """The marks of a tokenizer's chat template."""
        first = Message(role="user", content="one")
        single = encode_chat(tokenizer, [first])
        if not single.spans:
            return cls(preamble=[], border=[], header=[])
        span = single.spans[0]
        border: list[int] = []
        try:
            talk = [first, Message(role="assistant", content="two"), Message(role="user", content="three")]
            double = encode_chat(tokenizer, talk)
            if len(double.spans) == 3:
                border = double.ids[double.spans[1].stop : double.spans[2].start]
        except MoguError:  # a template for a single turn
            pass
        return cls(preamble=single.ids[: span.start], border=border, header=single.ids[span.stop :])

    def reading_start(self, ids: Sequence[int]) -> int:
        """Where the gate begins to read a prompt: after the last assistant's turn, or after the template's preamble.

        What came before acts on the later hidden states, which have attended to it. A system message that a caller
        wrote is read.
        """
        if self.border and (replies := _places(ids, self.header)):
            # A border that no reply comes before stands behind a system message.
            borders = [place for place in _places(ids, self.border) if place > replies[0]]
            if borders:
                return min(borders[-1] + len(self.border), len(ids) - 1)
        begins = len(self.preamble) < len(ids) and list(ids[: len(self.preamble)]) == self.preamble
        return len(self.preamble) if begins else 0

    def is_begun(self, ids: Sequence[int]) -> bool:
        """Whether the prompt ends with the beginning of a reply that the caller wrote."""
        return bool(self.header) and list(ids[-len(self.header) :]) != self.header

    def reply_starts(self, ids: Sequence[int]) -> list[int]:
        """Where the reply may begin, before the prompt's end, if the caller has begun it; nowhere if not.

        It is one place where the header is of control tokens. One of plain text may be typed by the caller too. Line
        breaks that an opener begins with may merge with the header's: then its last token is not asked for.
        """
        start = self.reading_start(ids)
        for header in (self.header, self.header[:-1]):
            places = [place + len(header) for place in _places(ids, header) if place >= start]
            if places:
                return [place for place in places if place < len(ids) - (len(self.header) - len(header))]
        return []


def _places(ids: Sequence[int], mark: list[int]) -> list[int]:
    """Where a mark begins; nowhere if it is empty."""
    return [
        start
        for start in range(len(ids) - len(mark) + 1)
        if mark and ids[start] == mark[0] and list(ids[start : start + len(mark)]) == mark
    ]
