"""The whole of training, from a model's name to the adapter folder; every stage resumes where it was killed."""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from mogu.adapter.attach import Adapter, attach, upper_layers
from mogu.adapter.config import AdapterConfig, package_versions
from mogu.adapter.folder import check_target, save_adapter
from mogu.adapter.router import Router
from mogu.corpus import corpus_requests
from mogu.data.pairs import balanced, wrap_share
from mogu.data.requests import Label, Request, Split
from mogu.data.sources import read_requests
from mogu.errors import MoguError
from mogu.files import write_atomic
from mogu.models import LoadedModel, Projection, find_projections, load_model
from mogu.training.calibration import calibrate
from mogu.training.loop import train_stage
from mogu.training.preparation import base_replies, encode_requests, record_examples
from mogu.training.recording import Recorder
from mogu.training.router_fit import fit_routers
from mogu.training.settings import TrainingSettings
from mogu.training.stage import (
    Example,
    RouterStage,
    SafeStage,
    Stage,
    UsableStage,
    gradient_checkpointing,
)

log = logging.getLogger(__name__)

StageProgress = Callable[[str, int, int], None]
"""Called with the name of a stage, the steps done and the steps in all."""

RATE_TIMES_WIDTH = 1.152
"""Learning rate times the width of the layer: 2e-3 at the width 576 where it was found. An update of Adam moves a
layer's output in proportion to rate and width, so wider models learn at a smaller rate."""

REPLY_BATCH = 32
"""Prompts at a time when the base writes its own replies: decoding gains more from large batches than training."""


@dataclass
class _Run:
    """What the stages share: where unfinished work lies, who hears of progress, and how long each stage took."""

    work: Path
    progress: StageProgress
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[int, int], None]]:
        start = time.perf_counter()
        yield lambda done, total: self.progress(name, done, total)
        self.seconds[name] = round(time.perf_counter() - start, 1)


def train(
    model: str | Path,
    output: Path,
    settings: TrainingSettings,
    *,
    malicious: str | None = None,
    benign: str | None = None,
    projection: str | None = None,
    chat_template: Path | None = None,
    device: str | None = None,
    dtype: str = "auto",
    trust_remote_code: bool = False,
    progress: StageProgress = lambda name, done, total: None,
) -> Path:
    """Harden a model: train both variants and the routers, and write the adapter folder.

    Unfinished work lies beside the output, in a folder of its name with ``.training`` behind; a second call with the
    same arguments goes on from there, to the same result.

    Args:
        model: hub id, local folder or GGUF file.
        output: the adapter folder to write; an adapter that is there is replaced.
        settings: how to train.
        malicious: the user's malicious requests (JSONL, CSV or data set id) in place of the corpus.
        benign: the same for benign ones.
        projection: path of the attention output projection in a decoder layer, where it is not found by itself.
        chat_template: a jinja file, where the tokenizer has none.
        device: such as ``cuda``; by default the best there is.
        dtype: of the base model.
        trust_remote_code: let the model's repository run its own code.
        progress: hears of every step.

    Returns:
        ``output``.

    Raises:
        MoguError: if an argument cannot be used; TrainingDivergedError if a loss is not a number.
    """
    check_target(output)
    requests = {split: _requests(split, settings, malicious, benign) for split in ("train", "validation")}
    run = _Run(output.with_name(output.name + ".training"), progress)
    with run.stage("load model"):
        loaded = load_model(
            model,
            dtype=dtype,
            device=device,
            chat_template=chat_template,
            trust_remote_code=trust_remote_code,
        )
    return train_loaded(loaded, output, settings, requests, run, projection)


