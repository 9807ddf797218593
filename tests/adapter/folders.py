"""An adapter on disk, and what is done to its files."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mogu.adapter.folder import load_adapter
from mogu.errors import AdapterError
from tests.adapter.adapters import IDENTITY, logits
from tests.tiny import tiny_model

FILES = {
    "README.md",
    "mogu_config.json",
    "routers.safetensors",
    "safe/adapter_config.json",
    "safe/adapter_model.safetensors",
    "usable/adapter_config.json",
    "usable/adapter_model.safetensors",
}


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def routed_logits(adapter, ids, weights=None):
    adapter.routing.routed, adapter.routing.weights = torch.ones(ids.shape, dtype=torch.bool), weights
    try:
        return logits(adapter.model, ids)
    finally:
        adapter.routing.routed = adapter.routing.weights = None


def edit_config(folder: Path, **changes) -> None:
    file = folder / "mogu_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def edit_tensors(file: Path, edit) -> None:
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file)


def assert_refused(folder: Path, *parts: str, model=None, identity=IDENTITY, **options) -> None:
    """Loading raises one line that has all of the parts, and leaves the model as it was."""
    model = model or tiny_model()
    names = list(dict(model.named_modules()))
    with pytest.raises(AdapterError) as caught:
        load_adapter(folder, model, identity, **options)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
    assert list(dict(model.named_modules())) == names
