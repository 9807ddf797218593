"""What defenses do that decide before the base is asked: a fixed refusal, or the base's reply."""

from collections.abc import Sequence
from dataclasses import replace

from mogu.defenses.base import Answer, Host, Talk
from mogu.defenses.fixed import REFUSAL


def reject(
    host: Host, talks: Sequence[Talk], scores: Sequence[float], threshold: float, max_new_tokens: int
) -> list[Answer]:
    """The fixed refusal to talks whose score reaches the threshold, the base's reply to the others.

    Args:
        host: the base.
        talks: what waits for a reply.
        scores: how malicious each is, 0 to 1.
        threshold: of the scores.
        max_new_tokens: longest reply of the base.
    """
    flagged = [score >= threshold for score in scores]
    answered = [talk for talk, rejected in zip(talks, flagged, strict=True) if not rejected]
    replies = iter(host.base_replies(answered, max_new_tokens))
    return [
        Answer(REFUSAL, 0, flagged=True, score=score) if rejected else replace(next(replies), score=score)
        for rejected, score in zip(flagged, scores, strict=True)
    ]
