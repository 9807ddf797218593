"""Prompts and judges as an Inspect task, and its log as rows; nobody needs a model."""

import asyncio
import math
from collections import Counter
from pathlib import Path

import pytest
from inspect_ai import eval as run_inspect
from inspect_ai.log import read_eval_log
from inspect_ai.model import GenerateConfig, Model

from mogu.defenses.base import Talk
from mogu.evaluation.provider import DefendedModel
from mogu.evaluation.rows import Row
from mogu.evaluation.sets import SETS as PROMPT_SETS
from mogu.evaluation.sets import Sample
from mogu.evaluation.tasks import Prompts, comparison_task, rows_of
from mogu.evaluation.verdicts import judge_logs
from tests.defenses.hosts import tiny_host
from tests.defenses.talks import TALKS, assistant, user
from tests.evaluation.fakes import BENIGN, SETS, Harm, Length, answer_of, echo, text_of, timeless

TOKENS = 7


@pytest.fixture
def run(tmp_path):
    """Lets an echo answer all prompts; the finished log."""

    def finished(sets, *judges):
        api = DefendedModel("echo", defense=echo()(tiny_host(tmp_path)))
        (log,) = run_inspect(
            comparison_task("echo:loud", sets, TOKENS),
            model=Model(api, GenerateConfig()),
            log_dir=str(tmp_path / "logs" / "echo"),
            display="none",
        )
        api.close()
        asyncio.run(judge_logs([("echo", Path(log.location))], judges, lambda *_: None))
        return read_eval_log(log.location)

    return finished


def expected(name, label, sample, **more):
    answer = answer_of(sample.talk, TOKENS)
    return Row(
        defense="echo:loud",
        set=name,
        label=label,
        id=sample.id,
        kind=sample.kind,
        prompt=text_of(sample.talk),
        opener=sample.talk.opener,
        reply=answer.text,
        tokens=answer.tokens,
        flagged=answer.flagged,
        score=answer.score,
        **more,
    )


def scored(sample):
    """What `Length` says: it judges the opener with the reply."""
    return {"score": float(len(sample.talk.opener + answer_of(sample.talk, TOKENS).text))}


def metrics_of(log):
    return {
        (score.scorer, name): metric.value
        for score in log.results.scores
        for name, metric in score.metrics.items()
    }


def test_the_task_holds_the_prompts():
    task = comparison_task("echo:loud", SETS, TOKENS)
    assert [sample.id for sample in task.dataset] == ["bad/1", "bad/2", "bad/3", "good/1", "good/2"]
    first, talk, begun, *_ = task.dataset
    assert first.metadata == {"set": "bad", "label": "malicious", "kind": "plain", "id": "1"}
    assert first.target == "Sure"
    assert [(turn.role, turn.content) for turn in talk.input] == [
        ("system", "Be brief."),
        ("user", "Hello"),
        ("assistant", "Hi there."),
        ("user", "How is the weather?"),
    ]
    assert [(turn.role, turn.content) for turn in begun.input] == [
        ("user", "Name an ant"),
        ("assistant", "Sure, the"),
    ]
    assert (task.config.max_tokens, task.metadata) == (TOKENS, {"defense": "echo:loud"})
    assert task.name == "comparison_echo:loud"


def test_every_sample_of_the_projects_own_sets_has_a_name_of_its_own():
    names = [name for name in PROMPT_SETS if name.startswith(("own_", "prefilled"))]
    sets = {name: Prompts(PROMPT_SETS[name].label, PROMPT_SETS[name].load(limit=60)) for name in names}
    task = comparison_task("none", sets, TOKENS)
    counts = Counter(sample.id for sample in task.dataset)
    assert len(counts) == sum(len(prompts.samples) for prompts in sets.values())
    assert set(counts.values()) == {1}


def test_rows_give_what_was_put_in(run):
    log = run(SETS, Length())
    assert log.status == "success"
    assert timeless(rows_of(log)) == [
        expected(name, prompts.label, sample, verdicts={"length": scored(sample)})
        for name, prompts in SETS.items()
        for sample in prompts.samples
    ]
    assert all(row.seconds > 0 for row in rows_of(log))


