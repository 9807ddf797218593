import copy

import pytest
import torch
from torch import nn

from mogu.adapter.layer import SAFE, USABLE, RoutedProjection, Routing
from mogu.adapter.router import Router
from tests.adapter.adapters import random_adapter, token_ids
from tests.tiny import FAMILIES, tiny_model

ROUTED = torch.tensor([[1, 1, 0, 1, 0, 0, 1], [0] * 7, [1] * 7]).bool()


def random_layer(dtype=torch.float64, bias=True, router=None):
    torch.manual_seed(0)
    layer = RoutedProjection(nn.Linear(12, 10, bias=bias), 12, 10, rank=3, scaling=1.5, routing=Routing())
    layer.router = router or layer.router
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    return layer.to(dtype)


def written_formula(layer, x, weights=None):
    """The paper's formula, token by token and variant by variant, with the layer's parts."""
    y = torch.empty(*x.shape[:-1], layer.safe.B.shape[0], dtype=x.dtype)
    for row in range(x.shape[0]):
        for token in range(x.shape[1]):
            v = x[row, token]
            base = layer.projection(v)
            if not layer.routing.routed[row, token]:
                y[row, token] = base
                continue
            if weights is None:
                safe_weight, usable_weight = 1 / (1 + torch.exp(-layer.router(v)))
            else:
                safe_weight, usable_weight = weights[row, token]
            safe = base + layer.scaling * (layer.safe.B @ (layer.safe.A @ v))
            usable = base + layer.scaling * (layer.usable.B @ (layer.usable.A @ v))
            y[row, token] = safe_weight * safe + usable_weight * usable
    return y


@pytest.mark.parametrize("router", [None, Router(12)], ids=["folded", "paper"])
@pytest.mark.parametrize("bias", [True, False])
def test_layer_equals_the_written_formula(router, bias):
    layer = random_layer(bias=bias, router=router)
    x = torch.randn(3, 7, 12, dtype=torch.float64)
    layer.routing.routed = ROUTED

    torch.testing.assert_close(layer(x), written_formula(layer, x), rtol=0, atol=1e-9)


def test_given_weights_replace_the_router():
    layer = random_layer()
    x = torch.randn(3, 7, 12, dtype=torch.float64)
    weights = torch.rand(3, 7, 2)
    layer.routing.routed, layer.routing.weights = ROUTED, weights

    torch.testing.assert_close(layer(x), written_formula(layer, x, weights), rtol=0, atol=1e-9)
    assert torch.equal(layer.last_weights[ROUTED], weights[ROUTED].double())


def test_weights_of_one_token_hold_for_all():
    layer = random_layer()
    x = torch.randn(3, 7, 12, dtype=torch.float64)
    layer.routing.routed = ROUTED
    layer.routing.weights = torch.tensor([0.25, 0.5]).view(1, 1, 2)
    one = layer(x)
    layer.routing.weights = torch.tensor([0.25, 0.5]).expand(3, 7, 2)

    assert torch.equal(one, layer(x))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_computes_the_formula_in_place(family):
    model = tiny_model(family)
    adapter = random_adapter(model)
    seen = {}
    hooks = [
        layer.register_forward_hook(lambda m, args, output, name=name: seen.update({name: (args[0], output)}))
        for name, layer in adapter.layers.items()
    ]
    adapter.routing.routed = ROUTED
    model(input_ids=token_ids(), use_cache=False)

    assert len(seen) == len(hooks)
    for name, (x, output) in seen.items():
        layer = adapter.layers[name]
        torch.testing.assert_close(output, written_formula(layer, x), rtol=0, atol=1e-9)
        assert torch.equal(output[~ROUTED], layer.projection(x)[~ROUTED])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_unrouted_tokens_are_the_projection_bit_for_bit(dtype):
    layer = random_layer(dtype)
    x = torch.randn(3, 7, 12, dtype=dtype)
    layer.routing.routed = ROUTED

    assert torch.equal(layer(x)[~ROUTED], layer.projection(x)[~ROUTED])
    assert torch.equal(layer.last_weights[~ROUTED], torch.tensor([0, 1]).expand(10, 2).to(layer.last_weights))


