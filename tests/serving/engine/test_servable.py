import pytest
import torch
from transformers import AutoModelForCausalLM, BloomConfig, MambaConfig, MistralConfig, Qwen3NextConfig

from mogu.errors import MoguError
from mogu.serving.engine import batch as batches
from mogu.serving.engine.servable import check_rows, longest_text
from tests.generation.gated import gated
from tests.tiny import _GROUPED, _TOKENS, FAMILIES, tiny_tokenizer


class Bare:
    """A model with a tokenizer, as far as it is looked at."""

    def __init__(self, config, longest=10**30):
        self.model = AutoModelForCausalLM.from_config(config)
        self.tokenizer = tiny_tokenizer()
        self.tokenizer.model_max_length = longest


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"gemma3"}))
def test_every_family_reads_rows_as_if_they_were_alone(family):
    mogu = gated(family)
    assert longest_text(mogu) == (16 if family == "gemma3_text" else 2048)
    with torch.inference_mode():
        check_rows(mogu)


def test_the_shortest_limit_counts():
    config = MistralConfig(**_GROUPED, sliding_window=100)
    assert longest_text(Bare(config)) == 100
    assert longest_text(Bare(config, longest=50)) == 50


def test_positions_that_one_long_row_would_change_for_all_end_the_text():
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [4.0] * 4,
        "original_max_position_embeddings": 64,
    }
    assert longest_text(Bare(MistralConfig(**_GROUPED, sliding_window=None, rope_parameters=rope))) == 64


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (MambaConfig(**_TOKENS, hidden_size=16, num_hidden_layers=2), "mamba takes no position_ids"),
        (BloomConfig(**_TOKENS, hidden_size=16, n_layer=2, n_head=2), "bloom takes no position_ids"),
        (
            Qwen3NextConfig(
                **_TOKENS,
                hidden_size=16,
                num_hidden_layers=4,
                num_experts=2,
                num_experts_per_tok=1,
                head_dim=8,
            ),
            "qwen3_next keeps more than keys and values",
        ),
    ],
    ids=["mamba", "bloom", "qwen3_next"],
)
def test_other_models_are_refused_with_what_is_supported(config, message):
    with pytest.raises(MoguError, match=message) as error:
        longest_text(Bare(config))
    assert "decoder-only models with a plain cache" in str(error.value)


def test_a_model_that_mixes_rows_up_is_refused(monkeypatch):
    mogu = gated()
    original = batches._forward

    def without_mask(model, forwards, **kwargs):
        return original(model, forwards, **{**kwargs, "attention_mask": None})

    monkeypatch.setattr(batches, "_forward", without_mask)
    with (
        torch.inference_mode(),
        pytest.raises(MoguError, match="llama reads rows together or in parts"),
    ):
        check_rows(mogu)
