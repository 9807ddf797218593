"""Prompts, the base's replies to them, and examples with recordings."""

import json

import pytest
import torch
from transformers import Lfm2Config

from mogu.chat import encode_chat
from mogu.corpus import corpus_openers, corpus_refusals
from mogu.data.requests import Request
from mogu.errors import MoguError
from mogu.training.preparation import (
    base_replies,
    encode_requests,
    record_examples,
)
from mogu.training.recording import Recorder
from tests import tiny
from tests.tiny import IM_END, tiny_model
from tests.training.prepared import settings_of
from tests.training.requests import SILENT, TEXTS, greedy, requests


def test_prompts_are_what_the_chat_template_makes_of_requests(tokenizer):
    prompts = encode_requests(tokenizer, requests())
    assert [prompt.request.text for prompt in prompts] == TEXTS
    assert [prompt.reply for prompt in prompts] == [0] * 5
    assert [prompt.ids for prompt in prompts] == [
        encode_chat(tokenizer, [{"role": "user", "content": text}]).ids for text in TEXTS
    ]


TURNS_ONLY = (
    "{% for message in messages %}"
    "{% if message['role'] != ('user', 'assistant')[loop.index0 % 2] %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/...') }}{% endif %}"
    "{{ message['role'] + ':' + message['content'] + '<|im_end|>' }}"
    "{% endfor %}{{ 'assistant:' }}"
)


def talk(*turns):
    return [{"role": role, "content": content} for role, content in turns]


@pytest.mark.parametrize(
    ("turns", "rendered"),
    [
        ([("user", "Hi")], "user:Hi<|im_end|>assistant:"),
        ([("system", "Be brief."), ("user", "Hi")], "user:Be brief.\n\nHi<|im_end|>assistant:"),
        (
            [("user", "Look it up."), ("tool", "42"), ("user", "Well?")],
            "user:Look it up.\n\n42\n\nWell?<|im_end|>assistant:",
        ),
        (
            [("system", "S"), ("user", "A"), ("assistant", "B"), ("user", "C"), ("user", "D")],
            "user:S\n\nA<|im_end|>assistant:B<|im_end|>user:C\n\nD<|im_end|>assistant:",
        ),
    ],
    ids=["nothing to join", "system message", "a tool's turn", "all of it"],
)
def test_turns_that_a_template_refuses_are_joined(tokenizer, turns, rendered):
    tokenizer.chat_template = TURNS_ONLY
    request = Request("rows:1", turns[-1][1], talk(*turns), "benign")
    (prompt,) = encode_requests(tokenizer, [request])
    assert prompt.request is request
    assert tokenizer.decode(prompt.ids) == rendered


def test_a_template_that_takes_them_gets_the_turns_as_they_are(tokenizer):
    messages = talk(("system", "Be brief."), ("user", "A"), ("user", "B"))
    (prompt,) = encode_requests(tokenizer, [Request("rows:1", "B", messages, "benign")])
    assert prompt.ids == encode_chat(tokenizer, messages).ids


@pytest.mark.parametrize("turns", [[("user", "Hi")], [("system", "Be brief."), ("user", "Hi")]])
def test_a_template_that_refuses_everything_is_told(tokenizer, turns):
    tokenizer.chat_template = "{{ raise_exception('not today') }}"
    with pytest.raises(MoguError, match="not today"):
        encode_requests(tokenizer, [Request("rows:1", "Hi", talk(*turns), "benign")])


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
def test_replies_are_the_bases_greedy_ones(family, tokenizer, tmp_path):
    model = tiny_model(family)
    prompts = encode_requests(tokenizer, requests())
    heard = []
    found = base_replies(
        Recorder(model, 1), tokenizer, prompts, 6, 2, tmp_path / "kept", lambda *step: heard.append(step)
    )
    with torch.no_grad():
        assert found == {prompt.request.id: greedy(model, prompt.ids, 6) for prompt in prompts}
    assert heard == [(2, 5), (4, 5), (5, 5)]


def test_a_recurrent_model_gives_its_replies_too(tokenizer, tmp_path, monkeypatch):
    config = Lfm2Config(**tiny._GROUPED, layer_types=["conv", "full_attention", "full_attention"])
    monkeypatch.setitem(tiny.FAMILIES, "lfm2", lambda: config)
    model = tiny_model("lfm2")
    prompts = encode_requests(tokenizer, requests())
    found = base_replies(Recorder(model, 1), tokenizer, prompts, 4, 5, tmp_path / "kept", SILENT)
    with torch.no_grad():
        assert found == {prompt.request.id: greedy(model, prompt.ids, 4) for prompt in prompts}


def test_a_reply_holds_its_end_token_and_nothing_behind_it(tokenizer, tmp_path):
    model = tiny_model()
    prompts = encode_requests(tokenizer, requests())
    whole = base_replies(Recorder(model, 1), tokenizer, prompts, 6, 5, tmp_path / "whole", SILENT)
    end = whole["benign.jsonl:2"][2]
    model.generation_config.eos_token_id = [end, IM_END]
    cut = base_replies(Recorder(model, 1), tokenizer, prompts, 6, 5, tmp_path / "cut", SILENT)
    for name, reply in whole.items():
        assert cut[name] == (reply[: reply.index(end) + 1] if end in reply else reply)