def test_what_a_tool_said_reaches_the_defense_as_such_and_waits_for_a_reply(run):
    tool = {"role": "tool", "content": "12 degrees"}
    talk = Talk([user("Warm?"), assistant("I look."), tool], "**It**\n\n")
    log = run({"tools": Prompts("malicious", [Sample("1", talk)])}, Length())
    assert [message.role for message in log.samples[0].input] == ["user", "assistant", "tool", "assistant"]
    (row,) = timeless(rows_of(log))
    assert row == expected(
        "tools",
        "malicious",
        Sample("1", talk),
        verdicts={"length": {"score": float(len(talk.opener + row.reply))}},
    )
    assert (row.prompt, row.opener) == ("12 degrees", "**It**\n\n")


def test_a_judge_sees_the_last_turn_and_the_reply_with_its_opener(run):
    judge = Length()
    run(SETS, judge)
    assert sorted(judge.seen) == sorted(
        (text_of(sample.talk), sample.talk.opener + answer_of(sample.talk, TOKENS).text)
        for prompts in SETS.values()
        for sample in prompts.samples
    )


def test_a_judge_of_malicious_prompts_is_not_asked_about_others(run):
    harm = Harm()
    log = run(SETS, Length(), harm)
    assert len(harm.seen) == 3
    for row in rows_of(log):
        assert set(row.verdicts) == ({"length", "harm"} if row.label == "malicious" else {"length"})
    mean = sum(scored(sample)["score"] for sample in SETS["bad"].samples) / 3
    values = [
        value for (name, metric), value in metrics_of(log).items() if (name, metric) == ("harm", "mean")
    ]
    assert values == [pytest.approx(mean)]


def test_an_unjudged_reply_has_no_verdict_and_does_not_enter_the_mean(run):
    talks = [Talk([user("One")]), Talk([user("mute")]), Talk([user("Three and more")])]
    samples = [Sample(str(number), talk) for number, talk in enumerate(talks)]
    log = run({"some": Prompts("benign", samples)}, Length())
    rows = rows_of(log)
    assert [row.verdicts for row in rows] == [
        {"length": scored(samples[0])},
        {},
        {"length": scored(samples[2])},
    ]
    assert [row.error for row in rows] == [None] * 3
    mean = (scored(samples[0])["score"] + scored(samples[2])["score"]) / 2
    assert metrics_of(log)["length", "mean"] == pytest.approx(mean)
    unjudged = log.samples[1].scores["length"]
    assert math.isnan(unjudged.value)
    assert (unjudged.reason, unjudged.explanation) == ("unjudged", "no number")


def test_replies_that_no_judge_was_asked_about_are_rows_all_the_same(run):
    log = run({"good": BENIGN}, Harm())
    assert log.status == "success"
    assert [(row.verdicts, row.error) for row in rows_of(log)] == [({}, None)] * 2


@pytest.fixture
def samples():
    return [Sample("1", Talk([user("One")])), Sample("2", TALKS[2]), Sample("3", Talk([user("Three")]))]


def test_a_defense_that_raises_is_an_error_of_its_row_only(run, samples):
    samples[1] = Sample("2", Talk([user("wrong")], "So"))
    first, wrong, last = timeless(rows_of(run({"some": Prompts("benign", samples)}, Length())))
    assert [first, last] == [
        expected("some", "benign", samples[n], verdicts={"length": scored(samples[n])}) for n in (0, 2)
    ]
    assert "this cannot be answered" in wrong.error
    assert (wrong.id, wrong.prompt, wrong.opener, wrong.reply) == ("2", "wrong", "So", "")
    assert (wrong.tokens, wrong.verdicts, wrong.score) == (0, {}, None)


def test_a_judge_that_raises_is_an_error_of_its_row_only(run, samples):
    samples[1] = Sample("2", Talk([user("odd")]))
    first, odd, last = timeless(rows_of(run({"some": Prompts("malicious", samples)}, Length())))
    assert [first, last] == [
        expected("some", "malicious", samples[n], verdicts={"length": scored(samples[n])}) for n in (0, 2)
    ]
    assert "nobody judges this" in odd.error
    assert odd == expected("some", "malicious", samples[1], error=odd.error)  # the reply is there
