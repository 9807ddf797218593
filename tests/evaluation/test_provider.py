"""The provider in Inspect's own runs, and its batches with defenses that need no model."""

import asyncio
import threading
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from inspect_ai import Task
from inspect_ai import eval as run_inspect
from inspect_ai.dataset import Sample
from inspect_ai.model import (
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
    GenerateConfig,
    get_model,
)
from inspect_ai.scorer import includes
from inspect_ai.solver import generate
from inspect_ai.tool import ToolInfo

from mogu.adapter.folder import save_adapter
from mogu.defenses.base import Host, Talk
from mogu.defenses.self_reminder import SelfReminder
from mogu.errors import MoguError
from mogu.evaluation.provider import DefendedModel
from mogu.generation import MoguModel
from mogu.models import load_model
from tests.adapter.adapters import config_of, random_adapter
from tests.defenses.hosts import tiny_host
from tests.defenses.talks import TALKS, assistant, user
from tests.evaluation.fakes import Gate, answer_of, echo, held_echo
from tests.tiny import save_tiny

CHATS = [
    [ChatMessageUser(content=TALKS[0].messages[0]["content"])],
    [
        ChatMessageSystem(content="Be brief."),
        ChatMessageUser(content="Hello"),
        ChatMessageAssistant(content="Hi there."),
        ChatMessageUser(content="How is the weather?"),
    ],
    [ChatMessageUser(content="Name an ant"), ChatMessageAssistant(content="Sure, the")],
]
"""The same as `TALKS`, as Inspect has them."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny hardened model with random parts, as `mogu train` leaves one."""
    folder = tmp_path_factory.mktemp("provider")
    loaded = load_model(save_tiny(folder / "base"))
    adapter = random_adapter(loaded.model)
    config = config_of(adapter).model_copy(update={"base": loaded.identity})
    save_adapter(folder / "adapter", adapter, config)
    return folder / "adapter"


@pytest.fixture(scope="module")
def mogu(folder):
    return MoguModel.from_pretrained(folder, device="cpu")


def run_task(folder, logs, samples, model_args=None, **config):
    """The samples of a task that knows nothing of this project, by what they were asked."""
    task = Task(dataset=samples, solver=generate(), scorer=includes())
    (log,) = run_inspect(
        task,
        model=f"mogu/{folder}",
        model_args={"device": "cpu"} | (model_args or {}),
        log_dir=str(logs),
        display="none",
        fail_on_error=False,
        **config,
    )
    assert log.status == "success"
    return log.samples


def plain_samples():
    return [Sample(id=str(number), input=chat, target="x") for number, chat in enumerate(CHATS)]


def completions(samples):
    return [sample.output.completion for sample in samples]


def test_the_project_says_where_inspect_finds_the_provider():
    root = Path(__file__).parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module = import_module(project["entry-points"]["inspect_ai"]["mogu"])
    assert module.DefendedModel is DefendedModel


def test_a_task_for_inspect_runs_unchanged_and_gets_the_replies_of_the_model(folder, mogu, tmp_path):
    replies = mogu.reply(
        [talk.messages for talk in TALKS], opener=[talk.opener for talk in TALKS], max_new_tokens=6
    )
    target = replies[0].text[:3]
    samples = plain_samples()
    samples[0].target = target
    found = run_task(folder, tmp_path, samples, max_tokens=6)
    assert completions(found) == [reply.text for reply in replies]
    assert [sample.output.usage.output_tokens for sample in found] == [reply.tokens for reply in replies]
    assert [sample.output.metadata["score"] for sample in found] == pytest.approx(
        [reply.safe_weight for reply in replies]
    )
    assert all(sample.output.metadata["seconds"] > 0 for sample in found)
    assert found[0].scores["includes"].value == "C"


def test_a_text_as_input_is_a_users(folder, mogu, tmp_path):
    (sample,) = run_task(folder, tmp_path, [Sample(input="Hello", target="x")], max_tokens=4)
    assert sample.output.completion == mogu.reply([[user("Hello")]], max_new_tokens=4)[0].text


def test_another_defense_is_named_as_a_model_argument(folder, mogu, tmp_path):
    found = run_task(folder, tmp_path / "logs", plain_samples(), {"defense": "self_reminder"}, max_tokens=6)
    answers = SelfReminder(Host(mogu, tmp_path)).reply(TALKS, 6)
    assert completions(found) == [answer.text for answer in answers]
    assert completions(found) != [answer.text for answer in Host(mogu, tmp_path).base_replies(TALKS, 6)]


