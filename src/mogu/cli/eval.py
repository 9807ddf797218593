"""`mogu eval`: compare defenses on attacks and on harmless requests, and write the report."""

import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from math import isnan, nan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mogu.cli.console import err, out, tell
from mogu.cli.options import Base, Device, Dtype, Folder, TrustRemoteCode, open_model
from mogu.cli.progress import StageBars
from mogu.errors import MoguError

if TYPE_CHECKING:
    from mogu.data.requests import Label
    from mogu.defenses.base import Host
    from mogu.evaluation.sets import Sample
    from mogu.evaluation.tasks import Prompts
    from mogu.generation import MoguModel
    from mogu.judges.endpoint import EndpointOptions

ALL = "all"
ATTACKS = "advbench,xstest_unsafe,own_frames,prefilled"
USABILITY = "justeval,xstest_safe,own_lookalikes,own_frames_benign"
SUFFIXES = (".json", ".jsonl", ".csv")

# Groups of options in the help.
PROMPTS = "Prompts"
JUDGES = "Judges"
LIVE = "Live attacks"
PIPELINE = "In a release pipeline"
TASKS = "General capability"

ENDPOINT_MODEL = "The model's name there."
ENDPOINT_KEY = "Environment variable with the endpoint's key."


def run(
    folder: Folder,
    *,
    output: Annotated[Path, typer.Option(help="Folder for the report, the logs and what defenses train.")],
    defenses: Annotated[
        str,
        typer.Option(
            help="Names with commas between, all among them; an argument follows a colon: guard:PATH."
        ),
    ] = ALL,
    attacks: Annotated[
        str,
        typer.Option(
            help="Malicious prompt sets, NAME or NAME=PATH with commas between, or all.",
            rich_help_panel=PROMPTS,
        ),
    ] = ATTACKS,
    usability: Annotated[
        str, typer.Option(help="The same of benign prompt sets.", rich_help_panel=PROMPTS)
    ] = USABILITY,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder with published sets, such as advbench.json; else from the hub.",
            rich_help_panel=PROMPTS,
        ),
    ] = None,
    limit: Annotated[
        int,
        typer.Option(min=1, help="Prompts of each set, or rows of each task.", rich_help_panel=PROMPTS),
    ] = 40,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest reply, in tokens.")] = 48,
    judges: Annotated[
        str,
        typer.Option(
            help="refusal, strongreject, harmfulness, usability, classifier:PATH; commas between.",
            rich_help_panel=JUDGES,
        ),
    ] = "refusal",
    judge_url: Annotated[
        str | None,
        typer.Option(
            help="OpenAI-compatible endpoint that judges, as http://localhost:8000/v1.",
            rich_help_panel=JUDGES,
        ),
    ] = None,
    judge_model: Annotated[str, typer.Option(help=ENDPOINT_MODEL, rich_help_panel=JUDGES)] = "",
    judge_key: Annotated[str, typer.Option(help=ENDPOINT_KEY, rich_help_panel=JUDGES)] = "OPENAI_API_KEY",
    live: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[:BUDGET]",
            help="Attack each defense itself: best_of_n, gcg, autodan, pair; commas between. A budget is replies "
            "for each request.",
            rich_help_panel=LIVE,
        ),
    ] = None,
    live_set: Annotated[
        str,
        typer.Option(
            help="The malicious set whose requests they attack with, NAME or NAME=PATH.",
            rich_help_panel=LIVE,
        ),
    ] = "own_direct",
    live_limit: Annotated[int, typer.Option(min=1, help="How many of them.", rich_help_panel=LIVE)] = 10,
    attacker_url: Annotated[
        str | None,
        typer.Option(
            help="OpenAI-compatible endpoint that rewords requests, for pair.", rich_help_panel=LIVE
        ),
    ] = None,
    attacker_model: Annotated[str, typer.Option(help=ENDPOINT_MODEL, rich_help_panel=LIVE)] = "",
    attacker_key: Annotated[str, typer.Option(help=ENDPOINT_KEY, rich_help_panel=LIVE)] = "OPENAI_API_KEY",
    fail_under: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Leave with 1 if MoGU's figure is lower: refusal=0.95.",
            rich_help_panel=PIPELINE,
        ),
    ] = None,
    fail_over: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="The same if it is higher: benign_refusal=0.05.",
            rich_help_panel=PIPELINE,
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts that are answered together.")] = 32,
    seed: Annotated[int, typer.Option(min=0, help="Of the prompts that are taken, and of training.")] = 0,
    tasks: Annotated[
        str | None,
        typer.Option(
            help="Compare the base and MoGU on these tasks of lm-eval instead: arc_easy,hellaswag.",
            rich_help_panel=TASKS,
        ),
    ] = None,
    include_path: Annotated[
        Path | None,
        typer.Option(help="Folder with task files of your own, in lm-eval's YAML.", rich_help_panel=TASKS),
    ] = None,
    base: Base = None,
    device: Device = None,
    dtype: Dtype = "auto",
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Compare MoGU with other defenses of its base model: how many attacks and how many harmless requests each refuses.

    Writes report.html, report.md and report.json. An interrupted run goes on where it was when the same command is
    given again. The logs can be opened with `inspect view`.

    With --tasks it measures general capability and nothing else: the base and MoGU do the same tasks of EleutherAI's
    lm-eval harness, at most --limit rows of each. Writes capability.md and capability.json.
    """
    opened = partial(open_model, folder, base, device, dtype, trust_remote_code)
    if tasks is not None:
        _capability(_names(tasks), include_path, opened, folder, output, limit, batch_size)
        return
    lowest, highest = _limits(fail_under or []), _limits(fail_over or [])
    with err.status("Starting"):
        try:
            from mogu.evaluation.comparison import compare
        except ModuleNotFoundError as error:
            raise MoguError(
                f"{error.name} is not installed; get it with: pip install 'mogu-llm[eval]'"
            ) from error
        from dataclasses import replace

        from mogu.defenses import DEFENSES, defense_of
        from mogu.defenses.base import Host
        from mogu.evaluation.attacks import make_attack
        from mogu.judges.table import make_judges
        from mogu.report.comparison import breaches, check_limits, write_report
        from mogu.report.comparison.figures import OURS
    check_limits([*lowest, *highest])
    whole = [name for name in DEFENSES if name != "guard"]  # that is a model which its user chooses
    asked_for = _names(defenses)
    named = list(dict.fromkeys(name for each in asked_for for name in (whole if each == ALL else [each])))
    for name in named:
        defense_of(name)  # before minutes are spent on others
    if (lowest or highest) and OURS not in named:
        raise MoguError(f"--fail-under and --fail-over are for {OURS}: name it with --defenses")
    judged_by = _names(judges)
    asked = make_judges(judged_by, _endpoint("judge", judge_url, judge_model, judge_key))
    attacker = _endpoint("attacker", attacker_url, attacker_model, attacker_key)
    attacked = _attacked(live_set, data, live_limit, seed) if live else []
    sets, missing = _sets({"malicious": attacks, "benign": usability}, data, limit, seed)
    if not sets:
        raise MoguError(f"no prompt set could be read: {missing[0][1]}")
    model = opened()
    host = Host(model, output / "trained" / _trained_for(model), batch_size, seed)
    judged = "strongreject" in judged_by
    searches = [make_attack(each, host, attacker, judged=judged) for each in _names(live)] if live else []
    for attack in searches:
        effort = attack.estimate(attacked)
        tell(
            err,
            f"{attack.name}, for each of {len(named)} defenses at most: {effort.replies:,} replies, "
            f"{effort.passes:,} passes of the base, {effort.questions:,} questions to the attacker",
        )
    with StageBars(err) as bars:
        comparison = compare(
            host,
            named,
            sets,
            asked,
            max_new_tokens=max_new_tokens,
            folder=output,
            progress=bars,
            apart=[*judged_by, judge_url or "", judge_model],
            live=searches,
            attacked=attacked,
        )
    if not comparison.costs:
        raise MoguError(f"no defense could be run: {comparison.missing[0][2]}")
    comparison = replace(
        comparison,
        missing=[*comparison.missing, *((name, *each) for name in named for each in missing)],
        facts=_facts(folder, host, limit, max_new_tokens, seed),
    )
    write_report(comparison, output)
    tell(out, f"{len(comparison.rows)} replies of {len(comparison.costs)} defenses: {output / 'report.html'}")
    absent = {name: reason for name, _, reason in comparison.missing if name not in comparison.costs}
    for name, reason in absent.items():
        tell(err, f"{name} is missing: {reason}")
    for name, reason in missing:
        tell(err, f"{name} is missing: {reason}")
    errors = [row for row in comparison.rows if row.error]
    broken = breaches(comparison, lowest, highest)
    for line in broken:
        tell(err, line)
    if errors:
        tell(err, f"{len(errors)} replies are errors, the first: {errors[0].error}")
    if errors or broken or (absent and ALL not in asked_for):
        sys.exit(1)


def _capability(
    tasks: list[str],
    include_path: Path | None,
    opened: "Callable[[], MoguModel]",
    folder: Path,
    output: Path,
    limit: int,
    batch_size: int,
) -> None:
    """Let the base and MoGU do tasks of lm-eval, and write what they reach; names are checked first."""
    with err.status("Reading lm-eval's tasks"):
        try:
            from mogu.evaluation.capability import capability, find_tasks, write_capability
        except ModuleNotFoundError as error:
            raise MoguError(
                f"{error.name} is not installed; get it with: pip install 'mogu-llm[capability]'"
            ) from error
        manager = find_tasks(tasks, include_path)
    model = opened()
    results = capability(model, tasks, manager=manager, limit=limit, batch_size=batch_size)
    facts = _whose(folder, model) | {"rows of each task, at most": str(limit), "command": _command()}
    tell(out, write_capability(results, facts, output))


def _trained_for(model: "MoguModel") -> str:
    """Names what defenses train: for another base, template, precision or corpus it is of no use."""
    import hashlib
    from importlib.metadata import version

    from mogu.corpus import corpus_refusals

    config = model.config
    told = [config.base.fingerprint, config.chat_template, str(model.model.dtype), version("mogu-llm")]
    return hashlib.sha256(repr([*told, corpus_refusals()]).encode()).hexdigest()[:12]


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise MoguError("no name is given; write names with commas between, or all")
    return list(dict.fromkeys(names))


def _limits(given: list[str]) -> dict[str, float]:
    limits = {}
    for each in given:
        name, _, value = each.partition("=")
        try:
            limits[name] = float(value)
        except ValueError:
            limits[name] = nan
        if isnan(limits[name]):  # nothing is under or over it
            raise MoguError(f"{each!r} is no limit; write NAME=VALUE, such as refusal=0.95")
    return limits


def _endpoint(who: str, url: str | None, model: str, key: str) -> "EndpointOptions | None":
    from mogu.judges.endpoint import EndpointOptions

    if url is None:
        return None
    if not model:
        raise MoguError(f"--{who}-url needs --{who}-model, the model's name there")
    return EndpointOptions(url, model, key)


def _sets(
    given: "dict[Label, str]", data: Path | None, limit: int, seed: int
) -> "tuple[dict[str, Prompts], list[tuple[str, str]]]":
    """The sets that can be read, and why the others cannot."""
    from mogu.evaluation.sets import SETS, parse
    from mogu.evaluation.tasks import Prompts

    found: dict[str, Prompts] = {}
    missing = []
    for label, text in given.items():
        names = [n for n, each in SETS.items() if each.label == label] if text == ALL else _names(text)
        for spec in names:
            prompts, location = parse(spec)
            if prompts.label != label:
                option = "--attacks" if prompts.label == "malicious" else "--usability"
                raise MoguError(f"{prompts.name} is a {prompts.label} set: name it with {option}")
            place = location or (_beside(data, prompts.name) if data else None)
            try:
                found[prompts.name] = Prompts(label, prompts.load(place, limit, seed))
            except MoguError as error:
                if location:  # the user said that it is there
                    raise
                missing.append((prompts.name, str(error)))
    return found, missing


def _attacked(spec: str, data: Path | None, limit: int, seed: int) -> "Sequence[Sample]":
    """The requests of live attacks."""
    sets, missing = _sets({"malicious": spec}, data, limit, seed)
    if missing or len(sets) != 1:
        raise MoguError(missing[0][1] if missing else f"--live-set takes one set, not {', '.join(sets)}")
    (requests,) = sets.values()
    return requests.samples


def _beside(data: Path, name: str) -> str | None:
    """The file or folder of a published set, by its name or what stands before the first underscore of it."""
    places = [
        data / f"{stem}{suffix}" for stem in (name, name.partition("_")[0]) for suffix in (*SUFFIXES, "")
    ]
    return next((str(place) for place in places if place.exists()), None)


def _facts(folder: Path, host: "Host", limit: int, max_new_tokens: int, seed: int) -> dict[str, str]:
    import platform
    from datetime import UTC, datetime
    from importlib.metadata import version

    import torch

    return {
        **_whose(folder, host.mogu),
        "prompts of each set, at most": str(limit),
        "new tokens, at most": str(max_new_tokens),
        "decoding": "greedy",
        "seed": str(seed),
        "device": str(host.mogu.model.device),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "versions": ", ".join(
            f"{name} {version(name)}" for name in ("mogu-llm", "torch", "transformers", "peft", "inspect-ai")
        ),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "command": _command(),
    }


def _whose(folder: Path, model: "MoguModel") -> dict[str, str]:
    config = model.config
    return {"adapter": f"{folder} ({config.sha256[:12]})", "base": Path(config.base.name).name}


def _command() -> str:
    return shlex.join(["mogu", *sys.argv[1:]])
