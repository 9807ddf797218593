"""How prompts are read: those of like lengths together, a long one in parts, and in parts as at once."""

from collections.abc import Callable
from threading import Event

import pytest
import torch

from mogu.adapter import gate
from mogu.generation.request import RoutingRequest
from mogu.serving.engine import loop
from mogu.serving.engine.batch import Batch, Prefill
from mogu.serving.engine.job import Sampling
from tests.generation.gated import HEADER, PROMPTS, gated
from tests.generation.hardened import hardened
from tests.serving.engine.engines import PATIENCE, Listener, answers, serving, submitted

SHORT = Sampling(max_tokens=4, temperature=0, logit_bias={1: -100.0})
ENDLESS = Sampling(max_tokens=1500, temperature=0, logit_bias={1: -100.0})
MANY_TOKENS = [5 + (7 * place) % 200 for place in range(100)] + HEADER


def watch_reading(monkeypatch: pytest.MonkeyPatch, note: Callable[[list[int]], None]) -> None:
    """Be told the lengths of the prompts before each part of them is read."""

    class Watched(Prefill):
        def __init__(self, model, request, prompts):
            self._lengths = sorted(map(len, prompts))
            super().__init__(model, request, prompts)

        def read(self, columns=None):
            note(self._lengths)
            return super().read(columns)

    monkeypatch.setattr(loop, "Prefill", Watched)


def test_prompts_of_like_lengths_are_read_together_within_the_limit(monkeypatch):
    prompts = [[5] * length for length in (100, 4, 98, 99, 96, 5)]
    read: list[list[int]] = []
    with serving(gated(), rows=6, threshold=1.0, prompt_tokens=310) as engine:
        listeners = []

        def submit_all(piece):
            if piece.tokens == 1:
                watch_reading(monkeypatch, read.append)
                listeners.extend(submitted(engine, prompt, SHORT)[1] for prompt in prompts)

        first = Listener()
        engine.submit([5] * 7, SHORT, lambda piece: (submit_all(piece), first(piece)))
        first.whole()
        for listener in listeners:
            listener.whole()
    assert read == [[98, 99, 100], [4, 5], [96]]


@pytest.mark.parametrize("usable", [False, True])
@pytest.mark.parametrize("family", ["llama", "gpt2", "falcon_7b"])
def test_a_prompt_that_is_read_in_parts_gets_the_reply_that_it_gets_at_once(family, usable, monkeypatch):
    monkeypatch.setattr(gate, "READ_EVERY", 2)
    assert_alike(gated(family, 0.0, usable), threshold=0.7)


@pytest.mark.parametrize("k", [None, 2])
def test_so_it_is_with_token_routing(k):
    assert_alike(hardened(routed_tokens=4, routed_prompt_tokens=k))


def assert_alike(mogu, **settings):
    jobs = [(prompt, Sampling(12, temperature=0, logprobs=1)) for prompt in (*PROMPTS, MANY_TOKENS)]
    replies = []
    for prompt_tokens in (1024, 3, 1):
        with serving(mogu, rows=3, waiting=9, prompt_tokens=prompt_tokens, **settings) as engine:
            replies.append(answers(engine, jobs))
    for at_once, *in_parts in zip(*replies, strict=True):
        for other in in_parts:
            assert other.text == at_once.text and other.finish == at_once.finish
            assert other.verdict.score == pytest.approx(at_once.verdict.score, abs=1e-9)
            assert other.verdict.refused_from == at_once.verdict.refused_from
            assert [each.logprob for each in other.logprobs] == pytest.approx(
                [each.logprob for each in at_once.logprobs], abs=1e-9
            )


