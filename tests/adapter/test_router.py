import torch

from mogu.adapter.router import ROUTER_WIDTH, FoldedRouter, Router


def test_folded_equals_unfolded():
    router = Router(24).double()
    x = torch.randn(3, 5, 24, dtype=torch.float64)
    folded = FoldedRouter(24).double()
    folded.vectors.data, folded.bias.data = router.fold()

    torch.testing.assert_close(folded(x), router(x), rtol=0, atol=1e-9)


def test_router_has_the_papers_shapes():
    shapes = {name: tuple(p.shape) for name, p in Router(24).safe.named_parameters()}

    assert ROUTER_WIDTH == 512
    assert shapes == {
        "0.weight": (512, 24),
        "1.weight": (24, 512),
        "1.bias": (24,),
        "2.weight": (1, 24),
        "2.bias": (1,),
    }


def test_first_logit_is_the_safe_one():
    router = Router(8)
    x = torch.randn(2, 8)

    assert torch.equal(router(x)[:, :1], router.safe(x))
    assert torch.equal(router(x)[:, 1:], router.usable(x))


def test_gradients_pass_through_the_fold():
    router = Router(8)
    vectors, bias = router.fold()
    (vectors.sum() + bias.sum()).backward()

    assert all(p.grad is not None and p.grad.any() for p in router.parameters())


def test_new_folded_router_is_undecided():
    weights = torch.sigmoid(FoldedRouter(8)(torch.randn(4, 8)))

    assert torch.equal(weights, torch.full((4, 2), 0.5))


def test_folding_a_folded_router_gives_its_parameters():
    router = FoldedRouter(8)

    assert router.fold()[0] is router.vectors
    assert router.fold()[1] is router.bias
