"""An adapter is saved and comes back."""

import json
from importlib.metadata import version

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from mogu.adapter.config import DataSource, package_versions
from mogu.adapter.folder import load_adapter, read_config, save_adapter
from mogu.adapter.layer import SAFE, USABLE
from mogu.adapter.router import Router
from tests.adapter.adapters import IDENTITY, config_of, logits, random_adapter, token_ids
from tests.adapter.folders import FILES, files_in, routed_logits
from tests.tiny import FAMILIES, tiny_model


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_adapter_comes_back(family, tmp_path):
    ids = token_ids()
    adapter = random_adapter(tiny_model(family), skip=1)
    config = config_of(adapter)
    before = routed_logits(adapter, ids)
    save_adapter(tmp_path / "adapter", adapter, config)
    loaded, read = load_adapter(tmp_path / "adapter", tiny_model(family), IDENTITY)

    assert read == config
    assert list(loaded.layers) == list(adapter.layers)
    assert torch.equal(routed_logits(loaded, ids), before)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("variant", "index"), [("safe", SAFE), ("usable", USABLE)])
def test_each_variant_is_an_ordinary_peft_adapter(family, variant, index, tmp_path):
    ids = token_ids()
    adapter = random_adapter(tiny_model(family), skip=1)
    save_adapter(tmp_path / "adapter", adapter, config_of(adapter))
    weights = torch.zeros(1, 1, 2)
    weights[..., index] = 1
    peft_model = PeftModel.from_pretrained(tiny_model(family), tmp_path / "adapter" / variant).eval()

    torch.testing.assert_close(
        logits(peft_model, ids), routed_logits(adapter, ids, weights), rtol=0, atol=1e-9
    )
    assert (logits(peft_model, ids) - logits(adapter.model, ids)).abs().max() > 1e-3


def test_the_papers_router_is_folded_when_saved(tmp_path):
    ids = token_ids()
    adapter = random_adapter(tiny_model())
    for layer in adapter.layers.values():
        layer.router = Router(layer.router.vectors.shape[1]).double()
    before = routed_logits(adapter, ids)
    save_adapter(tmp_path / "adapter", adapter, config_of(adapter))
    loaded, _ = load_adapter(tmp_path / "adapter", tiny_model())
    name = next(iter(adapter.layers))
    tensors = load_file(tmp_path / "adapter" / "routers.safetensors")

    assert tensors[f"{name}.vectors"].shape == (2, 32)
    assert tensors[f"{name}.bias"].shape == (2,)
    assert len(tensors) == 2 * len(adapter.layers)
    torch.testing.assert_close(routed_logits(loaded, ids), before, rtol=0, atol=1e-9)


def test_an_adapter_fits_its_base_in_another_dtype(saved):
    loaded, _ = load_adapter(saved, tiny_model(dtype=torch.bfloat16), IDENTITY)
    layer = next(iter(loaded.layers.values()))

    assert layer.safe.A.dtype == torch.bfloat16
    assert layer.router.bias.dtype == torch.float32


def test_the_files_are_these_and_none_is_pickled(saved):
    assert files_in(saved) == FILES
    for name in FILES:
        if name.endswith(".safetensors"):
            load_file(saved / name)
        else:
            (saved / name).read_text(encoding="utf-8")


def test_saving_again_writes_the_same_bytes(saved):
    before = {name: (saved / name).read_bytes() for name in FILES}
    adapter = random_adapter(tiny_model())
    save_adapter(saved, adapter, config_of(adapter))

    assert {name: (saved / name).read_bytes() for name in FILES} == before


def test_only_the_parts_of_the_config_are_written(tmp_path):
    adapter = random_adapter(tiny_model())
    save_adapter(tmp_path / "adapter", adapter, config_of(adapter, ("safe",)))
    loaded, _ = load_adapter(tmp_path / "adapter", tiny_model(), parts=["safe"])

    assert files_in(tmp_path / "adapter") == {name for name in FILES if "usable" not in name} - {
        "routers.safetensors"
    }
    for name, layer in loaded.layers.items():
        assert torch.equal(layer.safe.B, adapter.layers[name].safe.B)
        assert not layer.usable.B.any()


def test_the_peft_config_names_base_and_modules(saved):
    settings = json.loads((saved / "safe" / "adapter_config.json").read_text())

    assert settings["base_model_name_or_path"] == "tiny/llama"
    assert settings["revision"] == "abc123"
    assert (settings["r"], settings["lora_alpha"], settings["fan_in_fan_out"]) == (4, 6.0, False)
    assert settings["target_modules"] == [f"model.layers.{index}.self_attn.o_proj" for index in range(3)]


def test_a_config_of_another_adapter_is_not_written(tmp_path):
    config = config_of(random_adapter(tiny_model()))
    with pytest.raises(ValueError, match="projections"):
        save_adapter(tmp_path / "adapter", random_adapter(tiny_model(), skip=1), config)
    assert not any(tmp_path.iterdir())


def test_the_versions_are_of_everything_that_a_training_depends_on():
    found = package_versions()
    assert list(found) == [
        "python",
        "mogu",
        "torch",
        "transformers",
        "peft",
        "accelerate",
        "tokenizers",
        "safetensors",
        "scikit-learn",
    ]
    assert (found["torch"], found["mogu"]) == (torch.__version__, version("mogu-llm"))


def test_what_an_adapter_was_trained_on_comes_back(saved, tmp_path):
    adapter = random_adapter(tiny_model())
    data = [DataSource(label="benign", source="mine.csv", sha256="0" * 64, rows=30)]
    save_adapter(tmp_path / "other", adapter, config_of(adapter).model_copy(update={"data": data}))
    assert read_config(tmp_path / "other").data == data
    # Folders that were written before the data was noted.
    file = saved / "mogu_config.json"
    config = json.loads(file.read_text())
    assert config.pop("data") == []
    file.write_text(json.dumps(config))
    assert read_config(saved).data == []
