import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from mogu.errors import MoguError
from mogu.models import PROJECTIONS, Projection, decoder_layers, find_projections
from tests.tiny import FAMILIES, HIDDEN, LAYERS, tiny_model

NAMES = {
    "llama": "model.layers.{}.self_attn.o_proj",
    "mistral": "model.layers.{}.self_attn.o_proj",
    "mixtral": "model.layers.{}.self_attn.o_proj",
    "falcon_7b": "transformer.h.{}.self_attention.dense",
    "falcon_new": "transformer.h.{}.self_attention.dense",
    "qwen2": "model.layers.{}.self_attn.o_proj",
    "qwen3": "model.layers.{}.self_attn.o_proj",
    "gemma3_text": "model.layers.{}.self_attn.o_proj",
    "gemma3": "model.language_model.layers.{}.self_attn.o_proj",
    "phi3": "model.layers.{}.self_attn.o_proj",
    "gpt2": "transformer.h.{}.attn.c_proj",
    "gpt_neox": "gpt_neox.layers.{}.attention.dense",
    "olmo2": "model.layers.{}.self_attn.o_proj",
}
WIDE = {"qwen3", "gemma3_text", "gemma3"}


def expected(family):
    features = 2 * HIDDEN if family in WIDE else HIDDEN
    return [Projection(NAMES[family].format(layer), layer, features, HIDDEN) for layer in range(LAYERS)]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_found_by_its_row(family):
    assert find_projections(tiny_model(family)) == expected(family)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_found_by_structure_alone(family, monkeypatch):
    model = tiny_model(family)
    monkeypatch.delitem(PROJECTIONS, model.config.get_text_config().model_type)
    assert find_projections(model) == expected(family)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_sizes_are_those_of_the_module(family):
    model = tiny_model(family)
    for projection in find_projections(model):
        module = model.get_submodule(projection.name)
        assert isinstance(module, Conv1D if family == "gpt2" else nn.Linear)
        shape = (projection.in_features, projection.out_features)
        assert tuple(module.weight.shape) == (shape if family == "gpt2" else shape[::-1])


def test_the_vision_tower_is_not_touched():
    model = tiny_model("gemma3")
    towers = [name for name, _ in model.named_modules() if name.endswith("self_attn.out_proj")]
    assert len(towers) == LAYERS
    assert not {projection.name for projection in find_projections(model)} & set(towers)
    assert decoder_layers(model) is model.model.language_model.layers
    with pytest.raises(MoguError, match="no decoder layer has a linear module"):
        find_projections(model, "self_attn.out_proj")


def test_a_row_that_does_not_fit_falls_back_to_structure(monkeypatch):
    monkeypatch.setitem(PROJECTIONS, "llama", "attention.wo")
    assert find_projections(tiny_model()) == expected("llama")


def test_the_option_comes_before_the_table():
    assert [x.name for x in find_projections(tiny_model(), "mlp.down_proj")] == [
        f"model.layers.{layer}.mlp.down_proj" for layer in range(LAYERS)
    ]


def test_layers_without_attention_are_left_out():
    model = tiny_model()
    model.model.layers[1].self_attn = nn.Identity()
    assert [projection.layer for projection in find_projections(model)] == [0, 2]


def test_a_quantised_module_is_linear_like():
    class Packed(nn.Module):
        in_features, out_features = HIDDEN, HIDDEN

    model = tiny_model()
    for layer in decoder_layers(model):
        layer.self_attn.o_proj = Packed()
    assert find_projections(model) == expected("llama")


def test_an_unknown_ambiguous_architecture_lists_the_candidates(monkeypatch):
    monkeypatch.delitem(PROJECTIONS, "llama")
    model = tiny_model()
    for layer in decoder_layers(model):
        layer.self_attn.gate = nn.Linear(HIDDEN, HIDDEN, dtype=torch.float64)
    with pytest.raises(MoguError) as error:
        find_projections(model)
    assert "'llama' is not known" in str(error.value)
    assert "--projection" in str(error.value)
    assert "self_attn.o_proj (32 -> 32)" in str(error.value)
    assert "mlp.down_proj (48 -> 32)" in str(error.value)


def test_an_option_that_no_layer_has_lists_the_candidates():
    with pytest.raises(MoguError, match=r"'attn\.wo'.*--projection.*self_attn\.o_proj \(32 -> 32\)"):
        find_projections(tiny_model(), "attn.wo")


def test_an_option_that_does_not_write_to_the_residual_is_refused():
    with pytest.raises(MoguError, match="maps to 16 features"):
        find_projections(tiny_model(), "self_attn.k_proj")


def test_a_model_without_the_configured_layers_is_refused():
    model = tiny_model()
    model.config.num_hidden_layers = LAYERS + 1
    with pytest.raises(MoguError, match="no list of 4 decoder layers"):
        decoder_layers(model)
