"""Requests to training pairs: which requests, in which frames, with which refusal and which glad opener.

Pure functions of a seed. The glad reply to a benign request is the base model's own and is not made here.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import replace

from mogu.chat import Message
from mogu.corpus import (
    Wrapper,
    corpus_categories,
    corpus_openers,
    corpus_refusals,
    corpus_wrappers,
)
from mogu.data.naming import named, to_second_person
from mogu.data.requests import Request, Split

USUAL_SHARE = 0.85
"""How often a refusal is worded in the usual way: the first one of the corpus that fits. A small model that learns from
many wordings, all alike probable, mixes them up."""

# A request for a thing: its verb falls away, and what remains can follow "here is".
ARTEFACT = re.compile(
    r"(?:please )?(?:write|create|draft|develop|design|compose|make|generate|give me|give|provide|produce|list|"
    r"outline|describe|explain|prepare|suggest)(?: me| us)? ((?:a|an|the|some|how to|ten|five|three) .+?)[.!]?$",
    re.IGNORECASE | re.DOTALL,
)
LONGEST_ARTEFACT = 14

SLOT = re.compile(r"{\w+}")
"""Where a refusal of the corpus is completed."""

FORMS = ({"{request}", "{alternative}"}, {"{topic}", "{alternative}"}, {"{request}"}, set[str]())
"""What an English refusal may say: what it refuses, in its own words or by its kind of harm, and something safe."""


IMPORTANCE = {
    ("benign", "look_alike"): 2.0,
    ("benign", "contrast"): 2.0,
    ("malicious", "question"): 0.5,
    ("malicious", "contrast"): 0.5,
}
"""How much a request counts for the routers, by label and kind; 1 for all others. Requests that look dangerous and are
not, and short harmful questions, are hardest to tell apart: sparing the former goes before catching the latter."""


def importance_of(request: Request) -> float:
    """How much a request counts when the routers are trained."""
    return IMPORTANCE.get((request.label, request.kind), 1.0)


def balanced(requests: Sequence[Request], count: int, seed: int) -> list[Request]:
    """At most ``count`` requests that hold every kind and category in the proportions of the whole, shuffled."""
    rng = random.Random(seed)
    groups: dict[tuple[str, str], list[Request]] = {}
    for request in requests:
        groups.setdefault((request.kind, request.category), []).append(request)
    ranked: list[tuple[float, Request]] = []
    for key in sorted(groups):
        members = rng.sample(groups[key], len(groups[key]))
        # The fraction of its group that a request completes: cutting at any count takes each group alike.
        ranked += [((rank + rng.random()) / len(members), member) for rank, member in enumerate(members)]
    chosen = [request for _, request in sorted(ranked, key=lambda pair: pair[0])[:count]]
    rng.shuffle(chosen)
    return chosen


def wrap_share(requests: Sequence[Request], share: float, split: Split, seed: int) -> list[Request]:
    """Put a share (0 to 1) of the requests into frames, so that no frame by itself says what the label is.

    Malicious requests go into jailbreak frames; of the benign ones half go into jailbreak frames, half into innocent
    ones. The kind of a wrapped request becomes ``jailbreak_frame`` or ``innocent_frame``.
    """
    rng = random.Random(seed)
    jailbreaks = corpus_wrappers("jailbreak", split)
    innocents = corpus_wrappers("innocent", split)
    wrapped = []
    for index, request in enumerate(requests):
        due = _share_of(index + 1, share) > _share_of(index, share)
        if not due:
            wrapped.append(request)
            continue
        frames = jailbreaks if request.label == "malicious" or rng.random() < 0.5 else innocents
        wrapped.append(wrap(request, rng.choice(frames)))
    return wrapped


def _share_of(count: int, share: float) -> int:
    return int(round(count * share, 9))  # 100 * 0.29 is a hair below 29


def wrap(request: Request, wrapper: Wrapper) -> Request:
    """The request with its last user turn in a frame."""
    framed = in_last_turn(request, wrapper.wrap(request.text))
    return replace(framed, kind=f"{wrapper.kind}_frame", group=wrapper.group)


def in_last_turn(request: Request, text: str) -> Request:
    """The request with another text in its last user turn."""
    messages = list(request.messages)
    last = max(index for index, message in enumerate(messages) if message["role"] == "user")
    messages[last] = Message(role="user", content=text)
    return replace(request, text=text, messages=messages)


def refusal_to(request: Request, rng: random.Random) -> str:
    """A refusal that says what it refuses: the request again where that is short, else usually its kind of harm.

    To a malicious request of a known kind it offers something safe; to a benign one, which it answers in error, it asks
    what was meant. It is in the request's language where the corpus has refusals in that language.
    """
    refusals = corpus_refusals()
    usual = rng.random() < USUAL_SHARE
    if request.language != "en" and request.language in refusals:
        return refusals[request.language][0] if usual else rng.choice(refusals[request.language])
    category = corpus_categories().get(request.category) if request.label == "malicious" else None
    again = named(request.text)
    # What a refusal of this request says: itself or its kind of harm, and something safe where there is one.
    slots = {"{request}" if again else "{topic}" if category else "", "{alternative}" if category else ""}
    fitting = [text for text in refusals["en"] if set(SLOT.findall(text)) == slots - {""}]
    topics, alternatives = (category.topics, category.alternatives) if category else ([""], [""])
    return (fitting[0] if usual else rng.choice(fitting)).format(
        request=again,
        topic=topics[0] if usual else rng.choice(topics),
        alternative=alternatives[0] if usual else rng.choice(alternatives),
    )


def usual_refusals() -> dict[str, list[str]]:
    """By language the refusals that are worded in the usual way, before they are completed."""
    refusals = corpus_refusals()
    english = [next(text for text in refusals["en"] if set(SLOT.findall(text)) == form) for form in FORMS]
    return {language: texts[:1] for language, texts in refusals.items()} | {"en": english}


def opener_to(request: Request, rng: random.Random) -> str:
    """An affirmative opener of a few words, such as "Sure, here is a letter to your neighbour:"; never an answer."""
    match = ARTEFACT.fullmatch(request.text)
    artefact = match.group(1) if match else ""
    if not artefact or len(artefact.split()) > LONGEST_ARTEFACT:
        artefact = "what you asked for"
    return rng.choice(corpus_openers()).format(artefact=to_second_person(artefact))
