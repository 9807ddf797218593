"""Requests that were refused, shown as earlier turns."""

from collections.abc import Sequence

from torch import Tensor

from mogu.chat import Conversation, Message
from mogu.corpus import corpus_refusals, corpus_requests
from mogu.defenses.base import Answer, Defense, Host, Talk

KINDS = ("imperative", "question")
"""What kinds of malicious request are shown, one demonstration of each."""


class InContextDefense(Defense):
    """The base after demonstrations of refusals: between the system message and the conversation."""

    paper = "Wei et al. 2023, arXiv 2310.06387"

    def __init__(self, host: Host, argument: str = "") -> None:
        super().__init__(host, argument)
        self._shown = demonstrations()

    def reply(self, talks: Sequence[Talk], max_new_tokens: int) -> list[Answer]:
        """What the base says after the demonstrations."""
        return self.host.base_replies(self._after_demonstrations(talks), max_new_tokens)

    def first_logits(self, talks: Sequence[Talk]) -> Tensor:
        """The base's, after the demonstrations."""
        return self.host.first_logits(self._after_demonstrations(talks))

    def _after_demonstrations(self, talks: Sequence[Talk]) -> list[Talk]:
        return [talk._replace(messages=self._shown_before(talk.messages)) for talk in talks]

    def _shown_before(self, messages: Conversation) -> list[Message]:
        start = 1 if messages[0]["role"] == "system" else 0
        return [*messages[:start], *self._shown, *messages[start:]]


def demonstrations() -> list[Message]:
    """Of each of `KINDS` the corpus's first malicious English training request, and a refusal that names nothing."""
    requests = [request for request in corpus_requests("malicious", "train") if request.language == "en"]
    firsts = [next(request for request in requests if request.kind == kind) for kind in KINDS]
    refusals = [refusal for refusal in corpus_refusals()["en"] if "{" not in refusal]
    return [
        turn
        for request, refusal in zip(firsts, refusals, strict=False)  # there are more refusals than kinds
        for turn in (
            Message(role="user", content=request.text),
            Message(role="assistant", content=refusal),
        )
    ]
