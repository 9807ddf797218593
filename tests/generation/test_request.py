"""What is not tested equal is refused with one line."""

import pytest
import torch
from transformers import DynamicCache, GenerationConfig

from mogu.errors import MoguError
from mogu.generation import MoguModel
from tests.generation.hardened import GREEDY, NO_END, PROMPTS, hardened, replies

IDS = torch.tensor(PROMPTS[:1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "glad"}, "mode 'glad' is none of mogu, base, usable, safe"),
        ({"handoff": "drop"}, "handoff 'drop' is none of reuse, refill"),
        ({"routed_tokens": -1}, "routed_tokens is -1"),
        ({"routed_tokens": 2.0}, "routed_tokens is 2.0"),
        ({"routed_tokens": True}, "routed_tokens is True"),
        ({"inputs_embeds": torch.zeros(1, 2, 32)}, "inputs_embeds is not supported"),
        ({"position_ids": IDS}, "position_ids is not supported"),
        ({"custom_generate": "someone/code"}, "custom_generate is not supported"),
        ({"guidance_scale": 1.5}, "guidance_scale is not supported"),
        ({"generation_config": GenerationConfig(guidance_scale=2.0)}, "guidance_scale is not supported"),
        ({"assistant_early_exit": 1}, "assistant_early_exit is not supported"),
        ({"token_healing": True}, "token_healing is not supported"),
        ({"cache_implementation": "quantized"}, "cache_implementation 'quantized' is not supported"),
        ({"handoff": "refill", "num_beams": 2}, "handoff='refill' does not go with num_beams"),
        ({"handoff": "refill", "prompt_lookup_num_tokens": 2}, "does not go with prompt_lookup_num_tokens"),
        ({"handoff": "refill", "past_key_values": DynamicCache()}, "does not go with past_key_values"),
        ({"handoff": "refill", "cache_implementation": "static"}, "does not go with cache_implementation"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refused_arguments(settings, message):
    with pytest.raises(MoguError, match=message) as error:
        hardened().generate(IDS, **settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [
        (IDS, torch.tensor([[1, 1, 1, 1, 1, 0]]), "pad on the left"),
        (IDS, torch.tensor([[0, 1, 0, 1, 1, 1]]), "pad on the left"),
        (IDS, torch.tensor([[0, 1, 0, 1, 1, 1]]).bool(), "pad on the left"),
        (IDS, torch.zeros_like(IDS), "a row is empty"),
        (IDS, torch.ones(1, 5), r"attention_mask has shape \(1, 5\)"),
        (IDS, torch.ones(2, 6), r"attention_mask has shape \(2, 6\)"),
        (IDS[0], None, "input_ids must be"),
        (IDS.double(), None, "input_ids must be"),
        (PROMPTS, None, "input_ids must be"),
        (IDS[:, :0], None, "input_ids holds no token"),
    ],
)
def test_refused_prompts(ids, mask, message):
    with pytest.raises(MoguError, match=message):
        hardened().generate(ids, mask)


def test_a_neutral_setting_is_no_reason_to_refuse():
    neutral = {"guidance_scale": 1.0, "token_healing": False, "cache_implementation": "dynamic"}
    assert replies(hardened(), PROMPTS, **neutral) == replies(hardened(), PROMPTS)


def test_a_mode_whose_parts_are_not_there():
    whole = hardened()
    config = whole.config.model_copy(update={"parts": ["safe"]})
    mogu = MoguModel(whole.model, whole.tokenizer, whole.adapter, config)
    for mode in ("mogu", "usable"):
        with pytest.raises(MoguError, match=r"needs .*usable.*which the adapter does not hold"):
            mogu.generate(IDS, mode=mode)
    assert mogu.generate(IDS, mode="safe", **GREEDY, **NO_END).shape == (1, 13)
