import random
from itertools import pairwise

import pytest
import torch

from mogu.chat import encode_chat
from mogu.corpus import corpus_conversations, corpus_requests
from mogu.data.requests import Request
from mogu.training import gate_reading
from mogu.training.gate_reading import NOISE_TOKENS, choose_layers, read_conversations, with_noise
from mogu.training.preparation import Prompt, encode_requests
from mogu.training.recording import Recorder
from mogu.turns import TurnMarks
from tests.tiny import HIDDEN, LAYERS, SPECIAL_TOKENS, tiny_model, tiny_tokenizer

SILENT = lambda done, total: None  # noqa: E731


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def marks(tokenizer):
    return TurnMarks.of(tokenizer)


def request(text, label="benign", number=0, **fields):
    return Request(f"rows:{number}", text, [{"role": "user", "content": text}], label, **fields)


# Noise.


def test_only_rows_of_the_group_noise_get_noise_behind_their_text(tokenizer):
    rows = [request(f"Say {n}.", number=n, group="noise" if n % 2 else "") for n in range(20)]
    changed = with_noise(rows, tokenizer, 0)
    for old, new in zip(rows, changed, strict=True):
        if not old.group:
            assert new is old
            continue
        assert new.text.startswith(f"{old.text} ") and len(new.text) > len(old.text) + 3
        assert new.messages == [{"role": "user", "content": new.text}]
        assert (new.id, new.label, new.group) == (old.id, old.label, "noise")


def test_noise_is_of_random_tokens_and_none_of_them_is_a_control_token(tokenizer):
    rows = [request("Say.", number=n, group="noise") for n in range(200)]
    noise = [row.text.removeprefix("Say. ") for row in with_noise(rows, tokenizer, 0)]
    assert len(set(noise)) == 200
    assert not any(token in text for token in SPECIAL_TOKENS for text in noise)
    # Bytes that are no text of their own are lost or grow: lengths are near those that were drawn.
    lengths = [len(tokenizer(text)["input_ids"]) for text in noise]
    assert NOISE_TOKENS == (8, 24)
    assert 14 < sum(lengths) / 200 < 60 and min(lengths) < 20 < max(lengths)


def test_noise_follows_the_seed_and_the_row(tokenizer):
    rows = [request("Say.", number=n, group="noise") for n in range(5)]
    first, again, other = (with_noise(rows, tokenizer, seed) for seed in (0, 0, 1))
    assert first == again != other
    assert with_noise(rows[::-1], tokenizer, 0) == first[::-1]


def test_noise_goes_behind_the_last_user_turn_wherever_it_stands(tokenizer):
    turns = [("system", "Be kind."), ("user", "A"), ("assistant", "B"), ("user", "C"), ("tool", "D")]
    talk = [{"role": role, "content": text} for role, text in turns]
    (changed,) = with_noise([Request("rows:1", "C", talk, "benign", group="noise")], tokenizer, 0)
    assert [turn["role"] for turn in changed.messages] == [role for role, _ in turns]
    texts = [turn["content"] for turn in changed.messages]
    assert texts[3] == changed.text and changed.text.startswith("C ")
    assert texts[:3] + texts[4:] == ["Be kind.", "A", "B", "D"]


# Choosing layers.


class Scripted:
    """Stands in for a recorder: the label of a prompt shows in some layers, by the distance that is asked for."""

    def __init__(self, apart: list[float]) -> None:
        self.layers = [None] * len(apart)
        self.apart = apart
        self.asked = []

    def hidden(self, prompts, starts, layers):
        self.asked.append((list(prompts), list(starts), list(layers)))
        found = []
        for prompt, start in zip(prompts, starts, strict=True):
            generator = torch.Generator().manual_seed(prompt[0])
            states = torch.randn(len(self.apart), len(prompt), 16, generator=generator)
            for layer, apart in enumerate(self.apart):
                states[layer, :, 0] += apart * (1 if prompt[1] == 1 else -1)
            found.append(states[list(layers), start:])
        return found


def scripted_prompts(count=60):
    """The first token is the row, the second its label."""
    return [
        Prompt(request("x", "malicious" if n % 2 else "benign", n), [n, n % 2, *range(n % 7)])
        for n in range(count)
    ]


NO_MARKS = TurnMarks(preamble=[], border=[], header=[])


def test_layers_are_apart_from_one_another():
    chosen, _ = choose_layers(Scripted([3.0] * 20), NO_MARKS, scripted_prompts(), 0, SILENT)
    assert chosen[1] - chosen[0] >= 2


def test_a_layer_may_be_chosen_in_a_model_of_one():
    assert choose_layers(Scripted([4.0]), NO_MARKS, scripted_prompts(), 0, SILENT)[0] == [0]


def test_choosing_layers_of_a_model_follows_its_seed(tokenizer, marks):
    rows = [*corpus_requests("malicious", "test")[:9], *corpus_requests("benign", "test")[:9]]
    prompts = encode_requests(tokenizer, rows)
    recorder = Recorder(tiny_model(dtype=torch.float32), 1)
    heard = []
    first = choose_layers(recorder, marks, prompts, 0, lambda *step: heard.append(step))
    assert first == choose_layers(recorder, marks, prompts, 0, SILENT)
    assert len(first[0]) == 2 and all(0 <= score <= 1 for score in first[1])
    assert heard[-1] == (18, 18) and [done for done, _ in heard] == sorted({done for done, _ in heard})


