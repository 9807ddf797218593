from collections import Counter

import pytest

from mogu.corpus import (
    corpus_conversations,
    corpus_documents,
    corpus_requests,
    corpus_systems,
    corpus_wrappers,
)
from mogu.data.mixture import LONGEST_WRAPPED, SHARES, SYSTEM_SHARE, mixture
from mogu.data.requests import Request

LABELS = ("malicious", "benign")


def mixed(label, split="train", count=400, seed=0):
    return mixture(corpus_requests(label, split), label, split, count, seed)


@pytest.mark.parametrize("label", LABELS)
def test_every_kind_has_its_share(label):
    rows = mixed(label)
    assert len(rows) == 400
    assert {row.label for row in rows} == {label}
    shares = SHARES[label]
    kinds = Counter(row.kind for row in rows)
    for kind in ("jailbreak_frame", "innocent_frame", "history"):
        assert kinds[kind] == round(400 * shares[kind])
    talks = {row.id for row in corpus_conversations(label, "train")}
    assert sum(row.id in talks for row in rows) == round(400 * shares["conversation"])
    assert sum(row.group == "noise" for row in rows) == round(400 * shares["noise"])
    documents = {row.id for row in corpus_documents("train")}
    assert sum(row.id in documents for row in rows) == round(400 * shares.get("document", 0))


@pytest.mark.parametrize("label", LABELS)
def test_each_style_stands_under_both_labels(label):
    rows = mixed(label)
    groups = {wrapper.group for wrapper in corpus_wrappers("jailbreak", "train")}
    assert {row.group for row in rows} >= groups | {"noise"}
    histories = [row for row in rows if row.kind == "history"]
    assert all(row.messages[-2]["role"] == "assistant" for row in histories)
    assert all(row.messages[-1] == {"role": "user", "content": row.text} for row in histories)


@pytest.mark.parametrize("label", LABELS)
def test_some_rows_of_either_label_have_a_system_message(label):
    rows = mixed(label, count=800)
    with_system = [row for row in rows if row.messages[0]["role"] == "system"]
    assert 0.5 * SYSTEM_SHARE < len(with_system) / len(rows) < 1.5 * SYSTEM_SHARE


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize("label", LABELS)
def test_splits_never_mix(label, split):
    train = {row.text for row in corpus_requests(label, "train")}
    train |= {row.text for row in corpus_conversations(label, "train")}
    assert {row.split for row in mixed(label, split)} == {split}
    assert not {row.text for row in mixed(label, split)} & train


def test_the_seed_decides_everything():
    assert mixed("benign") == mixed("benign") != mixed("benign", seed=1)


def test_own_requests_take_the_place_of_the_direct_ones():
    own = corpus_requests("malicious", "train")[:50]
    rows = mixture(own, "malicious", "train", 100, 0)
    direct = [row for row in rows if row.group == "" and row.kind == own[0].kind]
    assert {row.id for row in direct} <= {row.id for row in own}


SPLITS = ("train", "validation", "test")


def frame_of(request, direct):
    """The frames of a split that could have made the text of a wrapped request."""
    kind = request.kind.removesuffix("_frame")
    wrappers = corpus_wrappers(kind, request.split)
    return [wrapper for wrapper in wrappers if wrapper.wrap(direct.text) == request.text]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("label", LABELS)
def test_frames_histories_and_system_messages_are_the_splits_own(label, split):
    direct = {request.id: request for request in corpus_requests(label, split)}
    rows = mixed(label, split, 300)
    turns = {
        turn["content"]
        for each in LABELS
        for talk in corpus_conversations(each, split)
        for turn in talk.messages
    }
    for row in rows:
        if row.messages[0]["role"] == "system":
            assert row.messages[0]["content"] in corpus_systems(split)
        if row.kind.endswith("_frame"):
            (frame,) = frame_of(row, direct[row.id])
            assert row.group == frame.group
            assert len(direct[row.id].text) <= LONGEST_WRAPPED
        if row.kind == "history":
            assert row.text == direct[row.id].text
            assert {turn["content"] for turn in row.messages[:-1] if turn["role"] != "system"} <= turns


@pytest.mark.parametrize("label", LABELS)
def test_both_kinds_of_frames_hold_both_labels_and_all_of_a_kind_are_used_alike(label):
    rows = mixed(label, count=1000)
    for kind in ("jailbreak", "innocent"):
        direct = {request.id: request for request in corpus_requests(label, "train")}
        framed = [row for row in rows if row.kind == f"{kind}_frame"]
        assert {row.label for row in framed} == {label}
        used = Counter(frame_of(row, direct[row.id])[0].template for row in framed)
        available = len(corpus_wrappers(kind, "train"))
        assert len(used) == min(len(framed), available)
        assert max(used.values()) - min(used.values()) <= 1


@pytest.mark.parametrize("count", [400, 5000])
@pytest.mark.parametrize("label", LABELS)
def test_no_request_stands_in_frames_of_both_kinds(label, count):
    # More than there are requests, too.
    framed = [row for row in mixed(label, count=count) if row.kind.endswith("_frame")]
    assert len({row.id for row in framed}) == len(framed) > 20
    assert {row.kind for row in framed} == {"jailbreak_frame", "innocent_frame"}


def test_a_jailbreak_frame_is_more_often_malicious_than_not_and_no_frame_says_so_by_itself():
    malicious, benign = (Counter(row.kind for row in mixed(label)) for label in LABELS)
    assert malicious["jailbreak_frame"] > 2 * benign["jailbreak_frame"] > 20
    assert benign["innocent_frame"] > malicious["innocent_frame"] > 5


@pytest.mark.parametrize("label", LABELS)
def test_no_conversation_stands_twice(label):
    rows = mixed(label, count=800)
    talks = Counter(
        tuple(turn["content"] for turn in row.messages if turn["role"] != "system") for row in rows
    )
    # One that is noisy gets its noise later.
    assert all(
        count == 1 or talk[0] in {row.text for row in rows if row.group == "noise"}
        for talk, count in talks.items()
    )


def test_a_system_message_of_ones_own_stays_alone_and_in_front():
    own = [
        Request(
            f"mine.jsonl:{n}",
            f"Text {n}",
            [{"role": "system", "content": "Mine."}, {"role": "user", "content": f"Text {n}"}],
            "benign",
        )
        for n in range(200)
    ]
    rows = [row for row in mixture(own, "benign", "train", 300, 0) if row.id.startswith("mine")]
    assert Counter(row.kind for row in rows)["history"] == round(300 * SHARES["benign"]["history"])
    for row in rows:
        assert [turn["role"] for turn in row.messages].index("system") == 0
        assert [turn["content"] for turn in row.messages if turn["role"] == "system"] == ["Mine."]


def test_few_requests_give_what_they_can():
    own = corpus_requests("malicious", "train")[:10]
    rows = mixture(own, "malicious", "train", 400, 0)
    kinds = Counter(row.kind for row in rows)
    # Each stands in a frame once.
    assert (kinds["jailbreak_frame"] + kinds["innocent_frame"], kinds["history"]) == (10, 10)
    assert sum(row.group == "noise" for row in rows) == 10
    assert mixture([], "benign", "validation", 8, 0) != []


def test_a_mixture_is_shuffled():
    kinds = [row.kind for row in mixed("benign")]
    assert kinds != sorted(kinds) and len(set(kinds[:40])) >= 5
