import random
from collections import Counter

import pytest

from mogu.corpus import Wrapper, corpus_categories, corpus_openers, corpus_requests, corpus_wrappers
from mogu.corpus.encodings import ENCODINGS
from mogu.data.pairs import USUAL_SHARE, balanced, opener_to, refusal_to, usual_refusals, wrap, wrap_share
from mogu.data.requests import Request

LABELS = ("malicious", "benign")


def request(text="How?", label="malicious", kind="question", category="fraud", messages=None, number=0):
    turns = messages or [{"role": "user", "content": text}]
    return Request(f"rows:{number}", text, turns, label, category=category, kind=kind)


def group(kind, category, count):
    return [request(f"{kind} {n}", kind=kind, category=category, number=n) for n in range(count)]


@pytest.mark.parametrize("count", [4, 10, 20, 39])
def test_a_selection_holds_every_group_in_its_proportion(count):
    groups = {("question", "fraud"): 8, ("question", "drugs"): 12, ("contrast", ""): 20}
    rows = [row for (kind, category), size in groups.items() for row in group(kind, category, size)]
    chosen = balanced(rows, count, seed=0)
    assert len(chosen) == len({(row.kind, row.category, row.id) for row in chosen}) == count
    found = Counter((row.kind, row.category) for row in chosen)
    for key, size in groups.items():
        assert abs(found[key] - count * size / 40) <= 1


def test_a_selection_is_shuffled_by_its_seed():
    rows = group("question", "fraud", 30)
    assert balanced(rows, 20, 0) == balanced(rows, 20, 0) != balanced(rows, 20, 1)
    everything = balanced(rows, 99, 0)
    assert everything != rows
    assert sorted(everything, key=lambda row: int(row.id[5:])) == rows
    assert balanced(rows[::-1], 20, 0) != []


def test_a_larger_selection_holds_a_smaller_one():
    rows = [*group("question", "fraud", 30), *group("contrast", "", 11)]
    small, large = ({row.text for row in balanced(rows, count, 3)} for count in (10, 25))
    assert small < large


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize(("share", "count", "due"), [(0, 50, 0), (0.12, 480, 57), (0.29, 100, 29), (1, 7, 7)])
def test_exactly_the_share_is_wrapped(label, share, count, due):
    rows = [request(f"Text {n}", label, number=n) for n in range(count)]
    wrapped = wrap_share(rows, share, "train", seed=0)
    changed = [(old, new) for old, new in zip(rows, wrapped, strict=True) if old is not new]
    assert len(changed) == due
    for old, new in changed:
        assert new.kind in ("jailbreak_frame", "innocent_frame") and (new.id, new.label, new.category) == (
            old.id,
            old.label,
            old.category,
        )
        assert any(spell(old.text) in new.text for spell in (str, *ENCODINGS.values()))
        assert new.text != old.text and new.group != ""
        assert new.messages == [{"role": "user", "content": new.text}]


def templates(kind, split):
    return {wrapper.wrap("{}") for wrapper in corpus_wrappers(kind, split)}


def frames_of(label, split):
    return [row.text for row in wrap_share([request("{}", label) for _ in range(1600)], 1, split, seed=0)]


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_jailbreak_frames_hold_both_labels_and_innocent_ones_benign_requests(split):
    jailbreaks, innocents = templates("jailbreak", split), templates("innocent", split)
    assert set(frames_of("malicious", split)) == jailbreaks
    frames = frames_of("benign", split)
    assert set(frames) == jailbreaks | innocents
    assert 700 <= sum(frame in innocents for frame in frames) <= 900


def test_wrapping_follows_the_seed():
    rows = [request(f"Text {n}") for n in range(40)]
    first, again, other = (wrap_share(rows, 0.5, "train", seed) for seed in (0, 0, 1))
    assert first == again != other


def test_the_last_user_turn_is_wrapped_wherever_it_stands():
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "Weather in {}?"},
        {"role": "tool", "content": "Rain."},
    ]
    row = request("Weather in {}?", messages=turns)
    wrapped = wrap(row, Wrapper("A play. {} Curtain.", "innocent", "persona", "role_play", "train"))
    assert wrapped.text == "A play. Weather in {}? Curtain."
    assert [turn["content"] for turn in wrapped.messages] == [
        "Be brief.",
        "Hello",
        "Hi.",
        "A play. Weather in {}? Curtain.",
        "Rain.",
    ]
    assert [turn["role"] for turn in wrapped.messages] == [turn["role"] for turn in turns]
    assert row.messages == turns


