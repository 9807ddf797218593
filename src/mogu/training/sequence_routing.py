"""Sequence routing: the safe variant, trained where it acts, and the gate that says when."""

import logging
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import takewhile
from typing import Any, NamedTuple

import numpy as np

from mogu.adapter.attach import Adapter, new_gate
from mogu.adapter.config import GateConfig, PartName
from mogu.corpus import corpus_refusals
from mogu.data.pairs import SLOT, usual_refusals
from mogu.errors import MoguError
from mogu.models import LoadedModel
from mogu.training.gate_calibration import (
    apply_calibration,
    budgets_of,
    calibrate_gate,
    calibrate_replies,
    figures_by_kind,
    row_group,
)
from mogu.training.gate_fit import Evidence, evidence_of, fit_gate, left_out, running_evidence
from mogu.training.gate_reading import choose_layers, read_conversations
from mogu.training.over_refusal import base_refusals, glad_examples, needs_usable
from mogu.training.preparation import (
    BEGUN_TOKENS,
    BegunReply,
    Prompt,
    begun_replies,
    first_of_each_label,
    record_refusals,
)
from mogu.training.recording import Recorder
from mogu.training.run import Run
from mogu.training.settings import TrainingSettings
from mogu.training.stage import SafeStage, UsableStage, gradient_checkpointing
from mogu.turns import TurnMarks

log = logging.getLogger(__name__)

PARAGRAPH = "\n\n"
"""Between a reply that had begun and the refusal that follows it."""

COMMON_START = 0.1
"""Share of a language's refusals that must begin with a token for a switch to raise it."""

LONGEST_BEGINNING = 8
"""Tokens that a refusal behind a reply that had begun is begun with, at most."""

LONGEST_PROMPT = 256
"""Tokens of a prompt that the safe variant learns from: what it says hangs little on a document before it."""

SAFE_VALIDATION = 16
"""Validation requests of each label on which the safe variant's checkpoint is chosen."""

SEPARATED = 64
"""Validation requests of each label on which layers are chosen."""

FOLDS = 3
"""Gates that are fitted for calibration, each without a part of the rows."""


class SequenceRouting(NamedTuple):
    """What training gives beside the adapter's tensors.

    Attributes:
        parts: what of the adapter was trained.
        config: how the gate decides.
        metrics: of every stage by its name.
    """

    parts: list[PartName]
    config: GateConfig
    metrics: dict[str, Any]


def train_sequence_routing(
    loaded: LoadedModel,
    adapter: Adapter,
    recorder: Recorder,
    prompts: Sequence[Prompt],
    count: int,
    settings: TrainingSettings,
    run: Run,
) -> SequenceRouting:
    """Train the safe variant in place, the usable one where it is needed, and give the adapter its gate.

    Args:
        loaded: the base.
        adapter: attached to it.
        recorder: of the base.
        prompts: of training and validation, a mixture of all kinds.
        count: how many of them, from the first on, are for training.
        settings: how to train.
        run: the run.

    Raises:
        MoguError: if refusals have no common beginning under the base's tokenizer.
    """
    starts = refusal_starts(loaded)
    training, validation = list(prompts[:count]), list(prompts[count:])
    marks = TurnMarks.of(loaded.tokenizer)
    rng = random.Random(settings.seed)
    break_ids = loaded.tokenizer(PARAGRAPH, add_special_tokens=False)["input_ids"]
    learned = _some_of_each_label(training, settings.variant_requests)
    watched = _some_of_each_label(validation, SAFE_VALIDATION)
    with run.stage("base replies") as step:
        begun = begun_replies(recorder, loaded.tokenizer, [*learned, *watched], settings, run.work, step)
    parts: list[PartName] = ["safe"]
    barred: set[int] = set()
    metrics: dict[str, Any] = {}
    with gradient_checkpointing(adapter) if settings.gradient_checkpointing else nullcontext():
        with run.stage("record activations") as step:
            examples = record_refusals(
                recorder, loaded.tokenizer, [*learned, *watched], begun, break_ids, settings, step
            )
        rows = list(range(len(examples)))
        safe = SafeStage(adapter, recorder, examples, settings)
        metrics["safe"] = run.train_variant("safe", safe, adapter, rows[: len(learned)], rows[len(learned) :])
        refused = base_refusals(loaded.tokenizer, [*learned, *watched], begun)
        metrics["base_refuses_benign"] = refused and refused._asdict()
        if needs_usable(refused, settings):
            benign = [prompt for prompt in [*learned, *watched] if prompt.request.label == "benign"]
            split = sum(prompt.request.label == "benign" for prompt in learned)
            with run.stage("glad replies") as step:
                glad = glad_examples(recorder, loaded.tokenizer, benign, settings, run.work, step)
            usable = UsableStage(adapter, recorder, glad, settings)
            rows = list(range(len(glad)))
            metrics["usable"] = run.train_variant("usable", usable, adapter, rows[:split], rows[split:])
            metrics["usable"]["in_adapter"] = metrics["usable"]["best_step"] > 0
            if metrics["usable"]["in_adapter"]:
                parts.append("usable")
                barred = set(starts) - {example.replies[0][0] for example in glad}
            else:
                log.warning("the adapter goes without the usable variant: what is not refused is the base's")
    opened = [_opened(prompt, reply, rng) for prompt, reply in zip([*learned, *watched], begun, strict=True)]
    metrics["gate"] = _train_gate(
        adapter, recorder, marks, [*training, *validation, *filter(None, opened)], validation, settings, run
    )
    assert adapter.gate is not None
    reply = metrics["gate"].get("reply")
    config = GateConfig(
        layers=list(adapter.gate.layers),
        threshold=metrics["gate"]["threshold"],
        reply_threshold=reply and reply["threshold"],
        marks=marks,
        break_ids=break_ids,
        refusal_starts=starts,
        refusal_beginnings=refusal_beginnings(loaded, starts),
        barred_starts=sorted(barred),
    )
    return SequenceRouting([*parts, "gate"], config, metrics)


