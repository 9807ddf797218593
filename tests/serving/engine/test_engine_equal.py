"""Each row of a busy batch equals the same job alone, and greedy ones equal `MoguModel.reply`."""

from dataclasses import replace

import pytest
import torch

from mogu.adapter import gate
from mogu.serving.engine.job import Sampling
from mogu.serving.engine.text import TokenBytes
from tests.generation.gated import BREAK, HEADER, PROMPTS, STARTS, by_hand, gated
from tests.generation.hardened import by_hand as by_hand_by_token
from tests.generation.hardened import hardened
from tests.serving.engine.engines import answers, serving
from tests.tiny import IM_END

NEW = 12
LONG = [[5 + (7 * place) % 200 for place in range(40)] + HEADER, [9, 8, 30] * 9 + HEADER]
GREEDY = Sampling(max_tokens=NEW, temperature=0, logprobs=3)


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch):
    """The replies of these tests are shorter than what lies between two looks."""
    monkeypatch.setattr(gate, "READ_EVERY", 2)


def between(mogu, prompts):
    """A threshold that some of the prompts reach."""
    scores = sorted(by_hand(mogu, prompt, new=1).score for prompt in prompts)
    return (scores[1] + scores[2]) / 2


def busy(prompts):
    """Jobs of all kinds, whose rows leave at different steps."""
    settings = [
        GREEDY,
        Sampling(max_tokens=5, seed=3, logprobs=2),
        Sampling(max_tokens=9, temperature=0.7, top_p=0.8, seed=4, logprobs=0),
        Sampling(max_tokens=3, temperature=0, logit_bias={40: 3.0, 77: -5.0}, logprobs=1),
        Sampling(
            max_tokens=11, temperature=1.5, seed=5, frequency_penalty=1.0, presence_penalty=0.5, logprobs=1
        ),
        Sampling(max_tokens=7, temperature=0, stop=("e", "zz"), logprobs=1),
    ]
    return [(prompt, sampling) for sampling in settings for prompt in prompts]


def assert_equal(one, other):
    assert one._replace(logprobs=(), verdict=None) == other._replace(logprobs=(), verdict=None)
    assert one.verdict.score == pytest.approx(other.verdict.score, abs=1e-9)
    assert (one.verdict.refused, one.verdict.refused_from) == (
        other.verdict.refused,
        other.verdict.refused_from,
    )
    assert len(one.logprobs) == len(other.logprobs)
    for mine, theirs in zip(one.logprobs, other.logprobs, strict=True):
        assert mine.bytes == theirs.bytes and mine.logprob == pytest.approx(theirs.logprob, abs=1e-9)
        assert [each[0] for each in mine.top] == [each[0] for each in theirs.top]


@pytest.mark.parametrize("usable", [False, True])
@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2", "falcon_new"])
def test_each_row_of_a_busy_batch_equals_its_job_alone(family, usable):
    mogu = gated(family, 0.0, usable)
    prompts = [*PROMPTS, *LONG]
    jobs = busy(prompts)
    with serving(mogu, rows=1, threshold=between(mogu, prompts)) as engine:
        alone = answers(engine, jobs)
    with serving(mogu, rows=5, waiting=len(jobs), threshold=between(mogu, prompts)) as engine:
        together = answers(engine, jobs)
        assert engine.state.steps < sum(reply.tokens for reply in alone) / 3
    for one, other in zip(together, alone, strict=True):
        assert_equal(one, other)
    begins = {reply.verdict.refused_from for reply in alone}
    assert None in begins and 0 in begins and len(begins) > 2  # answered, flagged, and switched in mid-reply


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2", "falcon_7b"])
@pytest.mark.parametrize("reply_threshold", [None, 0.0])
def test_greedy_rows_are_those_of_the_written_procedure(family, reply_threshold):
    mogu = gated(family, reply_threshold)
    threshold = between(mogu, PROMPTS)
    spelled = TokenBytes(mogu.tokenizer)
    with serving(mogu, rows=3, threshold=threshold) as engine:
        replies = answers(engine, [(prompt, GREEDY) for prompt in PROMPTS])
    for prompt, reply in zip(PROMPTS, replies, strict=True):
        tokens = by_hand(mogu, prompt, threshold, new=NEW).tokens
        tokens = tokens[: tokens.index(IM_END)] if IM_END in tokens else tokens
        assert [each.bytes for each in reply.logprobs] == [spelled.of(token) for token in tokens]


def test_the_text_is_that_of_a_reply():
    mogu = gated("llama", 0.0)
    talks = [
        [{"role": "user", "content": text}] for text in ("hello there", "so", "and what of it, my friend?")
    ]
    from mogu.chat import encode_chat

    prompts = [encode_chat(mogu.tokenizer, talk).ids for talk in talks]
    for threshold in (0.0, 0.7, 1.0):
        expected = mogu.reply(talks, threshold=threshold, max_new_tokens=NEW)
        with serving(mogu, rows=2, threshold=threshold) as engine:
            seen = answers(engine, [(prompt, GREEDY) for prompt in prompts])
        assert [(each.text, each.tokens) for each in seen] == [(each.text, each.tokens) for each in expected]
        assert [each.verdict.score for each in seen] == pytest.approx(
            [each.score for each in expected], abs=1e-9
        )
        assert [each.verdict.refused for each in seen] == [each.safe_weight > 0 for each in expected]


