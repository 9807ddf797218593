"""Where the attention output projection is, in every decoder-only architecture.

A family is a row of data: a model type and a path inside a decoder layer. What has no row is found by the
shape of its attention module or named by the caller. Knows nothing about loading or about what is put around
a projection.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from mogu.errors import MoguError

PROJECTIONS: dict[str, str] = {
    "apertus": "self_attn.o_proj",
    "arcee": "self_attn.o_proj",
    "bamba": "self_attn.o_proj",
    "biogpt": "self_attn.out_proj",
    "bloom": "self_attention.dense",
    "codegen": "attn.out_proj",
    "cohere": "self_attn.o_proj",
    "cohere2": "self_attn.o_proj",
    "deepseek_v2": "self_attn.o_proj",
    "deepseek_v3": "self_attn.o_proj",
    "ernie4_5": "self_attn.o_proj",
    "exaone4": "self_attn.o_proj",
    "falcon": "self_attention.dense",
    "falcon_h1": "self_attn.o_proj",
    "gemma": "self_attn.o_proj",
    "gemma2": "self_attn.o_proj",
    "gemma3_text": "self_attn.o_proj",
    "gemma4_text": "self_attn.o_proj",
    "glm": "self_attn.o_proj",
    "glm4": "self_attn.o_proj",
    "gpt2": "attn.c_proj",
    "gpt_bigcode": "attn.c_proj",
    "gpt_neo": "attn.attention.out_proj",
    "gpt_neox": "attention.dense",
    "gpt_oss": "self_attn.o_proj",
    "gptj": "attn.out_proj",
    "granite": "self_attn.o_proj",
    "granitemoe": "self_attn.o_proj",
    "granitemoehybrid": "self_attn.o_proj",
    "helium": "self_attn.o_proj",
    "hunyuan_v1_dense": "self_attn.o_proj",
    "jamba": "self_attn.o_proj",
    "lfm2": "self_attn.out_proj",
    "llama": "self_attn.o_proj",
    "llama4_text": "self_attn.o_proj",
    "ministral": "self_attn.o_proj",
    "ministral3": "self_attn.o_proj",
    "mistral": "self_attn.o_proj",
    "mixtral": "self_attn.o_proj",
    "mpt": "attn.out_proj",
    "nemotron": "self_attn.o_proj",
    "olmo": "self_attn.o_proj",
    "olmo2": "self_attn.o_proj",
    "olmo3": "self_attn.o_proj",
    "olmoe": "self_attn.o_proj",
    "opt": "self_attn.out_proj",
    "persimmon": "self_attn.dense",
    "phi": "self_attn.dense",
    "phi3": "self_attn.o_proj",
    "phimoe": "self_attn.o_proj",
    "qwen2": "self_attn.o_proj",
    "qwen2_moe": "self_attn.o_proj",
    "qwen3": "self_attn.o_proj",
    "qwen3_5_moe_text": "self_attn.o_proj",
    "qwen3_5_text": "self_attn.o_proj",
    "qwen3_moe": "self_attn.o_proj",
    "qwen3_next": "self_attn.o_proj",
    "seed_oss": "self_attn.o_proj",
    "smollm3": "self_attn.o_proj",
    "stablelm": "self_attn.o_proj",
    "starcoder2": "self_attn.o_proj",
    "xglm": "self_attn.out_proj",
}
"""Text model type -> path of the attention output projection inside a decoder layer."""

_OTHER_TOWERS = re.compile(r"vision|visual|image|audio|speech")
_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
_INPUT_PROJECTION = re.compile(r"(^|_)(w?[qkv]+|query|key|value|in)(_|$)", re.IGNORECASE)


@dataclass(frozen=True)
class Projection:
    """The attention output projection of one decoder layer.

    Attributes:
        name: Qualified module name in the model.
        layer: Index of the decoder layer, from 0.
        in_features: Size of what it reads: heads times head size, not always the hidden size.
        out_features: The hidden size.
    """

    name: str
    layer: int
    in_features: int
    out_features: int


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The list of decoder layers of the language model; other towers of a multimodal model are never taken.

    Raises:
        MoguError: If no list of the configured number of layers is there.
    """
    return _decoder_layers(model)[1]


