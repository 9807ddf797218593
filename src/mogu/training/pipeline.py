"""The whole of training, from a model's name to the adapter folder; every stage resumes where it was killed."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from mogu.adapter.attach import attach, upper_layers
from mogu.adapter.config import AdapterConfig, DataSource, PartName, package_versions
from mogu.adapter.folder import check_target, save_adapter
from mogu.adapter.router import Router
from mogu.corpus import corpus_requests
from mogu.data.mixture import mixture
from mogu.data.pairs import balanced, wrap_share
from mogu.data.requests import Label, Request, Split, sha256_of
from mogu.data.sources import read_requests, source_name
from mogu.errors import MoguError
from mogu.files import write_atomic
from mogu.models import LoadedModel, Projection, find_projections, load_model
from mogu.training.gate_reading import with_noise
from mogu.training.preparation import encode_requests
from mogu.training.recording import Recorder
from mogu.training.run import Run, StageProgress
from mogu.training.sequence_routing import train_sequence_routing
from mogu.training.settings import TrainingSettings
from mogu.training.token_routing import train_token_routing


def unfinished_work(output: Path) -> Path:
    """The folder of a training that has not come to its end, beside the adapter folder that it is to write."""
    return output.with_name(f"{output.name}.training")


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
        MoguError: if an argument cannot be used; TrainingDivergedError if a loss is not a number, or training makes
            a variant no better.
    """
    check_target(output)
    requests = {split: _requests(split, settings, malicious, benign) for split in ("train", "validation")}
    run = Run(unfinished_work(output), progress)
    with run.stage("load model") as step:
        step(0, 1)
        loaded = load_model(
            model,
            dtype=dtype,
            device=device,
            chat_template=chat_template,
            trust_remote_code=trust_remote_code,
        )
        step(1, 1)
    data = _data_sources(requests, {"malicious": malicious, "benign": benign})
    return train_loaded(loaded, output, settings, requests, data, run, projection)


def train_loaded(
    loaded: LoadedModel,
    output: Path,
    settings: TrainingSettings,
    requests: dict[str, list[Request]],
    data: list[DataSource],
    run: Run,
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
        rows = [*requests["train"], *requests["validation"]]
        prompts = encode_requests(loaded.tokenizer, with_noise(rows, loaded.tokenizer, settings.seed))
        recorder = Recorder(loaded.model, places[0].layer)
        count = len(requests["train"])
        parts: list[PartName] = ["safe", "usable", "routers"]
        gate = None
        if settings.routing == "sequence":
            trained = train_sequence_routing(loaded, adapter, recorder, prompts, count, settings, run)
            parts, gate, metrics = trained
        else:
            metrics = train_token_routing(loaded, adapter, recorder, prompts, count, settings, run)
        versions = package_versions()
        config = AdapterConfig(
            mogu_version=versions["mogu"],
            base=loaded.identity,
            parts=parts,
            chat_template=loaded.tokenizer.get_chat_template(),
            projections=list(adapter.layers),
            rank=settings.rank,
            lora_alpha=settings.lora_alpha,
            weights=settings.routing,
            routed_tokens=settings.routed_tokens,
            routed_prompt_tokens=settings.routed_prompt_tokens,
            gate=gate,
            data=data,
            training=settings.model_dump(),
            dtype=str(loaded.model.dtype).removeprefix("torch."),
            projection=projection,
            versions=versions,
            metrics={**metrics, "seconds": run.seconds},
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        save_adapter(output, adapter, config)
    finally:
        adapter.detach()
    shutil.rmtree(run.work)
    return output


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
        if settings.routing == "sequence":
            chosen += mixture(available, label, split, counts[label], settings.seed)
        else:
            picked = balanced(available, counts[label], settings.seed)
            chosen += wrap_share(picked, settings.wrapped_share, split, settings.seed)
    return chosen


def _data_sources(requests: dict[str, list[Request]], given: Mapping[Label, str | None]) -> list[DataSource]:
    """What the requests of all splits are, by label and source.

    Args:
        requests: by split.
        given: the user's source of each label; None for the corpus.
    """
    grouped: dict[tuple[Label, str], list[Request]] = {}
    for request in (row for rows in requests.values() for row in rows):
        source = given[request.label]
        # The mixture adds conversations and documents of the corpus to the user's own requests.
        own = source is not None and request.id.startswith((f"{source}:", f"{source} row "))
        name = source_name(source) if source is not None and own else "corpus"
        grouped.setdefault((request.label, name), []).append(request)
    return [
        DataSource(label=label, source=name, sha256=sha256_of(rows), rows=len(rows))
        for (label, name), rows in sorted(grouped.items(), reverse=True)
    ]


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
