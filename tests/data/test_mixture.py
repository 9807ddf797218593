from collections import Counter

import pytest

from mogu.corpus import corpus_conversations, corpus_documents, corpus_requests, corpus_wrappers
from mogu.data.mixture import SHARES, SYSTEM_SHARE, mixture

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
