"""Runs a comparison: every defense on one loaded base against every prompt set, by Inspect, and resumed by it.

First all defenses answer, then judges judge, so that nothing works beside a reply that is timed. The logs stay in the
output's folder, for `inspect view` and for a run that was killed; what defenses train stays there too.
"""

import asyncio
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from inspect_ai import eval_set
from inspect_ai.log import read_eval_log
from inspect_ai.model import GenerateConfig, Model

from mogu.defenses import make_defense
from mogu.defenses.base import Defense, Host, Talk
from mogu.errors import MoguError
from mogu.evaluation.attacks import Attack, as_prompts
from mogu.evaluation.elapsed import Elapsed
from mogu.evaluation.first_tokens import FirstTokens
from mogu.evaluation.memory import peak_memory, release_memory, reset_peak_memory
from mogu.evaluation.provider import DefendedModel
from mogu.evaluation.rows import Comparison, Cost, Row
from mogu.evaluation.sets import Sample
from mogu.evaluation.tasks import Prompts, comparison_task, rows_of
from mogu.evaluation.verdicts import judge_logs
from mogu.files import write_atomic
from mogu.generation.attention import grouped
from mogu.judges.base import Judge

StepProgress = Callable[[str, int, int], None]
"""Hears of a step by its name, what of it is done, and what there is in all."""


def compare(
    host: Host,
    defenses: Sequence[str],
    sets: Mapping[str, Prompts],
    judges: Sequence[Judge],
    *,
    max_new_tokens: int,
    folder: Path,
    progress: StepProgress = lambda step, done, total: None,
    apart: Sequence[str] = (),
    live: Sequence[Attack] = (),
    attacked: Sequence[Sample] = (),
) -> Comparison:
    """Let each defense answer all prompts.

    Args:
        host: the base with the adapter under test.
        defenses: as `make_defense` takes them.
        sets: by name.
        judges: of the replies; they are closed at the end.
        max_new_tokens: length of a reply at most.
        folder: takes the logs; a run that was killed goes on from them, and asks what were errors again.
        progress: hears of training and replies.
        apart: what else tells this run's replies and verdicts from those of others, such as the model that judges ask.
        live: what attacks each defense itself; what it finds becomes the set ``live_`` and its name.
        attacked: the malicious requests that it attacks with; not empty if there are attacks.

    Returns:
        Rows and costs of all defenses that could be made; why others could not stands in ``missing``. A prompt that
        could not be answered or judged has a row that says so.
    """
    run = _Run(host, judges, sets, FirstTokens(host, _benign(sets)), max_new_tokens, folder, apart, progress)
    asked: dict[str, _Asked] = {}
    missing: list[tuple[str, str, str]] = []
    with grouped(host.mogu.model):
        for spec in defenses:
            try:
                asked[spec] = run.ask(spec, live, attacked)
            except MoguError as error:
                names = [*sets, *map(_live_set, live)]
                missing += [(spec, name, str(error)) for name in names]
    asyncio.run(
        judge_logs([(spec, log) for spec, each in asked.items() for log in each.logs], judges, progress)
    )
    rows: list[Row] = []
    costs: dict[str, Cost] = {}
    for spec, each in asked.items():
        own, *found = (rows_of(read_eval_log(str(log))) for log in each.logs)
        rows += itertools.chain(own, *found)
        missing += each.missing
        costs[spec] = Cost(
            each.training, sum(r.seconds for r in own), sum(r.tokens for r in own), each.memory
        )
    return Comparison(
        rows,
        costs,
        papers={spec: each.paper for spec, each in asked.items()},
        divergence={spec: each.divergence for spec, each in asked.items()},
        missing=missing,
        facts={},
    )


class _Asked(NamedTuple):
    """What came of asking one defense.

    Attributes:
        paper: where it was described.
        training: seconds; None if nothing is trained.
        memory: peak MiB less that before; None if unknown.
        divergence: as `Comparison` has it.
        logs: Inspect's files with the replies: to all sets, then to what each attack found.
        missing: attacks that could not be made, as `Comparison` has them.
    """

    paper: str
    training: float | None
    memory: float | None
    divergence: dict[str, float] | str
    logs: list[Path]
    missing: list[tuple[str, str, str]]