def find_projections(model: PreTrainedModel, path: str | None = None) -> list[Projection]:
    """Find the attention output projection of every decoder layer.

    Args:
        model: A decoder-only language model, or a multimodal one around such.
        path: Where it is inside a layer, as in `self_attn.o_proj`; by default the family table is asked, and
            then the structure of the layers.

    Returns:
        One projection per layer that has one, in layer order: hybrid models have layers without attention.

    Raises:
        MoguError: If no layer has it; the message lists the linear modules that are there.
    """
    prefix, layers = _decoder_layers(model)
    config = model.config.get_text_config(decoder=True)
    linears = [dict(_linear_modules(layer)) for layer in layers]
    if path is None:
        path = PROJECTIONS.get(config.model_type)
        if path is None or not any(path in found for found in linears):
            path = _path_by_structure(layers, config.hidden_size)
        problem = f"the attention output projection of model type {config.model_type!r} is not known"
    else:
        problem = f"no decoder layer has a linear module {path!r}"

    projections = [
        Projection(f"{prefix}.{index}.{path}", index, *found[path])
        for index, found in enumerate(linears)
        if path in found
    ]
    if not projections:
        candidates = {name: linear for found in linears for name, linear in found.items()}
        listing = ", ".join(f"{name} ({x.in_features} -> {x.out_features})" for name, x in candidates.items())
        raise MoguError(
            f"{problem}; name one with --projection, out of: {listing or 'no linear module at all'}"
        )
    if projections[0].out_features != config.hidden_size:
        raise MoguError(
            f"{path} maps to {projections[0].out_features} features, but an attention output projection "
            f"maps to the hidden size {config.hidden_size}; name another with --projection"
        )
    return projections


class _Linear(NamedTuple):
    in_features: int
    out_features: int


def _linear(module: nn.Module) -> _Linear | None:
    """Read a linear-like module's sizes; quantised ones are known by their two attributes."""
    if isinstance(module, Conv1D):
        return _Linear(module.nx, module.nf)
    sizes = getattr(module, "in_features", None), getattr(module, "out_features", None)
    if isinstance(sizes[0], int) and isinstance(sizes[1], int):
        return _Linear(sizes[0], sizes[1])
    return None


def _linear_modules(layer: nn.Module) -> Iterator[tuple[str, _Linear]]:
    for name, module in layer.named_modules():
        if linear := _linear(module):
            yield name, linear


def _decoder_layers(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The qualified name of the layer list, and the list."""
    count = model.config.get_text_config(decoder=True).num_hidden_layers
    decoder = model.get_decoder()
    inside = {id(module) for module in decoder.modules()}
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) == count
        and id(module) in inside
        and not _OTHER_TOWERS.search(name)
    ]
    if not found:
        raise MoguError(
            f"{type(model).__name__} has no list of {count} decoder layers: MoGU needs a decoder-only model"
        )
    # The outermost one: a layer may itself hold a list of as many modules.
    return min(found, key=lambda item: item[0].count("."))


def _path_by_structure(layers: nn.ModuleList, hidden_size: int) -> str | None:
    """The one linear child of an attention module that writes to the residual, if there is just one."""
    paths = {
        f"{attention}.{name}"
        for layer in layers
        for attention, module in layer.named_modules()
        if _ATTENTION.search(attention.rpartition(".")[2])
        for name, child in module.named_children()
        if (linear := _linear(child))
        and linear.out_features == hidden_size
        and not _INPUT_PROJECTION.search(name)
    }
    return paths.pop() if len(paths) == 1 else None
