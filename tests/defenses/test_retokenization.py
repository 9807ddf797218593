import random
from itertools import pairwise
from statistics import mean

import pytest
from tokenizers import Tokenizer
from tokenizers.models import Unigram, WordLevel
from transformers import PreTrainedTokenizerFast

from mogu.chat import encode_chat
from mogu.defenses.base import Talk
from mogu.defenses.retokenization import Merges, Retokenization
from mogu.errors import MoguError
from tests.defenses.hosts import tiny_host
from tests.defenses.talks import TALKS, user
from tests.generation.hardened import replies
from tests.tiny import CHAT_TEMPLATE, IM_END, IM_START, MERGES, tiny_tokenizer

THE = ("\u0120", "t", "h", "e")


def test_only_the_last_users_text_has_other_tokens_and_the_same_characters(tmp_path):
    host = tiny_host(tmp_path)
    tokenizer = host.mogu.tokenizer
    text = "the singer on the southern sea is there, and <|im_end|> is \u00e9 text, " * 4
    talk = Talk([user("the singing one"), {"role": "assistant", "content": "the end"}, user(text)], "in the")
    chat = encode_chat(tokenizer, talk.messages, talk.opener)
    ids = Retokenization(host).encode(talk)
    start, stop = chat.spans[-1].start, chat.spans[-1].stop - len(chat.ids)
    assert ids[:start] == chat.ids[:start]
    assert ids[stop:] == chat.ids[stop:]
    assert ids[start:stop] != chat.ids[start:stop]
    assert len(ids) > len(chat.ids)
    assert tokenizer.decode(ids[start:stop]) == text
    assert not {IM_START, IM_END} & set(ids[start:stop])


def test_the_talk_and_the_seed_decide(tmp_path):
    host = tiny_host(tmp_path)
    talk = Talk([user("the singer on the southern sea is there " * 4)])
    ids = Retokenization(host).encode(talk)
    assert Retokenization(host).encode(talk) == ids
    host.seed = 1
    assert Retokenization(host).encode(talk) != ids


def test_the_base_answers_the_other_tokens(tmp_path):
    host = tiny_host(tmp_path)
    defense, tokenizer = Retokenization(host), host.mogu.tokenizer
    answers = defense.reply(TALKS, 5)
    prompts = [defense.encode(talk) for talk in TALKS]
    settings = {"mode": "base", "max_new_tokens": 5, "eos_token_id": IM_END, "pad_token_id": IM_END}
    for answer, prompt in zip(answers, prompts, strict=True):
        (ids,) = replies(host.mogu, [prompt], **settings)
        assert answer.text == tokenizer.decode(ids, skip_special_tokens=True)
        assert answer.tokens == len(ids)
    assert answers[0] != host.base_replies(TALKS, 5)[0]


def test_a_conversation_without_a_user_stays(tmp_path):
    host = tiny_host(tmp_path)
    talk = Talk([{"role": "tool", "content": "the singer on the southern sea " * 4}])
    assert Retokenization(host).encode(talk) == encode_chat(host.mogu.tokenizer, talk.messages).ids


def test_all_merges_dropped_leave_characters_and_none_the_usual_tokens():
    merges = Merges.of(tiny_tokenizer())
    assert merges.drop(["\u0120the"], 1.0, random.Random(0)) == list(THE)
    assert merges.drop(["\u0120the"], 0.0, random.Random(0)) == ["\u0120the"]
    assert merges.drop(["\u0120s", "ing", "er"], 0.0, random.Random(0)) == ["\u0120s", "ing", "er"]


def test_each_merge_is_dropped_at_each_step_with_the_rate():
    # Of "her" either pair may be merged, "he" first; nothing can be merged after that.
    merges, rng = Merges.of(tiny_tokenizer()), random.Random(0)
    found = [tuple(merges.drop(["he", "r"], 0.2, rng)) for _ in range(20_000)]
    assert mean(pieces == ("he", "r") for pieces in found) == pytest.approx(0.8, abs=0.01)
    assert mean(pieces == ("h", "er") for pieces in found) == pytest.approx(0.2 * 0.8, abs=0.01)
    assert mean(pieces == ("h", "e", "r") for pieces in found) == pytest.approx(0.2 * 0.2, abs=0.01)


def test_no_merge_makes_a_control_token():
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": ["ing"]})
    assert Merges.of(tokenizer).ranks.keys() == set(MERGES) - {("in", "g")}


def test_an_added_token_stays_whole():
    assert Merges.of(tiny_tokenizer()).drop(["<0x0A>", "the"], 1.0, random.Random(0)) == ["<0x0A>", "the"]


def test_digits_that_the_tokenizer_keeps_apart_stay_apart(tmp_path, monkeypatch):
    host = tiny_host(tmp_path)
    defense = Retokenization(host)
    pair = ("1", "2")
    merges = Merges({**defense._merges.ranks, pair: 99}, {**defense._merges.halves, "12": pair})
    monkeypatch.setattr(
        defense, "_merges", merges
    )  # as if a tokenizer with that merge had split single digits
    ids = defense.encode(Talk([user("12 " * 40)]))
    tokens = host.mogu.tokenizer.convert_ids_to_tokens(ids)
    assert list(pairwise(tokens)).count(pair) == 40


@pytest.mark.parametrize("model", [Unigram([("a", -1.0)], unk_id=0), WordLevel({"a": 0}, unk_token="a")])
def test_a_tokenizer_without_merges_is_one_clear_error(tmp_path, monkeypatch, model):
    host = tiny_host(tmp_path)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(model), eos_token="a", chat_template=CHAT_TEMPLATE
    )
    monkeypatch.setattr(host.mogu, "tokenizer", tokenizer)
    with pytest.raises(MoguError, match=f"the base's tokenizer is a {type(model).__name__}: leave it out"):
        Retokenization(host)


def test_no_talks_no_answers(tmp_path):
    assert Retokenization(tiny_host(tmp_path)).reply([], 5) == []
