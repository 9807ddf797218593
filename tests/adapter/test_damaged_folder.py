"""Folders that are damaged, or not of the base."""

import pytest
import torch

from mogu.adapter.folder import load_adapter, read_config, save_adapter
from mogu.errors import AdapterError
from tests.adapter.adapters import IDENTITY, config_of, random_adapter
from tests.adapter.folders import FILES, assert_refused, edit_config, edit_tensors
from tests.tiny import tiny_model


def test_a_missing_folder(tmp_path):
    with pytest.raises(AdapterError, match=r"nowhere is not a folder"):
        read_config(tmp_path / "nowhere")


def test_what_a_killed_save_left_is_named(saved):
    old = saved.rename(saved.with_name(".adapter.old"))
    with pytest.raises(AdapterError) as caught:
        read_config(saved)
    assert str(caught.value) == f"{saved} is not there, but an interrupted save left {old}: rename it"


def test_a_folder_without_a_config_is_told_by_its_files(tmp_path):
    (tmp_path / "adapter_config.json").touch()
    (tmp_path / "adapter_model.safetensors").touch()
    assert_refused(tmp_path, "no mogu_config.json", "adapter_config.json, adapter_model.safetensors")


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b""])
def test_a_config_that_is_no_json(saved, content):
    (saved / "mogu_config.json").write_bytes(content)
    assert_refused(saved, "mogu_config.json is no JSON")


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"rnk": 8}, ["rnk: Extra inputs are not permitted"]),
        ({"rank": 0, "lora_alpha": "x"}, ["rank: Input should be greater", "lora_alpha: Input should be a"]),
        ({"parts": ["safe", "brain"]}, ["parts.1", "'safe', 'usable', 'routers' or 'gate'"]),
        ({"projections": []}, ["projections"]),
    ],
)
def test_a_config_that_is_not_valid(saved, changes, parts):
    edit_config(saved, **changes)
    assert_refused(saved, "mogu_config.json is not valid", *parts)


def test_a_config_that_is_no_object(saved):
    (saved / "mogu_config.json").write_text("[]")
    assert_refused(saved, "not valid", "dictionary")


def test_a_newer_format(saved):
    edit_config(saved, format_version=2, mogu_version="9.1", something_new=True)
    assert_refused(saved, "format 2", "mogu 9.1", "pip install --upgrade mogu-llm")


def test_another_base(saved):
    other = IDENTITY.model_copy(update={"name": "tiny/other", "fingerprint": "f" * 64})
    assert_refused(saved, "tiny/llama (llama, fingerprint 0123456789ab)", "tiny/other", identity=other)


def test_the_same_base_under_another_name(saved):
    moved = IDENTITY.model_copy(update={"name": "/elsewhere/llama", "revision": None})
    assert load_adapter(saved, tiny_model(), moved)[1].base == IDENTITY


def test_a_missing_tensor(saved):
    name = "base_model.model.model.layers.1.self_attn.o_proj.lora_A.weight"
    edit_tensors(saved / "safe" / "adapter_model.safetensors", lambda tensors: tensors.pop(name))
    assert_refused(saved, "safe/adapter_model.safetensors lacks", name)


def test_an_extra_tensor(saved):
    edit_tensors(saved / "routers.safetensors", lambda tensors: tensors.update(surprise=torch.zeros(1)))
    assert_refused(saved, "routers.safetensors holds surprise")


def test_a_wrong_shape(saved):
    name = "model.layers.0.self_attn.o_proj.bias"
    edit_tensors(saved / "routers.safetensors", lambda tensors: tensors.update({name: torch.zeros(3)}))
    assert_refused(saved, name, "(3,)", "(2,)")


def test_a_rank_that_is_not_the_files(saved):
    edit_config(saved, rank=8)
    assert_refused(saved, "lora_A.weight has shape (4, 32)", "(8, 32)")


@pytest.mark.parametrize("size", [0, 7, 100, -1])
def test_a_truncated_file(saved, size):
    file = saved / "usable" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    assert_refused(saved, str(file), "damaged or cut short")


@pytest.mark.parametrize("name", sorted(name for name in FILES if name.endswith(".safetensors")))
def test_a_missing_file(saved, name):
    (saved / name).unlink()
    assert_refused(saved, name, "is not there")


def test_a_part_that_is_asked_for_and_not_there(tmp_path):
    adapter = random_adapter(tiny_model())
    save_adapter(tmp_path / "adapter", adapter, config_of(adapter, ("safe", "usable")))
    parts = ["safe", "usable", "routers"]
    assert_refused(tmp_path / "adapter", "holds safe, usable, but not routers", parts=parts)


def test_a_model_without_the_projections(saved):
    assert_refused(
        saved, "tiny/llama", "model.layers.0.self_attn.o_proj", "GPT2LMHeadModel", model=tiny_model("gpt2")
    )


def test_a_model_with_fewer_layers(saved):
    model = tiny_model()
    model.config.num_hidden_layers = 2
    del model.model.layers[2]
    assert_refused(saved, "wraps model.layers.2.self_attn.o_proj, which", model=model)


def test_a_model_that_has_an_adapter(saved):
    assert_refused(saved, "has an adapter already", model=random_adapter(tiny_model()).model)
