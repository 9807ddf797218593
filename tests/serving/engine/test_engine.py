"""What becomes of jobs: waiting, cancelled, failed, closed."""

from threading import Event

import pytest
import torch

from mogu.errors import MoguError
from mogu.serving.engine import loop
from mogu.serving.engine.job import Closing, Full, Sampling
from mogu.serving.engine.loop import Engine
from tests.generation.gated import PROMPTS, gated
from tests.generation.hardened import hardened
from tests.serving.engine.engines import PATIENCE, Listener, answers, serving, submitted

LONG = Sampling(max_tokens=1500, temperature=0, logit_bias={1: -100.0})
SHORT = Sampling(max_tokens=4, temperature=0, logit_bias={1: -100.0})


def test_the_pieces_of_a_reply_come_one_by_one():
    with serving(gated(), threshold=1.0) as engine:
        _, listener = submitted(
            engine, PROMPTS[0], Sampling(max_tokens=6, temperature=0, logit_bias={40: 100})
        )
        whole = listener.whole()
    assert [piece.tokens for piece in listener.pieces] == [1, 2, 3, 4, 5, 6]
    assert (whole.text, whole.finish, whole.logprobs) == ("G" * 6, "length", ())
    verdict = listener.pieces[0].verdict
    assert verdict == whole.verdict and verdict.threshold == 1.0 and 0 < verdict.score < 1


def test_a_cancelled_row_is_free_for_the_next_job():
    with serving(gated(), rows=1, waiting=2, threshold=1.0) as engine:
        ticket, first = submitted(engine, PROMPTS[0], LONG)
        assert first.begun.wait(PATIENCE)
        waiting, second = submitted(engine, PROMPTS[1], LONG)
        _, third = submitted(engine, PROMPTS[2], SHORT)
        waiting.cancel()
        assert second.whole().finish == "cancelled" and second.whole().tokens == 0
        assert not third.ended.is_set()
        ticket.cancel()
        assert first.whole().finish == "cancelled" and 0 < first.whole().tokens < LONG.max_tokens
        assert first.whole().text and third.whole().finish == "length"
        ticket.cancel()  # too late, and harmless
        assert answers(engine, [(PROMPTS[0], SHORT)])[0].finish == "length"


def test_a_full_queue_refuses_and_takes_again():
    with serving(gated(), rows=1, waiting=1, threshold=1.0) as engine:
        running, first = submitted(engine, PROMPTS[0], LONG)
        assert first.begun.wait(PATIENCE)
        waiting, second = submitted(engine, PROMPTS[0], LONG)
        assert (engine.state.running, engine.state.waiting) == (1, 1)
        with pytest.raises(Full, match="2 jobs are running and waiting already"):
            submitted(engine, PROMPTS[0], SHORT)
        waiting.cancel()
        second.whole()
        _, third = submitted(engine, PROMPTS[0], SHORT)
        running.cancel()
        assert third.whole().finish == "length"


def test_closing_finishes_what_there_is():
    engine = Engine(gated(), rows=1, threshold=1.0)
    engine.start()
    listeners = [submitted(engine, prompt, SHORT)[1] for prompt in PROMPTS]
    engine.close(PATIENCE)
    assert [listener.whole().finish for listener in listeners] == ["length"] * 4
    with pytest.raises(Closing):
        submitted(engine, PROMPTS[0], SHORT)
    engine.close(0)  # again, and harmless


def test_closing_without_patience_cancels_the_rest():
    engine = Engine(gated(), rows=1, threshold=1.0)
    engine.start()
    listeners = [submitted(engine, prompt, LONG)[1] for prompt in PROMPTS]
    assert listeners[0].begun.wait(PATIENCE)
    engine.close(0)
    assert [listener.whole().finish for listener in listeners] == ["cancelled"] * 4


def test_an_engine_that_never_started_closes():
    engine = Engine(gated())
    _, listener = submitted(engine, PROMPTS[0], SHORT)
    engine.close(0)
    assert listener.whole().finish == "cancelled"
    with pytest.raises(Closing):
        submitted(engine, PROMPTS[0], SHORT)


def test_a_step_that_fails_ends_its_rows_alone(monkeypatch):
    mogu = gated()
    with serving(mogu, rows=2, threshold=1.0) as engine:
        _, first = submitted(engine, PROMPTS[0], LONG)
        assert first.begun.wait(PATIENCE)
        _, second = submitted(engine, PROMPTS[1], LONG)
        assert second.begun.wait(PATIENCE)
        _, third = submitted(engine, PROMPTS[2], SHORT)

        def fail(tokens):
            monkeypatch.undo()
            raise torch.OutOfMemoryError("no memory left\nand more lines")

        monkeypatch.setattr(engine._batch, "step", fail)
        for listener in (first, second):
            assert listener.whole().finish == "error" and listener.whole().text
            assert listener.whole().error == "the engine failed while it wrote; its log says why"
        expected = third.whole()
        assert expected.finish == "length"
        assert answers(engine, [(PROMPTS[2], SHORT)]) == [expected]


def test_an_engine_that_cannot_go_on_ends_everything(monkeypatch):
    mogu = gated()
    engine = Engine(mogu, rows=1, threshold=1.0)
    engine.start()
    _, first = submitted(engine, PROMPTS[0], LONG)
    assert first.begun.wait(PATIENCE)
    _, second = submitted(engine, PROMPTS[1], LONG)

    def fail(*_):
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(engine, "_start_afresh", fail)
    monkeypatch.setattr(engine._batch, "step", fail)
    for listener in (first, second):
        assert listener.whole().finish == "error" and "the device" not in listener.whole().error
    assert engine.failed and (engine.state.running, engine.state.waiting) == (0, 0)
    with pytest.raises(Closing, match="the engine has failed and takes no more jobs"):
        submitted(engine, PROMPTS[0], SHORT)
    engine.close(0)
    mogu.generate(torch.tensor([PROMPTS[0]]), max_new_tokens=1)  # the model is free again


