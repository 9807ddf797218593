"""Token routing (the paper's): both variants, then the routers that weigh them for every token."""

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

from torch import Tensor

from mogu.adapter.attach import Adapter
from mogu.models import LoadedModel
from mogu.training.calibration import OperatingPoint, calibrate, choose_weight
from mogu.training.loop import rate_at_width
from mogu.training.preparation import (
    REPLY_BATCH,
    Prompt,
    base_replies,
    first_of_each_label,
    record_examples,
)
from mogu.training.recording import Recorder
from mogu.training.router_fit import fit_routers
from mogu.training.run import Run
from mogu.training.settings import TrainingSettings
from mogu.training.stage import (
    Example,
    RouterStage,
    SafeStage,
    UsableStage,
    gradient_checkpointing,
)

log = logging.getLogger(__name__)

ROUTER_LOSS_WEIGHTS = (1.0, 2.0, 4.0)
"""Candidates of lambda, the weight of the router loss, where the settings leave it to validation."""


def train_token_routing(
    loaded: LoadedModel,
    adapter: Adapter,
    recorder: Recorder,
    prompts: Sequence[Prompt],
    count: int,
    settings: TrainingSettings,
    run: Run,
) -> dict[str, Any]:
    """Train variants and routers in place.

    Args:
        loaded: the base.
        adapter: attached to it.
        recorder: of the base.
        prompts: of training and validation.
        count: how many of them, from the first on, are for training.
        settings: how to train.
        run: the run.

    Returns:
        The metrics of every stage by its name.
    """
    benign = [prompt for prompt in prompts if prompt.request.label == "benign"]
    with run.stage("base replies") as step:
        kept = run.work / "replies.jsonl"
        glad = base_replies(
            recorder, loaded.tokenizer, benign, settings.reply_tokens, REPLY_BATCH, kept, step
        )
    with gradient_checkpointing(adapter) if settings.gradient_checkpointing else nullcontext():
        with run.stage("record activations") as step:
            examples = record_examples(recorder, loaded.tokenizer, prompts, glad, settings, step)
        return _train_stages(adapter, recorder, examples, count, settings, run)


def _train_stages(
    adapter: Adapter,
    recorder: Recorder,
    examples: list[Example],
    count: int,
    settings: TrainingSettings,
    run: Run,
) -> dict[str, Any]:
    """Train the parts one after the other on the first ``count`` examples; the others are for validation."""
    training, validation = list(range(count)), list(range(count, len(examples)))
    learned = first_of_each_label(training, lambda row: examples[row].malicious, settings.variant_requests)
    candidates = _candidates(adapter, recorder, examples, settings)
    if settings.router_start == "fit" and not all(run.finished(each.name) for each in candidates):
        with run.stage("fit routers") as step:
            fit_routers(adapter, candidates[0].stage, training, step)
    variants = {"safe": SafeStage, "usable": UsableStage}
    metrics: dict[str, Any] = {}
    for name, kind in variants.items():
        stage = kind(adapter, recorder, examples, settings)
        metrics[name] = run.train_variant(name, stage, adapter, learned, validation)
    # The stages of all candidates hold the same routers.
    start = candidates[0].stage.copied_state()
    trained = []
    for candidate in candidates:
        candidate.stage.load_state_dict(start)
        trained.append(_train_routers(adapter, candidate, training, validation, run))
    best = _best(trained, settings)
    best.candidate.stage.load_state_dict(best.state)
    return metrics | _router_metrics(best, trained, settings)


class _Candidate(NamedTuple):
    """What trains the routers with one lambda.

    Attributes:
        weight: lambda.
        name: of the stage that trains them.
        calibration: name of the stage that calibrates them.
        stage: whose settings have this lambda.
    """

    weight: float
    name: str
    calibration: str
    stage: RouterStage


class _Trained(NamedTuple):
    """Routers that were trained with one lambda.

    Attributes:
        candidate: how.
        state: their tensors, at the operating point.
        metrics: of their training.
        points: all operating points, theirs first; none without a budget.
    """

    candidate: _Candidate
    state: dict[str, Tensor]
    metrics: dict[str, Any]
    points: list[OperatingPoint]


def _candidates(
    adapter: Adapter, recorder: Recorder, examples: list[Example], settings: TrainingSettings
) -> list[_Candidate]:
    """The lambda of the settings alone, or each of the table."""
    given = settings.router_loss_weight
    candidates = []
    for weight in ROUTER_LOSS_WEIGHTS if given is None else (given,):
        suffix = f"-{weight:g}" if given is None else ""
        own = settings.model_copy(update={"router_loss_weight": weight})
        stage = RouterStage(adapter, recorder, examples, own)
        candidates.append(_Candidate(weight, f"routers{suffix}", f"calibrate{suffix}", stage))
    return candidates


def _train_routers(
    adapter: Adapter, candidate: _Candidate, training: list[int], validation: list[int], run: Run
) -> _Trained:
    """Train the routers from where they are, and shift them to their operating point where there is a budget."""
    stage, settings = candidate.stage, candidate.stage.settings
    metrics = run.train(
        candidate.name,
        stage,
        training,
        validation,
        settings.router_epochs,
        settings.router_learning_rate or rate_at_width(adapter),
    )
    points: list[OperatingPoint] = []
    if settings.benign_refusal_budget is not None:
        with run.stage(candidate.calibration) as step:
            points = calibrate(adapter, stage, validation, settings.benign_refusal_budget, step)
    return _Trained(candidate, stage.copied_state(), metrics, points)


def _best(trained: Sequence[_Trained], settings: TrainingSettings) -> _Trained:
    if settings.router_loss_weight is not None:
        (only,) = trained
        return only
    assert settings.benign_refusal_budget is not None  # the settings see to it
    by_weight = {each.candidate.weight: each for each in trained}
    points = {weight: each.points[0] for weight, each in by_weight.items()}
    return by_weight[choose_weight(points, settings.benign_refusal_budget)]


def _router_metrics(
    best: _Trained, trained: Sequence[_Trained], settings: TrainingSettings
) -> dict[str, Any]:
    """What is told of the routers that were kept and, where lambda was chosen, of those that were not."""
    metrics: dict[str, Any] = {"routers": best.metrics}
    budget = settings.benign_refusal_budget
    if budget is None:
        return metrics
    if settings.router_loss_weight is None:
        metrics["router_loss_weight"] = best.candidate.weight
        metrics["router_loss_weights"] = {
            f"{each.candidate.weight:g}": each.points[0]._asdict() for each in trained
        }
    point = best.points[0]
    metrics["operating_point"] = point._asdict()
    metrics["operating_points"] = [list(each) for each in sorted(best.points)]
    if point.newly_refused > budget:
        log.warning(
            "no router offset keeps newly refused benign requests within %.3f; the best gives %.3f",
            budget,
            point.newly_refused,
        )
    return metrics
