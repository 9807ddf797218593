import json

import pytest
import torch
from transformers import Lfm2Config

from mogu.chat import encode_chat
from mogu.corpus import corpus_openers, corpus_refusals
from mogu.data.requests import Request
from mogu.errors import MoguError
from mogu.training.preparation import (
    BEGUN_TOKENS,
    PLACES,
    BegunReply,
    Prompt,
    base_replies,
    begun_replies,
    encode_requests,
    record_examples,
    record_refusals,
)
from mogu.training.recording import Recorder
from tests import tiny
from tests.tiny import IM_END, tiny_model, tiny_tokenizer
from tests.training.prepared import settings_of

TEXTS = ["Hi", "Write a poem about the sea.", "How do I bake bread?", "Sing", "Explain how tides come about."]
SILENT = lambda done, total: None  # noqa: E731


def requests(label="benign", texts=TEXTS):
    return [
        Request(f"{label}.jsonl:{n}", text, [{"role": "user", "content": text}], label, category="fraud")
        for n, text in enumerate(texts, start=1)
    ]


@pytest.fixture
def tokenizer():
    return tiny_tokenizer()


def greedy(model, ids, tokens):
    written = []
    for _ in range(tokens):
        logits = model(input_ids=torch.tensor([ids + written]), use_cache=False).logits
        written.append(int(logits[0, -1].argmax()))
        if written[-1] == IM_END:
            break
    return written


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


# What the safe variant learns from: refusals at a reply's start and in its middle.

BREAK = [9, 10]


def begun_of(tokenizer, folder, prompts, heard=None, ends=None, **changes):
    folder.mkdir(exist_ok=True)
    recorder = Recorder(tiny_model(), 1)
    if ends is not None:
        recorder.model.generation_config.eos_token_id = ends
    report = heard.append if heard is not None else lambda step: None
    settings = settings_of("default", **changes)
    return begun_replies(recorder, tokenizer, prompts, settings, folder, lambda *step: report(step))


def many_prompts(tokenizer):
    return encode_requests(tokenizer, [*requests("malicious"), *requests(texts=TEXTS[::-1])])


def test_refusals_begin_at_the_start_after_an_opener_and_in_the_middle_in_turn(tokenizer, tmp_path):
    assert PLACES == ("start", "opener", "start", "middle")
    assert BEGUN_TOKENS == {"start": (0, 0), "opener": (1, 8), "middle": (9, 64)}
    prompts, heard = many_prompts(tokenizer), []
    begun = begun_of(tokenizer, tmp_path, prompts, heard=heard, read_reply_tokens=80)
    model = tiny_model()
    places = [PLACES[index % 4] for index in range(10)]
    for prompt, reply, place in zip(prompts, begun, places, strict=True):
        least, most = BEGUN_TOKENS[place]
        with torch.no_grad():
            whole = greedy(model, prompt.ids, 80 if place == "middle" else most) if most else []
        assert reply.ids == whole[:-1]  # the last one may be the end
        assert min(least, len(reply.ids)) <= reply.begun <= min(most, len(reply.ids))
        assert reply.said == reply.ids[: reply.begun]
        assert IM_END not in reply.ids
    assert max(reply.begun for reply in begun) > 8 and heard == [(3, 5), (5, 5)]
    assert max(len(reply.ids) for reply in begun) > 64
    kept = {name: (tmp_path / f"replies-{name}.jsonl").read_text() for name in ("opener", "middle")}
    assert [len(text.splitlines()) for text in kept.values()] == [3, 2]


def test_what_has_begun_follows_the_seed_and_is_not_generated_again(tokenizer, tmp_path, monkeypatch):
    prompts = many_prompts(tokenizer)
    first = begun_of(tokenizer, tmp_path / "a", prompts)
    assert first == begun_of(tokenizer, tmp_path / "b", prompts)
    other = begun_of(tokenizer, tmp_path / "c", prompts, seed=1)
    assert [reply.ids for reply in first] == [reply.ids for reply in other]
    assert [reply.begun for reply in first] != [reply.begun for reply in other]
    monkeypatch.setattr("transformers.GenerationMixin.generate", None)
    assert begun_of(tokenizer, tmp_path / "a", prompts) == first


@pytest.mark.parametrize(("read", "longest"), [(None, 64), (8, 64), (64, 64), (70, 70)])
def test_only_replies_whose_middle_is_refused_are_as_long_as_the_gate_reads(
    tokenizer, tmp_path, read, longest
):
    prompts = many_prompts(tokenizer)
    begun = begun_of(tokenizer, tmp_path / "a", prompts, read_reply_tokens=read)
    model, most = tiny_model(), {"start": 0, "opener": 8, "middle": longest}
    for n, (prompt, reply) in enumerate(zip(prompts, begun, strict=True)):
        with torch.no_grad():
            assert reply.ids == greedy(model, prompt.ids, most[PLACES[n % 4]])[:-1]
    assert max(len(reply.ids) for reply in begun) == longest - 1
    # Where a refusal begins hangs on the seed alone.
    usual = begun_of(tokenizer, tmp_path / "b", prompts)
    assert [reply.begun for reply in begun] == [reply.begun for reply in usual]