def test_a_reply_whose_text_cannot_be_written_fails_and_the_engine_goes_on(monkeypatch):
    with serving(gated(), rows=1, threshold=1.0) as engine:
        ticket, first = submitted(engine, PROMPTS[0], LONG)
        assert first.begun.wait(PATIENCE)

        def fail():
            raise KeyError("no such letter")

        monkeypatch.setattr(ticket._row._text, "_opened", fail)
        assert first.whole().finish == "error"
        assert answers(engine, [(PROMPTS[0], SHORT)])[0].finish == "length"


def test_prompts_that_cannot_be_read_leave_the_running_rows_alone(monkeypatch):
    mogu = gated()
    with serving(mogu, rows=2, threshold=1.0) as engine:
        ticket, running = submitted(engine, PROMPTS[0], LONG)
        assert running.begun.wait(PATIENCE)

        def fail(*_):
            monkeypatch.undo()
            raise RuntimeError("cannot read")

        monkeypatch.setattr(loop, "Prefill", fail)
        (failed,) = answers(engine, [(PROMPTS[1], SHORT)])
        assert (failed.finish, failed.tokens) == ("error", 0) and "its log says why" in failed.error
        assert not running.ended.is_set()
        assert answers(engine, [(PROMPTS[1], SHORT)])[0].finish == "length"
        ticket.cancel()


def test_a_listener_that_fails_loses_its_reply_alone():
    with serving(gated(), rows=2, waiting=2, threshold=1.0) as engine:
        gone = Event()

        def fail(piece):
            gone.set()
            raise ValueError("nobody listens")

        engine.submit(PROMPTS[0], LONG, fail)
        assert gone.wait(PATIENCE)
        assert answers(engine, [(PROMPTS[0], SHORT)])[0].finish == "length"
        while engine.state.running:
            pass


def test_a_listener_may_submit():
    listener = Listener()
    with serving(gated(), rows=1, threshold=1.0) as engine:

        def again(piece):
            if piece.finish is not None:
                engine.submit(PROMPTS[1], SHORT, listener)

        engine.submit(PROMPTS[0], SHORT, again)
        assert listener.whole().finish == "length"


def test_one_model_has_one_user():
    mogu = gated()
    ids = torch.tensor([PROMPTS[0]])
    with serving(mogu):
        with pytest.raises(MoguError, match="generating already"):
            mogu.generate(ids, max_new_tokens=1)
        with pytest.raises(MoguError, match="generating already"):
            Engine(mogu).start()
    mogu.generate(ids, max_new_tokens=1)


def test_a_text_ends_where_the_model_does():
    mogu = gated("gemma3_text")  # its window holds 16 tokens
    with serving(mogu, threshold=1.0) as engine:
        assert engine.longest == 16
        (reply,) = answers(engine, [(PROMPTS[0], LONG)])
        assert (reply.finish, reply.tokens) == ("length", 16 - len(PROMPTS[0]))
        with pytest.raises(MoguError, match="the prompt has 16 tokens"):
            submitted(engine, [5] * 16, SHORT)


def test_totals_count_what_was_done():
    with serving(gated(), rows=2, threshold=0.0) as engine:
        answers(engine, [(prompt, SHORT) for prompt in PROMPTS])
        state = engine.state
    assert state.prompt_tokens == sum(map(len, PROMPTS)) and state.reply_tokens == 4 * len(PROMPTS)
    assert (state.refused, state.running, state.waiting) == (len(PROMPTS), 0, 0)
    assert 0 < state.steps < 4 * len(PROMPTS)


@pytest.mark.parametrize("prompt", [[], [-1], [10**6]])
def test_a_prompt_is_ids_of_the_model(prompt):
    with pytest.raises(MoguError, match="at least one token id from 0 to 267"):
        submitted(Engine(gated()), prompt, SHORT)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rows": 0}, "rows is 0"),
        ({"waiting": -1}, "waiting is -1"),
        ({"prompt_tokens": 0}, "prompt_tokens is 0"),
        ({"threshold": 1.5}, "give a probability"),
    ],
)
def test_numbers_that_cannot_be_are_refused(settings, message):
    with pytest.raises(MoguError, match=message):
        Engine(gated(), **settings)


def test_a_threshold_belongs_to_sequence_routing():
    with pytest.raises(MoguError, match="routes token by token"):
        Engine(hardened(), threshold=0.5)


def test_a_callers_bias_does_not_write_the_tokens_that_routers_weigh():
    mogu = hardened()
    m = mogu.config.routed_tokens
    plain = Sampling(m + 3, temperature=0, logprobs=5)
    biased = Sampling(m + 3, temperature=0, logprobs=5, logit_bias={7: 100.0}, presence_penalty=-2.0)
    with serving(mogu) as engine:
        free, bound = answers(engine, [(PROMPTS[0], plain), (PROMPTS[0], biased)])
    assert [each.text for each in free.logprobs[:m]] == [each.text for each in bound.logprobs[:m]]
    assert [len(each.top) for each in bound.logprobs[:m]] == [1] * m
    last = mogu.tokenizer.decode([7])
    assert [each.text for each in bound.logprobs[m:]] == [last] * len(bound.logprobs[m:])
