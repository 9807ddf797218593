from itertools import chain
from string import ascii_lowercase

import pytest
import torch

from mogu.chat import encode_chat
from mogu.defenses.speaker import Speaker
from tests.defenses.talks import TALKS
from tests.generation.hardened import hardened, replies
from tests.tiny import IM_END, MERGES, tiny_tokenizer


@pytest.fixture
def mogu():
    return hardened()


@pytest.fixture
def prompts(mogu):
    return [encode_chat(mogu.tokenizer, talk.messages, talk.opener).ids for talk in TALKS]


def token(text):
    (found,) = tiny_tokenizer()(text, add_special_tokens=False).input_ids
    return found


def share(mogu, ids, words, others):
    """By the full softmax in double precision."""
    with torch.no_grad():
        likely = mogu.model(input_ids=torch.tensor([ids])).logits[0, -1].softmax(-1)
    return (likely[words].sum() / likely[words + others].sum()).item()


def test_it_writes_what_generate_does(mogu, prompts):
    settings = {"mode": "base", "max_new_tokens": 6, "eos_token_id": IM_END, "pad_token_id": IM_END}
    expected = [replies(mogu, [prompt], **settings)[0] for prompt in prompts]
    assert Speaker.of(mogu).write(prompts, 6, 2) == expected
    assert Speaker(mogu.model, mogu.tokenizer).write(prompts, 6, 2) == expected


def test_a_reply_ends_with_its_end_token(mogu, prompts):
    expected = replies(mogu, prompts[:1], mode="base", max_new_tokens=6)[0]
    end = expected[3]
    speaker = Speaker(mogu.model, mogu.tokenizer)
    speaker._ends = [end]
    assert speaker.write(prompts[:1], 6, 2) == [expected[: expected.index(end) + 1]]


def test_the_words_are_compared_at_the_first_token(mogu, prompts):
    # No reply to the talks says y or n among its first tokens.
    words, others = [token("y"), token("Y")], [token("n"), token("N")]
    written = replies(mogu, prompts, mode="base", max_new_tokens=4)
    assert not set(chain.from_iterable(written)) & {*words, *others}
    verdicts = Speaker.of(mogu).weigh(prompts, "yes", "no", 2)
    assert [verdict.tokens for verdict in verdicts] == [1, 1, 1]
    expected = [share(mogu, prompt, words, others) for prompt in prompts]
    assert [verdict.share for verdict in verdicts] == pytest.approx(expected, rel=1e-4)
    assert len({round(verdict.share, 3) for verdict in verdicts}) == 3


def test_the_words_are_compared_where_the_reply_says_one(mogu):
    speaker = Speaker.of(mogu)
    prompts = [[start, *range(20)] for start in range(20, 80)]
    # Without those that the tokenizer joins with the space before them: " a" is a token of its own.
    alphabet = sorted(set(ascii_lowercase) - {right for left, right in MERGES if left == "\u0120"})
    letters = {token(letter): letter for letter in alphabet}
    written = replies(mogu, prompts, mode="base", max_new_tokens=4)
    # A prompt whose reply says a lower-case letter first at its second token or later.
    prompt, ids, place = next(
        (prompt, ids, place)
        for prompt, ids in zip(prompts, written, strict=True)
        for place in (1, 2, 3)
        if ids[place] in letters and not letters.keys() & set(ids[:place]) and IM_END not in ids[:place]
    )
    said = letters[ids[place]]
    other = next(letter for letter in alphabet if letter not in speaker.tokenizer.decode(ids).lower())
    verdict = speaker.weigh([prompt], said, other, 2)[0]
    assert verdict.tokens == place + 1
    words, others = ([token(word), token(word.upper())] for word in (said, other))
    assert verdict.share == pytest.approx(share(mogu, prompt + ids[:place], words, others), rel=1e-4)


def test_a_token_that_begins_both_words_is_not_counted(mogu):
    # With a space before them "yes" and "no" begin with the token of that space, "singing" with that of " s".
    speaker = Speaker.of(mogu)
    space = token(" ")
    assert speaker._beginnings("yes") & speaker._beginnings("no") == {space}
    assert speaker._beginnings("singing") == {token("s"), token("S"), token(" s"), space}
