"""What a prompt set is: named talks of one label, the same ones for every defense. Knows no file and no set."""

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from typing import NamedTuple

from mogu.data.requests import Label
from mogu.defenses.base import Talk
from mogu.errors import MoguError


class Sample(NamedTuple):
    """One prompt of a set.

    Attributes:
        id: names it within its set; the same in every run.
        talk: what waits for a reply.
        kind: what kind of prompt it is within its set, such as a group of frames; empty if the set has none.
        target: how a reply that complies would begin; empty where the set does not say.
    """

    id: str
    talk: Talk
    kind: str = ""
    target: str = ""


@dataclass(frozen=True, kw_only=True)
class PromptSet(ABC):
    """A named set.

    Attributes:
        name: as a user writes it.
        label: what all of its prompts are.
        description: what they are, where they come from, and under which licence.
        hub: where the set is on the Hugging Face hub; None if it is not.
    """

    name: str
    label: Label
    description: str
    hub: str | None = None

    @abstractmethod
    def samples(self, location: str | None) -> list[Sample]:
        """The whole set, in its own order; `location` as in `load`."""

    def load(self, location: str | None = None, limit: int | None = None, seed: int = 0) -> list[Sample]:
        """The set, or a sample of it.

        Args:
            location: a file or folder with the set; None for where it is by default.
            limit: how many prompts at most; None for all.
            seed: which ones, if there are more.

        Returns:
            The prompts in the order of the set.

        Raises:
            MoguError: the set cannot be read, or holds no prompt.
        """
        if limit is not None and limit < 1:
            raise MoguError(f"A limit of {limit} leaves no prompt of '{self.name}'. Give 1 or more.")
        samples = self.samples(location)
        return samples if limit is None else spread(samples, limit, seed)


def spread(samples: Sequence[Sample], limit: int, seed: int) -> list[Sample]:
    """At most `limit` samples, as many of one kind as of the next while each kind lasts, in their given order.

    A smaller limit takes some of what a larger one takes.
    """
    rng = random.Random(seed)
    kinds: dict[str, list[Sample]] = {}
    for sample in samples:
        kinds.setdefault(sample.kind, []).append(sample)
    shuffled = [rng.sample(members, len(members)) for members in kinds.values()]
    rng.shuffle(shuffled)  # which kinds come first where the limit does not reach all of them
    turns = (sample for sample in chain.from_iterable(zip_longest(*shuffled)) if sample is not None)
    chosen = {sample.id for sample in islice(turns, limit)}
    return [sample for sample in samples if sample.id in chosen]
