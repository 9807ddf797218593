"""Whole comparisons: mostly with defenses that need no model, so that what is asked can be counted."""

import asyncio
import json
import signal
import weakref

import pytest
import torch

from mogu.defenses import DEFENSES
from mogu.defenses.base import Talk
from mogu.defenses.none import NoDefense
from mogu.errors import MoguError
from mogu.evaluation.before_after import first_token_divergence
from mogu.evaluation.comparison import compare
from mogu.evaluation.sets import Sample
from mogu.evaluation.tasks import Prompts
from mogu.generation.attention import GROUPED
from mogu.judges.table import make_judges
from tests.defenses.counting import Heard
from tests.defenses.hosts import tiny_host
from tests.defenses.talks import user
from tests.evaluation.fakes import (
    KILLED_AT,
    KILLED_RUN,
    SETS,
    Echo,
    Length,
    answer_of,
    be_killed,
    echo,
    in_log,
    many,
    run_killed,
    timeless,
)
from tests.training.pipelines import start

ALL = 5
"""Prompts in `SETS`."""


@pytest.fixture
def host(tmp_path):
    return tiny_host(tmp_path / "work")


@pytest.fixture
def kinds(monkeypatch):
    """Two defenses, echo and other, that have been asked nothing."""
    made = {"echo": echo(), "other": echo()}
    for name, kind in made.items():
        monkeypatch.setitem(DEFENSES, name, kind)
    return made


@pytest.fixture
def run(host, tmp_path):
    def comparison(*defenses, sets=SETS, judges=(), max_new_tokens=7, **options):
        return compare(
            host,
            defenses,
            sets,
            judges or [Length()],
            max_new_tokens=max_new_tokens,
            folder=tmp_path / "out",
            **options,
        )

    return comparison


def asked(kind):
    """How many prompts it was asked since the last time."""
    count = len(kind.asked)
    kind.asked.clear()
    kind.batches.clear()
    return count


def test_every_defense_answers_every_prompt_of_every_set(run, kinds):
    steps = []
    found = run("echo", "other", progress=lambda *step: steps.append(step))
    assert [(row.defense, row.set, row.label, row.id, row.reply) for row in found.rows] == [
        (defense, name, prompts.label, sample.id, answer_of(sample.talk, 7).text)
        for defense in ("echo", "other")
        for name, prompts in SETS.items()
        for sample in prompts.samples
    ]
    assert all(row.verdicts == {"length": {"score": len(row.opener + row.reply)}} for row in found.rows)
    assert [asked(kind) for kind in kinds.values()] == [ALL, ALL]
    assert (found.missing, found.facts) == ([], {})
    assert found.papers == {"echo": "an echo", "other": "an echo"}
    for name in kinds:
        own = [row for row in found.rows if row.defense == name]
        cost = found.costs[name]
        assert cost.training_seconds is None
        assert cost.tokens == sum(row.tokens for row in own) > 0
        assert cost.reply_seconds == pytest.approx(sum(row.seconds for row in own))
        assert cost.reply_seconds > 0 and cost.memory is not None
        for step in ("replies", "verdicts"):
            heard = [each for each in steps if each[0] == f"{name}: {step}"]
            assert heard[-1] == (f"{name}: {step}", ALL, ALL)
    # Nobody judges before all has been answered.
    kinds_of_steps = [name.split(": ")[1] for name, *_ in steps]
    assert kinds_of_steps == sorted(kinds_of_steps)


def test_a_second_run_asks_nothing_and_gives_the_same(run, kinds):
    first = run("echo", "other")
    assert [asked(kind) for kind in kinds.values()] == [ALL, ALL]
    judge, steps = Length(), []
    assert run("echo", "other", judges=[judge], progress=lambda *step: steps.append(step)) == first
    assert [asked(kind) for kind in kinds.values()] == [0, 0]
    assert judge.seen == [] and steps == []
    # Nor if there is another defense, whose rows stand where it was named.
    assert run("other").rows == [row for row in first.rows if row.defense == "other"]
    assert asked(kinds["other"]) == 0


