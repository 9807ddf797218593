import random

import pytest
import torch

from mogu.defenses.base import Talk
from mogu.evaluation.attacks import gcg
from mogu.evaluation.attacks.aim import aimed, target_losses
from mogu.evaluation.attacks.gcg import FILLER, GCG, Slot, swaps
from tests.defenses.hosts import tiny_host
from tests.defenses.talks import user
from tests.evaluation.attacks.fakes import REQUESTS, Rule, never
from tests.tiny import tiny_tokenizer


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda each: each.id)
def test_the_slot_holds_the_suffix_and_nothing_else(request_):
    tokenizer = tiny_tokenizer()
    slot = Slot.behind(tokenizer, request_.talk, "Sure, here is")
    text = request_.talk.messages[-1]["content"]
    assert slot.stem == text
    assert tokenizer.decode(list(slot.first)) == FILLER
    assert slot.talk(slot.first).messages[-1]["content"] == text + FILLER
    assert slot.talk(slot.first).opener == request_.talk.opener
    assert slot.stands(slot.first)
    assert slot.row(slot.first) == aimed(tokenizer, slot.talk(slot.first), "Sure, here is")
    assert tokenizer.decode(slot.filled.ids[slot.filled.start :]) == "Sure, here is"


def test_a_suffix_that_is_read_in_other_tokens_does_not_stand():
    tokenizer = tiny_tokenizer()
    slot = Slot.behind(tokenizer, REQUESTS[0].talk, "Sure")
    h, e, he = tokenizer.convert_tokens_to_ids(["h", "e", "he"])
    rest = slot.first[2:]
    assert slot.stands((e, h, *rest))
    assert not slot.stands((h, e, *rest))  # "he" is one token
    assert slot.stands((he, h, *rest))
    control = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert not slot.stands((control, h, *rest))  # typed, it is no control token


def test_swaps_change_one_place_to_a_token_of_a_low_gradient():
    gradient = torch.tensor([[3.0, 1.0, 2.0, torch.inf], [0.0, 5.0, 4.0, torch.inf]])
    drawn = swaps((2, 2), gradient, 2, 100, random.Random(0))
    assert set(drawn) == {(1, 2), (2, 0)}  # (2, 2) is the suffix itself
    assert len(drawn) == 2


def test_steps_lower_the_loss_of_the_target(tmp_path):
    host = tiny_host(tmp_path)
    attack, rng = GCG(host, 33, 0), random.Random(0)
    target = REQUESTS[0].target
    slot = Slot.behind(host.mogu.tokenizer, REQUESTS[0].talk, target)
    suffix, losses = slot.first, []
    for _ in range(6):
        candidates = attack.step(slot, suffix, rng)
        assert candidates == sorted(candidates)
        assert all(slot.stands(each.suffix) for each in candidates)
        losses.append(candidates[0].loss)
        suffix = candidates[0].suffix
    (before,) = target_losses(host.mogu.model, [slot.row(slot.first)], 2)
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < before - 0.3
    asked = aimed(host.mogu.tokenizer, slot.talk(suffix), target)
    assert target_losses(host.mogu.model, [asked], 2) == pytest.approx([losses[-1]])  # as text, too
    text = slot.talk(suffix).messages[-1]["content"]
    assert text.isascii() and text.isprintable() and text.startswith(slot.stem)


def test_gradients_choose_better_than_chance(tmp_path, monkeypatch):
    host = tiny_host(tmp_path)
    slot = Slot.behind(host.mogu.tokenizer, REQUESTS[0].talk, REQUESTS[0].target)

    def lowest(**changed) -> float:
        for name, value in changed.items():
            monkeypatch.setattr(gcg, name, value)
        attack, suffix, rng = GCG(host, 33, 0), slot.first, random.Random(0)
        for _ in range(5):
            loss, suffix = attack.step(slot, suffix, rng)[0]
        return loss

    guided = lowest(TOP=16, CANDIDATES=24)
    monkeypatch.setattr(gcg, "token_gradient", lambda model, row, places: torch.zeros(len(slot.first), 268))
    blind = lowest(TOP=10**6, CANDIDATES=24)
    assert guided < blind


def test_the_defended_model_is_asked_for_the_best_of_a_step_until_it_answers(tmp_path):
    host = tiny_host(tmp_path)
    refusing = Rule(host, never)
    (refused,) = GCG(host, 9, 0).search(refusing, REQUESTS[:1], 5, tmp_path / "never.jsonl")
    assert refusing.batches == [1, 4, 4]
    assert len(set(refusing.texts)) == 9
    assert refused.talk == refusing.asked[5]  # of the lowest loss, for no score tells them apart
    defense = Rule(host, lambda text: text == refusing.texts[6])
    (found,) = GCG(host, 9, 0).search(defense, REQUESTS[:1], 5, tmp_path / "kept.jsonl")
    assert (found.refused, found.queries) == (False, 7)
    assert found.talk.messages[-1]["content"] == refusing.texts[6]


def test_it_goes_on_from_the_suffix_that_the_defense_scores_low(tmp_path):
    host = tiny_host(tmp_path)
    plain = Rule(host, never)
    GCG(host, 9, 0).search(plain, REQUESTS[:1], 5, tmp_path / "plain.jsonl")
    third = plain.texts[3]
    scored = Rule(host, never, score=lambda text: 0.0 if text == third else 1.0)
    (found,) = GCG(host, 5, 0).search(scored, REQUESTS[:1], 5, tmp_path / "scored.jsonl")
    assert scored.texts == plain.texts[:5]
    assert found.talk.messages[-1]["content"] == third


def test_a_suffix_without_neighbours_stays_and_is_asked_once(tmp_path, monkeypatch):
    host = tiny_host(tmp_path)
    monkeypatch.setattr(Slot, "stands", lambda slot, suffix: False)
    defense = Rule(host, never)
    (found,) = GCG(host, 9, 0).search(defense, REQUESTS[:1], 5, tmp_path / "kept.jsonl")
    text = REQUESTS[0].talk.messages[-1]["content"]
    assert defense.texts == [text, text + FILLER]
    assert (found.refused, found.queries) == (True, 2)
    assert found.talk.messages[-1]["content"] == text + FILLER


def test_tokens_that_may_stand_in_a_suffix_are_plain_text(tmp_path):
    host = tiny_host(tmp_path)
    plain = GCG(host, 9, 0)._plain
    allowed = {host.mogu.tokenizer.decode([index]) for index in plain.nonzero()[:, 0].tolist()}
    assert allowed == {chr(code) for code in range(32, 127)} | {"he", " t", " the", "in", "ing"} | {
        " a", "ou", " s", "er", "on"
    }  # fmt: skip


def test_a_request_that_ends_as_the_suffix_begins(tmp_path):
    tokenizer = tiny_tokenizer()
    for text in ("Stop !", "Wait! !", "go ", "he", "海"):
        slot = Slot.behind(tokenizer, Talk([user(text)]), "Sure")
        assert slot.stem + tokenizer.decode(list(slot.first)) == text + FILLER
        assert slot.stands(slot.first)


def test_the_passes_are_told_before():
    class Numbers(GCG):
        def __init__(self, budget):
            self.budget = budget

    assert Numbers(1).estimate(REQUESTS) == (3, 0, 0)
    assert Numbers(9).estimate(REQUESTS) == (27, 3 * 8 * 68, 0)
    assert Numbers(10).estimate(REQUESTS) == (30, 3 * 12 * 68, 0)
