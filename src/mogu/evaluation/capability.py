"""General capability: the base and MoGU on the same tasks of EleutherAI's lm-eval harness."""

import json
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from importlib.metadata import version
from math import isclose, isfinite, sqrt
from numbers import Real
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from mogu.errors import MoguError
from mogu.evaluation.mogu_lm import MoguLM
from mogu.files import write_atomic
from mogu.generation import MoguModel

BOOTSTRAPS = 1000
"""Draws for the standard error of a metric that is no mean; the harness's own 100,000 take minutes."""

NOTE = """The base and MoGU on the same rows, by EleutherAI's lm-eval harness; prompts are its plain texts, without
the chat template. In brackets standard errors; a difference's is that of the differences between the two on each row.
Flagged: rows in which the gate turned some of what was asked for into a refusal. A flagged row of multiple choice may
still be right: choices are ranked, however unlikely all of them are. Texts without a prompt (perplexities) are the
base's in both."""


class Figure(NamedTuple):
    """A task's metric with its standard error, None where the harness gives none."""

    value: float
    error: float | None


class Result(NamedTuple):
    """One metric of one task, or of one group of tasks.

    Attributes:
        task: its name in the harness.
        metric: such as ``acc``; with the filter of the replies in brackets, if there is one.
        rows: how many were answered.
        base: the base's figure.
        mogu: MoGU's.
        difference: MoGU's less the base's; its error is that of the rows' differences, None if the metric is no mean
            over them.
        flagged: of sequence routing, in how many rows the safe variant wrote, or would have written, some of what was
            asked for.
    """

    task: str
    metric: str
    rows: int
    base: Figure
    mogu: Figure
    difference: Figure
    flagged: int | None


def find_tasks(names: Sequence[str], include_path: Path | None = None) -> TaskManager:
    """The harness's tasks, with those of a folder of YAML files.

    Args:
        names: tasks, groups and tags that must be among them.
        include_path: the folder.

    Raises:
        MoguError: if one is not; the message says what it may have meant.
    """
    if include_path is not None and not include_path.is_dir():
        raise MoguError(f"{include_path} is no folder with task files")
    manager = TaskManager(include_path=None if include_path is None else str(include_path))
    for name in names:
        if name not in manager.task_index:
            near = get_close_matches(name, manager.all_tasks)
            hint = f"did you mean {', '.join(near)}?" if near else "`lm-eval ls tasks` lists them"
            raise MoguError(f"{name} is no task of lm-eval; {hint}")
    return manager


def capability(
    mogu: MoguModel,
    tasks: Sequence[str],
    *,
    manager: TaskManager,
    limit: int | None = None,
    batch_size: int = 32,
    threshold: float | None = None,
) -> list[Result]:
    """Let the base and MoGU do the same rows of the same tasks.

    Args:
        mogu: the hardened model.
        tasks: tasks, groups and tags of the harness.
        manager: knows them, as `find_tasks` gives it.
        limit: rows of each task at most.
        batch_size: rows that are read or answered together.
        threshold: as `MoguLM` takes it.

    Returns:
        One result for each metric of each task and group, in the harness's order.
    """
    found: dict[str, Any] = {}
    for mode in ("base", "mogu"):
        lm = MoguLM(mogu, mode, batch_size, threshold)
        found[mode] = simple_evaluate(
            lm, tasks=list(tasks), limit=limit, task_manager=manager, bootstrap_iters=BOOTSTRAPS
        )
    flagged = lm.flagged if mogu.config.gate else None
    return [
        result
        for task in found["base"]["results"]
        for result in _results(task, found["base"], found["mogu"], flagged)
    ]


