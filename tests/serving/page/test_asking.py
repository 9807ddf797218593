from itertools import pairwise
from threading import Thread

import pytest

from mogu.errors import MoguError
from mogu.serving.page.asking import Answers, Asker, Question, Verdict
from tests.generation.gated import gated
from tests.generation.hardened import hardened

PROMPT = "the ring"
LONGEST = 12


def talk(*system):
    return [
        *({"role": "system", "content": text} for text in system),
        {"role": "user", "content": PROMPT},
    ]


def asked(model, **changes):
    return list(Asker(model).ask(Question(**{"prompt": PROMPT, "max_new_tokens": LONGEST} | changes)))


def replied(model, conversation=None, **settings):
    return model.reply([conversation or talk()], max_new_tokens=LONGEST, **settings)[0]


def test_mogu_s_reply_grows_then_the_explanation_comes_then_the_base_s():
    model = hardened()
    steps = asked(model)
    explained = [step.verdict is not None for step in steps]
    assert explained == sorted(explained) and set(explained) == {False, True}
    first = explained.index(True)
    assert all(step.base == "" for step in steps[: first + 1])
    for earlier, later in pairwise(steps):
        assert later.mogu.startswith(earlier.mogu)
    assert {step.mogu for step in steps[first:]} == {replied(model).text}
    assert steps[-1].base == replied(model, mode="base").text


def test_of_token_routing_the_mean_weights_are_told_and_the_layers_are_drawn():
    model = hardened()
    reply, answers = replied(model), asked(model)[-1]
    assert answers.verdict == Verdict(
        "Routed token by token",
        f"mean weights: safe {reply.safe_weight:.2f}, usable {reply.usable_weight:.2f}",
        refused=False,
    )
    assert answers.gate is None
    assert "in 3 layers" in answers.weights


def test_routed_tokens_and_handoff_are_handed_on():
    model = hardened()
    answers = asked(model, routed_tokens=0)[-1]
    assert answers.mogu == answers.base
    assert "the base model alone wrote the reply" in answers.weights
    wanted = replied(model, routed_tokens=5, handoff="refill")
    answers = asked(model, routed_tokens=5, handoff="refill")[-1]
    assert answers.mogu == wanted.text
    prompt = model.trace(talk(), "").prompt_length
    assert f"{prompt + 4} of " in answers.weights


def test_a_refusal_is_told_with_the_probability_and_the_threshold():
    model = gated()
    score = replied(model, threshold=0.0).score
    answers = asked(model, threshold=0.0)[-1]
    assert answers.verdict == Verdict(
        "Refused", f"highest probability {score:.2f}, threshold 0.00", refused=True
    )
    assert answers.mogu == replied(model, threshold=0.0).text != answers.base
    assert "<strong>Refused:</strong>" in answers.gate
    assert "safe 1.00, usable 0.00" in answers.weights


def test_below_the_threshold_the_base_answers_and_both_replies_are_equal():
    answers = asked(gated(), threshold=1.0)[-1]
    assert answers.verdict.outcome == "Answered by the base" and not answers.verdict.refused
    assert answers.verdict.figures.endswith("threshold 1.00")
    assert answers.mogu == answers.base
    assert "<strong>The base's reply:</strong>" in answers.gate


def test_a_threshold_for_replies_is_told_too():
    model = gated(reply_threshold=0.9)
    assert asked(model, threshold=0.25)[-1].verdict.figures.endswith("threshold 0.25 (0.90 within the reply)")


def test_the_system_message_goes_to_both():
    model = hardened()
    answers = asked(model, system="Be brief.")[-1]
    conversation = talk("Be brief.")
    assert answers.mogu == replied(model, conversation).text
    assert answers.base == replied(model, conversation, mode="base").text
    assert asked(model, system=" ")[-1] == asked(model)[-1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": " \n"}, "The prompt is empty. Write one, or take one of the examples."),
        ({"threshold": 0.5}, "threshold belongs to sequence routing"),
    ],
)
def test_what_cannot_be_asked_is_one_clear_line(changes, message):
    with pytest.raises(MoguError, match=message):
        asked(hardened(), **changes)


def test_a_question_that_is_left_frees_the_model():
    asker = Asker(hardened())
    left = asker.ask(Question(PROMPT, max_new_tokens=1000))
    assert next(left).mogu
    left.close()
    assert list(asker.ask(Question(PROMPT, max_new_tokens=2)))[-1].base


def test_who_comes_while_another_is_answered_waits():
    model = hardened()
    asker, seen = Asker(model), []
    first = asker.ask(Question(PROMPT, max_new_tokens=LONGEST))
    next(first)
    other = Thread(target=lambda: seen.extend(asker.ask(Question(PROMPT, max_new_tokens=LONGEST))))
    other.start()
    last = list(first)[-1]
    other.join()
    assert seen[-1] == last and isinstance(last, Answers)
