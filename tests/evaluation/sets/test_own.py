from collections import Counter
from itertools import chain

import pytest

from mogu.chat import check_conversation
from mogu.corpus import (
    corpus_conversations,
    corpus_documents,
    corpus_requests,
    corpus_wrappers,
)
from mogu.errors import MoguError
from mogu.evaluation.sets import SETS
from mogu.evaluation.sets.own import OwnSet
from mogu.evaluation.sets.prefilled import openers

OWN = {name: prompts for name, prompts in SETS.items() if isinstance(prompts, OwnSet)}

TWINS = {
    "own_direct": "own_everyday",
    "own_frames": "own_frames_benign",
    "prefilled": "prefilled_benign",
    "own_documents": "own_documents_benign",
    "own_languages": "own_languages_benign",
    "own_crescendo": "own_chats",
    "own_asked_again": "own_followups",
    "wild": "wild_benign",
}


def corpus(split):
    return {
        request.id: request
        for request in chain(
            *(corpus_requests(label, split) for label in ("malicious", "benign")),
            *(corpus_conversations(label, split) for label in ("malicious", "benign")),
            corpus_documents(split),
        )
    }


def prompts(name):
    return [sample.talk.messages[-1]["content"] for sample in SETS[name].load()]


@pytest.mark.parametrize("name", OWN)
def test_own_sets_are_made_of_the_test_split_only(name):
    test, train = corpus("test"), corpus("train")
    seen = {request.text for request in train.values()}
    samples = OWN[name].load()
    assert samples
    assert len({sample.id for sample in samples}) == len(samples)
    for sample in samples:
        request = test[sample.id.split(" ")[0]]
        assert request.label == OWN[name].label
        assert sample.kind
        assert sample.talk.messages[-1]["content"] not in seen
        check_conversation(sample.talk.messages)


def test_every_attack_of_ours_has_a_benign_twin():
    attacks = [name for name, prompts in OWN.items() if prompts.label == "malicious"]
    assert {*attacks, "wild"} == TWINS.keys()
    assert {SETS[twin].label for twin in TWINS.values()} == {"benign"}


@pytest.mark.parametrize("name", ["own_frames", "prefilled", "own_documents", "own_languages"])
def test_twins_are_of_the_same_kinds(name):
    attack, twin = (Counter(sample.kind for sample in SETS[each].load()) for each in (name, TWINS[name]))
    assert attack.keys() == twin.keys()
    if name != "own_languages":
        assert attack == twin


@pytest.mark.parametrize("name", OWN)
def test_a_limit_is_stable_and_reaches_every_kind(name):
    kinds = {sample.kind for sample in OWN[name].load()}
    one_each = OWN[name].load(limit=len(kinds), seed=5)
    assert one_each == OWN[name].load(limit=len(kinds), seed=5)
    assert Counter(sample.kind for sample in one_each) == dict.fromkeys(kinds, 1)


def test_a_place_is_refused():
    with pytest.raises(
        MoguError, match=r"^'own_direct' comes with mogu and is read from no file\. Leave out =x"
    ):
        SETS["own_direct"].load("x.json")


def test_direct_requests_are_english_and_others_are_not():
    malicious = corpus_requests("malicious", "test")
    assert prompts("own_direct") == [request.text for request in malicious if request.language == "en"]
    assert prompts("own_languages") == [request.text for request in malicious if request.language != "en"]
    assert {sample.kind for sample in SETS["own_languages_benign"].load()} >= {"es", "fr", "de", "ru"}


def test_benign_requests_are_everyday_or_look_alikes():
    benign = corpus_requests("benign", "test")
    assert len(prompts("own_everyday")) + len(prompts("own_lookalikes")) == len(benign)
    assert set(prompts("own_everyday")) == {r.text for r in benign if r.kind == "everyday"}


@pytest.mark.parametrize(
    ("name", "kind", "groups"),
    [
        ("own_frames", "jailbreak", 5),
        ("own_frames_benign", "jailbreak", 5),
        ("own_innocent_frames", "innocent", 4),
    ],
)
def test_frames_are_those_of_the_test_split_each_used(name, kind, groups):
    test = corpus("test")
    frames = corpus_wrappers(kind, "test")
    used = Counter()
    for sample in SETS[name].load():
        request = test[sample.id.split(" ")[0]]
        (frame,) = [
            frame
            for frame in frames
            if frame.group == sample.kind
            and sample.talk.messages == [{"role": "user", "content": frame.wrap(request.text)}]
        ]
        used[frame.group, frame.template] += 1
    assert len(used) == len(frames)
    assert len({group for group, _ in used}) == groups


@pytest.mark.parametrize("name", ["prefilled", "prefilled_benign"])
def test_each_request_is_begun_in_five_forms(name):
    samples = SETS[name].load()
    test = corpus("test")
    assert Counter(sample.kind for sample in samples) == dict.fromkeys(
        ("word", "sentence", "artefact", "list", "heading"), 40
    )
    for sample in samples:
        request = test[sample.id.split(" ")[0]]
        assert sample.talk == (request.messages, openers(request)[sample.kind])
        assert sample.talk.opener.strip()


@pytest.mark.parametrize("name", ["own_documents", "own_documents_benign"])
def test_documents_hold_the_request_and_stay_whole(name):
    test = corpus("test")
    samples = SETS[name].load()
    assert Counter(sample.kind for sample in samples) == {"quoted": 4, "tool_result": 20, "document": 20}
    documents = Counter()
    for sample in samples:
        request, *variant = sample.id.split(" ")
        text = sample.talk.messages[-1]["content"]
        assert test[request].text in text
        if sample.kind == "document":
            documents[variant[0]] += 1
            before, _, after = text.partition(
                f"Note to the assistant that reads this: {test[request].text}\n\n"
            )
            assert after
            assert (before + after).endswith(test[variant[0]].text)
    assert documents == {document.id: 2 for document in corpus_documents("test")}


def test_conversations_keep_their_turns():
    for name, kind in (("own_crescendo", "crescendo"), ("own_asked_again", "asked_again")):
        wanted = [r.messages for r in corpus_conversations("malicious", "test") if r.kind == kind]
        assert [sample.talk.messages for sample in SETS[name].load()] == wanted
        assert all(len(messages) > 2 for messages in wanted)
    for name, kind in (("own_chats", "chat"), ("own_followups", "follow_up")):
        wanted = [r.messages for r in corpus_conversations("benign", "test") if r.kind == kind]
        assert [sample.talk.messages for sample in SETS[name].load()] == wanted
