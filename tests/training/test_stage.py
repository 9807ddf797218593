import pytest
import torch
from torch import nn
from transformers import BloomConfig, FalconConfig, OPTConfig, XGLMConfig

from mogu.training.stage import ReplyKind, RouterStage, SafeStage, UsableStage, gradient_checkpointing
from tests import tiny
from tests.tiny import HEADS, HIDDEN, LAYERS
from tests.training.prepared import MALICIOUS, PROMPTS, PROMPTS_ALIKE, REPLIES, prepared

STAGES = [SafeStage, UsableStage, RouterStage]
ALL = torch.arange(len(PROMPTS))
SAFE_ALONE, USABLE_ALONE = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])


def stage_of(kind, family="gpt2", **options):
    adapter, recorder, examples, settings = prepared(family, **options)
    return kind(adapter, recorder, examples, settings)


def gradients_of(module: nn.Module):
    return [parameter.grad.clone() for parameter in module.parameters()]


@pytest.mark.parametrize(
    ("kind", "part", "count"),
    [(SafeStage, "safe", 4), (UsableStage, "usable", 4), (RouterStage, "router", 4)],
)
def test_a_stage_holds_the_parts_that_it_trains_and_nothing_else(kind, part, count):
    stage = stage_of(kind)
    layers = stage._outside[0].layers.values()
    assert [id(x) for x in stage.parameters()] == [
        id(x) for layer in layers for x in getattr(layer, part).parameters()
    ]
    assert len(stage.state_dict()) == count


@pytest.mark.parametrize(
    ("kind", "weights", "wanted"),
    [
        (SafeStage, SAFE_ALONE, ReplyKind.REFUSAL),
        (UsableStage, USABLE_ALONE, ReplyKind.GLAD),
    ],
)
def test_a_variant_acts_alone_on_the_reply_that_it_should_give(kind, weights, wanted):
    stage = stage_of(kind)
    expected = stage.read(stage.examples, wanted, weights).cross_entropy.mean()
    figures = stage(rows=ALL)
    assert figures.keys() == {"loss", "wanted"}
    assert figures["loss"].item() == figures["wanted"].item() == expected.item()
    other = stage.read(stage.examples, wanted, 1 - weights).cross_entropy.mean()
    assert abs(other.item() - expected.item()) > 1e-3


@pytest.mark.parametrize(
    ("kind", "weights", "wanted"),
    [
        (SafeStage, SAFE_ALONE, ReplyKind.REFUSAL),
        (UsableStage, USABLE_ALONE, ReplyKind.GLAD),
    ],
)
def test_the_papers_objective_is_the_ratio_of_the_two_replies(kind, weights, wanted):
    stage = stage_of(kind, variant_objective="ratio")
    figures = stage(rows=ALL)
    one = stage.read(stage.examples, wanted, weights).cross_entropy.mean()
    other = stage.read(stage.examples, ReplyKind(1 - wanted), weights).cross_entropy.mean()
    assert figures["wanted"].item() == pytest.approx(one.item(), abs=1e-12)
    assert figures["unwanted"].item() == pytest.approx(other.item(), abs=1e-12)
    assert figures["loss"].item() == pytest.approx((one / other).item(), abs=1e-12)


def test_each_stage_takes_its_examples():
    everything = [True] * len(MALICIOUS)
    benign = [not label for label in MALICIOUS]
    for objective, safe, usable in (("target", everything, everything), ("ratio", benign, MALICIOUS)):
        for kind, expected in ((SafeStage, safe), (UsableStage, usable), (RouterStage, everything)):
            stage = stage_of(kind, variant_objective=objective)
            assert [stage.takes(example) for example in stage.examples] == expected