def train_loaded(
    loaded: LoadedModel,
    output: Path,
    settings: TrainingSettings,
    requests: dict[str, list[Request]],
    run: _Run,
    projection: str | None = None,
) -> Path:
    """The stages of :func:`train` on a model that is loaded already; it is left unwrapped."""
    places = upper_layers(find_projections(loaded.model, projection), settings.layer_share)
    _claim(run.work, settings, requests, loaded, places)
    torch.manual_seed(settings.seed)
    adapter = attach(loaded.model, places, settings.rank, settings.lora_alpha)
    if settings.router_form == "paper":
        for place, layer in zip(places, adapter.layers.values(), strict=True):
            layer.router = Router(place.in_features).to(layer.safe.A.device)
    for layer in adapter.layers.values():
        for part in (layer.safe, layer.usable, layer.router):
            # Small steps vanish in bfloat16: what is trained is kept in float32 at least.
            part.to(torch.promote_types(loaded.model.dtype, torch.float32))
    try:
        metrics = _train_parts(
            loaded, adapter, Recorder(loaded.model, places[0].layer), settings, requests, run
        )
        versions = package_versions()
        config = AdapterConfig(
            mogu_version=versions["mogu"],
            base=loaded.identity,
            parts=["safe", "usable", "routers"],
            projections=list(adapter.layers),
            rank=settings.rank,
            lora_alpha=settings.lora_alpha,
            routed_tokens=settings.routed_tokens,
            routed_prompt_tokens=settings.routed_prompt_tokens,
            training=settings.model_dump(),
            versions=versions,
            metrics={**metrics, "seconds": run.seconds},
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        save_adapter(output, adapter, config)
    finally:
        adapter.detach()
    shutil.rmtree(run.work)
    return output


def _train_parts(
    loaded: LoadedModel,
    adapter: Adapter,
    recorder: Recorder,
    settings: TrainingSettings,
    requests: dict[str, list[Request]],
    run: _Run,
) -> dict[str, Any]:
    """Train all parts of the adapter in place; the metrics of every stage by its name."""
    prompts = encode_requests(loaded.tokenizer, [*requests["train"], *requests["validation"]])
    benign = [prompt for prompt in prompts if prompt.request.label == "benign"]
    with run.stage("base replies") as step:
        kept = run.work / "replies.jsonl"
        glad = base_replies(
            recorder, loaded.tokenizer, benign, settings.reply_tokens, REPLY_BATCH, kept, step
        )
    with gradient_checkpointing(adapter) if settings.gradient_checkpointing else nullcontext():
        with run.stage("record activations") as step:
            examples = record_examples(recorder, loaded.tokenizer, prompts, glad, settings, step)
        return _train_stages(adapter, recorder, examples, len(requests["train"]), settings, run)


def _train_stages(
    adapter: Adapter,
    recorder: Recorder,
    examples: list[Example],
    count: int,
    settings: TrainingSettings,
    run: _Run,
) -> dict[str, Any]:
    """Train the parts one after the other on the first ``count`` examples; the others are for validation."""
    training, validation = list(range(count)), list(range(count, len(examples)))
    routers = RouterStage(adapter, recorder, examples, settings)
    metrics: dict[str, Any] = {}
    if settings.router_start == "fit" and not _finished(run.work, "routers"):
        with run.stage("fit routers") as step:
            fit_routers(adapter, routers, training, step)
    width_rate = RATE_TIMES_WIDTH / next(iter(adapter.layers.values())).safe.A.shape[1]
    variants = {"safe": SafeStage, "usable": UsableStage}
    for name, kind in variants.items():
        stage = kind(adapter, recorder, examples, settings)
        metrics[name] = _stage(
            name,
            stage,
            _first_of_each_label(examples, training, settings),
            validation,
            settings.variant_epochs,
            settings.variant_learning_rate or width_rate,
            run,
        )
    metrics["routers"] = _stage(
        "routers",
        routers,
        training,
        validation,
        settings.router_epochs,
        settings.router_learning_rate or width_rate,
        run,
    )
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


def _stage(
    name: str,
    stage: Stage,
    training: list[int],
    validation: list[int],
    epochs: int,
    learning_rate: float,
    run: _Run,
) -> dict[str, Any]:
    """Train one stage, or read its finished parts; its metrics."""
    parts, facts = run.work / f"{name}.safetensors", run.work / f"{name}.json"
    if _finished(run.work, name):
        stage.load_state_dict(load_file(parts))
        return json.loads(facts.read_text(encoding="utf-8"))
    with run.stage(name) as step:
        metrics = train_stage(
            stage,
            training=[row for row in training if stage.takes(stage.examples[row])],
            validation=[row for row in validation if stage.takes(stage.examples[row])],
            epochs=epochs,
            learning_rate=learning_rate,
            settings=stage.settings,
            folder=run.work / name,
            progress=step,
        )
    write_atomic(facts, json.dumps(metrics))
    write_atomic(parts, save(stage.state_dict()))  # last: its presence says that the stage is finished
    return metrics


def _first_of_each_label(
    examples: Sequence[Example], rows: Sequence[int], settings: TrainingSettings
) -> list[int]:
    """The rows that the variants learn from; the requests of a label are in random order."""
    labels = (True, False)
    return [
        row
        for label in labels
        for row in [row for row in rows if examples[row].malicious == label][: settings.variant_requests]
    ]


def _finished(work: Path, name: str) -> bool:
    return (work / f"{name}.safetensors").exists()


def _requests(
    split: Split, settings: TrainingSettings, malicious: str | None, benign: str | None
) -> list[Request]:
    counts: dict[Label, int] = {
        "malicious": settings.malicious_requests if split == "train" else settings.validation_requests,
        "benign": settings.benign_requests if split == "train" else settings.validation_requests,
    }
    chosen: list[Request] = []
    labels: Sequence[tuple[Label, str | None]] = (("malicious", malicious), ("benign", benign))
    for label, source in labels:
        if source is None:
            available = corpus_requests(label, split)
        else:
            available = [request for request in read_requests(source, label) if request.split == split]
        if not available:
            raise MoguError(
                f"{source} leaves no {label} request for {split}; give at least 20 different ones"
            )
        picked = balanced(available, counts[label], settings.seed)
        chosen += wrap_share(picked, settings.wrapped_share, split, settings.seed)
    return chosen


def _claim(
    work: Path,
    settings: TrainingSettings,
    requests: dict[str, list[Request]],
    loaded: LoadedModel,
    places: list[Projection],
) -> None:
    """Make the folder of unfinished work, or check that the one that is there belongs to this very training."""
    texts = [[request.label, request.messages] for rows in requests.values() for request in rows]
    stamp = json.dumps(
        {
            "settings": settings.model_dump(),
            "base": loaded.identity.fingerprint,
            "dtype": str(loaded.model.dtype),
            "projections": [place.name for place in places],
            "chat_template": loaded.tokenizer.get_chat_template(),
            "requests": hashlib.sha256(json.dumps(texts).encode()).hexdigest(),
        },
        indent=2,
    )
    file = work / "stamp.json"
    if file.exists() and file.read_text(encoding="utf-8") != stamp:
        raise MoguError(
            f"{work} holds an unfinished training with another model, data or settings; "
            "remove that folder, or call with the same arguments to go on"
        )
    write_atomic(file, stamp)
