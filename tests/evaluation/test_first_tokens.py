"""The first tokens that defenses give: their own forwards, read one by one."""

from contextlib import nullcontext

import pytest
import torch

from mogu.chat import encode_chat
from mogu.defenses import DEFENSES, examples, finetune, make_defense, safe_decoding, sft, steering
from mogu.defenses.base import Talk
from mogu.defenses.finetune import with_lora
from mogu.defenses.none import NoDefense
from mogu.defenses.retokenization import Retokenization
from mogu.defenses.steering import steered
from mogu.evaluation.first_tokens import FirstTokens, divergence
from mogu.models import decoder_layers
from tests.defenses.counting import Heard
from tests.defenses.gated_host import gated_host
from tests.defenses.talks import TALKS

WITH_FIXED_SENTENCE = ("detect_input", "self_examine", "gate_refusal")
REWRITING = ("self_reminder", "icd", "safety_prompt")


@pytest.fixture
def host(tmp_path, monkeypatch):
    monkeypatch.setattr(safe_decoding, "REFUSALS", 4)
    monkeypatch.setattr(sft, "REFUSALS", 4)
    monkeypatch.setattr(sft, "BENIGN", 4)
    monkeypatch.setattr(examples, "REPLY_TOKENS", 6)
    monkeypatch.setattr(finetune, "BATCH", 2)
    monkeypatch.setattr(steering, "REQUESTS", 5)
    monkeypatch.setattr(steering, "TRIED_REQUESTS", 4)
    monkeypatch.setattr(steering, "TRIED_TOKENS", 4)
    return gated_host(tmp_path)


def entered(host, name):
    defense = make_defense(name, host)
    defense.prepare(Heard())
    return defense


@torch.no_grad()
def logits_after(host, ids):
    return host.mogu.model(input_ids=torch.tensor([ids])).logits[0, -1].float()


def prompt_of(host, talk):
    return encode_chat(host.mogu.tokenizer, talk.messages, talk.opener).ids


def test_the_divergence_is_the_written_formula():
    base, other = torch.randn(2, 3, 50, dtype=torch.float64)
    shares, others = base.softmax(-1), other.softmax(-1)
    expected = (shares * (shares / others).log()).sum(-1).tolist()
    assert divergence(base, other) == pytest.approx(expected)
    assert divergence(base, base) == [0.0] * 3


@pytest.mark.parametrize("name", [name for name in DEFENSES if name != "guard"])
def test_every_defense_has_first_tokens_or_says_why_not(host, name):
    first = FirstTokens(host, {"one": TALKS[:2], "other": TALKS[2:]})
    assert {each: len(rows) for each, rows in first.of_base.items()} == {"one": 2, "other": 1}
    with entered(host, name) as defense:
        found = first.divergence(defense)
    if name in WITH_FIXED_SENTENCE:
        assert found == "none: a fixed sentence replies where it steps in"
    elif name == "safe_decoding":
        assert found == "without bound: it draws from a few common tokens"
    else:
        assert found.keys() == {"one", "other"}
        assert all(value >= 0 for value in found.values())
        assert (max(found.values()) == 0) == (name == "none")


def test_a_talk_that_cannot_be_encoded_is_the_reason(host):
    first = FirstTokens(host, {"one": TALKS, "other": [Talk([])]})
    assert isinstance(first.of_base, str) and "\n" not in first.of_base
    assert first.divergence(NoDefense(host)) == first.of_base


@pytest.mark.parametrize("name", REWRITING)
def test_a_defense_that_rewrites_prompts_has_the_base_s_after_what_it_asks(host, monkeypatch, name):
    defense = entered(host, name)
    asked = []
    replies = host.base_replies
    monkeypatch.setattr(host, "base_replies", lambda talks, n: asked.extend(talks) or replies(talks, n))
    defense.reply(TALKS, 1)
    expected = [logits_after(host, prompt_of(host, talk)) for talk in asked]
    torch.testing.assert_close(defense.first_logits(TALKS), torch.stack(expected), rtol=1e-4, atol=1e-4)


def test_retokenization_has_the_base_s_after_its_tokens(host):
    defense = Retokenization(host)
    expected = torch.stack([logits_after(host, defense.encode(talk)) for talk in TALKS])
    torch.testing.assert_close(defense.first_logits(TALKS), expected, rtol=1e-4, atol=1e-4)


def test_sft_has_those_of_the_base_with_its_lora(host):
    with entered(host, "sft") as defense:
        found = defense.first_logits(TALKS)
    with with_lora(host, host.work / "sft-0"):
        expected = torch.stack([logits_after(host, prompt_of(host, talk)) for talk in TALKS])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_steering_steers_after_flagged_talks_alone(host):
    with entered(host, "steering") as defense:
        flagged = [answer.flagged for answer in defense.reply(TALKS, 1)]
        found = defense.first_logits(TALKS)
        layers = [decoder_layers(host.mogu.model)[index] for index in defense._band]
        assert sorted(flagged) == [False, False, True]
        for row, (talk, steer) in enumerate(zip(TALKS, flagged, strict=True)):
            with steered(layers, defense._added) if steer else nullcontext():
                expected = logits_after(host, prompt_of(host, talk))
            torch.testing.assert_close(found[row], expected, rtol=1e-4, atol=1e-4)


def test_the_base_has_its_own(host):
    expected = torch.stack([logits_after(host, prompt_of(host, talk)) for talk in TALKS])
    torch.testing.assert_close(NoDefense(host).first_logits(TALKS), expected, rtol=1e-4, atol=1e-4)
