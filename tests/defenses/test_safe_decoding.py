import pytest
import torch

from mogu.chat import encode_chat
from mogu.defenses import finetune, safe_decoding
from mogu.defenses.finetune import with_lora
from mogu.defenses.safe_decoding import SafeDecoding, safe_tokens
from tests.defenses.counting import Heard
from tests.defenses.hosts import tiny_host
from tests.defenses.states import State
from tests.defenses.talks import TALKS

NEW = 7


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(safe_decoding, "REFUSALS", 4)
    monkeypatch.setattr(finetune, "BATCH", 2)


def prepared(tmp_path, family="llama"):
    defense = SafeDecoding(tiny_host(tmp_path, family))
    defense.prepare(Heard())
    return defense


def begins(long, short):
    """Whether a reply begins with another one, whose last character may be cut off."""
    return long.text.startswith(short.text.rstrip("\N{REPLACEMENT CHARACTER}"))


def chosen_by_hand(base, expert, alpha, common):
    """The paper's words for one row of logits."""
    base, expert = base.softmax(-1).tolist(), expert.softmax(-1).tolist()
    first, other = (sorted(range(len(p)), key=lambda token, p=p: (-p[token], token)) for p in (base, expert))
    space, k = set(), 0
    while len(space) < common:
        k += 1
        space = set(first[:k]) & set(other[:k])
    mixed = {token: max(0.0, base[token] + alpha * (expert[token] - base[token])) for token in space}
    return max(mixed, key=mixed.__getitem__), space


@torch.no_grad()
def by_hand(host, lora, talk, first_tokens=2, alpha=3.0, common=5):
    """One talk, each token by reading everything anew: its ids, and whether one was not the base's first choice."""
    mogu = host.mogu
    ids = encode_chat(mogu.tokenizer, talk.messages, talk.opener).ids
    start, flagged = len(ids), False

    def logits():
        return mogu.model(input_ids=torch.tensor([ids])).logits[0, -1].float()

    for step in range(NEW):
        base = logits()
        token = int(base.argmax())
        if step < first_tokens:
            with with_lora(host, lora):
                token, _ = chosen_by_hand(base, logits(), alpha, common)
            flagged |= token != int(base.argmax())
        ids.append(token)
    return ids[start:], flagged


def test_the_next_token_is_the_best_of_what_both_rank_high():
    base = torch.tensor([[0.30, 0.25, 0.20, 0.15, 0.06, 0.04]]).log()
    expert = torch.tensor([[0.02, 0.10, 0.23, 0.05, 0.25, 0.35]]).log()
    # The first three tokens of both have token 2 in common; of four, tokens 1 and 2.
    assert safe_tokens(base, expert, alpha=3.0, common=1).tolist() == [2]
    assert safe_tokens(base, expert, alpha=0.0, common=2).tolist() == [1]
    # 0.25 + 3 (0.10 - 0.25) < 0.20 + 3 (0.23 - 0.20)
    assert safe_tokens(base, expert, alpha=3.0, common=2).tolist() == [2]
    # All tokens: 0.04 + 3 (0.35 - 0.04) = 0.97 is the highest.
    assert safe_tokens(base, expert, alpha=3.0, common=6).tolist() == [5]


@pytest.mark.parametrize("alpha", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("common", [1, 5, 20])
def test_the_next_token_is_that_of_the_paper_s_words(alpha, common):
    generator = torch.Generator().manual_seed(0)
    base, noise = torch.randn(2, 40, 30, generator=generator, dtype=torch.float64)
    expert = base + noise
    found = safe_tokens(base, expert, alpha, common).tolist()
    by_words = [chosen_by_hand(b, e, alpha, common) for b, e in zip(base, expert, strict=True)]
    mixed = base.softmax(-1) + alpha * (expert.softmax(-1) - base.softmax(-1))
    for row, (token, space) in enumerate(by_words):
        # Where no token has a share, the words leave the choice open.
        none = max(mixed[row, list(space)]) <= 0
        assert found[row] in space if none else found[row] == token


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
def test_a_batch_equals_its_talks_alone_and_uncached(tmp_path, family):
    defense = prepared(tmp_path, family)
    host, (lora,) = defense.host, tmp_path.iterdir()
    state = State(host.mogu.model)
    with defense:
        answers = defense.reply(TALKS, NEW)
        assert defense.reply([], NEW) == []
    state.assert_same()
    written = [by_hand(host, lora, talk) for talk in TALKS]
    texts = host.mogu.tokenizer.batch_decode([ids for ids, _ in written], skip_special_tokens=True)
    assert [answer.text for answer in answers] == texts
    assert [answer.tokens for answer in answers] == [NEW] * 3
    assert [answer.flagged for answer in answers] == [flagged for _, flagged in written]
    assert any(flagged for _, flagged in written)


def test_alpha_0_and_no_first_tokens_are_the_base(tmp_path, monkeypatch):
    # An expert beside the base: then the base's first choice is common to both.
    monkeypatch.setattr(finetune, "RATE_TIMES_WIDTH", 1e-4)
    defense = prepared(tmp_path)
    said = defense.host.base_replies(TALKS, NEW)
    defense.alpha = 0.0
    with defense:
        assert defense.reply(TALKS, NEW) == said
    defense.alpha, defense.first_tokens = 3.0, 0
    with defense:
        assert defense.reply(TALKS, NEW) == said


@pytest.mark.parametrize("last", [0, 1])
def test_a_reply_that_ends_among_the_first_tokens_stays_ended(tmp_path, monkeypatch, last):
    defense = prepared(tmp_path)
    host, (lora,) = defense.host, tmp_path.iterdir()
    rows = [by_hand(host, lora, talk)[0] for talk in TALKS]
    end = rows[0][last]
    monkeypatch.setattr(host.mogu.model.generation_config, "eos_token_id", [end])
    with defense:
        cut = defense.reply(TALKS, NEW)
    expected = [row[: row.index(end) + 1] if end in row else row for row in rows]
    assert len(expected[0]) == last + 1
    assert [answer.tokens for answer in cut] == list(map(len, expected))
    assert [answer.text for answer in cut] == host.mogu.tokenizer.batch_decode(expected)


@pytest.mark.parametrize("new", [1, 2, 3])
def test_short_replies_are_the_beginnings_of_long_ones(tmp_path, new):
    defense = prepared(tmp_path)
    with defense:
        short, long = defense.reply(TALKS, new), defense.reply(TALKS, NEW)
    assert [answer.tokens for answer in short] == [new] * 3
    assert all(map(begins, long, short))


def test_the_expert_is_trained_once(tmp_path):
    heard = Heard()
    SafeDecoding(tiny_host(tmp_path)).prepare(heard)
    assert heard.calls == [(1, 2), (2, 2)]
    SafeDecoding(tiny_host(tmp_path)).prepare(heard)
    assert len(heard.calls) == 2