def test_rows_stand_in_the_order_of_the_prompts_however_they_are_named(run, kinds):
    ids = ["10", "9", "b", "a", "1"]
    prompts = Prompts("benign", [Sample(each, Talk([user(f"Number {each}")])) for each in ids])
    sets = {"z": prompts, "a": prompts}
    assert [(row.set, row.id) for row in run("echo", sets=sets).rows] == [
        (name, each) for name in sets for each in ids
    ]


def test_prompts_are_asked_in_batches(run, kinds):
    run("echo", sets={"many": many(20)})
    sizes = [size for size, _ in kinds["echo"].batches]
    assert sum(sizes) == 20 and len(sizes) < 20 and max(sizes) <= 4 * 2
    assert {length for _, length in kinds["echo"].batches} == {7}


@pytest.mark.parametrize(
    "change",
    [
        {"max_new_tokens": 8},
        {"sets": {"bad": SETS["bad"]}},
        {"sets": {"bad": SETS["good"]._replace(label="malicious"), "good": SETS["good"]}},
        {"sets": {"bad": SETS["bad"], "good": Prompts("benign", [*SETS["good"].samples[:1]])}},
        {"judges": [Length(), *make_judges(["refusal"])]},
        {"apart": ["another judge model"]},
    ],
)
def test_other_settings_do_not_reuse_the_replies(run, kinds, change):
    first = run("echo")
    asked(kinds["echo"])
    other = run("echo", **change)
    assert asked(kinds["echo"]) == len(other.rows)
    assert run("echo") == first
    assert asked(kinds["echo"]) == 0


def test_another_seed_asks_again(run, kinds, host):
    run("echo")
    host.seed = 1
    asked(kinds["echo"])
    run("echo")
    assert asked(kinds["echo"]) == ALL


def test_defenses_whose_names_look_alike_as_files_are_kept_apart(run, kinds):
    arguments = ["echo:a/b", "echo:a_b", "echo:a:b"]
    found = run(*arguments)
    assert asked(kinds["echo"]) == 3 * ALL
    assert list(found.costs) == arguments and found.missing == []
    assert run(*arguments) == found
    assert asked(kinds["echo"]) == 0


def test_a_killed_run_goes_on_where_it_was(tmp_path, kinds):
    killed = tmp_path / "killed"
    process = start(be_killed, str(killed))
    process.join()
    assert process.exitcode == -signal.SIGKILL
    there = in_log(killed / "logs")
    assert KILLED_AT <= len(there) < 20
    found = run_killed(killed, tiny_host(killed / "work"))
    again = kinds["echo"].asked
    assert len(set(again)) == len(again) <= 20 - len(there)
    assert {f"Number {name}" for name in there}.isdisjoint(again) and again
    whole = run_killed(tmp_path / "whole", tiny_host(tmp_path / "work"))
    assert timeless(found.rows) == timeless(whole.rows)
    assert [row.id for row in found.rows] == [sample.id for sample in KILLED_RUN["many"].samples]
    assert all(row.seconds > 0 for row in found.rows)
    assert found.costs["echo"].tokens == whole.costs["echo"].tokens


def test_what_could_not_be_answered_or_judged_is_asked_again_by_the_next_run(run, kinds, monkeypatch):
    texts = ["One", "wrong", "odd", "Four"]
    sets = {"some": Prompts("benign", [Sample(text, Talk([user(text)])) for text in texts])}
    first = run("echo", sets=sets)
    assert first.missing == []
    assert [row.error is None for row in first.rows] == [True, False, False, True]
    asked(kinds["echo"])
    # Nothing has changed: the same errors.
    judge = Length()
    assert timeless(run("echo", sets=sets, judges=[judge]).rows) == timeless(first.rows)
    assert (set(kinds["echo"].asked), [request for request, _ in judge.seen]) == ({"wrong"}, ["odd"])
    asked(kinds["echo"])
    monkeypatch.setattr("tests.evaluation.fakes.WRONG", "never")
    monkeypatch.setattr("tests.evaluation.fakes.ODD", "never")
    mended = run("echo", sets=sets)
    assert asked(kinds["echo"]) == 1
    assert [(row.id, row.error) for row in mended.rows] == [(text, None) for text in texts]
    assert [mended.rows[0], mended.rows[3]] == [first.rows[0], first.rows[3]]
    assert mended.rows[2].reply == first.rows[2].reply != ""
    assert run("echo", sets=sets) == mended
    assert asked(kinds["echo"]) == 0


