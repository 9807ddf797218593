"""Token routing (the paper's): both variants, then the routers that weigh them for every token."""

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from mogu.adapter.attach import Adapter
from mogu.models import LoadedModel
from mogu.training.calibration import calibrate
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
    routers = RouterStage(adapter, recorder, examples, settings)
    metrics: dict[str, Any] = {}
    if settings.router_start == "fit" and not run.finished("routers"):
        with run.stage("fit routers") as step:
            fit_routers(adapter, routers, training, step)
    variants = {"safe": SafeStage, "usable": UsableStage}
    for name, kind in variants.items():
        stage = kind(adapter, recorder, examples, settings)
        metrics[name] = run.train(
            name,
            stage,
            learned,
            validation,
            settings.variant_epochs,
            settings.variant_learning_rate or rate_at_width(adapter),
        )
    metrics["routers"] = run.train(
        "routers",
        routers,
        training,
        validation,
        settings.router_epochs,
        settings.router_learning_rate or rate_at_width(adapter),
    )
    if settings.benign_refusal_budget is None:
        return metrics
    with run.stage("calibrate") as step:
        best, *others = calibrate(adapter, routers, validation, settings.benign_refusal_budget, step)
    metrics["operating_point"] = best._asdict()
    metrics["operating_points"] = [list(point) for point in sorted([best, *others])]
    if best.newly_refused > settings.benign_refusal_budget:
        log.warning(
            "no router offset keeps newly refused benign requests within %.3f; the best gives %.3f",
            settings.benign_refusal_budget,
            best.newly_refused,
        )
    return metrics