def test_a_defense_that_there_is_not_is_a_clear_error(folder):
    with pytest.raises(MoguError, match="There is no defense 'self_remind'"):
        get_model(f"mogu/{folder}", defense="self_remind", device="cpu", memoize=False)


def test_get_model_makes_one_that_answers(folder, mogu):
    model = get_model(f"mogu/{folder}", device="cpu", memoize=False)
    output = asyncio.run(model.generate("Hello", config=GenerateConfig(max_tokens=3)))
    model.api.close()
    assert output.completion == mogu.reply([[user("Hello")]], max_new_tokens=3)[0].text
    assert output.model == str(folder)


def test_sampling_tools_and_several_replies_are_errors_of_their_sample_only(folder, tmp_path):
    samples = plain_samples()
    for config, reason in (
        ({"temperature": 0.7}, "temperature is 0.7"),
        ({"num_choices": 2}, "num_choices is 2"),
    ):
        found = run_task(folder, tmp_path / reason, samples, max_tokens=2, **config)
        assert all(reason in sample.error.message for sample in found)
    assert [s.error for s in run_task(folder, tmp_path / "0", samples, max_tokens=2, temperature=0.0)] == [
        None
    ] * 3


# From here on without a model.


def provider_of(kind, tmp_path, **options):
    return DefendedModel("fake", defense=kind(tiny_host(tmp_path)), **options)


async def ask(api, chat, tools=(), **config):
    if isinstance(chat, str):
        chat = [ChatMessageUser(content=chat)]
    return await api.generate(chat, list(tools), "auto", GenerateConfig(**config))


def ask_all(api, *chats, **config):
    """What comes of asking all at once, errors included; the provider is closed then."""

    async def run():
        return await asyncio.gather(*(ask(api, chat, **config) for chat in chats), return_exceptions=True)

    try:
        return asyncio.run(run())
    finally:
        api.close()


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "mogu-batches"]


def test_tools_are_a_clear_error(tmp_path):
    kind = echo()
    (found,) = ask_all(provider_of(kind, tmp_path), "Hi", tools=[ToolInfo(name="add", description="adds")])
    assert isinstance(found, MoguError) and "the task gives tools" in str(found)
    assert kind.batches == []


def test_the_defense_hears_the_conversation_and_how_the_reply_begins(tmp_path):
    chat = [
        ChatMessageUser(content="How warm?"),
        ChatMessageTool(content="12 degrees"),
        ChatMessageAssistant(content="**It is**\n\n"),
    ]
    (found,) = ask_all(provider_of(echo(), tmp_path), chat, max_tokens=9)
    assert found.completion == "9|**It is**\n\n|12 degrees"
    assert Talk.of([user("a"), assistant("b"), user("c")]) == Talk([user("a"), assistant("b"), user("c")])
    assert Talk.of([user("a"), assistant("b")]) == Talk([user("a")], "b")


def test_the_answer_says_what_the_defense_says(tmp_path):
    kind = echo()
    (found,) = ask_all(provider_of(kind, tmp_path), "Hello", max_tokens=10)
    answer = answer_of(Talk([user("Hello")]), 10)
    assert found.usage.output_tokens == answer.tokens
    seconds = found.metadata.pop("seconds")
    assert found.metadata == {"flagged": True, "score": answer.score} and seconds > 0


@pytest.mark.parametrize(
    ("stops", "text"),
    [(["llo"], "8||He"), (["llo", "e"], "8||H"), (["x"], "8||Hello"), ([], "8||Hello"), (["8"], "")],
)
def test_a_reply_ends_before_the_first_stop_sequence(tmp_path, stops, text):
    (found,) = ask_all(provider_of(echo(), tmp_path), "Hello", max_tokens=8, stop_seqs=stops)
    assert found.completion == text


def test_without_a_length_there_is_a_default_one(tmp_path):
    (found,) = ask_all(provider_of(echo(), tmp_path), "Hello")
    assert found.completion == "256||Hello"


def test_requests_that_wait_at_once_are_answered_together(tmp_path):
    gate, heard = Gate(), []
    kind = held_echo(gate)
    api = provider_of(kind, tmp_path, heard=heard.append)

    async def run():
        asked = [asyncio.create_task(ask(api, f"Number {n}", max_tokens=5)) for n in range(6)]
        await asyncio.sleep(0)  # each has put its question
        gate.open()
        return await asyncio.gather(*asked)

    found = asyncio.run(run())
    api.close()
    assert [each.completion for each in found] == [f"5||Number {n}" for n in range(6)]
    # What came while the first batch was gathered or answered is one batch.
    assert len(kind.batches) <= 2 and sum(size for size, _ in kind.batches) == 6
    assert heard == [size for size, _ in kind.batches]


