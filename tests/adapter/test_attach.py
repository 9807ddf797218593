import pytest
import torch

from mogu.adapter.attach import attach, upper_layers
from mogu.adapter.layer import RoutedProjection
from mogu.errors import AdapterError
from mogu.models import find_projections
from tests.adapter.adapters import ALPHA, RANK, logits, random_adapter, token_ids
from tests.tiny import FAMILIES, LAYERS, tiny_model


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_routing_off_is_the_base_bit_for_bit(family, dtype):
    model, ids = tiny_model(family, dtype), token_ids()
    before = logits(model, ids)
    adapter = random_adapter(model)

    assert len(adapter.layers) == LAYERS
    assert torch.equal(logits(model, ids), before)
    assert adapter.last_weights() is None


@pytest.mark.parametrize("family", FAMILIES)
def test_unrouted_rows_are_the_base_bit_for_bit(family):
    model, ids = tiny_model(family), token_ids()
    before = logits(model, ids)
    adapter = random_adapter(model)
    adapter.routing.routed = torch.zeros(ids.shape, dtype=torch.bool)
    adapter.routing.routed[1, 3:] = True
    after = logits(model, ids)

    assert torch.equal(after[[0, 2]], before[[0, 2]])
    assert torch.equal(after[1, :3], before[1, :3])
    assert (after[1, 3:] - before[1, 3:]).abs().amax(-1).min() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_never_changes_another_rows_weights(family):
    model, ids = tiny_model(family), token_ids()
    adapter = random_adapter(model)
    adapter.routing.routed = torch.ones(ids.shape, dtype=torch.bool)
    logits(model, ids)
    before = adapter.last_weights()
    ids[0] = token_ids(seed=9)[0]
    logits(model, ids)
    after = adapter.last_weights()

    assert before.shape == (LAYERS, *ids.shape, 2)
    assert torch.equal(after[:, 1:], before[:, 1:])
    assert not torch.equal(after[:, 0], before[:, 0])


def test_gates_of_a_bfloat16_model_are_float32():
    model, ids = tiny_model("llama", torch.bfloat16), token_ids()
    adapter = random_adapter(model)
    adapter.routing.routed = torch.ones(ids.shape, dtype=torch.bool)

    assert logits(model, ids).dtype == torch.bfloat16
    assert adapter.last_weights().dtype == torch.float32
    layer = next(iter(adapter.layers.values()))
    assert layer.safe.A.dtype == layer.router.vectors.dtype == torch.bfloat16
    assert layer.router.bias.dtype == torch.float32


def test_new_parts_weigh_half_and_half_and_change_nothing():
    model, ids = tiny_model(), token_ids()
    before = logits(model, ids)
    adapter = attach(model, find_projections(model), RANK, ALPHA)
    adapter.routing.routed = torch.ones(ids.shape, dtype=torch.bool)

    torch.testing.assert_close(logits(model, ids), before, rtol=0, atol=1e-12)
    assert torch.equal(adapter.last_weights(), torch.full_like(adapter.last_weights(), 0.5))


def test_only_new_parts_are_trainable():
    model = tiny_model()
    adapter = attach(model, find_projections(model), RANK, ALPHA)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}

    assert trainable == {
        f"{name}.{part}"
        for name in adapter.layers
        for part in ("safe.A", "safe.B", "usable.A", "usable.B", "router.vectors", "router.bias")
    }


def test_attaching_twice_is_refused_and_changes_nothing():
    model = tiny_model()
    projections = find_projections(model)
    adapter = attach(model, projections[1:], RANK, ALPHA)

    with pytest.raises(AdapterError, match="has an adapter already"):
        attach(model, projections, RANK, ALPHA)
    wrapped = {name for name, module in model.named_modules() if isinstance(module, RoutedProjection)}
    assert wrapped == set(adapter.layers)


@pytest.mark.parametrize("family", FAMILIES)
def test_detach_restores_the_model(family):
    model, ids = tiny_model(family), token_ids()
    names, before = list(dict(model.named_modules())), logits(model, ids)
    adapter = random_adapter(model)
    adapter.routing.routed = torch.ones(ids.shape, dtype=torch.bool)
    adapter.detach()

    assert list(dict(model.named_modules())) == names
    assert torch.equal(logits(model, ids), before)


@pytest.mark.parametrize(("share", "kept"), [(0.0, [2]), (0.5, [1, 2]), (1.0, [0, 1, 2])])
def test_upper_layers(share, kept):
    assert [place.layer for place in upper_layers(find_projections(tiny_model()), share)] == kept
