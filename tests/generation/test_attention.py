import pytest
import torch

from mogu.generation.attention import GROUPED, grouped, grouped_attention
from tests.tiny import tiny_model


def test_grouped_attention_is_the_models_own():
    torch.manual_seed(0)
    module = torch.nn.Module()
    module.num_key_value_groups = 3
    key, value = torch.randn(2, 2, 7, 4, dtype=torch.float64), torch.randn(2, 2, 7, 4, dtype=torch.float64)
    mask = (torch.arange(7) <= torch.tensor([[3], [6]]))[:, None, None]
    for tokens in (1, 2):
        query = torch.randn(2, 6, tokens, 4, dtype=torch.float64)
        output, _ = grouped_attention(module, query, key, value, mask, scaling=0.3)
        for head in range(6):
            scores = 0.3 * query[:, head] @ key[:, head // 3].transpose(1, 2)
            weights = scores.masked_fill(~mask[:, 0], -torch.inf).softmax(-1)
            torch.testing.assert_close(output[:, :, head], weights @ value[:, head // 3])


def test_a_model_has_it_for_a_while():
    model = tiny_model("llama")
    ids, mask = torch.arange(5, 17).view(2, 6), torch.ones(2, 6, dtype=torch.int64)
    mask[0, :3] = 0

    def written():
        given = {"input_ids": ids, "attention_mask": mask, "max_new_tokens": 4, "do_sample": False}
        return model.generate(**given, output_logits=True, return_dict_in_generate=True).logits

    own = written()
    with pytest.raises(KeyError), grouped(model):
        assert model.config._attn_implementation == GROUPED
        for mine, theirs in zip(written(), own, strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-9, rtol=0)
        raise KeyError
    assert model.config._attn_implementation == "sdpa"


def test_one_with_another_attention_keeps_it():
    model = tiny_model("llama")
    model.set_attn_implementation("eager")
    with grouped(model):
        assert model.config._attn_implementation == "eager"