def test_a_defense_that_cannot_be_had_is_missing_with_its_reason_and_the_others_run(run, kinds, monkeypatch):
    class Unready(Echo):
        def prepare(self, progress):
            raise MoguError("its model is not there")

    class Closed(Echo):
        def __enter__(self):
            raise MoguError("it does not fit")

    monkeypatch.setitem(DEFENSES, "unready", Unready)
    monkeypatch.setitem(DEFENSES, "closed", Closed)
    found = run("unready", "echo", "guard", "closed", "nobody", "other")
    reasons = {}
    for defense, name, reason in found.missing:
        reasons.setdefault(defense, {})[name] = reason
    assert list(reasons) == ["unready", "guard", "closed", "nobody"]
    assert all(set(each) == set(SETS) for each in reasons.values())
    assert reasons["unready"]["bad"] == "its model is not there"
    assert reasons["closed"]["good"] == "it does not fit"
    assert reasons["guard"]["bad"].startswith("guard needs a model")
    assert reasons["nobody"]["bad"].startswith("There is no defense 'nobody'")
    assert list(found.costs) == list(found.papers) == ["echo", "other"]
    assert [asked(kind) for kind in kinds.values()] == [ALL, ALL]


def test_a_defense_is_left_when_its_run_ends_however_it_ends(run, host, monkeypatch):
    inside = []

    class Watched(Echo):
        asked, batches = [], []

        def __enter__(self):
            inside.append("in")
            return self

        def __exit__(self, *_):
            inside.append("out")

        def reply(self, talks, max_new_tokens):
            assert inside == ["in"] and host.mogu.model.config._attn_implementation == GROUPED
            raise MoguError("no reply at all")

    monkeypatch.setitem(DEFENSES, "watched", Watched)
    found = run("watched")
    assert host.mogu.model.config._attn_implementation == "sdpa"
    assert inside == ["in", "out"]
    assert len(found.rows) == ALL and all("no reply at all" in row.error for row in found.rows)
    assert found.costs["watched"].tokens == 0