def test_where_the_model_names_no_end_token_a_reply_ends_with_the_tokenizers(
    tokenizer, tmp_path, monkeypatch
):
    model = tiny_model()
    prompts = encode_requests(tokenizer, requests())
    whole = base_replies(Recorder(model, 1), tokenizer, prompts, 6, 5, tmp_path / "whole", SILENT)
    assert not any(IM_END in reply for reply in whole.values())
    end = whole["benign.jsonl:2"][2]
    model.generation_config.eos_token_id = None
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    ends, generate = [], model.generate
    monkeypatch.setattr(
        model, "generate", lambda **inputs: ends.append(inputs["eos_token_id"]) or generate(**inputs)
    )
    cut = base_replies(Recorder(model, 1), tokenizer, prompts, 6, 5, tmp_path / "cut", SILENT)
    assert ends == [end]
    assert len(cut["benign.jsonl:2"]) <= 3 and cut["benign.jsonl:2"][-1] == end
    for name, reply in whole.items():
        assert cut[name] == (reply[: reply.index(end) + 1] if end in reply else reply)


def test_replies_that_are_kept_are_not_generated_again(tokenizer, tmp_path, monkeypatch):
    model, kept = tiny_model(), tmp_path / "kept"
    prompts = encode_requests(tokenizer, requests())
    whole = base_replies(Recorder(model, 1), tokenizer, prompts, 4, 2, kept, SILENT)
    lines = kept.read_text().splitlines(keepends=True)
    assert {row["id"]: row["ids"] for row in map(json.loads, lines)} == whole
    batches = []
    generate = model.generate

    def counting(**inputs):
        batches.append(inputs["input_ids"].shape[0])
        return generate(**inputs)

    monkeypatch.setattr(model, "generate", counting)
    assert base_replies(Recorder(model, 1), tokenizer, prompts, 4, 2, kept, SILENT) == whole
    assert batches == []
    # Killed within the second batch, and within a line.
    kept.write_text("".join(lines[:3]) + lines[3][:9])
    assert base_replies(Recorder(model, 1), tokenizer, prompts, 4, 2, kept, SILENT) == whole
    # That batch as a whole, since another padding could round otherwise, and the last one.
    assert batches == [2, 1]
    assert base_replies(Recorder(model, 1), tokenizer, prompts, 4, 2, kept, SILENT) == whole
    assert batches == [2, 1]


def examples_of(tokenizer, **changes):
    settings = settings_of(routed_prompt_tokens=2, **changes)
    prompts = encode_requests(tokenizer, [*requests("malicious", TEXTS[::-1]), *requests()])
    glad = {f"benign.jsonl:{n}": [40 + n, 50, IM_END] for n in range(1, 6)}
    heard = []
    examples = record_examples(
        Recorder(tiny_model(), 1), tokenizer, prompts, glad, settings, lambda *step: heard.append(step)
    )
    return prompts, glad, examples, heard


def test_examples_hold_a_refusal_and_a_glad_reply_in_the_order_of_the_prompts(tokenizer):
    prompts, glad, examples, heard = examples_of(tokenizer)
    assert [example.prompt for example in examples] == [prompt.ids for prompt in prompts]
    assert [example.malicious for example in examples] == [True] * 5 + [False] * 5
    assert heard == [(step, 10) for step in (2, 4, 6, 8, 10)]
    openings = {text.partition("{")[0] for text in corpus_refusals()["en"]}
    for prompt, example in zip(prompts, examples, strict=True):
        refusal, reply = example.replies
        assert refusal[-1] == IM_END
        assert tokenizer.decode(refusal[:-1]).startswith(tuple(openings))
        if example.malicious:
            text = tokenizer.decode(reply)
            assert text.endswith(":") and IM_END not in reply
            assert text.startswith(tuple(opener.partition("{")[0] for opener in corpus_openers()))
        else:
            assert reply == glad[prompt.request.id]


def test_records_fit_the_prompts_of_their_examples(tokenizer):
    _, _, examples, _ = examples_of(tokenizer)
    recorder = Recorder(tiny_model(), 1)
    for example in examples:
        (alone,) = recorder.record([example.prompt], [example.replies], 2)
        assert example.record.prefix.length == len(example.prompt) - 2
        for one, other in zip(example.record.hidden, alone.hidden, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_wordings_follow_the_seed(tokenizer):
    def replies(seed):
        return [example.replies for example in examples_of(tokenizer, seed=seed)[2]]

    assert replies(0) == replies(0)
    assert replies(0) != replies(1)


def test_gradient_checkpointing_reuses_no_prefixes(tokenizer):
    _, _, examples, _ = examples_of(tokenizer, gradient_checkpointing=True)
    assert all(example.record.prefix.length == 0 for example in examples)