@pytest.mark.parametrize("k", [None, 2])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_token_routing_hands_over_in_every_row_after_its_own_tokens(family, k):
    mogu = hardened(family, routed_tokens=4, routed_prompt_tokens=k)
    prompts = [*PROMPTS, *LONG]
    spelled = TokenBytes(mogu.tokenizer)
    lengths = [12, 3, 8, 10, 5, 12]  # rows leave and join one by one
    jobs = [
        (prompt, replace(GREEDY, max_tokens=length)) for prompt, length in zip(prompts, lengths, strict=True)
    ]
    with serving(mogu, rows=3) as engine:
        replies = answers(engine, jobs)
    for (prompt, sampling), reply in zip(jobs, replies, strict=True):
        tokens = by_hand_by_token(mogu, prompt, 4, sampling.max_tokens, end=IM_END).tokens
        assert [each.bytes for each in reply.logprobs] == [
            spelled.of(each) for each in tokens if each != IM_END
        ]
        assert (reply.verdict.score, reply.verdict.threshold, reply.verdict.refused) == (None, None, False)


def test_the_base_writes_without_routing():
    mogu = gated("llama", 0.0)
    with serving(mogu, rows=3, mode="base") as engine:
        base = answers(engine, [(prompt, GREEDY) for prompt in PROMPTS])
    with serving(mogu, rows=3, threshold=1.0) as engine:
        answered = answers(engine, [(prompt, GREEDY) for prompt in PROMPTS])
    assert [reply.text for reply in base] == [reply.text for reply in answered]
    assert {reply.verdict.score for reply in base} == {None} and {
        each.verdict.threshold for each in answered
    } == {1.0}


def test_what_the_caller_adds_to_logits_undoes_no_refusal():
    mogu = gated()
    spelled = TokenBytes(mogu.tokenizer)
    starts = {spelled.of(token) for token in STARTS}
    against = dict.fromkeys([*STARTS, *BREAK], -100.0) | {200: 100.0}
    jobs = [
        (prompt, Sampling(max_tokens=3, temperature=2.0, seed=seed, logit_bias=against, logprobs=0))
        for prompt in PROMPTS
        for seed in range(20)
    ]
    with serving(mogu, rows=16, waiting=len(jobs), threshold=0.0) as engine:
        refused = answers(engine, jobs)
    for (prompt, _), reply in zip(jobs, refused, strict=True):
        begun = prompt[-len(HEADER) :] != HEADER
        assert reply.logprobs[len(BREAK) * begun].bytes in starts
        assert not begun or [each.bytes for each in reply.logprobs[:2]] == [
            spelled.of(token) for token in BREAK
        ]
    with serving(mogu, rows=4, threshold=1.0) as engine:
        (answered,) = answers(engine, jobs[:1])
    assert {each.bytes for each in answered.logprobs} == {spelled.of(200)}


def test_logprobs_are_of_the_distribution_before_temperature():
    mogu = gated()
    prompt = PROMPTS[0]
    hot = Sampling(max_tokens=1, temperature=2.0, top_p=0.5, seed=1, logprobs=20)
    with serving(mogu, threshold=1.0) as engine:
        (reply,) = answers(engine, [(prompt, hot)])
        (biased,) = answers(
            engine, [(prompt, Sampling(max_tokens=1, temperature=0, logit_bias={9: 50.0}, logprobs=1))]
        )
    logits = by_hand(mogu, prompt, threshold=1.0, new=1).logits[0]
    (token,) = reply.logprobs
    expected = logits.log_softmax(-1).topk(20)
    assert [each[2] for each in token.top] == pytest.approx(expected.values.tolist(), abs=1e-9)
    logits[9] += 50
    assert biased.logprobs[0].logprob == pytest.approx(logits.log_softmax(-1)[9].item(), abs=1e-9)
    spelled = TokenBytes(mogu.tokenizer)
    assert [each[1] for each in token.top] == [spelled.of(each) for each in expected.indices.tolist()]


def test_a_seed_gives_the_same_reply_in_any_batch_and_none_a_new_one():
    mogu = gated()
    sampling = Sampling(max_tokens=NEW, temperature=2.0, seed=7)
    with serving(mogu, rows=8, threshold=1.0) as engine:
        same = answers(engine, [(PROMPTS[3], sampling)] * 5)
        other = answers(engine, [(PROMPTS[3], Sampling(max_tokens=NEW, temperature=2.0))] * 5)
    assert len({reply.text for reply in same}) == 1 and len({reply.text for reply in other}) == 5


def test_nothing_is_routed_or_watched_behind_a_closed_engine():
    mogu = gated(reply_threshold=0.0)
    implementation = mogu.model.config._attn_implementation
    with serving(mogu, threshold=0.0) as engine:
        answers(engine, [(PROMPTS[0], GREEDY)])
    assert mogu.model.config._attn_implementation == implementation
    assert mogu.adapter.routing.routed is None and mogu.adapter.routing.weights is None
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in mogu.model.modules())
    with torch.no_grad():
        mogu.generate(torch.tensor([PROMPTS[0]]), max_new_tokens=1)
