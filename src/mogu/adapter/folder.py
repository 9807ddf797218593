"""The adapter on disk: a folder that is whole or absent, and that fits the model or says why not.

`safe/` and `usable/` are ordinary PEFT LoRA adapters, `routers.safetensors` holds the folded routers,
`mogu_config.json` describes all of it and `README.md` is the model card. What a part is made of is one row of
a table; saving, checking and loading know nothing else of it.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from mogu.adapter.attach import Adapter, attach, check_unwrapped, new_gate
from mogu.adapter.card import model_card
from mogu.adapter.config import FORMAT_VERSION, AdapterConfig, PartName
from mogu.errors import AdapterError, MoguError
from mogu.files import write_atomic
from mogu.models import ModelIdentity, Projection, find_projections

CONFIG_FILE = "mogu_config.json"
CARD_FILE = "README.md"


class _Part(NamedTuple):
    """One row of the table of parts.

    Attributes:
        file: Where its tensors are in the folder; a folder of its own makes it a PEFT adapter.
        tensors: The tensors of an adapter under their names in the file. Those of a fresh adapter are its
            parameters themselves, so the same names serve reading.
    """

    file: str
    tensors: Callable[[Adapter], dict[str, Tensor]]


def _variant_tensors(adapter: Adapter, variant: str) -> dict[str, Tensor]:
    return {
        f"base_model.model.{name}.lora_{matrix}.weight": layer.get_parameter(f"{variant}.{matrix}")
        for name, layer in adapter.layers.items()
        for matrix in ("A", "B")
    }


def _router_tensors(adapter: Adapter) -> dict[str, Tensor]:
    return {
        f"{name}.{kind}": tensor
        for name, layer in adapter.layers.items()
        for kind, tensor in zip(("vectors", "bias"), layer.router.fold(), strict=True)
    }


def _gate_tensors(adapter: Adapter) -> dict[str, Tensor]:
    return dict(adapter.gate.named_parameters()) if adapter.gate else {}


_PARTS: dict[PartName, _Part] = {
    "safe": _Part("safe/adapter_model.safetensors", partial(_variant_tensors, variant="safe")),
    "usable": _Part("usable/adapter_model.safetensors", partial(_variant_tensors, variant="usable")),
    "routers": _Part("routers.safetensors", _router_tensors),
    "gate": _Part("gate.safetensors", _gate_tensors),
}
_ENTRIES = {CONFIG_FILE, CARD_FILE} | {part.file.partition("/")[0] for part in _PARTS.values()}


def check_target(folder: Path) -> None:
    """See, before a long training, that `save_adapter` may write here.

    Raises:
        AdapterError: If something other than an adapter stands there: saving replaces the whole folder.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise AdapterError(f"{folder} is a file; an adapter is a folder: choose another output")
    entries = {path.name for path in folder.iterdir()}
    strangers = entries - _ENTRIES if CONFIG_FILE in entries else entries
    if strangers:
        raise AdapterError(
            f"{folder} would be replaced, but it holds {_listing(strangers)}, which is not an adapter's: "
            "choose another output or move that away"
        )


def save_adapter(folder: Path, adapter: Adapter, config: AdapterConfig) -> None:
    """Write an adapter; whatever happens on the way, the folder holds the old adapter or the new one.

    Args:
        folder: Where to; an adapter that is there is replaced.
        adapter: Its layers' parts are written in the dtype that they have, routers folded.
        config: Says which parts are written.

    Raises:
        AdapterError: If something other than an adapter stands there.
        ValueError: If the config does not describe the adapter.
    """
    if config.projections != list(adapter.layers):
        raise ValueError("the config's projections are not the adapter's layers")
    folder = folder.resolve()
    # Fixed names: what a killed save has left is found by the next one.
    new, old = _beside(folder, "new"), _beside(folder, "old")
    if old.exists() and not folder.exists():
        old.rename(folder)
    check_target(folder)
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        _write(new, adapter, config)
        if folder.exists():
            folder.rename(old)
        try:
            new.rename(folder)
        except BaseException:
            if old.exists():
                old.rename(folder)
            raise
    finally:
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def read_config(folder: Path) -> AdapterConfig:
    """Read what a folder says of itself.

    Raises:
        AdapterError: If it is no adapter folder, its config is not valid, or a newer mogu wrote it.
    """
    if not folder.is_dir():
        old = _beside(folder.resolve(), "old")
        if old.is_dir():
            raise AdapterError(f"{folder} is not there, but an interrupted save left {old}: rename it")
        raise AdapterError(f"{folder} is not a folder: give the one that mogu train wrote")
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise AdapterError(
            f"{folder} has no {CONFIG_FILE}, so it is no MoGU adapter; it holds "
            f"{_listing(path.name for path in folder.iterdir())}"
        )
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise AdapterError(f"{file} is no JSON: {error}") from error
    format_version = raw.get("format_version") if isinstance(raw, dict) else None
    if isinstance(format_version, int) and format_version > FORMAT_VERSION:
        raise AdapterError(
            f"{folder} has format {format_version}, written by mogu {raw.get('mogu_version')}; this version "
            f"reads up to format {FORMAT_VERSION}: pip install --upgrade mogu-llm"
        )
    try:
        return AdapterConfig.model_validate(raw)
    except ValidationError as error:
        mistakes = (
            f"{'.'.join(map(str, mistake['loc'])) or 'all of it'}: {mistake['msg']}"
            for mistake in error.errors(include_url=False)
        )
        raise AdapterError(f"{file} is not valid: {'; '.join(mistakes)}") from error