@pytest.mark.parametrize("distance", ["l1", "squared"])
def test_the_routers_learn_what_each_request_should_get_from_the_routed_tokens(distance):
    stage = stage_of(RouterStage, router_loss_weight=0.7, router_distance=distance, routed_tokens=2)
    rows = [0, 1, 2]
    figures = stage(rows=torch.tensor(rows))
    cross_entropies, distances = [], []
    for example in (stage.examples[row].shortened(2) for row in rows):
        kind = ReplyKind.REFUSAL if example.malicious else ReplyKind.GLAD
        reading = stage.read([example], kind)
        # The last prompt token and the first of two reply tokens; the second is only predicted.
        assert int(reading.routed.sum()) == len(example.replies[kind])
        cross_entropies.append(reading.cross_entropy)
        target = torch.tensor([1.0, 0.0] if example.malicious else [0.0, 1.0])
        distances.append((reading.weights[:, reading.routed] - target).flatten())
    target = torch.cat(cross_entropies).mean().item()
    differences = torch.cat(distances)
    apart = (differences.abs() if distance == "l1" else differences.square()).mean().item()
    assert figures["target"].item() == pytest.approx(target, abs=1e-9)
    assert figures["apart"].item() == pytest.approx(apart, abs=1e-9)
    assert figures["loss"].item() == pytest.approx(target + 0.7 * apart, abs=1e-9)


# Of sequence routing: the prompt is the base's alone, and the reply's first token is given.
LONGER = [([*refusal, 77, 78], glad) for refusal, glad in REPLIES]


def sequence_stage(family="gpt2", **options):
    return stage_of(SafeStage, family, preset="default", replies=LONGER, **options)


def plain_reading(adapter, prompt, reply):
    """Cross-entropy of a reply behind its first token, from one forward over the whole row."""
    ids = torch.tensor([[*prompt, *reply[:-1]]])
    adapter.routing.routed = torch.arange(ids.shape[1])[None] >= len(prompt)
    adapter.routing.weights = SAFE_ALONE.double()
    logits = adapter.model(input_ids=ids, use_cache=False).logits[0, len(prompt) :]
    adapter.routing.routed = adapter.routing.weights = None
    return -logits.log_softmax(-1)[range(len(reply) - 1), reply[1:]].mean()