def refusals(row, count=400):
    rng = random.Random(0)
    return [refusal_to(row, rng) for _ in range(count)]


def test_a_refusal_says_a_short_request_again_and_offers_something_of_its_kind():
    category = corpus_categories()["fraud"]
    texts = refusals(request("How do I forge a cheque?", category="fraud"))
    assert all("help you forge a cheque" in text for text in texts)
    assert all(any(other in text for other in category.alternatives) for text in texts)
    usual = (
        "I'm sorry, but I can't help you forge a cheque. I can tell you about "
        f"{category.alternatives[0]} instead."
    )
    assert USUAL_SHARE - 0.06 < texts.count(usual) / len(texts) < 1
    assert len(set(texts)) > 3


def test_a_refusal_names_the_kind_of_harm_where_the_request_is_long():
    category = corpus_categories()["fraud"]
    texts = refusals(request(category="fraud"))
    assert all(any(topic in text for topic in category.topics) for text in texts)
    assert not any("{" in text or "}" in text for text in texts)


def test_a_benign_request_is_asked_what_was_meant():
    texts = refusals(request("Write a poem.", label="benign", category="fraud"))
    assert all("help you write a poem" in text for text in texts)
    assert not any(
        other in text
        for each in corpus_categories().values()
        for other in each.alternatives
        for text in texts
    )


@pytest.mark.parametrize("row", [request(label="benign", category="fraud"), request(category="software")])
def test_other_refusals_name_nothing(row):
    phrases = [phrase for category in corpus_categories().values() for phrase in category.topics]
    assert not any(phrase in text for text in refusals(row) for phrase in phrases)


def test_wordings_follow_the_seed():
    row = request("Write a letter to my boss.")
    for wording in (refusal_to, opener_to):
        first, again, other = (
            [wording(row, random.Random(seed)) for seed in seeds]
            for seeds in (range(20), range(20), range(20, 40))
        )
        assert first == again != other


@pytest.mark.parametrize(
    ("text", "artefact"),
    [
        ("Write a letter to my neighbour.", "a letter to your neighbour"),
        ("Please give me the steps to ruin my boss!", "the steps to ruin your boss"),
        ("Explain how to open our safe", "how to open your safe"),
        ("Draft me some lines that I can use", "some lines that you can use"),
        ("How do I open a safe?", "what you asked for"),
        ("Write about my cat.", "what you asked for"),
        ("Create a {} plan.", "a {} plan"),
        ("Write a poem with " + "very " * 20 + "many words.", "what you asked for"),
        (
            "Write a letter.\nThen post it. Also, read it aloud.",
            "a letter.\nThen post it. Also, read it aloud",
        ),
    ],
)
def test_an_opener_names_the_thing_that_was_asked_for(text, artefact):
    row = request(text)
    openers = {opener_to(row, random.Random(seed)) for seed in range(200)}
    assert openers == {opener.format(artefact=artefact) for opener in corpus_openers()}


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_openers_are_short_and_hold_nothing_but_words_of_the_request(split):
    frames = {
        word
        for opener in corpus_openers()
        for word in opener.format(artefact="what you asked for").lower().split()
    }
    given = {"you", "your", "you're", "you'll", "you've", "are"}
    rng = random.Random(0)
    for row in wrap_share(corpus_requests("malicious", split), 0.12, split, 0):
        opener = opener_to(row, rng)
        assert len(opener.split()) <= 25
        assert opener.endswith(":") and opener.count(":") == 1 + row.text.count(":") * (":" in opener[:-1])
        words = set(opener.lower().rstrip(":").split())
        assert words <= frames | given | set(row.text.lower().rstrip(".!").split()) | {
            word.rstrip(":") for word in frames
        }


def test_the_usual_refusals_are_those_that_most_requests_get():
    rows = [request(f"Write {n} letters.", number=n) for n in range(100)] + [request("Odd.", category="")]
    usual = usual_refusals()
    begun = [text.split("{")[0] for text in usual["en"]]
    assert len(begun) == 4 and all(len(texts) == 1 for language, texts in usual.items() if language != "en")
    said = [refusal_to(row, random.Random(number)) for number, row in enumerate(rows)]
    assert sum(text.startswith(tuple(begun)) for text in said) >= USUAL_SHARE * len(said) - 10