def test_replies_go_on_while_a_long_prompt_is_read(monkeypatch):
    tokens: list[int] = []
    with serving(gated(), rows=2, threshold=1.0, prompt_tokens=10) as engine:
        running, first = submitted(engine, PROMPTS[0], ENDLESS)
        assert first.begun.wait(PATIENCE)
        watch_reading(monkeypatch, lambda _: tokens.append(engine.state.steps))
        second = submitted(engine, MANY_TOKENS, SHORT)[1]
        assert second.whole().finish == "length"
        running.cancel()
        assert first.whole().finish == "cancelled"
    parts = -(-len(MANY_TOKENS) // 10)
    assert tokens == list(range(tokens[0], tokens[0] + parts))  # a step of the other row between two parts


@pytest.mark.parametrize("ends", ["cancelled", "error"])
def test_a_row_that_ends_while_its_prompt_is_read_leaves_no_trace(ends, monkeypatch):
    with serving(gated(), rows=2, threshold=1.0, prompt_tokens=10) as engine:
        (expected,) = answers(engine, [(PROMPTS[2], SHORT)])
        running, first = submitted(engine, PROMPTS[0], ENDLESS)
        assert first.begun.wait(PATIENCE)
        parts: list[list[int]] = []
        halfway, go_on = Event(), Event()

        def note(lengths):
            parts.append(lengths)
            if len(parts) == 3:
                halfway.set()
                assert go_on.wait(PATIENCE)
                if ends == "error":
                    raise RuntimeError("no memory left")

        watch_reading(monkeypatch, note)
        ticket, second = submitted(engine, MANY_TOKENS, SHORT)
        assert halfway.wait(PATIENCE)
        if ends == "cancelled":
            ticket.cancel()
        go_on.set()
        assert second.whole().finish == ends and second.whole().tokens == 0
        monkeypatch.undo()
        assert len(parts) == 3 and not first.ended.is_set()
        assert answers(engine, [(PROMPTS[2], SHORT)]) == [expected]
        running.cancel()
        first.whole()
        assert (engine.state.running, engine.state.waiting) == (0, 0)


def test_a_step_that_fails_has_a_prompt_that_is_half_read_read_again(monkeypatch):
    with serving(gated(), rows=2, threshold=1.0, prompt_tokens=10) as engine:
        (expected,) = answers(engine, [(MANY_TOKENS, SHORT)])
        _, first = submitted(engine, PROMPTS[0], ENDLESS)
        assert first.begun.wait(PATIENCE)
        parts: list[list[int]] = []

        def note(lengths):
            parts.append(lengths)
            if len(parts) == 3:
                monkeypatch.setattr(engine._batch, "step", fail)

        def fail(tokens):
            raise RuntimeError("no memory left")

        watch_reading(monkeypatch, note)
        second = submitted(engine, MANY_TOKENS, SHORT)[1]
        assert first.whole().finish == "error"
        assert second.whole() == expected
        assert len(parts) == 3 + -(-len(MANY_TOKENS) // 10)
        assert (engine.state.running, engine.state.waiting) == (0, 0)


def test_hidden_states_of_refusals_do_not_stay():
    mogu = gated(reply_threshold=0.5)
    request = RoutingRequest(threshold=0.0)
    with torch.inference_mode():
        prefill = Prefill(mogu, request, [PROMPTS[0]])
        assert prefill.read() and prefill.states()[0].safe_from == 0
        batch = Batch(mogu, request)
        batch.join(prefill)
        for _ in range(3 * gate.READ_EVERY):
            batch.step(torch.tensor([7]))
    assert len(batch._forwards._reading._unscored) < gate.READ_EVERY


def test_a_first_token_that_cannot_be_chosen_fails_its_job_once(monkeypatch):
    def fail(*_):
        raise RuntimeError("no such choice")

    with serving(gated(), rows=2, threshold=1.0) as engine:
        (expected,) = answers(engine, [(PROMPTS[2], SHORT)])
        monkeypatch.setattr(loop, "choose", fail)
        assert [each.finish for each in answers(engine, [(PROMPTS[0], SHORT)])] == ["error"]
        monkeypatch.undo()
        assert answers(engine, [(PROMPTS[2], SHORT)]) == [expected]
        assert (engine.state.running, engine.state.waiting) == (0, 0)
