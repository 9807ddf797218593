"""The project's own sets: requests and conversations of its corpus's test split, which training never reads."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from mogu.corpus import corpus_conversations, corpus_requests
from mogu.data.mixture import LONGEST_WRAPPED
from mogu.data.requests import Label, Request
from mogu.defenses.base import Talk
from mogu.errors import MoguError
from mogu.evaluation.sets.base import PromptSet, Sample

SOURCE = "The project's own test split, Apache-2.0"


@dataclass(frozen=True, kw_only=True)
class OwnSet(PromptSet):
    """A set that is made of the corpus.

    Attributes:
        make: makes its samples.
    """

    make: Callable[[], Iterable[Sample]]

    def samples(self, location: str | None) -> list[Sample]:
        """The whole set."""
        if location is not None:
            raise MoguError(f"'{self.name}' comes with mogu and is read from no file. Leave out ={location}")
        return list(self.make())


def sample_of(request: Request, kind: str, *, variant: str = "", opener: str = "") -> Sample:
    """The sample that a request of the corpus becomes.

    Args:
        request: the request.
        kind: of the sample in its set.
        variant: tells apart the samples of one set that one request becomes.
        opener: how the caller begins the reply.
    """
    return Sample(f"{request.id} {variant}".rstrip(), Talk(request.messages, opener), kind)


def direct_requests(label: Label) -> list[Request]:
    """What others are made of: all English malicious requests, or the everyday English benign ones."""
    return [
        request
        for request in corpus_requests(label, "test")
        if request.language == "en" and (label == "malicious" or request.kind == "everyday")
    ]


def short_requests(label: Label) -> list[Request]:
    """Those of `direct_requests` that training, too, would put into a frame."""
    return [request for request in direct_requests(label) if len(request.text) <= LONGEST_WRAPPED]


def _direct() -> Iterator[Sample]:
    for request in direct_requests("malicious"):
        yield sample_of(request, request.kind)


def _benign(kinds: tuple[str, ...]) -> Iterator[Sample]:
    for request in corpus_requests("benign", "test"):
        if request.kind in kinds:
            yield sample_of(request, request.language)


def _languages(label: Label) -> Iterator[Sample]:
    for request in corpus_requests(label, "test"):
        if request.language != "en":
            yield sample_of(request, request.language)


def _conversations(label: Label, kind: str) -> Iterator[Sample]:
    for request in corpus_conversations(label, "test"):
        if request.kind == kind:
            yield sample_of(request, kind)


OWN_DIRECT = OwnSet(
    name="own_direct",
    label="malicious",
    description=f"Direct malicious requests in English, by form. {SOURCE}",
    make=_direct,
)

OWN_EVERYDAY = OwnSet(
    name="own_everyday",
    label="benign",
    description=f"Everyday requests, by language. {SOURCE}",
    make=partial(_benign, ("everyday",)),
)

OWN_LOOKALIKES = OwnSet(
    name="own_lookalikes",
    label="benign",
    description=f"Benign requests that look dangerous, contrasts included, by language. {SOURCE}",
    make=partial(_benign, ("look_alike", "contrast")),
)

OWN_LANGUAGES = OwnSet(
    name="own_languages",
    label="malicious",
    description=f"Malicious requests in other languages than English, by language. {SOURCE}",
    make=partial(_languages, "malicious"),
)

OWN_LANGUAGES_BENIGN = OwnSet(
    name="own_languages_benign",
    label="benign",
    description=f"Benign requests in other languages, look-alikes included, by language. {SOURCE}",
    make=partial(_languages, "benign"),
)

OWN_CRESCENDO = OwnSet(
    name="own_crescendo",
    label="malicious",
    description=f"Conversations that come to a malicious request in small steps. {SOURCE}",
    make=partial(_conversations, "malicious", "crescendo"),
)

OWN_CHATS = OwnSet(
    name="own_chats",
    label="benign",
    description=f"Conversations of the same topics that end harmlessly. {SOURCE}",
    make=partial(_conversations, "benign", "chat"),
)

OWN_ASKED_AGAIN = OwnSet(
    name="own_asked_again",
    label="malicious",
    description=f"Malicious requests that are asked again after a refusal. {SOURCE}",
    make=partial(_conversations, "malicious", "asked_again"),
)

OWN_FOLLOWUPS = OwnSet(
    name="own_followups",
    label="benign",
    description=f"Harmless requests after the refusal of a malicious one. {SOURCE}",
    make=partial(_conversations, "benign", "follow_up"),
)
