"""The comparison as an Inspect task: prompts as its dataset, judges as its scorers; and its logs as rows."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import NamedTuple

from inspect_ai import Task
from inspect_ai.dataset import MemoryDataset
from inspect_ai.dataset import Sample as InspectSample
from inspect_ai.log import EvalLog, EvalSample
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
    GenerateConfig,
)
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import TaskState, generate

from mogu.chat import Message
from mogu.data.requests import Label
from mogu.defenses.base import Talk
from mogu.evaluation.rows import Row
from mogu.evaluation.sets import Sample
from mogu.judges.base import Judge, Judgement

_ROLES: dict[str, Callable[..., ChatMessage]] = {
    "user": ChatMessageUser,
    "assistant": ChatMessageAssistant,
    "system": ChatMessageSystem,
    "tool": ChatMessageTool,
}


class Prompts(NamedTuple):
    """The prompts of one set that are asked.

    Attributes:
        label: what they are.
        samples: the prompts.
    """

    label: Label
    samples: Sequence[Sample]


def comparison_task(
    defense: str,
    sets: Mapping[str, Prompts],
    judges: Sequence[Judge],
    max_new_tokens: int,
    loop: asyncio.AbstractEventLoop | None = None,
) -> Task:
    """One defense against all sets.

    Args:
        defense: its name, for the log.
        sets: by name.
        judges: of the replies.
        max_new_tokens: length of a reply at most.
        loop: where judges are asked, as `judging` gives it; None for the task's own.
    """
    samples = [
        InspectSample(
            id=f"{name}/{sample.id}",
            input=_chat(sample),
            target=sample.target,
            metadata={"set": name, "label": prompts.label, "kind": sample.kind, "id": sample.id},
        )
        for name, prompts in sets.items()
        for sample in prompts.samples
    ]
    return Task(
        dataset=MemoryDataset(samples, name=", ".join(sets)),
        solver=generate(),
        scorer=[scorer_of(judge, loop) for judge in judges],
        config=GenerateConfig(max_tokens=max_new_tokens),
        name=f"comparison_{defense}",
        metadata={"defense": defense},
        # All prompts are asked, but a log with errors is not done: those are asked again when it goes on.
        fail_on_error=True,
        continue_on_fail=True,
    )


def _chat(sample: Sample) -> list[ChatMessage]:
    return [_ROLES[message["role"]](content=message["content"]) for message in sample.talk.conversation]


@contextmanager
def judging(judges: Sequence[Judge]) -> Iterator[asyncio.AbstractEventLoop]:
    """The one event loop in which these judges are asked, in a thread of its own; they are closed after it.

    Inspect gives each task a loop of its own, and a judge that holds connections or locks belongs to one.
    """
    ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        done = asyncio.Event()
        ready.set_result((asyncio.get_running_loop(), done))
        await done.wait()
        for judge in judges:
            await judge.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True, name="mogu-judges")
    thread.start()
    loop, done = ready.result()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join()


def scorer_of(judge: Judge, loop: asyncio.AbstractEventLoop | None = None) -> Scorer:
    """A judge as a scorer of its name; what it is not asked about, or cannot judge, is left out of the means.

    Args:
        judge: the judge.
        loop: where it is asked, as `judging` gives it; None for the task's own.
    """

    async def ask(prompt: str, reply: str) -> Judgement:
        if loop is None:
            return await judge.judge(prompt, reply)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(judge.judge(prompt, reply), loop))

    @scorer(metrics={"*": [mean(), stderr()]}, name=judge.name)
    def judged() -> Scorer:
        async def score(state: TaskState, target: Target) -> Score:
            if judge.label not in (None, state.metadata["label"]):
                return Score.unscored(reason="not asked")
            prompt, opener = _last_turns(state.input)
            judgement = await ask(prompt, opener + state.output.completion)
            if judgement.scores is None:
                return Score.unscored(reason="unjudged", explanation=judgement.explanation)
            return Score(value=dict(judgement.scores), explanation=judgement.explanation)

        return score

    return judged()


def rows_of(log: EvalLog) -> list[Row]:
    """The rows of a finished log, in the order of its prompts; its samples are read from its file."""
    defense = (log.eval.metadata or {})["defense"]
    # Inspect sorts samples by their ids.
    place = {each: number for number, each in enumerate(log.eval.dataset.sample_ids or [])}
    return [_row(defense, each) for each in sorted(log.samples or [], key=lambda sample: place[sample.id])]


def _row(defense: str, sample: EvalSample) -> Row:
    prompt, opener = _last_turns(sample.input)
    reply = sample.output
    said = reply.metadata or {}
    scores = sample.scores or {}
    return Row(
        defense=defense,
        set=sample.metadata["set"],
        label=sample.metadata["label"],
        id=sample.metadata["id"],
        kind=sample.metadata["kind"],
        prompt=prompt,
        opener=opener,
        reply=reply.completion,
        tokens=reply.usage.output_tokens if reply.usage else 0,
        seconds=said.get("seconds", 0.0),
        flagged=said.get("flagged", False),
        score=said.get("score"),
        verdicts={name: score.value for name, score in scores.items() if isinstance(score.value, dict)},
        error=sample.error.message if sample.error else None,
    )


def _last_turns(messages: str | list[ChatMessage]) -> tuple[str, str]:
    """The last turn that waits for a reply, and how the reply begins."""
    assert not isinstance(messages, str)  # the task's samples are conversations
    talk = Talk.of([Message(role=message.role, content=message.text) for message in messages])
    return talk.messages[-1]["content"], talk.opener
