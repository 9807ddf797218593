"""What a live attack is: requests in, for each the best talk that was found against one defense out."""

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from mogu.defenses.base import Defense, Host, Progress
from mogu.errors import MoguError
from mogu.evaluation.attacks.found import Found, keep_found, read_found
from mogu.evaluation.attacks.trial import Trial, Try
from mogu.evaluation.sets import Sample


class Effort(NamedTuple):
    """What a search costs at most; one that is not refused ends early.

    Attributes:
        replies: of the defended model.
        passes: conversations that the base reads beside them, forward; a backward pass counts as two.
        questions: to the attacker's own model.
    """

    replies: int
    passes: int = 0
    questions: int = 0


class Attack(ABC):
    """One attack on a host.

    A request is asked as it stands first, and its search ends with the first reply that does not refuse. Requests do
    not learn from one another: what is found for one is the same whatever others are attacked.

    Args:
        host: the base.
        budget: how many replies of the defended model one request may cost, 1 (the request as it stands) or more.
        seed: of all that is random.

    Attributes:
        name: as a user writes it.
        paper: where it was described.
        default_budget: if the user gives none.

    Raises:
        MoguError: If the budget is below 1.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    default_budget: ClassVar[int]

    def __init__(self, host: Host, budget: int, seed: int) -> None:
        if budget < 1:
            raise MoguError(f"the budget of {self.name} is {budget}; give at least 1 reply")
        self.host = host
        self.budget = budget
        self.seed = seed

    @property
    def settings(self) -> dict[str, Any]:
        """What a result depends on beside the defense and the request; JSON-serialisable."""
        return {"attack": self.name, "budget": self.budget, "seed": self.seed}

    def estimate(self, requests: Sequence[Sample]) -> Effort:
        """What a search for these requests costs at most."""
        return Effort(self.budget * len(requests))

    def search(
        self,
        defense: Defense,
        requests: Sequence[Sample],
        max_new_tokens: int,
        kept: Path,
        progress: Progress = lambda done, total: None,
    ) -> list[Found]:
        """Search for each request.

        Args:
            defense: prepared and entered.
            requests: what the attacker is after; their ids differ.
            max_new_tokens: length of a reply at most.
            kept: JSONL file that keeps each request's result as soon as there is one: a killed search goes on from
                there. It belongs to these `settings`, this defense and this length.
            progress: called after each request.

        Returns:
            One for each request, in their order.

        Raises:
            MoguError: If a request cannot be encoded, or the attack lacks what it needs.
        """
        found = read_found(kept)
        for done, request in enumerate(requests, start=1):
            if request.id not in found:
                found[request.id] = self._find(defense, request, max_new_tokens)
                keep_found(kept, found[request.id])
            progress(done, len(requests))
        return [found[request.id] for request in requests]

    def _find(self, defense: Defense, request: Sample, max_new_tokens: int) -> Found:
        trial = Trial(defense, request, max_new_tokens, self.budget)
        trial.ask([request.talk])
        # Of the request alone, so that a search that goes on draws what it would have drawn.
        rng = random.Random(f"{self.seed}/{request.id}")
        best = trial.best() if trial.broken else self.attack(trial, rng)
        return Found(request.id, best.talk, best.answer.text, best.refused, len(trial.tries))

    @abstractmethod
    def attack(self, trial: Trial, rng: random.Random) -> Try:
        """Search for one request, which was refused as it stands.

        Args:
            trial: asks the defended model; the budget may be spent already.
            rng: of the request.

        Returns:
            The best of the trial's tries.
        """