@dataclass(frozen=True)
class _Run:
    """What all defenses of a comparison are asked with; attributes as `compare` takes them."""

    host: Host
    judges: Sequence[Judge]
    sets: Mapping[str, Prompts]
    first_tokens: FirstTokens
    max_new_tokens: int
    folder: Path
    apart: Sequence[str]
    progress: StepProgress

    def ask(self, spec: str, attacks: Sequence[Attack], requests: Sequence[Sample]) -> _Asked:
        """Make a defense, let it answer, attack it, and leave it.

        Raises:
            MoguError: if it cannot be made, or Inspect does not get through.
        """
        release_memory()
        reset_peak_memory()
        held = peak_memory()  # without the defense
        defense = make_defense(spec, self.host)
        training = _prepare(defense, spec, self.host, self.progress)
        memory, moved = (
            self._logs(defense, self.sets) / f"{_file_name(spec)}.{what}.json"
            for what in ("memory", "first_tokens")
        )
        if not moved.exists():
            _ = self.first_tokens.of_base  # before the defense is in the base
        release_memory()  # of training
        with defense:
            reset_peak_memory()
            log, any_asked = self.answers(spec, defense, self.sets)
            if any_asked and not memory.exists():
                write_atomic(memory, json.dumps(round(peak_memory() - held, 1)))
            if not moved.exists():
                write_atomic(moved, json.dumps(self.first_tokens.divergence(defense)))
            found, missing = self.under_attack(spec, defense, attacks, requests)
        return _Asked(
            paper=defense.paper,
            training=training,
            memory=json.loads(memory.read_text(encoding="utf-8")) if memory.exists() else None,
            divergence=json.loads(moved.read_text(encoding="utf-8")),
            logs=[log, *found],
            missing=missing,
        )

    def answers(self, spec: str, defense: Defense, sets: Mapping[str, Prompts]) -> tuple[Path, bool]:
        """The log with the replies of one defense, and whether it was asked for any of them."""
        total = sum(len(prompts.samples) for prompts in sets.values())
        done = 0

        def heard(replies: int) -> None:
            nonlocal done
            done += replies
            self.progress(f"{spec}: replies", done, total)

        folder = self._logs(defense, sets) / _file_name(spec)
        model = Model(DefendedModel(_file_name(spec), defense=defense, heard=heard), GenerateConfig())
        try:
            _, (found, *_) = eval_set(
                comparison_task(spec, sets, self.max_new_tokens),
                model=model,
                log_dir=str(folder),
                retry_attempts=1,
                retry_immediate=False,
                display="none",
                log_level="warning",
                log_buffer=self.host.batch_size,
                # Given, it is what waits at once; else Inspect looks for a number by itself and begins with 20.
                max_connections=model.api.max_connections(),
            )
        finally:
            model.api.close()
        log = read_eval_log(found.location)
        if len(log.samples or []) < total:
            reason = log.error.message if log.error else log.status
            raise MoguError(f"Inspect could not finish {spec}: {reason}")
        return folder / Path(log.location).name, done > 0  # of a log that goes on, the location is an address

    def under_attack(
        self,
        spec: str,
        defense: Defense,
        attacks: Sequence[Attack],
        requests: Sequence[Sample],
    ) -> tuple[list[Path], list[tuple[str, str, str]]]:
        """The logs of what each attack finds against a defense, and why some could not be made."""
        logs: list[Path] = []
        failed = []
        for attack in attacks:
            try:
                found = self._found(spec, defense, attack, requests)
                logs.append(self.answers(spec, defense, {_live_set(attack): found})[0])
            except MoguError as error:
                failed.append((spec, _live_set(attack), str(error)))
        return logs, failed

    def _found(self, spec: str, defense: Defense, attack: Attack, requests: Sequence[Sample]) -> Prompts:
        """What an attack finds against one defense, in this run or one that was killed."""
        settings = json.dumps(attack.settings, sort_keys=True)
        digest = self._digest({"": Prompts("malicious", requests)}, defense.identity, settings)
        found = attack.search(
            defense,
            requests,
            self.max_new_tokens,
            self.folder / "live" / digest / f"{_file_name(spec)}.jsonl",
            lambda done, total: self.progress(f"{spec}: {attack.name}", done, total),
        )
        return as_prompts(found)

    def _logs(self, defense: Defense, sets: Mapping[str, Prompts]) -> Path:
        """The folder of these prompts' logs, and of what stands beside them."""
        told = [defense.identity, *(judge.name for judge in self.judges)]
        return self.folder / "logs" / self._digest(sets, *told)

    def _digest(self, sets: Mapping[str, Prompts], *told: str) -> str:
        """Tells runs apart whose replies or verdicts may differ."""
        mogu = self.host.mogu
        prompts = {name: [list(sample) for sample in prompts.samples] for name, prompts in sets.items()}
        everything = [mogu.config.model_dump(mode="json"), str(mogu.model.dtype), self.host.seed]
        everything += [prompts, self.max_new_tokens, *self.apart, *told]
        return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:12]


def _benign(sets: Mapping[str, Prompts]) -> dict[str, list[Talk]]:
    """By benign set the talks whose reply the caller has not begun."""
    talks = {
        name: [sample.talk for sample in prompts.samples if not sample.talk.opener]
        for name, prompts in sets.items()
        if prompts.label == "benign"
    }
    return {name: each for name, each in talks.items() if each}


def _live_set(attack: Attack) -> str:
    return f"live_{attack.name}"


def _prepare(defense: Defense, spec: str, host: Host, progress: StepProgress) -> float | None:
    """Seconds of training, in this run and in those before; None if nothing is trained."""
    elapsed = Elapsed(host.work / f"{_file_name(spec)}-{host.seed}.elapsed.json")

    def heard(done: int, total: int) -> None:
        if defense.trained:
            elapsed.keep()
        progress(f"{spec}: training", done, total)

    defense.prepare(heard)
    if not defense.trained:
        return None
    elapsed.keep(whole=True)
    return elapsed.seconds


def _file_name(spec: str) -> str:
    name = re.sub(r"[^\w.-]+", "_", spec)
    return name if name == spec else f"{name}-{hashlib.sha256(spec.encode()).hexdigest()[:6]}"