def _results(
    task: str, base: Mapping[str, Any], mogu: Mapping[str, Any], flagged: set[str] | None
) -> Iterator[Result]:
    leaves = _leaves(task, base["group_subtasks"])
    # A row stands there once for each filter.
    rows = {(leaf, row["doc_id"]): row for leaf in leaves for row in mogu["samples"][leaf]}
    hit = None
    if flagged is not None:
        hit = sum(any(arguments[0] in flagged for arguments in row["arguments"]) for row in rows.values())
    for key, value in base["results"][task].items():
        name, comma, kind = key.partition(",")
        if not comma or name.endswith("_stderr") or not isinstance(value, Real):
            continue
        before, after = (_figure(figures["results"][task], name, kind) for figures in (base, mogu))
        change = after.value - before.value
        values = [
            (one.get(name), other.get(name))
            for leaf in leaves
            for one, other in zip(base["samples"][leaf], mogu["samples"][leaf], strict=True)
            if one["filter"] == kind
        ]
        yield Result(
            task,
            name if kind == "none" else f"{name} ({kind})",
            len(rows),
            before,
            after,
            Figure(change, _paired_error(values, change)),
            hit,
        )


def _leaves(task: str, groups: Mapping[str, Sequence[str]]) -> list[str]:
    """The tasks of a group and of the groups in it; of a task, itself."""
    return [leaf for each in groups.get(task, ()) for leaf in _leaves(each, groups)] or [task]


def _figure(figures: Mapping[str, Any], name: str, kind: str) -> Figure:
    error = figures.get(f"{name}_stderr,{kind}")
    return Figure(float(figures[f"{name},{kind}"]), float(error) if isinstance(error, Real) else None)


def _paired_error(values: Sequence[tuple[Any, Any]], change: float) -> float | None:
    """The standard error of the mean of the rows' differences, if it is their mean by which the metric changes."""
    if len(values) < 2 or not all(isinstance(value, Real) for pair in values for value in pair):
        return None
    differences = [float(after) - float(before) for before, after in values]
    if not isclose(fmean(differences), change, abs_tol=1e-9):
        return None
    return stdev(differences) / sqrt(len(differences))


def write_capability(results: Sequence[Result], facts: Mapping[str, str], folder: Path) -> str:
    """Write ``capability.json`` and ``capability.md``.

    Args:
        results: as `capability` gives them.
        facts: what was measured and how, by what is shown for it.
        folder: takes the files.

    Returns:
        The table as it stands in the Markdown.
    """
    table = _table(results)
    facts = {**facts, "lm-eval": version("lm-eval")}
    plain = {"facts": facts, "results": [_plain(result) for result in results]}
    write_atomic(folder / "capability.json", json.dumps(plain, indent=1, ensure_ascii=False) + "\n")
    listed = "\n".join(f"- {name}: {fact}" for name, fact in facts.items())
    write_atomic(folder / "capability.md", f"# General capability\n\n{NOTE}\n\n{table}\n\n{listed}\n")
    return table


def _plain(result: Result) -> dict[str, Any]:
    figures = {
        name: {"value": _number(value), "error": _number(error)}
        for name, (value, error) in zip(
            ("base", "mogu", "difference"), (result.base, result.mogu, result.difference), strict=True
        )
    }
    return result._asdict() | figures


def _number(value: float | None) -> float | None:
    # JSON has no infinities.
    return None if value is None or not isfinite(value) else round(value, 6)


def _table(results: Sequence[Result]) -> str:
    """In Markdown, its columns aligned for those who read it as it is."""
    columns = ("task", "metric", "rows", "base", "MoGU", "difference", "flagged")
    lines = [
        (
            each.task,
            each.metric,
            str(each.rows),
            _text(each.base),
            _text(each.mogu),
            _text(each.difference, "+"),
            "" if each.flagged is None else str(each.flagged),
        )
        for each in results
    ]
    widths = [max(map(len, column)) for column in zip(columns, *lines, strict=True)]
    head, *body = (
        " | ".join(
            text.ljust(width) if index < 2 else text.rjust(width)
            for index, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in (columns, *lines)
    )
    rule = " | ".join(
        "-" * width if index < 2 else "-" * (width - 1) + ":" for index, width in enumerate(widths)
    )
    return "\n".join(f"| {line} |" for line in (head, rule, *body))


def _text(figure: Figure, sign: str = "") -> str:
    value = f"{figure.value:{sign}.4g}" if abs(figure.value) >= 1000 else f"{figure.value:{sign}.4f}"
    return value if figure.error is None else f"{value} ({figure.error:.4f})"
