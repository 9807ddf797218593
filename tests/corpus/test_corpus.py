import json
import re
from collections import Counter, defaultdict
from importlib import resources
from itertools import chain, product

import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from mogu.corpus import (
    corpus_categories,
    corpus_conversations,
    corpus_documents,
    corpus_openers,
    corpus_refusals,
    corpus_requests,
    corpus_systems,
    corpus_wrappers,
)
from mogu.corpus.encodings import ENCODINGS
from mogu.data.requests import normalised
from mogu.judges.refusal import holds_refusal

SPLITS = ("train", "validation", "test")
KINDS = {
    "malicious": {"imperative", "question", "contrast"},
    "benign": {"everyday", "look_alike", "contrast"},
}
HELD_OUT = {
    "malicious": {
        "validation": {"definition", "money", "surveillance"},
        "test": {"children", "evasion_of_justice", "figure_of_speech", "machines", "public_private"},
    },
    "benign": {
        "validation": {
            "culture_arts",
            "definition",
            "fraud_money",
            "grammar",
            "harsh_or_emotional",
            "knowledge",
            "money",
            "relationships_feelings",
            "surveillance",
            "technology",
        },
        "test": {
            "advice",
            "children",
            "extraction",
            "figure_of_speech",
            "health_everyday",
            "machines",
            "opinion_comparison",
            "public_private",
            "translation_and_language",
            "travel",
        },
    },
}