def test_training_seconds_are_those_of_all_runs_that_trained(run, host, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("mogu.evaluation.elapsed.time.perf_counter", lambda: clock[0])

    class Trained(Echo):
        trained = True
        asked, batches = [], []

        def prepare(self, progress):
            for step in range(1, 4):
                done = self.host.work / f"trained-{self.host.seed}-{step}"
                if not done.exists():
                    clock[0] += 4.11 + self.host.seed
                    done.mkdir(parents=True)
                    progress(step, 3)
            clock[0] += 1  # what is trained is read

    monkeypatch.setitem(DEFENSES, "trained", Trained)

    def seconds(**options):
        return run("trained", **options).costs["trained"].training_seconds

    def watched(step, *of):
        if step == "trained: training":
            heard(*of)

    heard = Heard(stop_at=2)
    with pytest.raises(KeyboardInterrupt):
        seconds(progress=watched)
    assert heard.calls == [(1, 3), (2, 3)]
    assert seconds() == pytest.approx(2 * 4.11 + 4.11 + 1, abs=0.1)
    assert seconds() == pytest.approx(13.3, abs=0.1)  # nothing was trained
    assert seconds(max_new_tokens=8) == pytest.approx(13.3, abs=0.1)
    host.seed = 5  # a seed has a training of its own
    assert seconds() == pytest.approx(13.3 + 15, abs=0.1)
    host.seed = 0
    assert seconds() == pytest.approx(13.3, abs=0.1)


def test_the_memory_stays_that_of_the_run_that_asked(run, kinds, tmp_path):
    cost = run("echo").costs["echo"]
    (kept,) = (tmp_path / "out").rglob("*.memory.json")
    assert json.loads(kept.read_text()) == cost.memory
    kept.write_text("123.5")
    assert run("echo").costs["echo"].memory == 123.5
    kept.unlink()
    assert run("echo").costs["echo"].memory is None  # nothing was asked: it is unknown


def test_the_divergence_is_that_of_first_tokens_after_benign_prompts_without_openers(run, host):
    benign = [*SETS["good"].samples, Sample("3", Talk([user("Name an ant")], "Sure"))]
    sets = {
        "bad": SETS["bad"],
        "good": Prompts("benign", benign),
        "begun": Prompts("benign", benign[2:]),
    }
    settings = {"sets": sets, "judges": make_judges(["refusal"]), "max_new_tokens": 3}
    found = run("mogu", "self_examine", "none", **settings).divergence
    values = first_token_divergence(host.mogu, [sample.talk.messages for sample in benign[:2]], 2)
    assert list(found) == ["mogu", "self_examine", "none"]
    assert found["mogu"] == {"good": pytest.approx(sum(values) / 2)}
    assert found["none"] == {"good": 0.0}
    assert "a fixed sentence replies" in found["self_examine"]
    host.first_logits = None  # it is kept
    assert run("mogu", "none", "self_examine", **settings).divergence == found


def test_replies_and_verdicts_are_those_of_defense_and_judge(run, host):
    found = run("none", "mogu", "self_reminder", judges=make_judges(["refusal"]), max_new_tokens=5)
    talks = [sample.talk for prompts in SETS.values() for sample in prompts.samples]
    answers = NoDefense(host).reply(talks, 5)
    rows = [row for row in found.rows if row.defense == "none"]
    assert [(row.reply, row.tokens) for row in rows] == [(each.text, each.tokens) for each in answers]
    assert all(set(row.verdicts["refusal"]) == {"opens", "holds"} for row in found.rows)
    assert {row.defense for row in found.rows if row.score is not None} == {"mogu"}
    assert found.missing == []


def test_a_judge_lives_in_one_event_loop_over_all_defenses_and_is_closed_there(run, kinds):
    class OneLoop(Length):
        name = "loop"

        def __init__(self):
            super().__init__()
            self.loops, self.closed = set(), []
            self.lock = asyncio.Lock()

        async def judge(self, request, reply):
            self.loops.add(asyncio.get_running_loop())
            async with self.lock:  # those who wait bind it to the loop
                await asyncio.sleep(0)
                return await super().judge(request, reply)

        async def close(self):
            self.closed.append(asyncio.get_running_loop())

    judge = OneLoop()
    found = run("echo", "other", sets={"many": many(10)}, judges=[judge])
    assert [row.error for row in found.rows] == [None] * 20
    assert len(judge.loops) == 1 and judge.closed == list(judge.loops)
    assert judge.closed[0].is_closed()


@pytest.mark.filterwarnings("ignore:coroutine 'tg_collect")  # of the judging that was killed
def test_a_killed_judging_asks_again_only_what_has_no_verdict(run, kinds, tmp_path):
    class Dies(Length):
        async def judge(self, request, reply):
            if len(self.seen) == 6:
                raise KeyboardInterrupt
            return await super().judge(request, reply)

    sets = {"many": many(10)}
    with pytest.raises(KeyboardInterrupt):
        run("echo", sets=sets, judges=[Dies()])
    (kept,) = (tmp_path / "out").rglob("verdicts.jsonl")
    with kept.open("a") as file:
        file.write('{"key": "cut o')
    asked(kinds["echo"])
    judge = Length()
    found = run("echo", sets=sets, judges=[judge])
    assert (asked(kinds["echo"]), len(judge.seen)) == (0, 4)
    assert [row.verdicts["length"]["score"] for row in found.rows] == [len(row.reply) for row in found.rows]


def test_what_a_defense_held_is_gone_when_the_next_one_is_made(run, monkeypatch):
    held = []

    class Holding(Echo):
        asked, batches = [], []

        def __init__(self, host, argument=""):
            assert all(each() is None for each in held)
            super().__init__(host, argument)

        def __enter__(self):
            self.loaded = torch.nn.Linear(2, 2)
            held.append(weakref.ref(self.loaded))
            return self

        def __exit__(self, *_):
            self.loaded = None

    monkeypatch.setitem(DEFENSES, "holding", Holding)
    assert run("holding:1", "holding:2").missing == [] and len(held) == 2
