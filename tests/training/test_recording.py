import pytest
import torch
from torch import Tensor
from transformers import (
    BloomConfig,
    FalconConfig,
    GPTNeoConfig,
    Lfm2Config,
    Llama4TextConfig,
    MptConfig,
)

from mogu.training.recording import PrefixLayout, Recorder, suffix_inputs
from mogu.training.stage import ReplyKind, RouterStage
from tests import tiny
from tests.tiny import _COMMON, _GROUPED, _TOKENS, HEADS, HIDDEN, LAYERS, tiny_model
from tests.training.prepared import PROMPTS, PROMPTS_ALIKE, REPLIES, SHARED, prepared

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
    return {"rtol": 0, "atol": 1e-9 if family in IN_FLOAT64 else 1e-6}


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


# Models that count columns, where the others take the positions that they are given, and recurrent ones.
OTHER_FAMILIES = {
    "mpt": lambda: MptConfig(d_model=HIDDEN, n_heads=HEADS, n_layers=LAYERS, **_TOKENS),
    "gpt_neo": lambda: GPTNeoConfig(
        hidden_size=HIDDEN,
        num_layers=LAYERS,
        num_heads=HEADS,
        attention_types=[[["global", "local", "global"], 1]],
        window_size=8,
        resid_dropout=0.0,
        embed_dropout=0.0,
        attention_dropout=0.0,
        **_TOKENS,
    ),
    "bloom": lambda: BloomConfig(hidden_size=HIDDEN, n_head=HEADS, n_layer=LAYERS, **_TOKENS),
    "falcon_alibi": lambda: FalconConfig(**_COMMON, alibi=True),
    "llama4": lambda: Llama4TextConfig(
        **_GROUPED,
        head_dim=8,
        intermediate_size_mlp=48,
        attention_chunk_size=16,
        num_local_experts=2,
        experts_implementation="eager",
    ),
    "lfm2": lambda: Lfm2Config(**_GROUPED, layer_types=["conv", "full_attention", "full_attention"]),
}


@pytest.mark.parametrize("prompts", [PROMPTS, PROMPTS_ALIKE], ids=["different", "alike"])
@pytest.mark.parametrize("routed_prompt", [1, 3, None])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_replayed_batch_equals_one_plain_forward_a_row(family, routed_prompt, prompts):
    adapter, recorder, examples, settings = prepared(family, prompts, routed_prompt_tokens=routed_prompt)
    stage = RouterStage(adapter, recorder, examples, settings)
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
        assert found.keys() == expected.keys() and len(found) == 2 * 6
        for name, gradient in expected.items():
            scale = float(gradient.abs().max())
            assert scale > 0
            torch.testing.assert_close(found[name] / scale, gradient / scale, **close, msg=name)


