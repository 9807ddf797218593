"""AutoDAN: frames around the request that are bred like a population."""

import math
import random
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from mogu.corpus import corpus_wrappers
from mogu.defenses.base import Talk
from mogu.evaluation.attacks.aim import aimed, target_losses, target_of
from mogu.evaluation.attacks.base import Attack, Effort
from mogu.evaluation.attacks.trial import Trial, Try, last_text, reworded
from mogu.evaluation.sets import Sample

POPULATION = 8
"""Frames of a generation; each is asked."""

SLOT = "{}"
"""Where the request goes."""

Frame = tuple[str, ...]
"""The sentences of a frame, one of which holds the slot."""


class Member(NamedTuple):
    """A frame that was asked.

    Attributes:
        fitness: minus the loss of the target, in nats a token, minus the defense's score; 0 at most.
        frame: its sentences.
        tried: what the defended model said.
    """

    fitness: float
    frame: Frame
    tried: Try


class AutoDAN(Attack):
    """A genetic search over frames, sentence by sentence (paper, section 3), without a language model that mutates.

    The first generation is drawn from the jailbreak frames of the corpus's training split, and so is what takes the
    place of a child that was asked before. A frame is the fitter, the nearer it brings the model, with the weights
    that the defense gives it, to a glad opener, and the less the defense scores it. The fittest of parents and children
    live on.
    """

    name = "autodan"
    paper = "AutoDAN, Liu et al. 2023, arXiv 2310.04451"
    default_budget = 33

    def estimate(self, requests: Sequence[Sample]) -> Effort:
        """Replies, and one pass for each but the first."""
        return super().estimate(requests)._replace(passes=(self.budget - 1) * len(requests))

    def attack(self, trial: Trial, rng: random.Random) -> Try:
        """Breed until a frame gets through or the budget is spent."""
        best = trial.best()
        for population in self.generations(trial, rng):
            best = population[0].tried
        return trial.best() if trial.broken else best

    def generations(self, trial: Trial, rng: random.Random) -> Iterator[list[Member]]:
        """Each generation that was refused as a whole, its fittest first."""
        target = target_of(trial.request, rng)
        corpus = first_frames()
        fresh = iter(rng.sample(corpus, len(corpus)))
        frames = list(islice(fresh, POPULATION))
        seen = set(frames)
        population: list[Member] = []
        while trial.left:
            asked = trial.ask([framed(trial.request.talk, frame) for frame in frames])
            if trial.broken:
                return
            children = self._weigh(frames, asked, target)
            population = sorted([*population, *children], key=lambda each: -each.fitness)[:POPULATION]
            yield population
            frames = []
            for _ in range(POPULATION):
                child = _child(population, rng)
                # A frame of one sentence has no other children than itself: what was asked is not asked again.
                frames.append(next(fresh, child) if child in seen else child)
                seen.add(frames[-1])

    def _weigh(self, frames: Sequence[Frame], asked: Sequence[Try], target: str) -> list[Member]:
        mogu = self.host.mogu
        rows = [aimed(mogu.tokenizer, each.talk, target) for each in asked]
        losses = target_losses(mogu.model, rows, self.host.batch_size)
        return [
            Member(-loss - tried.score, frame, tried)
            for loss, frame, tried in zip(losses, frames, asked, strict=False)  # the budget may have cut some
        ]


def first_frames() -> list[Frame]:
    """The jailbreak frames of the training split that leave the request's spelling as it is."""
    frames = corpus_wrappers("jailbreak", "train")
    return [sentences(frame.template) for frame in frames if frame.encoding is None]


def sentences(template: str) -> Frame:
    """The sentences of a frame."""
    return tuple(part for part in re.split(r"(?<=[.!?])\s+|\s*\n\s*", template) if part)


def framed(talk: Talk, frame: Frame) -> Talk:
    """The talk with its request in a frame."""
    return reworded(talk, " ".join(frame).replace(SLOT, last_text(talk)))


def _child(population: Sequence[Member], rng: random.Random) -> Frame:
    """Of two parents, drawn with the softmax of their fitness."""
    weights = [math.exp(member.fitness - population[0].fitness) for member in population]
    mother, father = rng.choices(population, weights, k=2)
    return mutated(crossed(mother.frame, father.frame, rng), rng)


def crossed(one: Frame, other: Frame, rng: random.Random) -> Frame:
    """The first frame with about half of its sentences from the other; the one with the slot stays."""
    foreign = [sentence for sentence in other if SLOT not in sentence]
    return tuple(
        rng.choice(foreign) if foreign and SLOT not in sentence and rng.random() < 0.5 else sentence
        for sentence in one
    )


def mutated(frame: Frame, rng: random.Random) -> Frame:
    """The frame with two sentences in each other's place, and two words of one sentence."""
    changed = _swapped(frame, rng)
    place = rng.randrange(len(changed))
    if SLOT not in changed[place]:
        changed[place] = " ".join(_swapped(changed[place].split(), rng))
    return tuple(changed)


def _swapped(parts: Sequence[str], rng: random.Random) -> list[str]:
    swapped = list(parts)
    one, other = rng.randrange(len(parts)), rng.randrange(len(parts))
    swapped[one], swapped[other] = swapped[other], swapped[one]
    return swapped
