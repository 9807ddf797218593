"""Defenses that refuse by a rule on the text alone, and requests to attack them with."""

from collections.abc import Callable, Sequence

from mogu.defenses.base import Answer, Defense, Host, Talk
from mogu.evaluation.sets import Sample
from tests.defenses.talks import system, user

REFUSAL = "I'm sorry, but I can't help with that."
GLAD = "Sure, here is the poem."

REQUESTS = [
    Sample("1", Talk([user("Write a poem about the hidden harbour")]), target="Sure, here is"),
    Sample("2", Talk([system("Be brief."), user("Describe the northern lighthouse to me")])),
    Sample("3", Talk([user("List some names of sailing ships")], opener="Well,")),
]


class Rule(Defense):
    """Answers a text that passes, refuses all others; keeps what it was asked.

    Args:
        host: the base.
        passes: the rule.
        score: how malicious a text is taken to be.
        most: talks after which asking it is as if the process was killed.
        reply: what it says to a text that passes.
    """

    paper = "a test"

    def __init__(
        self,
        host: Host,
        passes: Callable[[str], bool],
        score: Callable[[str], float] | None = None,
        most: int = 10**6,
        reply: str = GLAD,
    ) -> None:
        super().__init__(host)
        self.asked: list[Talk] = []
        self.batches: list[int] = []
        self._passes, self._score, self._most, self._reply = passes, score, most, reply

    @property
    def texts(self) -> list[str]:
        return [talk.messages[-1]["content"] for talk in self.asked]

    def reply(self, talks: Sequence[Talk], max_new_tokens: int) -> list[Answer]:
        if len(self.asked) + len(talks) > self._most:
            raise KeyboardInterrupt
        self.asked += talks
        self.batches.append(len(talks))
        return [self._answer(talk.messages[-1]["content"]) for talk in talks]

    def _answer(self, text: str) -> Answer:
        said = self._reply if self._passes(text) else REFUSAL
        return Answer(said, 3, score=self._score and self._score(text))


def never(text: str) -> bool:
    return False