@pytest.mark.parametrize("routed_prompt", [1, None])
@pytest.mark.parametrize("family", OTHER_FAMILIES)
def test_prompts_that_begin_alike_are_read_right_by_models_that_count_columns(
    family, routed_prompt, monkeypatch
):
    monkeypatch.setitem(tiny.FAMILIES, family, OTHER_FAMILIES[family])
    adapter, recorder, examples, settings = prepared(
        # In float64 some of them are not a number where a row is padded.
        family,
        PROMPTS_ALIKE,
        routed_prompt_tokens=routed_prompt,
        dtype=torch.float32,
    )
    reading = RouterStage(adapter, recorder, examples, settings).read(examples, ReplyKind.REFUSAL)
    rows = [plain(adapter, example, ReplyKind.REFUSAL, routed_prompt) for example in examples]
    expected = torch.stack([row[0] for row in rows])
    torch.testing.assert_close(reading.cross_entropy, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("skip", [0, 2])
def test_any_layer_may_be_the_first_routed_one(skip):
    adapter, recorder, examples, settings = prepared("gpt_neox", skip=skip, routed_prompt_tokens=3)
    reading = RouterStage(adapter, recorder, examples, settings).read(examples, ReplyKind.GLAD)
    rows = [plain(adapter, example, ReplyKind.GLAD, 3) for example in examples]
    torch.testing.assert_close(
        reading.cross_entropy, torch.stack([row[0] for row in rows]), rtol=0, atol=1e-9
    )
    assert reading.weights.shape[:2] == (LAYERS - skip, len(examples))


def test_given_weights_take_the_place_of_the_routers():
    adapter, recorder, examples, settings = prepared("falcon_new", routed_prompt_tokens=3)
    weights = torch.tensor([0.25, 1.5], dtype=torch.float64)
    reading = RouterStage(adapter, recorder, examples, settings).read(examples, ReplyKind.GLAD, weights)
    expected = [plain(adapter, example, ReplyKind.GLAD, 3, weights)[0] for example in examples]
    torch.testing.assert_close(reading.cross_entropy, torch.stack(expected), rtol=0, atol=1e-9)
    assert torch.equal(reading.weights[:, reading.routed][0, 0], weights)


def test_examples_recorded_apart_are_read_together():
    alone = [
        prepared("gpt2", [prompt], replies=[reply], malicious=[True]).examples[0]
        for prompt, reply in zip(PROMPTS_ALIKE, REPLIES, strict=True)
    ]
    adapter, recorder, together, settings = prepared("gpt2", PROMPTS_ALIKE)
    stage = RouterStage(adapter, recorder, together, settings)
    torch.testing.assert_close(
        stage.read(alone, ReplyKind.REFUSAL).cross_entropy,
        stage.read(together, ReplyKind.REFUSAL).cross_entropy,
        rtol=0,
        atol=1e-9,
    )


@pytest.mark.parametrize("tokens", [1, 3])
def test_a_shortened_example_is_read_as_one_with_short_replies(tokens):
    short = [(refusal[:tokens], glad[:tokens]) for refusal, glad in REPLIES]
    adapter, recorder, examples, settings = prepared("gpt2", replies=short, routed_prompt_tokens=3)
    stage = RouterStage(adapter, recorder, examples, settings)
    whole = prepared("gpt2", routed_prompt_tokens=3).examples
    for kind in ReplyKind:
        cut = stage.read([example.shortened(tokens) for example in whole], kind)
        expected = stage.read(examples, kind)
        for one, other in zip(cut, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_what_is_recorded_is_what_the_upper_layers_need():
    _, _, examples, _ = prepared("llama", routed_prompt_tokens=3)
    for example in examples:
        prefix, suffix = max(0, len(example.prompt) - 3), min(3, len(example.prompt))
        assert example.record.prefix.length == prefix
        # Two grouped heads of size 8; the first of three layers is below the first routed one.
        assert [tuple(keys.shape) for keys in example.record.prefix.keys] == [(2, prefix, 8)] * 2
        lengths = [len(hidden) for hidden in example.record.hidden]
        assert lengths == [suffix + len(reply) - 1 for reply in example.replies]


def test_a_common_start_is_read_once(monkeypatch):
    widths = []
    model = tiny_model("llama")
    monkeypatch.setattr(model.model.embed_tokens, "forward", count(model.model.embed_tokens.forward, widths))
    Recorder(model, 1).record(PROMPTS_ALIKE, REPLIES, 1)
    # The start, the rest of the prefixes, and the suffixes with either reply.
    assert widths == [(1, len(SHARED)), (4, 16), (4, 9), (4, 8)]


def count(forward, shapes):
    def counting(ids):
        shapes.append(tuple(ids.shape))
        return forward(ids)

    return counting


def test_reading_leaves_the_model_as_it_was():
    adapter, recorder, examples, settings = prepared("phi3")
    stage = RouterStage(adapter, recorder, examples, settings)
    before = adapter.model(input_ids=torch.tensor([PROMPTS[0]])).logits
    stage.read(examples, ReplyKind.GLAD)
    assert all("forward" not in vars(layer) for layer in recorder.layers)
    assert all(not layer._forward_hooks and not layer._forward_pre_hooks for layer in recorder.layers)
    assert adapter.routing.routed is None and adapter.routing.weights is None
    assert torch.equal(adapter.model(input_ids=torch.tensor([PROMPTS[0]])).logits, before)


def test_an_error_within_leaves_the_model_as_it_was(monkeypatch):
    adapter, recorder, examples, settings = prepared("llama")

    def fail(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(adapter.model.model.norm, "forward", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        RouterStage(adapter, recorder, examples, settings).read(examples, ReplyKind.GLAD)
    assert all("forward" not in vars(layer) for layer in recorder.layers)
    assert adapter.routing.routed is None and adapter.routing.weights is None


def test_the_lower_layers_are_not_run_again():
    adapter, recorder, examples, settings = prepared("llama", skip=2)
    calls = []
    for layer in recorder.layers[:2]:
        layer.self_attn.register_forward_pre_hook(lambda module, _: calls.append(module))
    RouterStage(adapter, recorder, examples, settings).read(examples, ReplyKind.GLAD)
    assert calls == []


@torch.no_grad()
def outputs_of(model, prompt) -> list[Tensor]:
    """What each decoder layer puts out, of one row read alone: the last one before the final norm."""
    seen = []
    hooks = [
        layer.register_forward_hook(lambda _, __, out: seen.append(out[0] if isinstance(out, tuple) else out))
        for layer in Recorder(model, 1).layers
    ]
    states = model(input_ids=torch.tensor([prompt]), use_cache=False, output_hidden_states=True).hidden_states
    for hook in hooks:
        hook.remove()
    assert all(torch.equal(one, other) for one, other in zip(seen[:-1], states[1:-1], strict=True))
    return [each[0] for each in seen]


STARTS = [0, 3, 7, 1]


@pytest.mark.parametrize("layers", [[0], [0, 2], [1, 2], [2]], ids=str)
@pytest.mark.parametrize("prompts", [PROMPTS, PROMPTS_ALIKE], ids=["different", "alike"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
def test_hidden_states_are_those_of_each_row_alone(family, prompts, layers):
    model = tiny_model(family)
    recorder = Recorder(model, 1)
    found = recorder.hidden(prompts, STARTS, layers)
    assert all(not layer._forward_hooks for layer in recorder.layers)
    for states, prompt, start in zip(found, prompts, STARTS, strict=True):
        expected = torch.stack([outputs_of(model, prompt)[layer][start:] for layer in layers])
        assert states.shape == (len(layers), len(prompt) - start, HIDDEN)
        torch.testing.assert_close(states, expected, **tolerance(family))


@pytest.mark.parametrize("family", OTHER_FAMILIES)
def test_hidden_states_of_models_that_count_columns(family, monkeypatch):
    monkeypatch.setitem(tiny.FAMILIES, family, OTHER_FAMILIES[family])
    model = tiny_model(family, torch.float32)
    found = Recorder(model, 1).hidden(PROMPTS_ALIKE, STARTS, [1])
    for states, prompt, start in zip(found, PROMPTS_ALIKE, STARTS, strict=True):
        torch.testing.assert_close(states[0], outputs_of(model, prompt)[1][start:], rtol=1e-4, atol=1e-4)


def test_a_common_start_is_read_once_for_hidden_states_but_no_further_than_they_are_wanted(monkeypatch):
    widths = []
    model = tiny_model("llama")
    monkeypatch.setattr(model.model.embed_tokens, "forward", count(model.model.embed_tokens.forward, widths))
    recorder = Recorder(model, 1)
    recorder.hidden(PROMPTS_ALIKE, [len(SHARED)] * 4, [1])
    recorder.hidden(PROMPTS_ALIKE, [9, 5, 9, 9], [1])
    recorder.hidden([PROMPTS_ALIKE[0]] * 2, [20, 23], [1])
    assert widths == [(1, 7), (4, 17), (1, 5), (4, 19), (1, 20), (2, 4)]


def test_layers_above_the_highest_one_that_is_read_are_not_computed():
    model = tiny_model("llama")
    recorder, calls = Recorder(model, 1), []
    for index, layer in enumerate(recorder.layers):
        layer.self_attn.register_forward_pre_hook(lambda *_, index=index: calls.append(index))
    recorder.hidden(PROMPTS_ALIKE, [7] * 4, [0, 1])
    assert calls == [0, 1, 0, 1]


def test_an_error_leaves_no_hook(monkeypatch):
    model = tiny_model("llama")

    def fail(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(model.model.layers[1].mlp, "forward", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        Recorder(model, 1).hidden(PROMPTS, [0] * 4, [0, 2])
    assert all(not layer._forward_hooks for layer in model.model.layers)


def test_layout_and_padding():
    layout = PrefixLayout.of([5, 3, 2], shared=2)
    assert layout.mask().tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 1], [1, 1, 0, 0, 0]]
    inputs = suffix_inputs([[7, 8], [9], [4, 5]], PrefixLayout.of([1, 0, 2]))
    assert inputs["input_ids"].tolist() == [[7, 8], [9, 0], [4, 5]]
    assert inputs["position_ids"].tolist() == [[1, 2], [0, 1], [2, 3]]
    assert inputs["attention_mask"].tolist() == [[0, 1, 1, 1], [0, 0, 1, 0], [1, 1, 1, 1]]