def refusal_starts(loaded: LoadedModel) -> list[int]:
    """The token ids that the corpus's refusals commonly begin with, in all its languages.

    Of those in Latin letters only whole words count: a piece of a word may begin anything in another language.

    Raises:
        MoguError: if there is none.
    """
    starts: set[int] = set()
    for texts in corpus_refusals().values():
        first: Counter[int] = Counter()
        for text in texts:
            encoding = loaded.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            end = encoding["offset_mapping"][0][1]
            if not text[:end].isascii() or text[end : end + 1] == " ":
                first[encoding["input_ids"][0]] += 1
        starts |= {token for token, times in first.items() if times >= COMMON_START * len(texts)}
    if not starts:
        raise MoguError(
            "under this tokenizer refusals do not commonly begin with any token that is a whole word, so no gate could "
            "begin one; try routing by token: preset token"
        )
    return sorted(starts)


def refusal_beginnings(loaded: LoadedModel, starts: Sequence[int]) -> list[list[int]]:
    """What the usual refusals of a language begin with, as far as they agree, for languages that begin unlike.

    Args:
        loaded: encodes the corpus's refusals.
        starts: first tokens of which a beginning is wanted.

    Returns:
        Token ids, from two to `LONGEST_BEGINNING` of each, no first one twice.
    """
    beginnings: dict[int, list[int]] = {}
    for texts in usual_refusals().values():
        for text in texts:
            worded = SLOT.split(text)[0].rstrip()  # up to where it is completed
            written = loaded.tokenizer(worded, add_special_tokens=False)["input_ids"][:LONGEST_BEGINNING]
            known = beginnings.get(written[0], written)
            beginnings[written[0]] = [
                one
                for one, _ in takewhile(lambda pair: pair[0] == pair[1], zip(known, written, strict=False))
            ]
    return [ids for first, ids in sorted(beginnings.items()) if first in starts and len(ids) > 1]


def _opened(prompt: Prompt, reply: BegunReply, rng: random.Random) -> Prompt | None:
    """The prompt with the beginning of its reply, which the gate must see through whoever wrote it.

    A benign reply is read to where it ends: it says how often the gate is wrong by then.
    """
    if not reply.ids:
        return None
    malicious = prompt.request.label == "malicious"
    length = rng.randint(reply.begun, len(reply.ids)) if malicious else len(reply.ids)
    return Prompt(prompt.request, [*prompt.ids, *reply.ids[:length]], length)


def _some_of_each_label(prompts: list[Prompt], most: int | None) -> list[Prompt]:
    """The first ones of each label that are not long; the requests of a label are in random order."""
    short = [prompt for prompt in prompts if len(prompt.ids) <= LONGEST_PROMPT]
    return first_of_each_label(short, lambda prompt: prompt.request.label == "malicious", most)


def _train_gate(
    adapter: Adapter,
    recorder: Recorder,
    marks: TurnMarks,
    rows: list[Prompt],
    validation: list[Prompt],
    settings: TrainingSettings,
    run: Run,
) -> dict[str, Any]:
    """Give the adapter a calibrated gate that learned from all rows; its metrics, the threshold among them."""
    device = recorder.model.device
    if run.finished("gate"):
        facts = run.facts("gate")
        run.read("gate", new_gate(adapter, facts["layers"]))
        return facts["metrics"]
    with run.stage("choose layers") as step:
        direct = [prompt for prompt in validation if not prompt.request.group]
        direct = first_of_each_label(direct, lambda prompt: prompt.request.label == "malicious", SEPARATED)
        layers, separable = choose_layers(recorder, marks, direct, settings.seed, step)
    with run.stage("read conversations") as step:
        readings = read_conversations(recorder, marks, rows, layers, step)
    requests = [prompt.request for prompt in rows]
    groups, budgets = [row_group(request) for request in requests], budgets_of(settings)
    evidence = Evidence(np.zeros(len(readings)), np.zeros(len(readings)))
    running: dict[int, Evidence] = {}  # of the benign rows whose replies are read
    with run.stage("calibrate") as step:
        for unknowing, held in left_out(readings, layers, FOLDS, settings.seed, device, step):
            found = evidence_of(unknowing, [readings[row] for row in held])
            evidence.logit[held], evidence.frame[held] = found
            if settings.read_reply_tokens is not None:
                running |= {
                    row: running_evidence(unknowing, readings[row])
                    for row in held
                    if readings[row].reply > BEGUN_TOKENS["opener"][1] and not readings[row].malicious
                }
        calibration = calibrate_gate(evidence, groups, [reading.attack for reading in readings], budgets)
    figures = calibration.figures | figures_by_kind(
        calibration.probability(evidence) >= calibration.threshold, readings, requests
    )
    if running:
        figures["reply"] = calibrate_replies(
            [calibration.probability(row) for row in running.values()],
            [groups[row] for row in running],
            budgets,
            calibration.threshold,
        )
    elif settings.read_reply_tokens is not None:
        log.warning(
            "the gate reads prompts only: the base has replied to no benign request with more than %d tokens",
            BEGUN_TOKENS["opener"][1],
        )
    with run.stage("fit gate") as step:
        gate = fit_gate(readings, layers, settings.seed, device, step)
        apply_calibration(gate, calibration)
    adapter.gate = gate
    metrics = {"separability": separable, **figures}
    run.keep("gate", gate, {"layers": layers, "metrics": metrics})
    return metrics
