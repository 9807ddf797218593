"""What a defense is: conversations in, replies out, on the one base model that all of them share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

from torch import Tensor

from mogu.chat import Conversation, Message, encode_chat
from mogu.defenses.speaker import Speaker
from mogu.errors import MoguError
from mogu.generation import Mode, MoguModel

Progress = Callable[[int, int], None]
"""Hears of steps done and steps in all."""


class Talk(NamedTuple):
    """What waits for a reply.

    Attributes:
        messages: the conversation; its last turn is not an assistant's.
        opener: how the caller begins the reply; belongs to the prompt.
    """

    messages: Conversation
    opener: str = ""

    @classmethod
    def of(cls, conversation: Conversation) -> Self:
        """The talk of a conversation: an assistant's last turn is how the reply begins."""
        *before, last = conversation
        begun = last["role"] == "assistant" and bool(before)
        return cls(before, last["content"]) if begun else cls([*conversation])

    @property
    def conversation(self) -> list[Message]:
        """The messages, and as an assistant's last turn how the reply begins, if the caller has begun it."""
        begun = [Message(role="assistant", content=self.opener)] if self.opener else []
        return [*self.messages, *begun]


@dataclass(frozen=True)
class Answer:
    """A defended reply.

    Attributes:
        text: the reply, without the opener.
        tokens: how many tokens were generated for it, those of drafts and self-examinations included.
        flagged: whether the defense stepped in: the reply is not what the undefended model would have been asked for.
        score: how malicious the defense takes the talk to be, 0 to 1; None where it has no opinion.
    """

    text: str
    tokens: int
    flagged: bool = False
    score: float | None = None


@dataclass
class Host:
    """The one loaded base, and what defenses are made from.

    Attributes:
        mogu: the base with the adapter under test attached; in mode ``base`` it is the base, bit for bit.
        work: a folder for what defenses train; what is there is not trained again.
        batch_size: talks that are answered at once.
        seed: of training and of random transformations.
    """

    mogu: MoguModel
    work: Path
    batch_size: int = 32
    seed: int = 0

    def base_replies(self, talks: Sequence[Talk], max_new_tokens: int, **settings: Any) -> list[Answer]:
        """What the base says to each talk, greedily; `settings` go on to transformers' `generate`."""
        replies = self.mogu.reply(
            [talk.messages for talk in talks],
            opener=[talk.opener for talk in talks],
            mode="base",
            max_new_tokens=max_new_tokens,
            batch_size=self.batch_size,
            **settings,
        )
        return [Answer(reply.text, reply.tokens) for reply in replies]

    def first_logits(self, talks: Sequence[Talk]) -> Tensor:
        """Logits ``(talks, vocabulary)`` of the first token of what the base says to each talk; not of no talks."""
        return first_logits(self.mogu, talks, "base", self.batch_size)


def first_logits(mogu: MoguModel, talks: Sequence[Talk], mode: Mode, batch_size: int) -> Tensor:
    """Logits ``(talks, vocabulary)`` float32 of the first token of each reply in one mode; not of no talks."""
    prompts = [encode_chat(mogu.tokenizer, talk.messages, talk.opener).ids for talk in talks]
    return Speaker.of(mogu, mode).first_logits(prompts, batch_size)


class Defense(ABC):
    """One defense on a host. A context manager: what it attaches to the base or loads beside it is gone after it.

    Args:
        host: the base.
        argument: what a user wrote after the name and a colon, such as a guard model's path; empty for none.

    Attributes:
        paper: where it was described.
        trained: whether `prepare` trains something.
    """

    paper: ClassVar[str]
    trained: ClassVar[bool] = False

    def __init__(self, host: Host, argument: str = "") -> None:
        self.host = host
        self.argument = argument

    @property
    def identity(self) -> str:
        """What its replies hang on beside the host and its name: of what its argument names, the content's hash."""
        return ""

    def prepare(self, progress: Progress) -> None:  # noqa: B027 - most have nothing to prepare
        """Train what the defense needs, unless it stands in ``host.work`` already."""

    def __enter__(self) -> Self:
        """Attach what `prepare` made to the base, and load what stands beside it."""
        return self

    def __exit__(self, *_: object) -> None:  # noqa: B027
        """Leave the base as it was."""

    @abstractmethod
    def reply(self, talks: Sequence[Talk], max_new_tokens: int) -> list[Answer]:
        """Answer each talk, greedily and in batches, in their order."""

    def first_logits(self, talks: Sequence[Talk]) -> Tensor:
        """Logits ``(talks, vocabulary)`` of each reply's first token, over the base's tokens; not of no talks.

        Raises:
            MoguError: if replies do not begin with a token that is drawn from a distribution; says why.
        """
        raise MoguError("none: a fixed sentence replies where it steps in")
