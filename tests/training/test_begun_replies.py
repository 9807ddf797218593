"""Refusals in the middle of replies that the base has begun."""

import pytest
import torch

from mogu.corpus import corpus_refusals
from mogu.data.requests import Request
from mogu.training.preparation import (
    BEGUN_TOKENS,
    PLACES,
    BegunReply,
    Prompt,
    begun_replies,
    encode_requests,
    record_refusals,
)
from mogu.training.recording import Recorder
from tests import tiny
from tests.tiny import IM_END, tiny_model
from tests.training.prepared import settings_of
from tests.training.requests import SILENT, TEXTS, greedy, requests

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
