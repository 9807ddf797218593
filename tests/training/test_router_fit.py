import random

import pytest
import torch

from mogu.adapter.attach import attach
from mogu.adapter.layer import SAFE, USABLE
from mogu.models import find_projections
from mogu.training.recording import Recorder
from mogu.training.router_fit import REPLY_TOKENS, fit_routers
from mogu.training.stage import Example, RouterStage
from tests.tiny import LAYERS, tiny_model
from tests.training.prepared import settings_of

MALICIOUS_TOKENS, BENIGN_TOKENS = (20, 77, 130), (40, 99, 210)
ROWS = 40


def requests(count, seed):
    """Prompts whose tokens give their label away, and replies that do not."""
    rng = random.Random(seed)
    labels = [index % 2 == 0 for index in range(count)]
    prompts = [
        rng.choices(MALICIOUS_TOKENS if label else BENIGN_TOKENS, k=rng.randint(3, 12)) for label in labels
    ]
    replies = [([5, 6, 7, 8, 9], [5, 6, 7, 8, 9]) for _ in labels]
    return prompts, replies, labels


def fitted(routed_prompt=1):
    """A new adapter in the upper two layers, and a stage with examples to fit on and unseen ones."""
    model = tiny_model("gpt_neox")
    settings = settings_of(routed_prompt_tokens=routed_prompt, batch_size=5)
    projections = find_projections(model)[1:]
    adapter = attach(model, projections, settings.rank, settings.lora_alpha)
    recorder = Recorder(model, projections[0].layer)
    prompts, replies, labels = requests(2 * ROWS, seed=0)
    records = recorder.record(prompts, replies, routed_prompt)
    examples = [Example(*row) for row in zip(prompts, replies, labels, records, strict=True)]
    return adapter, RouterStage(adapter, recorder, examples, settings)


@pytest.mark.parametrize("routed_prompt", [1, None])
def test_the_routers_tell_the_last_token_of_prompts_that_differ(routed_prompt):
    adapter, stage = fitted(routed_prompt)
    fit_routers(adapter, stage, range(ROWS), lambda done, total: None)
    with torch.no_grad():
        for example in stage.examples:
            reading = stage.read([example.shortened(1)])
            weights = reading.weights[:, 0, -1]
            assert weights.shape == (LAYERS - 1, 2)
            more, less = (SAFE, USABLE) if example.malicious else (USABLE, SAFE)
            assert (weights[:, more] > 0.5).all() and (weights[:, less] < 0.5).all()


def test_the_two_routers_of_a_layer_mirror_each_other():
    adapter, stage = fitted()
    fit_routers(adapter, stage, range(ROWS), lambda done, total: None)
    for layer in adapter.layers.values():
        vectors, bias = layer.router.fold()
        assert torch.equal(vectors[SAFE], -vectors[USABLE]) and vectors[SAFE].abs().max() > 0
        assert torch.equal(bias[SAFE], -bias[USABLE])


def test_the_fit_reads_what_the_base_computes():
    adapter, stage = fitted()
    read = {name: [] for name in adapter.layers}
    for name, layer in adapter.layers.items():
        layer.projection.register_forward_pre_hook(lambda _, inputs, name=name: read[name].append(inputs[0]))
    fit_routers(adapter, stage, [0, 1], lambda done, total: None)
    base = tiny_model("gpt_neox")
    expected = {name: [] for name in adapter.layers}
    for name in adapter.layers:
        base.get_submodule(name).register_forward_pre_hook(
            lambda _, inputs, name=name: expected[name].append(inputs[0])
        )
    for example in stage.examples[:2]:
        with torch.no_grad():
            base(input_ids=torch.tensor([[*example.prompt, *example.replies[0][:REPLY_TOKENS]]]))
    for name in adapter.layers:
        for found, whole in zip(read[name], expected[name], strict=True):
            assert found.shape[1] == 1 + REPLY_TOKENS
            torch.testing.assert_close(found, whole[:, -found.shape[1] :], rtol=0, atol=1e-9)


def test_the_fit_changes_nothing_but_the_routers():
    adapter, stage = fitted()
    before = {name: value.clone() for name, value in adapter.model.state_dict().items()}
    fit_routers(adapter, stage, range(ROWS), lambda done, total: None)
    after = adapter.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"{name}.router.{part}" for name in adapter.layers for part in ("vectors", "bias")}
    assert not any(layer._forward_pre_hooks for layer in adapter.layers.values())


def test_progress_counts_batches_and_layers():
    adapter, stage = fitted()
    heard = []
    fit_routers(adapter, stage, range(ROWS), lambda done, total: heard.append((done, total)))
    # Twenty requests of each label in batches of 5, and 2 layers.
    assert heard == [(step, 4 + 4 + 2) for step in range(1, 11)]


def test_the_same_examples_give_the_same_routers():
    first, second = fitted(), fitted()
    for adapter, stage in (first, second):
        fit_routers(adapter, stage, range(ROWS), lambda done, total: None)
    for one, other in zip(first[0].layers.values(), second[0].layers.values(), strict=True):
        assert torch.equal(one.router.vectors, other.router.vectors)
        assert torch.equal(one.router.bias, other.router.bias)