def test_no_batch_is_larger_than_what_may_wait_at_once(tmp_path):
    kind = echo()
    api = provider_of(kind, tmp_path)
    assert api.max_connections() == 4 * 2
    ask_all(api, *(f"Number {n}" for n in range(20)))
    assert max(size for size, _ in kind.batches) == 8 and len(kind.asked) == 20


def test_replies_of_unlike_lengths_are_asked_for_apart(tmp_path):
    kind = echo()
    api = provider_of(kind, tmp_path)

    async def run():
        return await asyncio.gather(*(ask(api, "Hello", max_tokens=length) for length in (3, 5, 3)))

    assert [each.completion for each in asyncio.run(run())] == ["3||Hello", "5||Hello", "3||Hello"]
    api.close()
    assert {length for _, length in kind.batches} == {3, 5}


def test_one_request_that_fails_does_not_take_the_others_with_it(tmp_path):
    heard = []
    api = provider_of(echo(), tmp_path, heard=heard.append)
    one, wrong, other = ask_all(api, "Hello", "wrong", "Again", max_tokens=5)
    assert (one.completion, other.completion) == ("5||Hello", "5||Again")
    assert isinstance(wrong, MoguError) and str(wrong) == "this cannot be answered"
    assert sum(heard) == 2


def test_a_defense_that_gives_too_few_answers_is_an_error_and_no_endless_wait(tmp_path):
    kind = echo()
    kind.reply = lambda self, talks, max_new_tokens: []
    found = ask_all(provider_of(kind, tmp_path), "Hello", "Again")
    assert all(isinstance(each, ValueError) for each in found)


def test_progress_that_cannot_be_shown_is_an_error_and_no_endless_wait(tmp_path):
    def heard(replies):
        raise BrokenPipeError("the terminal is gone")

    found = ask_all(provider_of(echo(), tmp_path, heard=heard), "Hello", "Again")
    assert all(isinstance(each, BrokenPipeError) for each in found)


@pytest.mark.parametrize("text", ["Hello", "wrong"])
def test_a_request_that_is_cancelled_does_no_harm(tmp_path, text):
    gate = Gate()
    kind = held_echo(gate)
    api = provider_of(kind, tmp_path)

    async def run():
        answering = asyncio.create_task(ask(api, text, max_tokens=5))
        await asyncio.to_thread(gate.entered.wait, 60)
        waiting = asyncio.create_task(ask(api, "is not asked", max_tokens=5))
        other = asyncio.create_task(ask(api, "Other", max_tokens=5))
        await asyncio.sleep(0)
        answering.cancel()
        waiting.cancel()
        gate.open()
        found = await asyncio.gather(answering, waiting, other, return_exceptions=True)
        return [*found, await ask(api, "Later", max_tokens=5)]

    *cancelled, other, later = asyncio.run(run())
    api.close()
    assert [type(each) for each in cancelled] == [asyncio.CancelledError] * 2
    assert (other.completion, later.completion) == ("5||Other", "5||Later")
    assert kind.asked == [text, "Other", "Later"]


def test_closing_answers_what_waits_and_ends_the_thread(tmp_path):
    before = threads()
    gate = Gate()
    api = provider_of(held_echo(gate), tmp_path)

    async def run():
        asked = asyncio.create_task(ask(api, "Hello", max_tokens=5))
        await asyncio.to_thread(gate.entered.wait, 60)
        assert len(threads()) == len(before) + 1
        closed = asyncio.create_task(asyncio.to_thread(api.close))
        gate.open()
        await closed
        return await asked

    assert asyncio.run(run()).completion == "5||Hello"
    assert threads() == before
    api.close()  # a second time does nothing


def test_a_provider_that_was_asked_nothing_has_no_thread(tmp_path):
    before = threads()
    provider_of(echo(), tmp_path).close()
    assert threads() == before


def test_closing_leaves_a_defense_that_was_named_and_not_one_that_was_given(folder, tmp_path, monkeypatch):
    left = []
    monkeypatch.setattr(SelfReminder, "__exit__", lambda self, *_: left.append(self))
    named = DefendedModel(str(folder), defense="self_reminder", device="cpu")
    named.close()
    assert len(left) == 1
    provider_of(SelfReminder, tmp_path).close()
    assert len(left) == 1
