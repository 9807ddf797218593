"""Tiny random models and a tiny tokenizer, built offline in milliseconds: what every other test runs on."""

from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import (
    AutoModelForCausalLM,
    FalconConfig,
    Gemma3Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    SiglipVisionConfig,
)

SPECIAL_TOKENS = ["<|im_start|>", "<|im_end|>"]

# A few merges, so that tokens are longer than a byte and some begin with the space before a word ("Ġ").
MERGES = [
    ("Ġ", "t"),
    ("h", "e"),
    ("Ġt", "he"),
    ("i", "n"),
    ("in", "g"),
    ("Ġ", "a"),
    ("o", "u"),
    ("Ġ", "s"),
    ("e", "r"),
    ("o", "n"),
]

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

VOCAB_SIZE = len(SPECIAL_TOKENS) + 256 + len(MERGES)
IM_START, IM_END = range(len(SPECIAL_TOKENS))

HIDDEN = 32
LAYERS = 3
HEADS = 4

_TOKENS = {"vocab_size": VOCAB_SIZE, "bos_token_id": None, "eos_token_id": IM_END, "pad_token_id": IM_END}
_COMMON = _TOKENS | {
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": 2048,
}
_GROUPED = _COMMON | {"intermediate_size": 48, "num_key_value_heads": 2, "tie_word_embeddings": False}
_GEMMA3 = _GROUPED | {
    "head_dim": 16,  # heads * head_dim is not the hidden size, as in the released models
    "query_pre_attn_scalar": 16,
    "sliding_window": 16,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}


def _gemma3() -> Gemma3Config:
    vision = SiglipVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
    )
    return Gemma3Config(
        text_config=Gemma3TextConfig(**_GEMMA3),
        vision_config=vision,
        mm_tokens_per_image=4,
        # Outside the vocabulary, so that no text holds an image by accident.
        image_token_index=VOCAB_SIZE,
        boi_token_index=VOCAB_SIZE + 1,
        eoi_token_index=VOCAB_SIZE + 2,
    )


def _gpt2() -> GPT2Config:
    return GPT2Config(
        **_TOKENS,
        n_embd=HIDDEN,
        n_layer=LAYERS,
        n_head=HEADS,
        n_positions=2048,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )


FAMILIES: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: LlamaConfig(**_GROUPED),
    "mistral": lambda: MistralConfig(**_GROUPED, sliding_window=None),
    "mixtral": lambda: MixtralConfig(
        # The grouped product is not there in float64.
        **_GROUPED,
        num_local_experts=4,
        num_experts_per_tok=2,
        experts_implementation="eager",
    ),
    "falcon_7b": lambda: FalconConfig(**_COMMON, multi_query=True, parallel_attn=True),
    "falcon_new": lambda: FalconConfig(**_COMMON, new_decoder_architecture=True, num_kv_heads=2),
    "qwen2": lambda: Qwen2Config(**_GROUPED),
    "qwen3": lambda: Qwen3Config(**_GROUPED, head_dim=16),
    "gemma3_text": lambda: Gemma3TextConfig(**_GEMMA3),
    "gemma3": _gemma3,
    "phi3": lambda: Phi3Config(**_GROUPED, original_max_position_embeddings=2048),
    "gpt2": _gpt2,
    "gpt_neox": lambda: GPTNeoXConfig(**_COMMON, intermediate_size=48),
    "olmo2": lambda: Olmo2Config(**_GROUPED),
}


def tiny_model(family: str = "llama", dtype: torch.dtype = torch.float64, seed: int = 0) -> PreTrainedModel:
    """A random model of one of `FAMILIES` in eval mode; the same family and seed give the same weights.

    The weights are far larger than a fresh model's, so that different tokens give clearly different logits.
    The global random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(FAMILIES[family]())
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn_like(parameter)
                # Matrices are replaced; norms and biases are moved a little from their neutral value.
                parameter.copy_(0.2 * noise if parameter.dim() > 1 else parameter + 0.1 * noise)
    return model.to(dtype).eval()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with a ChatML template; any text goes through it and back unchanged."""
    tokens = SPECIAL_TOKENS + sorted(pre_tokenizers.ByteLevel.alphabet()) + ["".join(pair) for pair in MERGES]
    backend = Tokenizer(BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=MERGES))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        extra_special_tokens=SPECIAL_TOKENS,
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def save_tiny(folder: Path, family: str = "llama") -> Path:
    """Save a tiny model (float32) and the tokenizer as a Hugging Face folder.

    Returns:
        The folder.
    """
    tiny_model(family, dtype=torch.float32).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
