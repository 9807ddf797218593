"""Runs a comparison: every defense on one loaded base against every prompt set, by Inspect, and resumed by it.

The logs stay in the output's folder, for `inspect view` and for a run that was killed; what defenses train stays there
too.
"""

import asyncio
import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from inspect_ai import eval_set
from inspect_ai.log import read_eval_log
from inspect_ai.model import GenerateConfig, Model

from mogu.defenses import make_defense
from mogu.defenses.base import Defense, Host
from mogu.errors import MoguError
from mogu.evaluation.attacks import Attack, as_prompts
from mogu.evaluation.before_after import first_token_divergence
from mogu.evaluation.memory import peak_memory, reset_peak_memory
from mogu.evaluation.provider import DefendedModel
from mogu.evaluation.rows import Comparison, Cost, Row
from mogu.evaluation.sets import Sample
from mogu.evaluation.tasks import Prompts, comparison_task, judging, rows_of
from mogu.files import write_atomic
from mogu.judges.base import Judge

StepProgress = Callable[[str, int, int], None]
"""Hears of a step by its name, what of it is done, and what there is in all."""

MINE = "mogu"
"""The defense whose distributions are compared with the base's: those of the adapter under test."""


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
        judges: of the replies; they are closed then.
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
    rows: list[Row] = []
    costs: dict[str, Cost] = {}
    papers: dict[str, str] = {}
    missing: list[tuple[str, str, str]] = []
    with judging(judges) as loop:
        run = _Run(host, judges, loop, max_new_tokens, folder, apart, progress)
        for spec in defenses:
            reset_peak_memory()
            held = peak_memory()  # without the defense
            try:
                defense = make_defense(spec, host)
                training = _prepare(defense, spec, host, progress)
                with defense:
                    own, memory = run.answers(spec, defense, sets, held)
                    found, failed = run.under_attack(spec, defense, live, attacked, held)
            except MoguError as error:
                names = [*sets, *map(_live_set, live)]
                missing += [(spec, name, str(error)) for name in names]
                continue
            rows += [*own, *found]
            missing += failed
            papers[spec] = defense.paper
            costs[spec] = Cost(training, sum(r.seconds for r in own), sum(r.tokens for r in own), memory)
    return Comparison(rows, costs, papers, _divergence(host, defenses, sets, progress), missing, {})


@dataclass(frozen=True)
class _Run:
    """What all defenses of a comparison are asked with; attributes as `compare` takes them."""

    host: Host
    judges: Sequence[Judge]
    loop: asyncio.AbstractEventLoop
    max_new_tokens: int
    folder: Path
    apart: Sequence[str]
    progress: StepProgress

    def answers(
        self, spec: str, defense: Defense, sets: Mapping[str, Prompts], held: float
    ) -> tuple[list[Row], float | None]:
        """The rows of one defense, and how many MiB more than `held` the process held meanwhile at most."""
        total = sum(len(prompts.samples) for prompts in sets.values())
        done = 0

        def heard(replies: int) -> None:
            nonlocal done
            done += replies
            self.progress(f"{spec}: replies", done, total)

        told = [defense.identity, *(judge.name for judge in self.judges)]
        logs = self.folder / "logs" / self._digest(sets, *told)
        kept = logs / f"{_file_name(spec)}.memory.json"
        reset_peak_memory()
        model = Model(DefendedModel(_file_name(spec), defense=defense, heard=heard), GenerateConfig())
        try:
            _, found = eval_set(
                comparison_task(spec, sets, self.judges, self.max_new_tokens, self.loop),
                model=model,
                log_dir=str(logs / _file_name(spec)),
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
        log = read_eval_log(found[0].location)
        rows = rows_of(log)
        if len(rows) < total:
            reason = log.error.message if log.error else log.status
            raise MoguError(f"Inspect could not finish {spec}: {reason}")
        if done and not kept.exists():
            write_atomic(kept, json.dumps(round(peak_memory() - held, 1)))
        return rows, json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else None

    def under_attack(
        self,
        spec: str,
        defense: Defense,
        attacks: Sequence[Attack],
        requests: Sequence[Sample],
        held: float,
    ) -> tuple[list[Row], list[tuple[str, str, str]]]:
        """The rows of what each attack finds against a defense, and why some could not be made."""
        rows: list[Row] = []
        failed = []
        for attack in attacks:
            try:
                found = self._found(spec, defense, attack, requests)
                rows += self.answers(spec, defense, {_live_set(attack): found}, held)[0]
            except MoguError as error:
                failed.append((spec, _live_set(attack), str(error)))
        return rows, failed

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

    def _digest(self, sets: Mapping[str, Prompts], *told: str) -> str:
        """Tells runs apart whose replies or verdicts may differ."""
        mogu = self.host.mogu
        prompts = {name: [list(sample) for sample in prompts.samples] for name, prompts in sets.items()}
        everything = [mogu.config.model_dump(mode="json"), str(mogu.model.dtype), self.host.seed]
        everything += [prompts, self.max_new_tokens, *self.apart, *told]
        return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:12]


def _live_set(attack: Attack) -> str:
    return f"live_{attack.name}"


def _prepare(defense: Defense, spec: str, host: Host, progress: StepProgress) -> float | None:
    """Seconds of training, of this run or the one that trained it; None if nothing was trained."""
    start = time.perf_counter()
    defense.prepare(lambda done, total: progress(f"{spec}: training", done, total))
    if not defense.trained:
        return None
    kept = host.work / f"{_file_name(spec)}-{host.seed}.seconds.json"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(kept, json.dumps(round(time.perf_counter() - start, 1)))
    return float(json.loads(kept.read_text(encoding="utf-8")))


def _divergence(
    host: Host, defenses: Sequence[str], sets: Mapping[str, Prompts], progress: StepProgress
) -> dict[str, dict[str, float]]:
    """Of the adapter under test, by benign set, the mean KL(base || MoGU) of the reply's first token."""
    if MINE not in defenses:
        return {}
    found: dict[str, float] = {}
    benign = {name: prompts for name, prompts in sets.items() if prompts.label == "benign"}
    for done, (name, prompts) in enumerate(benign.items(), 1):
        talks = [sample.talk.messages for sample in prompts.samples if not sample.talk.opener]
        if talks:
            values = first_token_divergence(host.mogu, talks, host.batch_size)
            found[name] = sum(values) / len(values)
        progress("first tokens", done, len(benign))
    return {MINE: found}


def _file_name(spec: str) -> str:
    name = re.sub(r"[^\w.-]+", "_", spec)
    return name if name == spec else f"{name}-{hashlib.sha256(spec.encode()).hexdigest()[:6]}"
