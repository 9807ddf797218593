"""Judges as Inspect scorers of logs in which all has been answered; their verdicts go into the logs.

Each verdict is kept in a file as it comes, so that a run that was killed does not ask again.
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from inspect_ai import score_async
from inspect_ai.log import EvalSample, read_eval_log_async, write_eval_log_async
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import TaskState

from mogu.errors import MoguError
from mogu.evaluation.tasks import NOT_ASKED, last_turns
from mogu.files import read_grown_jsonl
from mogu.judges.base import Judge, Judgement

VERDICTS = "verdicts.jsonl"
"""The file beside the logs of a run."""


async def judge_logs(
    logs: Sequence[tuple[str, Path]], judges: Sequence[Judge], progress: Callable[[str, int, int], None]
) -> None:
    """Let judges score the replies in some logs, where they have not yet; they are closed then.

    A judge that could not be asked leaves a score that says so, and is asked again by the next call.

    Args:
        logs: whose replies it has, and Inspect's file; that is written anew if something in it was judged.
        judges: of the replies.
        progress: hears of each log's verdicts.
    """
    try:
        for name, path in logs:
            await _judge_log(path, judges, partial(progress, f"{name}: verdicts"))
    finally:
        for judge in judges:
            await judge.close()


async def _judge_log(path: Path, judges: Sequence[Judge], progress: Callable[[int, int], None]) -> None:
    log = await read_eval_log_async(str(path))
    if not any(_is_due(sample, judges) for sample in log.samples or []):
        return
    steps = itertools.count(1)
    total = len(log.samples or []) * len(judges)
    kept = _Kept(path.parent.parent / VERDICTS)
    scorers = [scorer_of(judge, kept, lambda: progress(next(steps), total)) for judge in judges]
    # The model that replied is gone, and no scorer asks one.
    scored = await score_async(log, scorers, model="none", action="overwrite", copy=False)
    await write_eval_log_async(scored, path)


def _is_due(sample: EvalSample, judges: Sequence[Judge]) -> bool:
    scores = sample.scores or {}
    return sample.error is None and any(
        judge.name not in scores or scores[judge.name].reason == NOT_ASKED for judge in judges
    )


class _Kept:
    """The verdicts of a file, by what was judged."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._there = {
            row["key"]: Judgement(row["scores"], row["explanation"]) for row in read_grown_jsonl(file)
        }

    async def verdict(self, judge: Judge, request: str, reply: str) -> Judgement:
        """What the judge says, or has said."""
        key = hashlib.sha256(json.dumps([judge.name, request, reply]).encode()).hexdigest()
        if key not in self._there:
            verdict = await judge.judge(request, reply)
            with self._file.open("a", encoding="utf-8") as file:
                row: dict[str, Any] = {"key": key, **asdict(verdict)}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            self._there[key] = verdict
        return self._there[key]


def scorer_of(judge: Judge, kept: _Kept, heard: Callable[[], None]) -> Scorer:
    """A judge as a scorer of its name; what it is not asked about, or cannot judge, is left out of the means."""

    async def said(state: TaskState) -> Score:
        if judge.label not in (None, state.metadata["label"]):
            return Score.unscored(reason="not asked")
        if not state.output.choices:  # the defense failed
            return Score.unscored(reason="no_response")
        prompt, opener = last_turns(state.input)
        try:
            verdict = await kept.verdict(judge, prompt, opener + state.output.completion)
        except MoguError as error:
            return Score.unscored(reason=NOT_ASKED, explanation=str(error))
        if verdict.scores is None:
            return Score.unscored(reason="unjudged", explanation=verdict.explanation)
        return Score(value=dict(verdict.scores), explanation=verdict.explanation)

    @scorer(metrics={"*": [mean(), stderr()]}, name=judge.name)
    def judged() -> Scorer:
        async def score(state: TaskState, target: Target) -> Score:
            found = await said(state)
            heard()
            return found

        return score

    return judged()