def load_adapter(
    folder: Path,
    model: PreTrainedModel,
    identity: ModelIdentity | None = None,
    *,
    parts: Sequence[PartName] | None = None,
) -> tuple[Adapter, AdapterConfig]:
    """Wrap a model with the adapter of a folder, ready for inference; on an error the model is as it was.

    Args:
        folder: As `save_adapter` wrote it.
        model: The adapter's base.
        identity: Which model it is; None if the caller vouches for it.
        parts: What is asked for; None is all that it holds. What is not stays new (a variant without effect, routers
            at 0.5).

    Raises:
        AdapterError: If the folder is damaged or incomplete, or does not fit the model.
    """
    config = read_config(folder)
    if identity is not None and identity.fingerprint != config.base.fingerprint:
        raise AdapterError(
            f"{folder} was made for {_describe(config.base)}, and the model is {_describe(identity)}: "
            "load the model that it was made for"
        )
    parts = config.parts if parts is None else parts
    absent = [part for part in parts if part not in config.parts]
    if absent:
        raise AdapterError(f"{folder} holds {_listing(config.parts)}, but not {_listing(absent)}")
    tensors = {part: _read(folder / _PARTS[part].file) for part in parts}
    check_unwrapped(model)
    adapter = attach(model, _projections(folder, config, model), config.rank, config.lora_alpha)
    if config.gate is not None:
        new_gate(adapter, config.gate.layers)
    try:
        for part, found in tensors.items():
            _fill(folder / _PARTS[part].file, _PARTS[part].tensors(adapter), found)
    except AdapterError:
        adapter.detach()
        raise
    adapter.freeze()
    return adapter, config


def _beside(folder: Path, age: Literal["new", "old"]) -> Path:
    """Where a save puts the new adapter until it is whole, and the old one until it is replaced."""
    return folder.with_name(f".{folder.name}.{age}")


def _write(folder: Path, adapter: Adapter, config: AdapterConfig) -> None:
    for name in config.parts:
        part = _PARTS[name]
        file = folder / part.file
        tensors = {key: value.detach().cpu().contiguous() for key, value in part.tensors(adapter).items()}
        write_atomic(file, save(tensors, metadata={"format": "pt"}))
        if file.parent != folder:
            write_atomic(file.with_name("adapter_config.json"), _peft_config(adapter, config))
    save_config(folder, config)


def save_config(folder: Path, config: AdapterConfig) -> None:
    """Write what a folder says of itself, and its card; the tensors stay.

    Args:
        folder: Of the adapter.
        config: Its own, with other thresholds or figures.
    """
    write_atomic(folder / CONFIG_FILE, config.model_dump_json(indent=2) + "\n")
    write_atomic(folder / CARD_FILE, model_card(config))


def _peft_config(adapter: Adapter, config: AdapterConfig) -> str:
    # Seconds to import, and needed here only.
    from peft import LoraConfig

    peft_config = LoraConfig(
        base_model_name_or_path=config.base.name,
        revision=config.base.revision,
        r=config.rank,
        lora_alpha=config.lora_alpha,  # type: ignore[arg-type]  # PEFT divides, so a float is as good
        target_modules=config.projections,
        fan_in_fan_out=any(isinstance(layer.projection, Conv1D) for layer in adapter.layers.values()),
        task_type="CAUSAL_LM",
        inference_mode=True,
    )
    # PEFT makes the list a set, whose order would differ from run to run.
    settings = peft_config.to_dict() | {"target_modules": config.projections}
    return json.dumps(settings, indent=2, sort_keys=True) + "\n"


def _read(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise AdapterError(
            f"{file} is not there, but {CONFIG_FILE} lists it: copy or download the folder again"
        )
    try:
        return load_file(file)
    except SafetensorError as error:
        raise AdapterError(
            f"{file} is damaged or cut short ({error}): copy or download the folder again"
        ) from error


def _projections(folder: Path, config: AdapterConfig, model: PreTrainedModel) -> list[Projection]:
    # The first number in the name is the layer's index, and the path inside the layer follows it.
    path = re.sub(r"^.*?\.\d+\.", "", config.projections[0])
    try:
        found = {projection.name: projection for projection in find_projections(model, path)}
    except MoguError:
        found = {}
    lacking = [name for name in config.projections if name not in found]
    if lacking:
        raise AdapterError(
            f"{folder} was made for {config.base.name} and wraps {_listing(lacking)}, "
            f"which this {type(model).__name__} does not have"
        )
    return [found[name] for name in config.projections]


def _fill(file: Path, targets: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    if missing := [name for name in targets if name not in found]:
        raise AdapterError(f"{file} lacks {_listing(missing)}")
    if extra := [name for name in found if name not in targets]:
        raise AdapterError(f"{file} holds {_listing(extra)}, which is not the adapter's")
    for name, target in targets.items():
        if found[name].shape != target.shape:
            raise AdapterError(
                f"{file}: {name} has shape {tuple(found[name].shape)}, but the model and the config's rank "
                f"make it {tuple(target.shape)}"
            )
        target.data.copy_(found[name])


def _describe(identity: ModelIdentity) -> str:
    return f"{identity.name} ({identity.model_type}, fingerprint {identity.fingerprint[:12]})"


def _listing(names: Iterable[str], most: int = 5) -> str:
    names = sorted(names)
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "nothing") + rest