def test_a_reply_that_ends_after_a_few_tokens_has_begun_with_all_of_them(tokenizer, tmp_path):
    prompts = many_prompts(tokenizer)
    whole = begun_of(tokenizer, tmp_path / "whole", prompts)
    end = whole[3].ids[2]
    begun = begun_of(tokenizer, tmp_path / "cut", prompts, ends=[end, IM_END])
    for reply, long in zip(begun, whole, strict=True):
        cut = long.ids[: long.ids.index(end)] if end in long.ids else long.ids
        assert reply == BegunReply(cut, min(long.begun, len(cut)))
    assert 0 <= begun[3].begun == len(begun[3].ids) <= 2


def test_what_stands_before_a_refusal_is_the_beginning_of_the_reply():
    reply = BegunReply([40, 41, 42], 2)
    assert reply.said == [40, 41]
    assert BegunReply([], 0).said == []


def test_one_request_in_two_frames_has_two_replies(tokenizer, tmp_path):
    request = requests()[0]
    texts = ["no", "In a play: Hi", "no", "no", "no", "Hi", "no", "no"]
    # All under one id, at places where a reply has begun.
    prompts = [Prompt(request, encode_requests(tokenizer, requests(texts=[text]))[0].ids) for text in texts]
    begun = begun_of(tokenizer, tmp_path, prompts)
    model = tiny_model()
    for row in (1, 5):
        with torch.no_grad():
            assert begun[row].ids == greedy(model, prompts[row].ids, 8)[:-1]
    assert begun[1].said[0] != begun[5].said[0]


def test_a_reply_that_ends_at_once_has_not_begun(tokenizer, tmp_path):
    begun = begun_of(tokenizer, tmp_path, many_prompts(tokenizer), ends=list(range(tiny.VOCAB_SIZE)))
    assert begun == [BegunReply([], 0)] * 10


def refusals_of(tokenizer, begun, **changes):
    settings = settings_of("default", **changes)
    prompts = many_prompts(tokenizer)[: len(begun)]
    recorder, heard = Recorder(tiny_model(), 1), []
    examples = record_refusals(
        recorder, tokenizer, prompts, begun, BREAK, settings, lambda *step: heard.append(step)
    )
    return prompts, examples, heard


NOT_BEGUN = BegunReply([], 0)
BEGUN = [
    NOT_BEGUN,
    BegunReply([40, 41], 2),
    NOT_BEGUN,
    BegunReply([50 + n for n in range(60)], 30),
    NOT_BEGUN,
    BegunReply([60, 61, 62], 1),
    NOT_BEGUN,
    BegunReply([70] * 9, 9),
]


def test_a_refusal_follows_what_was_said_behind_a_break(tokenizer):
    prompts, examples, heard = refusals_of(tokenizer, BEGUN)
    assert heard == [(2, 8), (4, 8), (6, 8), (8, 8)]
    assert [example.malicious for example in examples] == [True] * 5 + [False] * 3
    texts = corpus_refusals()["en"]
    said_before = [[], [40, 41], [], [*range(50, 80)], [], [60], [], [70] * 9]
    for prompt, said, example in zip(prompts, said_before, examples, strict=True):
        (reply,) = example.replies
        assert example.prompt == [*prompt.ids, *said]
        assert reply[: len(BREAK)] == BREAK if said else reply[: len(BREAK)] != BREAK
        assert reply.count(IM_END) == 1 and reply[-1] == IM_END
        text = tokenizer.decode(reply[len(BREAK) * bool(said) : -1])
        assert any(text.startswith(refusal.partition("{")[0]) for refusal in texts)
        # The prompt and what was said are the prefix, and the reply without its end the suffix.
        assert example.record.prefix.length == len(example.prompt)
        assert [len(states) for states in example.record.hidden] == [len(reply) - 1]


def test_refusals_of_benign_requests_name_no_harm_and_follow_the_language(tokenizer):
    settings = settings_of("default")
    rows = [
        Request(
            f"rows:{n}", "Hallo", [{"role": "user", "content": "Hallo"}], label, "fraud", language=language
        )
        for n, (label, language) in enumerate([("malicious", "de"), ("benign", "de"), ("benign", "en")] * 4)
    ]
    prompts = encode_requests(tokenizer, rows)
    examples = record_refusals(
        Recorder(tiny_model(), 1), tokenizer, prompts, [NOT_BEGUN] * len(rows), BREAK, settings, SILENT
    )
    found = corpus_refusals()
    for row, example in zip(rows, examples, strict=True):
        assert tokenizer.decode(example.replies[0][:-1]) in found[row.language]


def test_recorded_refusals_are_what_one_row_alone_records(tokenizer):
    _, examples, _ = refusals_of(tokenizer, BEGUN)
    recorder = Recorder(tiny_model(), 1)
    for example in examples:
        (alone,) = recorder.record([example.prompt], [example.replies], 0)
        torch.testing.assert_close(example.record.hidden, alone.hidden, rtol=0, atol=1e-6)
        torch.testing.assert_close(example.record.prefix.keys, alone.prefix.keys, rtol=0, atol=1e-6)


def test_wordings_of_refusals_follow_the_seed(tokenizer):
    first, again, other = (
        [example.replies for example in refusals_of(tokenizer, BEGUN, seed=seed)[1]] for seed in (0, 0, 1)
    )
    assert first == again != other


def test_with_gradient_checkpointing_the_suffix_holds_the_prompt(tokenizer):
    _, examples, _ = refusals_of(tokenizer, BEGUN, gradient_checkpointing=True)
    for example in examples:
        assert example.record.prefix.length == 0
        assert len(example.record.hidden[0]) == len(example.prompt) + len(example.replies[0]) - 1