def rows_of(name):
    text = resources.files("mogu.corpus").joinpath(name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


def requests_of(label):
    return [request for split in SPLITS for request in corpus_requests(label, split)]


def harms():
    """What malicious requests name as their harm; contrasts name where the likeness lies instead."""
    return {row.category for row in requests_of("malicious") if row.kind != "contrast"} - {""}


def test_there_are_enough_requests_of_each_kind():
    malicious, benign = (Counter(row.kind for row in requests_of(label)) for label in KINDS)
    assert malicious.total() >= 1500 and benign.total() >= 2000
    assert malicious["imperative"] >= 300 and malicious["question"] >= 150
    assert benign["everyday"] >= 400
    assert benign["look_alike"] + benign["contrast"] >= 150
    assert len(harms()) >= 14


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("label", KINDS)
def test_every_split_has_every_kind(label, split):
    found = Counter(row.kind for row in corpus_requests(label, split))
    assert found.keys() == KINDS[label]
    assert found.total() >= 100


@pytest.mark.parametrize("label", KINDS)
def test_the_fields_of_a_request_are_valid(label):
    rows = rows_of(f"{label}.jsonl")
    assert len(rows) == len(requests_of(label))
    for row in rows:
        assert row.keys() <= {"text", "kind", "category", "topic", "pair", "language", "split"}
        assert row["text"] == row["text"].strip() != ""
        assert row["split"] in SPLITS and row["kind"] in KINDS[label]
    requests = requests_of(label)
    assert len({request.id for request in requests}) == len(requests)
    first = corpus_requests(label, "train")[0]
    number = int(first.id.rpartition(":")[2])
    assert (first.id, first.text) == (f"corpus/{label}.jsonl:{number}", rows[number - 1]["text"])
    assert first.messages == [{"role": "user", "content": first.text}]


def test_no_text_stands_twice_in_any_file():
    texts = [normalised(row.text) for label in KINDS for row in requests_of(label)]
    texts += [normalised(row["template"]) for row in rows_of("wrappers.jsonl")]
    texts += [normalised(text) for text in (*chain(*corpus_refusals().values()), *corpus_openers())]
    texts += [
        normalised(row["text"]) for name in ("documents", "systems") for row in rows_of(f"{name}.jsonl")
    ]
    texts += [normalised(row["messages"][-1]["content"]) for row in rows_of("conversations.jsonl")]
    assert [text for text, count in Counter(texts).items() if count > 1] == []


@pytest.mark.parametrize("label", KINDS)
def test_some_categories_are_held_out(label):
    splits = defaultdict(set)
    for row in requests_of(label):
        splits[row.category].add(row.split)
    for split, held in HELD_OUT[label].items():
        assert {category for category, found in splits.items() if found == {split}} == held


@pytest.mark.parametrize("label", KINDS)
def test_a_topic_lies_in_one_split(label):
    splits = defaultdict(set)
    for row in rows_of(f"{label}.jsonl"):
        if "topic" in row:
            splits[row["category"], row["topic"]].add(row["split"])
    assert len(splits) > 100
    assert {topic: found for topic, found in splits.items() if len(found) > 1} == {}


def test_every_pair_of_contrasts_has_one_side_of_each_label():
    sides = defaultdict(list)
    for label in KINDS:
        for row in rows_of(f"{label}.jsonl"):
            assert ("pair" in row) == (row["kind"] == "contrast")
            if "pair" in row:
                sides[row["pair"]].append(label)
    assert len(sides) >= 200
    assert {pair: found for pair, found in sides.items() if found != ["malicious", "benign"]} == {}


def test_twins_have_both_labels_and_nearly_the_same_words():
    twins = defaultdict(set)
    for label in KINDS:
        for row in [
            *requests_of(label),
            *(r for split in SPLITS for r in corpus_conversations(label, split)),
        ]:
            if row.twins:
                twins[row.twins].add(row.label)
    assert sum(name.startswith("pair") for name in twins) >= 400
    assert all(len(labels) == 2 for name, labels in twins.items() if name.startswith("pair"))
    assert sum(len(labels) == 2 for name, labels in twins.items() if name.startswith("talk")) >= 500


def test_the_two_sides_of_a_contrast_lie_in_one_split():
    pairs = defaultdict(dict)
    for label in KINDS:
        for row in rows_of(f"{label}.jsonl"):
            if row["kind"] == "contrast":
                pairs[row["pair"]][label] = (row["category"], row["topic"], row["split"])
    assert len(pairs) >= 200
    assert all(sides["malicious"] == sides["benign"] for sides in pairs.values())


def texts_of(source, split):
    if source == "requests":
        return [row.text for label in KINDS for row in corpus_requests(label, split)]
    if source == "conversations":
        talks = [row.messages for label in KINDS for row in corpus_conversations(label, split)]
        return [" ".join(turn["content"] for turn in talk) for talk in talks]
    if source == "documents":
        return [row.text for row in corpus_documents(split)]
    if source == "systems":
        return corpus_systems(split)
    return [
        wrapper.template for kind in ("jailbreak", "innocent") for wrapper in corpus_wrappers(kind, split)
    ]


@pytest.mark.parametrize("source", ["requests", "conversations", "documents", "systems", "wrappers"])
def test_no_text_of_the_test_split_is_a_paraphrase_of_a_training_text(source):
    train, test = (texts_of(source, split) for split in ("train", "test"))
    assert len(train) > len(test) > 5
    bigrams = TfidfVectorizer(ngram_range=(2, 2), token_pattern=r"\w+").fit([*train, *test])
    likeness = (bigrams.transform(test) @ bigrams.transform(train).T).toarray()  # (test, train), 0 to 1
    close = [
        (round(float(row.max()), 2), text, train[int(row.argmax())])
        for row, text in zip(likeness, test, strict=True)
        if row.max() >= 0.5
    ]
    assert close == []


def test_frames_take_one_request_in_fourteen_families_of_six_groups_and_both_kinds():
    families, groups = set(), defaultdict(set)
    for row in rows_of("wrappers.jsonl"):
        assert row.keys() - {"encoding"} == {"template", "kind", "group", "family", "split"}
        assert row["template"].count("{}") == 1
        assert row.get("encoding", "base64") in ENCODINGS
        families.add(row["family"])
        groups[row["group"]].add(row["kind"])
    assert len(families) >= 14
    assert groups.keys() == {"persona", "encoding", "language", "structure", "dialogue", "pretext"}
    assert all(kinds == {"jailbreak", "innocent"} for kinds in groups.values())
    for kind, split in product(("jailbreak", "innocent"), SPLITS):
        wrappers = corpus_wrappers(kind, split)
        assert len(wrappers) >= 8
        assert {(wrapper.kind, wrapper.split) for wrapper in wrappers} == {(kind, split)}


def test_a_frame_holds_a_request_unchanged_but_for_its_spelling():
    text = "What does {} mean in Python, and {topic}?"
    for kind, split in product(("jailbreak", "innocent"), SPLITS):
        for wrapper in corpus_wrappers(kind, split):
            before, after = wrapper.template.split("{}")
            spelled = ENCODINGS[wrapper.encoding](text) if wrapper.encoding else text
            assert wrapper.wrap(text) == before + spelled + after


@pytest.mark.parametrize(
    ("encoding", "spelled"),
    [
        ("base64", "S2lsbCB0aW1lPw=="),
        ("leetspeak", "K1ll 71m3?"),
        ("rot13", "Xvyy gvzr?"),
        ("spaced", "K i l l   t i m e ?"),
        ("reversed", "?emit lliK"),
    ],
)
def test_the_ways_of_spelling(encoding, spelled):
    assert ENCODINGS[encoding]("Kill time?") == spelled


def test_documents_conversations_and_systems_are_there():
    documents = [row for split in SPLITS for row in corpus_documents(split)]
    assert len(documents) == 100
    # 400 to 1,500 tokens, of four characters or so.
    assert all(1_500 <= len(row.text) <= 8_000 and row.label == "benign" for row in documents)
    talks = [row for label in KINDS for split in SPLITS for row in corpus_conversations(label, split)]
    kinds = Counter((row.label, row.kind) for row in talks)
    assert kinds["benign", "chat"] >= 100 and kinds["benign", "follow_up"] >= 50
    assert kinds["malicious", "crescendo"] >= 50 and kinds["malicious", "asked_again"] >= 50
    for row in talks:
        assert row.messages[-1] == {"role": "user", "content": row.text}
        assert {message["role"] for message in row.messages} <= {"user", "assistant"}
    assert sum(len(corpus_systems(split)) for split in SPLITS) >= 60


def test_no_turn_of_a_conversation_lies_in_two_splits():
    splits = defaultdict(set)
    for row in rows_of("conversations.jsonl"):
        for message in row["messages"]:
            splits[normalised(message["content"])].add(row["split"])
    assert [text for text, found in splits.items() if len(found) > 1] == []


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("conversations", {"messages", "label", "kind", "category", "topic", "split"}),
        ("documents", {"text", "kind", "category", "topic", "split"}),
        ("systems", {"text", "split"}),
    ],
)
def test_the_fields_of_the_other_files_are_valid(name, keys):
    splits = defaultdict(set)
    for row in rows_of(f"{name}.jsonl"):
        assert row.keys() == keys and row["split"] in SPLITS
        splits[row.get("category"), row.get("topic")].add(row["split"])
        texts = [message["content"] for message in row["messages"]] if "messages" in row else [row["text"]]
        assert all(text == text.strip() != "" for text in texts)
    if "topic" in keys:
        assert {topic: found for topic, found in splits.items() if len(found) > 1} == {}


