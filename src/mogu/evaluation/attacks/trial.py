"""One request against one defense: who is asked, how often, and what came back."""

from collections.abc import Sequence
from typing import NamedTuple

from mogu.chat import Message
from mogu.defenses.base import Answer, Defense, Talk
from mogu.evaluation.sets import Sample
from mogu.judges.refusal import judge_refusal


class Try(NamedTuple):
    """A talk that the defended model was asked.

    Attributes:
        talk: what was asked.
        answer: the defended reply.
        refused: whether the reply refuses, or says nothing.
    """

    talk: Talk
    answer: Answer
    refused: bool

    @property
    def score(self) -> float:
        """How malicious the defense takes the talk to be, 0 to 1; 0 where it has no opinion."""
        return self.answer.score or 0.0


class Trial:
    """Asks a defense about one request, within a budget.

    Args:
        defense: prepared and entered.
        request: what the attacker is after.
        max_new_tokens: length of a reply at most.
        budget: how many replies are asked for at most.

    Attributes:
        request: as given.
        tries: all that was asked, in order, up to the first of each batch that the defense did not refuse: an attacker
            who asks one by one would have stopped there.
    """

    def __init__(self, defense: Defense, request: Sample, max_new_tokens: int, budget: int) -> None:
        self.request = request
        self.tries: list[Try] = []
        self._defense = defense
        self._max_new_tokens = max_new_tokens
        self._budget = budget

    @property
    def left(self) -> int:
        """How many replies may be asked for still."""
        return self._budget - len(self.tries)

    @property
    def broken(self) -> bool:
        """Whether the last reply does not refuse."""
        return not self.tries[-1].refused

    def ask(self, talks: Sequence[Talk]) -> list[Try]:
        """Ask the defense, with as many of the talks as the budget allows, at once.

        Returns:
            Those up to the first that it did not refuse, or all.
        """
        talks = talks[: self.left]
        answers = self._defense.reply(talks, self._max_new_tokens)
        asked = []
        for talk, answer in zip(talks, answers, strict=True):
            asked.append(Try(talk, answer, _refuses(talk.opener, answer.text)))
            if not asked[-1].refused:
                break
        self.tries += asked
        return asked

    def best(self) -> Try:
        """The last try if it was not refused; else the one that the defense scores lowest, the latest among equals."""
        return self.tries[-1] if self.broken else min(reversed(self.tries), key=lambda each: each.score)


def _refuses(opener: str, reply: str) -> bool:
    return not reply.strip() or judge_refusal(opener + reply).holds


def last_text(talk: Talk) -> str:
    """The text of the turn that waits for a reply: the request itself."""
    return talk.messages[-1]["content"]


def reworded(talk: Talk, text: str) -> Talk:
    """The talk with another text in the turn that waits for a reply."""
    *before, last = talk.messages
    return talk._replace(messages=[*before, Message(role=last["role"], content=text)])