# Reading.


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
def test_readings_are_the_states_from_where_the_gate_reads(family, tokenizer, marks):
    rows = [
        *corpus_requests("malicious", "test")[:3],
        *corpus_conversations("benign", "test")[:3],
        request("Hi"),
    ]
    prompts = encode_requests(tokenizer, rows)
    model = tiny_model(family, torch.float32)
    heard = []
    readings = read_conversations(
        Recorder(model, 1), marks, prompts, [0, 1], lambda *step: heard.append(step)
    )
    assert heard[-1] == (7, 7)
    begins = [marks.reading_start(prompt.ids) for prompt in prompts]
    assert len(set(begins)) > 2
    for prompt, begin, reading in zip(prompts, begins, readings, strict=True):
        with torch.no_grad():
            states = model(input_ids=torch.tensor([prompt.ids]), output_hidden_states=True).hidden_states
        expected = torch.stack([states[layer + 1][0, begin:] for layer in (0, 1)])
        expected = expected / expected.square().mean(-1, keepdim=True).sqrt()
        assert reading.hidden.dtype == torch.float16 and reading.hidden.device.type == "cpu"
        assert reading.hidden.shape == (2, len(prompt.ids) - begin, HIDDEN)
        torch.testing.assert_close(reading.hidden.float(), expected, rtol=2e-3, atol=2e-3)
        assert reading.malicious == (prompt.request.label == "malicious")
        assert (reading.request, reading.frame, reading.attack, reading.reply) == (
            prompt.request.twins or prompt.request.id,
            "",
            False,
            0,
        )


def test_a_reading_says_which_request_it_is_in_which_frame_and_how_much_of_it_is_the_reply(tokenizer, marks):
    rows = [
        request("Hi", number=1),
        request("In a play: Hi", "malicious", 1, group="persona", kind="jailbreak_frame"),
        request("Hi !?", number=2, group="noise", kind="everyday"),
        request("You are free: Hi", number=3, group="persona", kind="jailbreak_frame"),
        request("As a nurse: Hi", "malicious", 4, group="persona", kind="innocent_frame"),
    ]
    plain = encode_requests(tokenizer, rows)
    replies = [[], [70, 71, 72], [90] * 30, [], []]
    prompts = [
        Prompt(prompt.request, [*prompt.ids, *reply], len(reply))
        for prompt, reply in zip(plain, replies, strict=True)
    ]
    recorder = Recorder(tiny_model(dtype=torch.float32), 1)
    alone, readings = (read_conversations(recorder, marks, each, [1], SILENT) for each in (plain, prompts))
    assert [(row.request, row.frame, row.malicious, row.attack, row.reply) for row in readings] == [
        ("rows:1", "", False, False, 0),
        ("rows:1", "persona", True, True, 3),
        ("rows:2", "noise", False, True, 30),
        ("rows:3", "persona", False, True, 0),
        ("rows:4", "persona", True, False, 0),
    ]
    # What is before the reply is what is read of the prompt alone.
    for short, long in zip(alone, readings, strict=True):
        assert short.reply == 0
        torch.testing.assert_close(
            long.hidden[:, : long.hidden.shape[1] - long.reply].float(),
            short.hidden.float(),
            rtol=2e-3,
            atol=2e-3,
        )


def test_states_of_a_bfloat16_model_and_huge_ones_are_kept(tokenizer, marks):
    model = tiny_model(dtype=torch.bfloat16)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(1e6)  # beyond float16
    prompts = encode_requests(tokenizer, [request("Hi"), request("Write a poem.")])
    for reading in read_conversations(Recorder(model, 1), marks, prompts, [0, LAYERS - 1], SILENT):
        assert torch.isfinite(reading.hidden).all()
        even = reading.hidden.float().square().mean(-1)
        torch.testing.assert_close(even, torch.ones_like(even), rtol=0, atol=1e-2)


def test_batches_hold_few_tokens_and_prompts_of_like_length(monkeypatch):
    monkeypatch.setattr(gate_reading, "READ_TOKENS", 100)
    rng = random.Random(0)
    prompts = [Prompt(request("x", number=n), [5] * rng.randint(1, 60)) for n in range(50)]
    prompts.append(Prompt(request("long", number=50), [5] * 300))
    heard = []
    batches = list(gate_reading._batches(prompts, NO_MARKS, lambda *step: heard.append(step)))
    lengths = [[len(prompts[row].ids) for row in batch.rows] for batch in batches]
    assert [length for batch in lengths for length in batch] == sorted(len(prompt.ids) for prompt in prompts)
    assert all(len(batch) * batch[-1] <= 100 or len(batch) == 1 for batch in lengths)
    # None could have taken the next one.
    for one, other in pairwise(lengths):
        assert (len(one) + 1) * other[0] > 100
    assert sorted(row for batch in batches for row in batch.rows) == list(range(51))
    assert heard[-1] == (51, 51)


def test_every_batch_knows_where_its_prompts_are_read_from(tokenizer, marks):
    talks = corpus_conversations("malicious", "train")[:30]
    prompts = encode_requests(tokenizer, talks)
    for batch in gate_reading._batches(prompts, marks, SILENT):
        for row, start in zip(batch.rows, batch.starts, strict=True):
            chat = encode_chat(tokenizer, prompts[row].request.messages)
            turns = [message["role"] for message in prompts[row].request.messages]
            last = max((i for i, role in enumerate(turns) if role == "assistant"), default=-1)
            assert start == chat.spans[last + 1].start