def test_a_template_lies_in_one_split():
    splits = defaultdict(set)
    for row in rows_of("wrappers.jsonl"):
        splits[normalised(row["template"])].add(row["split"])
    assert len(splits) >= 250 and all(len(found) == 1 for found in splits.values())


def test_every_split_has_every_language_and_kind_of_conversation():
    languages = set(corpus_refusals())
    for split, label in product(SPLITS, KINDS):
        assert {row.language for row in corpus_requests(label, split)} == languages
        kinds = {row.kind for row in corpus_conversations(label, split)}
        assert kinds == (
            {"asked_again", "crescendo", "document_injection", "late_turn"}
            if label == "malicious"
            else {"chat", "follow_up", "document"}
        )


def test_refusals_in_other_languages_are_whole_sentences():
    for language, texts in corpus_refusals().items():
        assert language == "en" or not any("{" in text for text in texts)
        assert all(len(text) >= 15 and text[-1] in ".!?。।" for text in texts)


def test_ten_languages_beside_english_have_both_labels_and_refusals():
    for language in set(corpus_refusals()) - {"en"}:
        found = {label: [row for row in requests_of(label) if row.language == language] for label in KINDS}
        assert len(found["malicious"]) >= 15 and len(found["benign"]) >= 20
        assert len(corpus_refusals()[language]) >= 6
    assert len(corpus_refusals()) == 11


def test_most_refusals_name_something_or_offer_something():
    refusals = corpus_refusals()["en"]
    assert len(refusals) >= 40
    rich = [text for text in refusals if "{topic}" in text or "{alternative}" in text]
    assert len(rich) > len(refusals) / 2
    assert sum("{alternative}" in text for text in refusals) >= 15
    assert {slot for text in refusals for slot in re.findall(r"{.*?}", text)} == {
        "{request}",
        "{topic}",
        "{alternative}",
    }
    assert not any("{request}" in text and "{topic}" in text for text in refusals)


def test_every_harm_can_be_named_by_a_refusal():
    categories = corpus_categories()
    assert harms() == categories.keys()
    for category in categories.values():
        assert len(category.topics) >= 2 and len(category.alternatives) >= 2


def test_the_judge_holds_every_refusal_with_every_topic_and_alternative():
    phrases = {
        (topic, alternative)
        for category in corpus_categories().values()
        for topic, alternative in product(category.topics, category.alternatives)
    }
    texts = {
        refusal.format(request="help you paint a fence", topic=topic, alternative=alternative)
        for refusal in corpus_refusals()["en"]
        for topic, alternative in phrases
    }
    assert [text for text in sorted(texts) if not holds_refusal(text)] == []


def test_openers_have_one_place_and_are_short():
    openers = corpus_openers()
    assert len(openers) >= 10
    for opener in openers:
        assert opener.count("{artefact}") == 1 and opener.endswith("{artefact}:")
        assert len(opener.split()) <= 10
        assert not holds_refusal(opener.format(artefact="a letter"))
