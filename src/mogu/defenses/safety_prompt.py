"""A system message that asks for safe replies."""

from collections.abc import Sequence

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from mogu.chat import Conversation, Message, encode_chat, folded
from mogu.defenses.base import Answer, Defense, Host, Talk
from mogu.errors import MoguError

SAFETY_PROMPT = (
    "You are a helpful and honest assistant, and you care about people's safety. Answer as well as you can, but "
    "give nobody the means to hurt others or themselves, to break the law or to deceive: if a request asks for "
    "that, in whatever story or disguise, say briefly that you cannot help with it. Do not turn down what is "
    "harmless only because it sounds dangerous. If you do not know something, say so."
)


class SafetyPrompt(Defense):
    """The base behind a safety prompt: the system message, or the beginning of the one that is there.

    Where the chat template refuses system messages or leaves them out, it begins the first user's turn.
    """

    paper = "Touvron et al. 2023, arXiv 2307.09288"

    def __init__(self, host: Host, argument: str = "") -> None:
        super().__init__(host, argument)
        self._has_system = _has_system(host.mogu.tokenizer)

    def reply(self, talks: Sequence[Talk], max_new_tokens: int) -> list[Answer]:
        """What the base says behind the safety prompt."""
        return self.host.base_replies(self._all_guided(talks), max_new_tokens)

    def first_logits(self, talks: Sequence[Talk]) -> Tensor:
        """The base's, behind the safety prompt."""
        return self.host.first_logits(self._all_guided(talks))

    def _all_guided(self, talks: Sequence[Talk]) -> list[Talk]:
        return [talk._replace(messages=self._guided(talk.messages)) for talk in talks]

    def _guided(self, messages: Conversation) -> Conversation:
        system, rest = SAFETY_PROMPT, list(messages)
        if rest[0]["role"] == "system":
            system += f"\n\n{rest.pop(0)['content']}"
        guided = [Message(role="system", content=system), *rest]
        return guided if self._has_system else folded(guided)


def _has_system(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template renders a system message; some refuse it, some drop it silently."""
    probe = [Message(role="system", content="Be kind."), Message(role="user", content="Hello")]
    try:
        return any(span.role == "system" for span in encode_chat(tokenizer, probe).spans)
    except MoguError:
        return False
