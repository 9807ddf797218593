import math

import pytest
import torch

from mogu.training.losses import NOT_A_TARGET, disposition_loss, reply_cross_entropy, router_loss


def logits_of(*probabilities):
    return torch.tensor(probabilities, dtype=torch.float64).log()


def test_cross_entropy_is_the_mean_over_the_tokens_of_each_reply():
    logits = logits_of(
        [[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]],
        [[0.9, 0.05, 0.05], [0.25, 0.25, 0.5], [1 / 3, 1 / 3, 1 / 3]],
    )
    labels = torch.tensor([[0, 1, 2], [NOT_A_TARGET, 2, NOT_A_TARGET]])
    expected = [-(math.log(0.5) + math.log(0.8) + math.log(0.6)) / 3, -math.log(0.5)]
    assert reply_cross_entropy(logits, labels).tolist() == pytest.approx(expected, abs=1e-12)


def test_a_position_that_is_no_target_has_no_gradient():
    logits = torch.randn(1, 3, 5, requires_grad=True)
    reply_cross_entropy(logits, torch.tensor([[NOT_A_TARGET, 4, NOT_A_TARGET]])).sum().backward()
    assert logits.grad[0, [0, 2]].abs().max() == 0
    assert logits.grad[0, 1].abs().min() > 0


def test_cross_entropy_of_half_precision_logits_is_computed_in_float32():
    logits = torch.randn(1, 2, 7).bfloat16()
    labels = torch.tensor([[3, 0]])
    found = reply_cross_entropy(logits, labels)
    assert found.dtype == torch.float32
    assert torch.equal(found, reply_cross_entropy(logits.float(), labels))


def test_disposition_is_the_ratio_of_the_means():
    wanted, unwanted = torch.tensor([1.0, 3.0]), torch.tensor([4.0, 1.0])
    assert disposition_loss(wanted, unwanted).item() == pytest.approx(2 / 2.5)


def test_disposition_rewards_what_is_wanted_and_punishes_what_is_not():
    wanted, unwanted = (torch.tensor([2.0], requires_grad=True) for _ in range(2))
    disposition_loss(wanted, unwanted).backward()
    assert wanted.grad.item() == pytest.approx(1 / 2)
    assert unwanted.grad.item() == pytest.approx(-2 / 4)


# One layer, a malicious and a benign row of two tokens; of the benign row one token is routed.
WEIGHTS = torch.tensor([[[[0.9, 0.2], [0.6, 0.5]], [[0.3, 0.8], [0.0, 0.0]]]], dtype=torch.float64)
ROUTED = torch.tensor([[True, True], [True, False]])
MALICIOUS = torch.tensor([True, False])
DISTANCES = [0.1, 0.2, 0.4, 0.5, 0.3, 0.2]


@pytest.mark.parametrize(
    ("distance", "expected"),
    [("l1", sum(DISTANCES) / 6), ("squared", sum(d * d for d in DISTANCES) / 6)],
)
def test_router_loss_is_the_mean_distance_from_one_and_zero(distance, expected):
    assert router_loss(WEIGHTS, MALICIOUS, ROUTED, distance).item() == pytest.approx(expected, abs=1e-12)


def test_router_loss_is_the_mean_over_layers():
    layers = torch.cat((WEIGHTS, torch.zeros_like(WEIGHTS)))
    # All weights zero: half of the two weights of every token are at 1 from their target.
    expected = (sum(DISTANCES) / 6 + 0.5) / 2
    assert router_loss(layers, MALICIOUS, ROUTED, "l1").item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("distance", ["l1", "squared"])
def test_router_loss_lies_between_right_and_wrong(distance):
    right = torch.tensor([[1.0, 0.0], [0.0, 1.0]])[None, :, None].expand(2, 2, 3, 2)
    routed = torch.ones(2, 3, dtype=torch.bool)
    assert router_loss(right, MALICIOUS, routed, distance).item() == 0
    assert router_loss(1 - right, MALICIOUS, routed, distance).item() == 1
