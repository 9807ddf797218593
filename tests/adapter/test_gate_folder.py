"""Adapters of sequence routing on disk."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mogu.adapter.folder import check_target, load_adapter, save_adapter
from tests.adapter.adapters import IDENTITY, gated, random_adapter, token_ids
from tests.adapter.folders import assert_refused, edit_config, edit_tensors, files_in, routed_logits
from tests.tiny import FAMILIES, tiny_model


@pytest.fixture
def saved_gate(tmp_path) -> Path:
    adapter = random_adapter(tiny_model(), skip=1)
    save_adapter(tmp_path / "adapter", adapter, gated(adapter))
    return tmp_path / "adapter"


@torch.no_grad()
def gate_logits(adapter) -> torch.Tensor:
    generator = torch.Generator().manual_seed(8)
    hidden = [torch.randn(3, 5, 32, generator=generator, dtype=torch.float64) for _ in adapter.gate.layers]
    return adapter.gate(adapter.gate.token_scores(hidden), torch.ones(3, 5, dtype=torch.bool))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_of_sequence_routing_comes_back(family, tmp_path):
    ids, weights = token_ids(), torch.tensor([[[1.0, 0.0]]])
    adapter = random_adapter(tiny_model(family), skip=1)
    config = gated(adapter)
    save_adapter(tmp_path / "adapter", adapter, config)
    loaded, read = load_adapter(tmp_path / "adapter", tiny_model(family), IDENTITY)

    assert read == config and read.gate == config.gate
    assert loaded.gate.layers == adapter.gate.layers == (0, 2)
    assert torch.equal(gate_logits(loaded), gate_logits(adapter))
    assert torch.equal(routed_logits(loaded, ids, weights), routed_logits(adapter, ids, weights))
    assert not any(layer.usable.B.any() for layer in loaded.layers.values())


def test_its_files_are_the_safe_variant_and_the_gate(saved_gate):
    tensors = load_file(saved_gate / "gate.safetensors")

    assert files_in(saved_gate) == {
        "README.md",
        "mogu_config.json",
        "gate.safetensors",
        "safe/adapter_config.json",
        "safe/adapter_model.safetensors",
    }
    one = ["inner", "inner_bias", "vectors", "offsets", "frame", "bias"]
    assert tensors.keys() == {f"probes.{n}.{name}" for n in range(2) for name in one} | {
        "mix",
        "bias",
        "frame_bias",
        "lift",
    }
    check_target(saved_gate)


def test_a_gate_keeps_its_precision_in_a_bfloat16_model(tmp_path):
    adapter = random_adapter(tiny_model(dtype=torch.bfloat16))
    save_adapter(tmp_path / "adapter", adapter, gated(adapter))
    loaded, _ = load_adapter(tmp_path / "adapter", tiny_model(dtype=torch.bfloat16))

    assert loaded.layers["model.layers.0.self_attn.o_proj"].safe.A.dtype == torch.bfloat16
    for one, other in zip(loaded.gate.parameters(), adapter.gate.parameters(), strict=True):
        assert one.dtype == torch.float32 and torch.equal(one, other)


def test_an_adapter_of_token_routing_has_no_gate(saved):
    assert load_adapter(saved, tiny_model())[0].gate is None


@pytest.mark.parametrize("name", ["gate.safetensors", "safe/adapter_model.safetensors"])
def test_a_missing_file_of_sequence_routing(saved_gate, name):
    (saved_gate / name).unlink()
    assert_refused(saved_gate, name, "is not there")


@pytest.mark.parametrize("size", [0, 7, 100, -1])
def test_a_truncated_gate(saved_gate, size):
    file = saved_gate / "gate.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    assert_refused(saved_gate, str(file), "damaged or cut short")


@pytest.mark.parametrize(
    ("name", "shape", "parts"),
    [
        ("mix", (3, 4), ["mix has shape (3, 4)", "(2, 4)"]),
        ("probes.1.inner", (256, 48), ["probes.1.inner has shape (256, 48)", "(256, 32)"]),
        ("bias", (1,), ["bias has shape (1,)", "()"]),
    ],
)
def test_a_wrong_shape_in_the_gate(saved_gate, name, shape, parts):
    edit_tensors(saved_gate / "gate.safetensors", lambda tensors: tensors.update({name: torch.zeros(shape)}))
    assert_refused(saved_gate, "gate.safetensors", *parts)


def test_a_gate_that_lacks_a_tensor_or_holds_another(saved_gate):
    file = saved_gate / "gate.safetensors"
    edit_tensors(file, lambda tensors: tensors.update(surprise=torch.zeros(1)))
    assert_refused(saved_gate, "gate.safetensors holds surprise")
    edit_tensors(file, lambda tensors: (tensors.pop("surprise"), tensors.pop("mix")))
    assert_refused(saved_gate, "gate.safetensors lacks mix")


def test_a_gate_of_other_layers_than_the_configs(saved_gate):
    gate = json.loads((saved_gate / "mogu_config.json").read_text())["gate"]
    edit_config(saved_gate, gate=gate | {"layers": [0, 1, 2]})
    assert_refused(saved_gate, "gate.safetensors lacks probes.2.")


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"threshold": 1.5}, "gate.threshold: Input should be less than or equal to 1"),
        ({"layers": []}, "gate.layers: List should have at least 1 item"),
        ({"refusal_starts": []}, "gate.refusal_starts: List should have at least 1 item"),
        ({"marks": {"header": [1]}}, "gate.marks.preamble: Field required"),
        ({"mood": 1}, "gate.mood: Extra inputs are not permitted"),
    ],
)
def test_a_gate_config_that_is_not_valid(saved_gate, changes, part):
    gate = json.loads((saved_gate / "mogu_config.json").read_text())["gate"]
    edit_config(saved_gate, gate=gate | changes)
    assert_refused(saved_gate, "mogu_config.json is not valid", part)
