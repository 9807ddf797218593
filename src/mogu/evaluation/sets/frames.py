"""The project's own requests in frames: jailbreak frames under both labels, innocent ones under the benign label."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal

from mogu.corpus import corpus_wrappers
from mogu.data.pairs import balanced, wrap
from mogu.data.requests import Label, Request
from mogu.evaluation.sets.base import Sample
from mogu.evaluation.sets.own import SOURCE, OwnSet, sample_of, short_requests

FRAMED = 24
"""Requests in each group of frames."""

FrameKind = Literal["jailbreak", "innocent"]


def framed(requests: Sequence[Request], kind: FrameKind, count: int) -> Iterator[tuple[str, list[Request]]]:
    """Requests in the test split's frames, by group of frames; each frame of a group is used about equally often.

    Args:
        requests: what is put into them.
        kind: of the frames.
        count: requests in each group; fewer where there are fewer.
    """
    frames = corpus_wrappers(kind, "test")
    for index, group in enumerate(sorted({frame.group for frame in frames})):
        own = [frame for frame in frames if frame.group == group]
        chosen = balanced(requests, count, index)
        yield group, [wrap(request, own[i % len(own)]) for i, request in enumerate(chosen)]


def _read(label: Label, kind: FrameKind) -> Iterator[Sample]:
    for group, requests in framed(short_requests(label), kind, FRAMED):
        for request in requests:
            yield sample_of(request, group, variant=group)


OWN_FRAMES = OwnSet(
    name="own_frames",
    label="malicious",
    description=f"Malicious requests in jailbreak frames, by group of frames. {SOURCE}",
    make=partial(_read, "malicious", "jailbreak"),
)

OWN_FRAMES_BENIGN = OwnSet(
    name="own_frames_benign",
    label="benign",
    description=f"Everyday requests in the same jailbreak frames, by group of frames. {SOURCE}",
    make=partial(_read, "benign", "jailbreak"),
)

OWN_INNOCENT_FRAMES = OwnSet(
    name="own_innocent_frames",
    label="benign",
    description=f"Everyday requests in frames that no attacker would need, by group of frames. {SOURCE}",
    make=partial(_read, "benign", "innocent"),
)
