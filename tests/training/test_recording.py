import pytest
import torch
from torch import Tensor

from mogu.training.recording import PrefixLayout, Recorder, pad, suffix_inputs
from mogu.training.stage import ReplyKind, RouterStage
from tests.training.prepared import PROMPTS, PROMPTS_ALIKE, prepared

FAMILIES = [
    "llama",
    "mistral",
    "falcon_7b",
    "falcon_new",
    "gpt2",
    "gpt_neox",
    "gemma3_text",
    "gemma3",
    "phi3",
    "mixtral",
    "qwen3",
    "olmo2",
]
# The others compute norms in float32, where the order of additions shows.
IN_FLOAT64 = {"falcon_7b", "falcon_new", "gpt2", "gpt_neox"}


def tolerance(family):
    return {"rtol": 0, "atol": 1e-9 if family in IN_FLOAT64 else 1e-5}


def plain(adapter, example, kind, routed_prompt, weights=None):
    """Cross-entropy, weights of the routed tokens and first logits from one forward over all of one row."""
    reply = example.replies[kind]
    ids = torch.tensor([[*example.prompt, *reply[:-1]]])
    start = 0 if routed_prompt is None else max(0, len(example.prompt) - routed_prompt)
    adapter.routing.routed = torch.arange(ids.shape[1])[None] >= start
    adapter.routing.weights = weights
    logits = adapter.model(input_ids=ids, use_cache=False).logits[0, len(example.prompt) - 1 :]
    used = adapter.last_weights()[:, 0, start:]
    adapter.routing.routed = adapter.routing.weights = None
    probability = logits.log_softmax(-1)[range(len(reply)), reply]
    return -probability.mean(), used, logits[0]


def gradients(adapter) -> dict[str, Tensor]:
    found = {}
    for name, layer in adapter.layers.items():
        for part in ("safe", "usable", "router"):
            for key, parameter in getattr(layer, part).named_parameters():
                found[f"{name}.{part}.{key}"] = parameter.grad
                parameter.grad = None
    return found


def loss_of(cross_entropy, weights):
    return cross_entropy + sum(w.square().sum() for w in weights)


@pytest.mark.parametrize("prompts", [PROMPTS, PROMPTS_ALIKE], ids=["different", "alike"])
@pytest.mark.parametrize("routed_prompt", [1, 3, None])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_replayed_batch_equals_one_plain_forward_a_row(family, routed_prompt, prompts):
    adapter, recorder, examples, settings = prepared(family, prompts, routed_prompt_tokens=routed_prompt)
    stage = RouterStage(adapter, recorder, examples, settings)
    stage.requires_grad_(True)
    for kind in ReplyKind:
        reading = stage.read(examples, kind)
        loss_of(reading.cross_entropy.sum(), [reading.weights[:, reading.routed]]).backward()
        found = gradients(adapter)
        rows = [plain(adapter, example, kind, routed_prompt) for example in examples]
        close = tolerance(family)
        torch.testing.assert_close(reading.cross_entropy, torch.stack([row[0] for row in rows]), **close)
        torch.testing.assert_close(reading.first_logits, torch.stack([row[2] for row in rows]), **close)
        for index, (_, weights, _) in enumerate(rows):
            routed = reading.weights[:, index, reading.routed[index]]
            torch.testing.assert_close(routed, weights, **close)
        loss_of(sum(row[0] for row in rows), [row[1] for row in rows]).backward()
        expected = gradients(adapter)
        for name, gradient in expected.items():
            if ".router." in name:
                scale = 1 + float(gradient.abs().max())
                torch.testing.assert_close(found[name] / scale, gradient / scale, **close, msg=name)
