"""Baichuan-7B and Baichuan2-7B checkpoints, read into a Llama model.

transformers has no class for them and the code on the hub is written for older versions. The computation is
Llama's but for two things that a conversion settles once: query, key and value are one matrix (W_pack), and
Baichuan2 normalises the rows of its output head in every forward (NormHead). Knows the checkpoint's layout
only.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.nn.functional import normalize
from transformers import LlamaConfig

from mogu.errors import MoguError

_NORM_HEAD_VOCAB_SIZE = 125_696
"""Only Baichuan2 has this vocabulary, and only it has a NormHead; its config does not tell otherwise."""

_SAME_NAME = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "rms_norm_eps",
    "hidden_act",
    "initializer_range",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)


def llama_config(config: dict[str, Any]) -> LlamaConfig:
    """Translate a Baichuan `config.json`.

    Raises:
        MoguError: If it is a 13B model's.
    """
    if "max_position_embeddings" not in config:
        raise MoguError(
            "this is a Baichuan 13B checkpoint: it has ALiBi position biases, which no Llama computes; "
            "only the 7B models, with rotary positions, can be converted"
        )
    return LlamaConfig(
        **{key: config[key] for key in _SAME_NAME if key in config},
        tie_word_embeddings=False,
        attention_bias=False,
        mlp_bias=False,
        dtype=config.get("dtype", config.get("torch_dtype")),
    )


def llama_state(files: list[Path], vocab_size: int) -> dict[str, torch.Tensor]:
    """Read a Baichuan checkpoint's weights under Llama's names.

    Args:
        files: Safetensors or pytorch files, sharded or not.
        vocab_size: Decides whether the output head is normalised.

    Returns:
        The state of a `LlamaForCausalLM`, in the checkpoint's dtype.
    """
    return {
        name: tensor
        for file in files
        for name, tensor in _converted(file, vocab_size == _NORM_HEAD_VOCAB_SIZE)
    }


def _converted(file: Path, norm_head: bool) -> Iterator[tuple[str, torch.Tensor]]:
    tensors = (
        load_file(file)
        if file.suffix == ".safetensors"
        else torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    )
    for name, tensor in tensors.items():
        if name.endswith(".W_pack.weight"):
            attention = name.removesuffix("W_pack.weight")
            # (3 hidden, hidden): the rows of query, key and value
            for part, rows in zip("qkv", tensor.chunk(3), strict=True):
                yield f"{attention}{part}_proj.weight", rows
        elif name == "lm_head.weight" and norm_head:
            yield name, normalize(tensor.float()).to(tensor.dtype)
        elif not name.endswith(".inv_freq"):
            yield name, tensor
