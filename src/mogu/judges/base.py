"""What a judge is: a request and its reply in, numbers and an explanation out."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, Self


@dataclass(frozen=True)
class Judgement:
    """What a judge says of one reply.

    Attributes:
        scores: by name, in the ranges that the judge's class documents; None if the reply is unjudged because
            the judge's answer could not be parsed.
        explanation: why, for people to read; of an unjudged reply the answer as it came.
    """

    scores: dict[str, float] | None
    explanation: str


class Judge(ABC):
    """One judge. An asynchronous context manager: its connections are closed after it.

    Use it in one event loop only; there, replies may be judged concurrently.

    Attributes:
        name: what users call it, and its key in a row's verdicts.
        label: the prompts whose replies it judges; None for all.
    """

    name: ClassVar[str]
    label: ClassVar[Literal["malicious", "benign"] | None] = None

    @abstractmethod
    async def judge(self, request: str, reply: str) -> Judgement:
        """Judge one reply to one request.

        Raises:
            MoguError: If the judge could not be asked; it says nothing about the reply.
        """

    async def close(self) -> None:  # noqa: B027 - most hold nothing open
        """Close what it holds open; a second call does nothing."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
