"""The comparison as an Inspect task, with the prompts as its dataset, and its logs as rows.

The task has no scorers: judges are asked when all has been answered (see :mod:`mogu.evaluation.verdicts`), so that
none works beside a reply that is timed.
"""

from collections.abc import Callable, Mapping, Sequence
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
from inspect_ai.scorer import Score
from inspect_ai.solver import generate

from mogu.chat import Message
from mogu.data.requests import Label
from mogu.defenses.base import Talk
from mogu.evaluation.rows import Row
from mogu.evaluation.sets import Sample

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


NOT_ASKED = "grader_failed"
"""Why a reply has no score where its judge could not be asked: Inspect's word for it."""


def comparison_task(defense: str, sets: Mapping[str, Prompts], max_new_tokens: int) -> Task:
    """One defense against all sets.

    Args:
        defense: its name, for the log.
        sets: by name.
        max_new_tokens: length of a reply at most.
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
        config=GenerateConfig(max_tokens=max_new_tokens),
        name=f"comparison_{defense}",
        metadata={"defense": defense},
        # All prompts are asked, but a log with errors is not done: those are asked again when it goes on.
        fail_on_error=True,
        continue_on_fail=True,
    )


def _chat(sample: Sample) -> list[ChatMessage]:
    return [_ROLES[message["role"]](content=message["content"]) for message in sample.talk.conversation]


def rows_of(log: EvalLog) -> list[Row]:
    """The rows of a finished log, in the order of its prompts; its samples are read from its file."""
    defense = (log.eval.metadata or {})["defense"]
    # Inspect sorts samples by their ids.
    place = {each: number for number, each in enumerate(log.eval.dataset.sample_ids or [])}
    return [_row(defense, each) for each in sorted(log.samples or [], key=lambda sample: place[sample.id])]


def _row(defense: str, sample: EvalSample) -> Row:
    prompt, opener = last_turns(sample.input)
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
        error=sample.error.message if sample.error else _failure(scores),
    )


def _failure(scores: Mapping[str, Score]) -> str | None:
    """What the first judge said that could not be asked."""
    return next((score.explanation for score in scores.values() if score.reason == NOT_ASKED), None)


def last_turns(messages: str | list[ChatMessage]) -> tuple[str, str]:
    """The last turn that waits for a reply, and how the reply begins."""
    assert not isinstance(messages, str)  # the task's samples are conversations
    talk = Talk.of([Message(role=message.role, content=message.text) for message in messages])
    return talk.messages[-1]["content"], talk.opener
