"""What defenses do that score talks before the base is asked: what is flagged is answered otherwise, the rest by it."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from mogu.defenses.base import Answer, Host, Talk
from mogu.defenses.fixed import REFUSAL

StepIn = Callable[[list[Talk], int], list[Answer]]
"""Answers flagged talks with at most so many new tokens each."""


def rejected(talks: Sequence[Talk], max_new_tokens: int) -> list[Answer]:
    """The fixed refusal to each talk."""
    return [Answer(REFUSAL, 0)] * len(talks)


def decide(
    host: Host,
    talks: Sequence[Talk],
    scores: Sequence[float],
    threshold: float,
    max_new_tokens: int,
    step_in: StepIn = rejected,
) -> list[Answer]:
    """Let a defense step in at talks whose score reaches the threshold, and the base answer the others.

    Args:
        host: the base.
        talks: what waits for a reply.
        scores: how malicious each is, 0 to 1.
        threshold: of the scores.
        max_new_tokens: longest reply.
        step_in: answers flagged talks.
    """
    flagged = [score >= threshold for score in scores]
    split: dict[bool, list[Talk]] = {True: [], False: []}
    for talk, flag in zip(talks, flagged, strict=True):
        split[flag].append(talk)
    answers = {
        True: iter(step_in(split[True], max_new_tokens)),
        False: iter(host.base_replies(split[False], max_new_tokens)),
    }
    return [
        replace(next(answers[flag]), flagged=flag, score=score)
        for flag, score in zip(flagged, scores, strict=True)
    ]