@pytest.mark.parametrize("prompts", [PROMPTS, PROMPTS_ALIKE], ids=["different", "alike"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma3_text"])
def test_with_no_routed_prompt_token_a_batch_equals_plain_forwards(family, prompts):
    stage = sequence_stage(family, prompts=prompts)
    assert stage.settings.routed_prompt_tokens == 0
    adapter = stage._outside[0]
    reading = stage.read(stage.examples, ReplyKind.REFUSAL, SAFE_ALONE.double())
    expected = torch.stack([plain_reading(adapter, e.prompt, e.replies[0]) for e in stage.examples])
    # The norms of some families are computed in float32.
    close = 1e-9 if family.startswith("gpt") else 1e-6
    torch.testing.assert_close(reading.cross_entropy, expected, rtol=0, atol=close)
    lengths = [len(example.replies[0]) - 1 for example in stage.examples]
    assert reading.routed.sum(1).tolist() == lengths
    assert all(reading.routed[row, :length].all() for row, length in enumerate(lengths))
    assert stage(rows=ALL)["loss"].item() == pytest.approx(expected.mean().item(), abs=close)


def test_its_gradients_are_those_of_plain_forwards():
    stage = sequence_stage()
    adapter = stage._outside[0]
    stage(rows=ALL)["loss"].backward()
    found = gradients_of(stage)
    stage.zero_grad()
    torch.stack([plain_reading(adapter, e.prompt, e.replies[0]) for e in stage.examples]).mean().backward()
    for one, other in zip(found, gradients_of(stage), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
        assert float(other.abs().max()) > 0


def test_only_what_follows_the_first_token_is_predicted():
    stage = sequence_stage()
    with torch.no_grad():
        reading = stage.read(stage.examples, ReplyKind.REFUSAL, SAFE_ALONE)
        # All but the first token another one: the first alone decides nothing.
        single = [example.shortened(2) for example in stage.examples]
        two = stage.read(single, ReplyKind.REFUSAL, SAFE_ALONE)
    assert reading.cross_entropy.shape == two.cross_entropy.shape == (4,)
    assert two.routed.tolist() == [[True]] * 4
    for row, example in enumerate(single):
        expected = plain_reading(stage._outside[0], example.prompt, example.replies[0])
        assert two.cross_entropy[row].item() == pytest.approx(expected.item(), abs=1e-9)


@pytest.mark.parametrize("family", ["gpt_neox", "llama"])
def test_gradient_checkpointing_changes_nothing_of_sequence_routing(family):
    plain = sequence_stage(family)
    expected = plain(rows=ALL)
    expected["loss"].backward()
    stage = sequence_stage(family, gradient_checkpointing=True)
    assert stage.examples[0].record.prefix.length == 0
    with gradient_checkpointing(stage._outside[0]):
        found = stage(rows=ALL)
        found["loss"].backward()
    assert found["loss"].item() == pytest.approx(expected["loss"].item(), abs=1e-6)
    for one, other in zip(gradients_of(stage), gradients_of(plain), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("routed_prompt", [1, None])
@pytest.mark.parametrize("objective", ["target", "ratio"])
@pytest.mark.parametrize("kind", STAGES)
def test_gradient_checkpointing_changes_neither_losses_nor_gradients(kind, objective, routed_prompt):
    options = {"variant_objective": objective, "routed_prompt_tokens": routed_prompt}
    plain = stage_of(kind, "gpt_neox", **options)
    expected = plain(rows=ALL)
    expected["loss"].backward()
    stage = stage_of(kind, "gpt_neox", gradient_checkpointing=True, **options)
    with gradient_checkpointing(stage._outside[0]):
        found = stage(rows=ALL)
        found["loss"].backward()
    assert found.keys() == expected.keys()
    for name, figure in expected.items():
        assert found[name].item() == pytest.approx(figure.item(), abs=1e-9)
    for one, other in zip(gradients_of(stage), gradients_of(plain), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
        assert float(other.abs().max()) > 0


def test_gradient_checkpointing_computes_again_and_is_taken_out_again():
    stage = stage_of(SafeStage, "llama", gradient_checkpointing=True)
    model = stage._outside[0].model
    calls = []
    model.model.layers[2].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    with gradient_checkpointing(stage._outside[0]):
        stage(rows=ALL)["loss"].backward()
    assert len(calls) == 2
    assert not model.is_gradient_checkpointing
    assert not any(module.training for module in model.modules())
    stage(rows=ALL)["loss"].backward()
    assert len(calls) == 3


_WIDTH = {"ffn_dim": 48, "dropout": 0.5, "attention_dropout": 0.5, "activation_dropout": 0.5}
_DROPPED = {"hidden_dropout": 0.5, "attention_dropout": 0.5}
DROPPING = {
    "opt": lambda: OPTConfig(**tiny._COMMON, **_WIDTH, word_embed_proj_dim=HIDDEN),
    "xglm": lambda: XGLMConfig(
        **tiny._TOKENS, **_WIDTH, d_model=HIDDEN, num_layers=LAYERS, attention_heads=HEADS
    ),
    "bloom": lambda: BloomConfig(
        **tiny._TOKENS, **_DROPPED, hidden_size=HIDDEN, n_layer=LAYERS, n_head=HEADS
    ),
    "falcon": lambda: FalconConfig(**tiny._COMMON, **_DROPPED, parallel_attn=False, alibi=False),
}


@pytest.mark.parametrize("family", DROPPING)
def test_a_base_with_dropout_drops_nothing_under_gradient_checkpointing(family, monkeypatch):
    monkeypatch.setitem(tiny.FAMILIES, family, DROPPING[family])
    # XGLM's attention does not take float64.
    stage = stage_of(SafeStage, family, dtype=torch.float32, gradient_checkpointing=True)
    model = stage._outside[0].model
    plain = stage(rows=ALL)["loss"]
    plain.backward()
    expected = gradients_of(stage)
    stage.zero_grad()
    with gradient_checkpointing(stage._outside[0]):
        found = stage(rows=ALL)["loss"]
        found.backward()
        assert not any(module.training for module in model.modules())
    assert found.item() == plain.item()
    for one, other in zip(gradients_of(stage), expected, strict=True):
        assert torch.equal(one, other)
        assert float(other.abs().max()) > 0
    model.train()  # in which it would
    assert abs(stage(rows=ALL)["loss"].item() - plain.item()) > 1e-3


@pytest.mark.parametrize("kind", STAGES)
def test_parts_in_float32_train_in_a_bfloat16_model(kind):
    stage = stage_of(kind, "llama", dtype=torch.bfloat16)
    adapter = stage._outside[0]
    for layer in adapter.layers.values():
        for part in (layer.safe, layer.usable, layer.router):
            part.float()
    loss = stage(rows=ALL)["loss"]
    loss.backward()
    assert loss.dtype == torch.float32 and torch.isfinite(loss)
    assert all(gradient.dtype == torch.float32 for gradient in gradients_of(stage))
    assert all(torch.isfinite(gradient).all() for gradient in gradients_of(stage))
