import random
from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from mogu.corpus import corpus_refusals
from mogu.data.requests import Request
from mogu.errors import MoguError
from mogu.training import sequence_routing
from mogu.training.preparation import BegunReply, Prompt
from mogu.training.sequence_routing import (
    LONGEST_BEGINNING,
    LONGEST_PROMPT,
    _opened,
    _some_of_each_label,
    refusal_beginnings,
    refusal_starts,
)
from tests.tiny import tiny_tokenizer

# Half of the English ones begin with a word, some with a piece of one; the others are in letters that are not Latin.
REFUSALS = {
    "en": [
        "I can't do that.",
        "I won't.",
        "Sorry, no.",
        "That hurts people.",
        "Theft is wrong.",
        "I'm sorry.",
    ],
    "ja": ["ごめんなさい", "すみません", "いいえ"],
}


def starts_of(tokenizer):
    return [tokenizer.decode([token]) for token in refusal_starts(SimpleNamespace(tokenizer=tokenizer))]


def words_tokenizer(*words):
    vocabulary = {word: index for index, word in enumerate(["?", *words])}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?")


def test_of_latin_letters_only_whole_words_begin_a_refusal(monkeypatch):
    monkeypatch.setattr(sequence_routing, "corpus_refusals", lambda: REFUSALS)
    # Bytes: "I" is a word of its own in two of them, "S" and "T" are pieces; kana begin with the same byte.
    tokenizer = tiny_tokenizer()
    first_byte = tokenizer("ご")["input_ids"][0]
    found = refusal_starts(SimpleNamespace(tokenizer=tokenizer))
    assert found == sorted({tokenizer("I")["input_ids"][0], first_byte})


def test_rare_beginnings_do_not_count(monkeypatch):
    tokenizer = words_tokenizer("I", "No,", "Perhaps", "Never")
    texts = ["I do not."] * 8 + ["No, I do not."] * 2 + ["Perhaps not."]
    monkeypatch.setattr(sequence_routing, "corpus_refusals", lambda: {"en": texts})
    assert starts_of(tokenizer) == ["I", "No,"]
    # Of another language it is a common one.
    monkeypatch.setattr(
        sequence_routing, "corpus_refusals", lambda: {"en": texts, "xx": ["Perhaps not.", "Never ever."]}
    )
    assert starts_of(tokenizer) == ["I", "No,", "Perhaps", "Never"]


def test_a_tokenizer_under_which_no_refusal_begins_with_a_whole_word_is_refused(monkeypatch):
    monkeypatch.setattr(sequence_routing, "corpus_refusals", lambda: {"en": REFUSALS["en"][2:5]})
    with pytest.raises(MoguError, match="under this tokenizer refusals do not commonly begin with any token"):
        refusal_starts(SimpleNamespace(tokenizer=tiny_tokenizer()))


def test_a_refusal_behind_a_reply_goes_on_as_the_usual_ones_do_as_far_as_they_agree(monkeypatch):
    usual = {
        "en": ["I am sorry but I can't {request}. Ask again.", "I am sorry but I can't help."],
        "xx": ["Nein danke nicht mit mir und auch nicht mit irgendwem sonst"],
        "yy": ["Nein danke sehr"],
        "zz": ["Rare words"],
    }
    words = dict.fromkeys(word for texts in usual.values() for text in texts for word in text.split())
    tokenizer = words_tokenizer(*words)
    loaded = SimpleNamespace(tokenizer=tokenizer)
    starts = tokenizer("I Nein")["input_ids"]
    monkeypatch.setattr(sequence_routing, "usual_refusals", lambda: usual)
    found = [tokenizer.decode(ids) for ids in refusal_beginnings(loaded, starts)]
    assert found == ["I am sorry but I can't", "Nein danke"]
    monkeypatch.setattr(sequence_routing, "usual_refusals", lambda: {"xx": usual["xx"]})
    assert [len(ids) for ids in refusal_beginnings(loaded, starts)] == [LONGEST_BEGINNING]


def test_the_corpuss_refusals_begin_with_few_tokens_that_most_of_them_share():
    tokenizer = tiny_tokenizer()
    found = set(refusal_starts(SimpleNamespace(tokenizer=tokenizer)))
    assert 2 <= len(found) < 40
    first = [tokenizer(text)["input_ids"][0] for text in corpus_refusals()["en"]]
    assert sum(token in found for token in first) >= len(first) / 2


@pytest.mark.parametrize(("most", "expected"), [(2, [0, 2, 1, 5]), (1, [0, 1]), (None, [0, 2, 4, 1, 5])])
def test_the_first_of_each_label_that_are_not_long(most, expected):
    lengths = [5, 7, LONGEST_PROMPT, LONGEST_PROMPT + 1, 3, 2]
    prompts = [
        Prompt(Request(f"rows:{n}", "x", [], "benign" if n % 2 else "malicious"), [9] * length)
        for n, length in enumerate(lengths)
    ]
    assert [int(p.request.id[5:]) for p in _some_of_each_label(prompts, most)] == expected


# What the gate learns to read of replies.


def prompt_of(label):
    return Prompt(Request("rows:1", "x", [], label, group="persona"), [9, 8, 7])


REPLY = BegunReply([*range(100, 130)], 12)


def test_a_prompt_whose_reply_has_not_begun_is_not_read_again():
    rng = random.Random(0)
    for label in ("malicious", "benign"):
        assert _opened(prompt_of(label), BegunReply([], 0), rng) is None
    # No draw was spent on them.
    assert rng.random() == random.Random(0).random()


def test_a_benign_reply_is_read_to_its_end():
    prompt = prompt_of("benign")
    for seed in range(5):
        assert _opened(prompt, REPLY, random.Random(seed)) == (
            prompt.request,
            [9, 8, 7, *range(100, 130)],
            30,
        )
    assert _opened(prompt, BegunReply([5], 1), random.Random(0)) == (prompt.request, [9, 8, 7, 5], 1)


def test_a_malicious_reply_is_read_from_where_a_refusal_would_begin_up_to_anywhere():
    prompt, rng = prompt_of("malicious"), random.Random(0)
    lengths = set()
    for _ in range(500):
        opened = _opened(prompt, REPLY, rng)
        assert opened is not None and opened.request is prompt.request
        assert opened.ids == [9, 8, 7, *range(100, 100 + opened.reply)]
        lengths.add(opened.reply)
    assert lengths == set(range(12, 31))
    for reply in (BegunReply([5], 1), BegunReply([5, 6, 7], 3)):
        assert _opened(prompt, reply, rng) == (prompt.request, [9, 8, 7, *reply.ids], len(reply.ids))
