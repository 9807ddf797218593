"""Text token by token: whole characters, stop strings, and the chances of its tokens."""

from random import Random

import pytest
from tokenizers import Tokenizer, decoders, normalizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from mogu.serving.engine.job import TokenLogprob
from mogu.serving.engine.text import LONGEST_CHARACTER, ReplyText, TokenBytes
from tests.tiny import IM_END, tiny_tokenizer

TEXTS = [
    "The other thing is on a seat, and you are in there.",
    "Fünf Häuser, 三つの家, и так далее — ∑x² ≥ 0",
    "👩‍👩‍👧 and 🏳️‍🌈, flags 🇫🇷🇩🇪",
    " leading and trailing \n\n  lines \t\n",
    "",
]


def sentencepiece_like() -> PreTrainedTokenizerFast:
    """A tokenizer as Llama 2 has it: "▁" for spaces, unknown characters byte by byte."""
    pieces = [*"▁abcdefghijklmnopqrstuvwxyz.,", "▁t", "▁th", "▁the"]
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for piece in [f"<0x{byte:02X}>" for byte in range(256)] + pieces:
        vocab[piece] = len(vocab)
    merges = [("▁", "t"), ("▁t", "h"), ("▁th", "e")]
    backend = Tokenizer(BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


TOKENIZERS = {"byte-level": tiny_tokenizer, "sentencepiece": sentencepiece_like}


def pieces(tokenizer, ids, stop=()):
    """The text after each token, and what is left at the end."""
    text = ReplyText(tokenizer, stop)
    seen = []
    for token in ids:
        text.add(token)
        seen.append(text.take()[0])
        if text.stopped:
            break
    text.end()
    return [*seen, text.take()[0]], text.stopped


def encoded(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_pieces_are_the_text_and_never_half_a_character(kind, text):
    tokenizer = TOKENIZERS[kind]()
    ids = encoded(tokenizer, text)
    seen, _ = pieces(tokenizer, ids)
    assert "".join(seen) == tokenizer.decode(ids, skip_special_tokens=True)
    assert not any("\ufffd" in piece for piece in seen)
    if len(text) > 10:
        assert len([piece for piece in seen if piece]) > len(text) / 3  # it does not come all at the end


@pytest.mark.parametrize("seed", range(5))
def test_any_bytes_give_what_the_tokenizer_decodes(seed):
    tokenizer = tiny_tokenizer()
    ids = Random(seed).choices(range(2, 268), k=300)
    assert "".join(pieces(tokenizer, ids)[0]) == tokenizer.decode(ids)


def test_bytes_that_never_become_a_character_are_not_held_for_ever():
    tokenizer = tiny_tokenizer()
    (lead,) = {token for token in range(268) if TokenBytes(tokenizer).of(token) == b"\xf0"}
    seen, _ = pieces(tokenizer, [lead] * 3 * LONGEST_CHARACTER)
    assert "".join(seen) == "\ufffd" * 3 * LONGEST_CHARACTER
    assert max(map(len, seen)) == LONGEST_CHARACTER


def test_half_a_character_at_the_end_is_what_it_is():
    tokenizer = tiny_tokenizer()
    ids = encoded(tokenizer, "so 三")[:-1]
    assert pieces(tokenizer, ids)[0][-3:] == ["", "", "\ufffd"]


def test_special_tokens_are_not_in_the_text():
    tokenizer = tiny_tokenizer()
    ids = [IM_END, *encoded(tokenizer, "on"), IM_END, 0, *encoded(tokenizer, " and"), 0]
    assert "".join(pieces(tokenizer, ids)[0]) == "on and"
    assert "".join(pieces(tokenizer, [*[0] * 40, *encoded(tokenizer, "三")])[0]) == "三"


@pytest.mark.parametrize(
    ("stop", "left"),
    [
        (("seat",), "The other thing is on a "),
        (("g is o",), "The other thin"),
        (("is on a", "thing"), "The other "),
        ((".",), TEXTS[0][:-1]),
        (("The",), ""),
        (("nowhere", "there!", "seat, and you are not"), TEXTS[0]),
        (("oo",), TEXTS[0]),
    ],
)
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_stop_string_ends_the_text_wherever_tokens_end(kind, stop, left):
    tokenizer = TOKENIZERS[kind]()
    seen, stopped = pieces(tokenizer, encoded(tokenizer, TEXTS[0]), stop)
    assert "".join(seen) == left and stopped == (left != TEXTS[0])


def test_text_that_may_become_a_stop_string_waits():
    tokenizer = tiny_tokenizer()
    seen, stopped = pieces(tokenizer, encoded(tokenizer, "ab##c###d"), ("###",))
    assert seen == ["a", "b", "", "", "##c", "", "", "", ""] and stopped
    seen, stopped = pieces(tokenizer, encoded(tokenizer, "ab##"), ("###",))
    assert seen == ["a", "b", "", "", "##"] and not stopped


def test_a_stop_string_over_half_characters():
    tokenizer = tiny_tokenizer()
    seen, stopped = pieces(tokenizer, encoded(tokenizer, "a三つb"), ("三つ",))
    assert "".join(seen) == "a" and stopped


def with_logprobs(tokenizer, ids, stop=()):
    """For each token the names of those whose chances come with its text."""
    text = ReplyText(tokenizer, stop)
    seen = []
    for number, token in enumerate(ids):
        text.add(token, TokenLogprob(str(number), b"", 0.0, ()))
        seen.append(text.take())
        if text.stopped:
            break
    text.end()
    seen.append(text.take())
    return [(piece, [each.text for each in logprobs]) for piece, logprobs in seen]


def test_chances_come_with_the_text_that_their_token_completes():
    tokenizer = tiny_tokenizer()
    assert with_logprobs(tokenizer, encoded(tokenizer, "a三b")) == [
        ("a", ["0"]),
        ("", []),
        ("", []),
        ("三", ["1", "2", "3"]),
        ("b", ["4"]),
        ("", []),
    ]
    # "the" is one token, "ing" another: the stop string takes the end of one and leaves the other out.
    ids = [*encoded(tokenizer, "a the"), *encoded(tokenizer, "ing")]
    assert len(ids) == 3
    assert with_logprobs(tokenizer, ids, ("hein",)) == [("a", ["0"]), (" t", []), ("", ["1"]), ("", [])]
    assert with_logprobs(tokenizer, ids, ("ingx",))[-1] == ("ing", ["2"])


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_bytes_of_tokens_are_those_of_the_text(kind, text):
    tokenizer = TOKENIZERS[kind]()
    spelled = TokenBytes(tokenizer)
    whole = b"".join(spelled.of(token) for token in encoded(tokenizer, text)).decode()
    assert whole == (text if kind == "byte-level" or not text else " " + text)


def test_bytes_of_special_and_unknown_tokens():
    spelled = TokenBytes(tiny_tokenizer())
    assert spelled.of(IM_END) == b"<|im_end|>" and spelled.of(10**6) == b""