def test_routing_off_is_the_projection_itself():
    layer = random_layer()
    x = torch.randn(3, 7, 12, dtype=torch.float64)

    assert torch.equal(layer(x), layer.projection(x))
    assert layer.last_weights is None


def test_a_row_never_changes_another_rows_weights():
    layer = random_layer()
    x = torch.randn(3, 7, 12, dtype=torch.float64)
    layer.routing.routed = ROUTED
    layer(x)
    before = layer.last_weights
    x[0] = torch.randn(7, 12, dtype=torch.float64)
    layer(x)

    assert torch.equal(layer.last_weights[1:], before[1:])
    assert not torch.equal(layer.last_weights[0], before[0])


@pytest.mark.parametrize("router", [None, Router(12)], ids=["folded", "paper"])
def test_gates_of_a_bfloat16_model_are_float32(router):
    layer = random_layer(torch.bfloat16, router=router)
    x = torch.randn(3, 7, 12, dtype=torch.bfloat16)
    layer.routing.routed = ROUTED
    output = layer(x)
    vectors, bias = layer.router.fold()
    logits = nn.functional.linear(x, vectors).float() + bias.float()

    assert output.dtype == torch.bfloat16
    assert layer.last_weights.dtype == torch.float32
    # bfloat16 has 8 bits: rounded to it, the gates would differ by far more.
    torch.testing.assert_close(layer.last_weights[ROUTED], torch.sigmoid(logits)[ROUTED], rtol=0, atol=1e-6)


def test_frozen_equals_thawed_and_sees_no_change_until_thawed():
    layer = random_layer()
    x = torch.randn(3, 7, 12, dtype=torch.float64)
    layer.routing.routed = ROUTED
    before = layer(x)
    layer.freeze()
    assert torch.equal(layer(x), before)

    layer.safe.B.data.zero_()
    assert torch.equal(layer(x), before)

    layer.thaw()
    assert not torch.equal(layer(x), before)


def test_a_frozen_layer_can_be_moved():
    layer = random_layer(torch.float32)
    layer.freeze()
    layer.double()
    layer.routing.routed = ROUTED
    x = torch.randn(3, 7, 12, dtype=torch.float64)

    torch.testing.assert_close(layer(x), written_formula(layer, x), rtol=0, atol=1e-9)


def test_gradients_reach_every_part_and_not_the_projection():
    layer = random_layer()
    layer.projection.requires_grad_(False)
    layer.routing.routed = ROUTED
    layer(torch.randn(3, 7, 12, dtype=torch.float64)).square().sum().backward()
    trained = [*layer.safe.parameters(), *layer.usable.parameters(), *layer.router.parameters()]

    assert all(p.grad is not None and p.grad.any() for p in trained)
    assert all(p.grad is None for p in layer.projection.parameters())


@pytest.mark.parametrize(("index", "other"), [(SAFE, "usable"), (USABLE, "safe")])
def test_a_variant_of_weight_zero_has_no_effect(index, other):
    layer = random_layer()
    x = torch.randn(3, 7, 12, dtype=torch.float64)
    layer.routing.routed = ROUTED
    layer.routing.weights = nn.functional.one_hot(torch.tensor(index), 2).float().view(1, 1, 2)
    without = copy.deepcopy(layer)
    getattr(without, other).B.data.zero_()

    assert torch.equal(layer(x), without(x))


def test_what_is_given_is_mixed_once_for_all_layers_and_anew_when_it_changes():
    first, second = random_layer(), random_layer()
    second.routing = first.routing
    x = torch.randn(3, 7, 12, dtype=torch.float64)
    routing = first.routing
    routing.routed, routing.weights = ROUTED, torch.tensor([[[1.0, 0.0]]])
    safe = first(x)
    assert second(x) is not None and second.last_weights is first.last_weights
    routing.weights = torch.tensor([[[0.0, 1.0]]])
    usable = first(x)
    assert not torch.equal(safe[ROUTED], usable[ROUTED])
    routing.routed = ~ROUTED
    assert torch.equal(first(x)[ROUTED], first.projection(x)[ROUTED])
    routing.routed, routing.weights = ROUTED, torch.tensor([[[1.0, 0.0]]])
    assert torch.equal(first(x), safe)
