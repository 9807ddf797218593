import random

import pytest
import torch
from safetensors.torch import load_file

from mogu.chat import encode_chat
from mogu.data.pairs import opener_to, refusal_to
from mogu.defenses import steering
from mogu.defenses.base import Answer
from mogu.defenses.examples import english_requests
from mogu.defenses.steering import RefusalSteering, steered
from mogu.errors import MoguError
from mogu.models import decoder_layers
from tests.defenses.counting import Heard
from tests.defenses.gated_host import gated_host
from tests.defenses.hosts import tiny_host
from tests.defenses.states import State
from tests.defenses.talks import TALKS
from tests.tiny import HIDDEN

STRENGTHS = (0.5, 1.0, 2.0)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(steering, "REQUESTS", 5)
    monkeypatch.setattr(steering, "TRIED_REQUESTS", 4)
    monkeypatch.setattr(steering, "TRIED_TOKENS", 4)
    monkeypatch.setattr(steering, "STRENGTHS", STRENGTHS)
    monkeypatch.setattr(steering, "BAND", (1 / 3, 1))


@torch.no_grad()
def directions_by_hand(host):
    """Each reply read alone: the outputs of layers 1 and 2 at its first tokens."""
    rng = random.Random(host.seed)
    requests = english_requests("malicious", "train", 5, host.seed)
    means = []
    for begin in (refusal_to, opener_to):
        states = []
        for request in requests:
            chat = encode_chat(host.mogu.tokenizer, request.messages, begin(request, rng))
            seen = []
            hooks = [
                layer.register_forward_hook(lambda _, __, out, seen=seen: seen.append(out))
                for layer in decoder_layers(host.mogu.model)[1:]
            ]
            host.mogu.model(input_ids=torch.tensor([chat.ids]))
            for hook in hooks:
                hook.remove()
            place = slice(chat.reply_start, chat.reply_start + steering.READ_TOKENS)
            states.append(torch.stack([layer[0, place].mean(0) for layer in seen]))
        means.append(torch.stack(states).mean(0))
    return means[0] - means[1]


def refusing_from(strength, monkeypatch):
    """A judge that takes three of four replies for refusals, at and above a strength."""
    judged = []

    def judge(_):
        tried, reply = divmod(len(judged), 4)
        judged.append(0)
        return STRENGTHS[tried] >= strength and reply < 3

    monkeypatch.setattr(steering, "holds_refusal", judge)


def test_directions_are_differences_of_means_times_the_strength_that_refuses_most(tmp_path, monkeypatch):
    host, heard = gated_host(tmp_path), Heard()
    state = State(host.mogu.model)
    refusing_from(1.0, monkeypatch)
    RefusalSteering(host).prepare(heard)
    state.assert_same()
    assert heard.calls == [(1, 3), (2, 3), (3, 3)]
    (kept,) = tmp_path.iterdir()
    added = load_file(kept)["added"]
    assert added.shape == (2, HIDDEN)
    torch.testing.assert_close(added, directions_by_hand(host).float(), rtol=1e-4, atol=1e-5)
    RefusalSteering(host).prepare(heard)
    assert len(heard.calls) == 3


def test_of_equals_the_smallest_strength_is_kept(tmp_path, monkeypatch):
    host = gated_host(tmp_path)
    shares = iter([0, 0, 0, 0, 1, 1, 0, 0, 1, 0, 0, 1])
    monkeypatch.setattr(steering, "holds_refusal", lambda _: next(shares))
    RefusalSteering(host).prepare(Heard())
    second = load_file(next(tmp_path.iterdir()))["added"]
    torch.testing.assert_close(second, directions_by_hand(host).float(), rtol=1e-4, atol=1e-5)
    host.work = tmp_path / "none"
    refusing_from(9.0, monkeypatch)
    RefusalSteering(host).prepare(Heard())
    weakest = load_file(next(host.work.iterdir()))["added"]
    torch.testing.assert_close(weakest, 0.5 * second)


def test_flagged_talks_are_steered_and_the_others_are_the_base(tmp_path, monkeypatch):
    host = gated_host(tmp_path)
    refusing_from(2.0, monkeypatch)
    plain, state = host.base_replies(TALKS, 8), State(host.mogu.model)
    defense = RefusalSteering(host)
    defense.prepare(Heard())
    with defense:
        answers = defense.reply(TALKS, 8)
        assert defense.reply([], 8) == []
    state.assert_same()
    (flagged,) = (i for i, answer in enumerate(answers) if answer.flagged)
    layers = decoder_layers(host.mogu.model)
    with steered(layers[1:], load_file(next(tmp_path.iterdir()))["added"]):
        (turned,) = host.base_replies([TALKS[flagged]], 8)
    assert turned.text != plain[flagged].text
    for i, answer in enumerate(answers):
        said = turned if i == flagged else plain[i]
        assert answer == Answer(said.text, said.tokens, i == flagged, answer.score)
        assert (answer.score >= host.mogu.config.gate.threshold) == (i == flagged)


@pytest.mark.parametrize("family", ["llama", "gpt2", "falcon_7b"])
@torch.no_grad()
def test_what_is_added_reaches_the_last_layer_s_output_and_strength_0_is_the_base(tmp_path, family):
    host = tiny_host(tmp_path, family)
    layers, state = decoder_layers(host.mogu.model), State(host.mogu.model)
    vector = torch.arange(HIDDEN, dtype=torch.float64)

    def last_states():
        seen = []
        hook = layers[-1].register_forward_hook(lambda _, __, output: seen.append(output))
        host.mogu.model(input_ids=torch.tensor([[5, 9, 17]]))
        hook.remove()
        return seen[0][0] if isinstance(seen[0], tuple) else seen[0]

    before = last_states()
    with steered([layers[-1]], vector[None]):
        assert torch.equal(last_states(), before + vector)
    said = host.base_replies(TALKS, 8)
    with steered([layers[0], layers[1]], torch.zeros(2, HIDDEN)):
        assert host.base_replies(TALKS, 8) == said
    state.assert_same()


def test_hooks_are_gone_after_an_error(tmp_path):
    host = tiny_host(tmp_path)
    state = State(host.mogu.model)
    with pytest.raises(KeyboardInterrupt), steered(decoder_layers(host.mogu.model), torch.zeros(3, HIDDEN)):
        raise KeyboardInterrupt
    state.assert_same()


def test_an_adapter_without_a_gate_is_turned_down(tmp_path):
    with pytest.raises(MoguError, match="the adapter has no gate"):
        RefusalSteering(tiny_host(tmp_path))
