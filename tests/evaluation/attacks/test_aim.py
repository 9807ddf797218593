import random

import pytest
import torch
from torch.nn import functional as F

from mogu.chat import encode_chat
from mogu.corpus import corpus_openers
from mogu.defenses.base import Talk
from mogu.evaluation.attacks.aim import Aimed, aimed, shared_start, target_losses, target_of, token_gradient
from tests.defenses.talks import user
from tests.evaluation.attacks.fakes import REQUESTS
from tests.tiny import tiny_model, tiny_tokenizer

TARGETS = ["Sure, here is", "Sure, of course: here is what you asked for", "Well"]


def by_hand(model, row: Aimed) -> float:
    logits = model(input_ids=torch.tensor([row.ids])).logits[0]
    targets = row.ids[row.start :]
    lost = [-logits[row.start + step - 1].log_softmax(0)[token].item() for step, token in enumerate(targets)]
    return sum(lost) / len(lost)


def test_the_target_begins_where_the_prompt_ends():
    tokenizer = tiny_tokenizer()
    for request in REQUESTS:
        row = aimed(tokenizer, request.talk, " Sure")
        prompt = encode_chat(tokenizer, request.talk.messages, request.talk.opener).ids
        assert row.start == len(prompt)
        assert row.ids[: row.start] == prompt
        assert tokenizer.decode(row.ids[row.start :]) == " Sure"


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2", "falcon_7b"])
@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_losses_are_those_of_each_row_by_itself(family, batch_size):
    model, tokenizer = tiny_model(family), tiny_tokenizer()
    rows = [aimed(tokenizer, request.talk, target) for request in REQUESTS for target in TARGETS]
    rows += rows[:2]
    with torch.no_grad():
        expected = [by_hand(model, row) for row in rows]
    assert target_losses(model, rows, batch_size) == pytest.approx(expected)
    assert target_losses(model, [], batch_size) == []


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_gradient_is_that_of_the_one_hot_choice(family):
    model = tiny_model(family).requires_grad_(False)
    row = aimed(tiny_tokenizer(), REQUESTS[0].talk, TARGETS[0])
    table = model.get_input_embeddings().weight
    one_hot = F.one_hot(torch.tensor([row.ids]), len(table)).to(table.dtype).requires_grad_()
    logits = model(inputs_embeds=one_hot @ table).logits[0]
    loss = F.cross_entropy(logits[row.start - 1 : -1], torch.tensor(row.ids[row.start :]))
    (expected,) = torch.autograd.grad(loss, one_hot)
    places = slice(4, 9)
    found = token_gradient(model, row, places)
    assert found.shape == (5, len(table))
    torch.testing.assert_close(found, expected[0, places])


def test_scaled_embeddings_are_ranked_alike():
    model = tiny_model("gemma3_text").requires_grad_(False)
    row = aimed(tiny_tokenizer(), REQUESTS[0].talk, TARGETS[0])
    layer = model.get_input_embeddings()
    table = layer(torch.arange(layer.weight.shape[0])).detach()
    one_hot = F.one_hot(torch.tensor([row.ids]), len(table)).to(table.dtype).requires_grad_()
    logits = model(inputs_embeds=one_hot @ table).logits[0]
    loss = F.cross_entropy(logits[row.start - 1 : -1], torch.tensor(row.ids[row.start :]))
    (expected,) = torch.autograd.grad(loss, one_hot)
    found = token_gradient(model, row, slice(4, 9))
    torch.testing.assert_close(found * 32**0.5, expected[0, 4:9])  # sqrt(HIDDEN)


def test_the_samples_own_target_comes_first_and_an_opener_else():
    rng = random.Random(0)
    assert target_of(REQUESTS[0], rng) == "Sure, here is"
    asked = REQUESTS[0]._replace(target="", talk=Talk([user("Write a poem about ships.")]))
    openers = {text.format(artefact="a poem about ships") for text in corpus_openers()}
    assert target_of(asked, rng) in openers


def test_shared_start():
    assert shared_start([1, 2, 3], [1, 2, 4]) == 2
    assert shared_start([1, 2], [1, 2, 4]) == 2
    assert shared_start([], [1]) == 0
