"""The token of each row, by its own settings."""

from collections import Counter

import pytest
import torch

from mogu.errors import MoguError
from mogu.serving.engine.job import Sampling
from mogu.serving.engine.sampling import FIRST_LOOK, Chooser, check_sampling, choose

VOCABULARY = 1000


def logits(rows=1, seed=0, spread=2.0):
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(rows, VOCABULARY, generator=generator, dtype=torch.float64)


def drawn(given, sampling, times, refused=False):
    """How often each token is chosen."""
    chooser = Chooser(sampling)
    return Counter(choose(given.clone(), [chooser], [refused]).ids[0] for _ in range(times))


def test_greedy_rows_take_the_likeliest_token_beside_others():
    given = logits(4)
    rows = [Chooser(Sampling(max_tokens=1, temperature=heat, seed=1)) for heat in (0, 1, 0, 2)]
    chosen = choose(given.clone(), rows, [False] * 4)
    best = given.argmax(-1).tolist()
    assert [chosen.ids[0], chosen.ids[2]] == [best[0], best[2]] and chosen.tokens.tolist() == chosen.ids
    assert chosen.chances == [None] * 4


@pytest.mark.parametrize(
    ("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (1.5, 0.6), (2.0, 0.95), (1.0, 0.01)]
)
def test_sampled_tokens_follow_the_shares(temperature, top_p):
    given = torch.tensor([[2.0, 0.0, 1.0, -1.0, 1.5]], dtype=torch.float64)
    shares = (given[0] / temperature).softmax(-1)
    order = shares.argsort(descending=True).tolist()
    kept, mass = [], 0.0
    while mass < top_p and len(kept) < 5:
        kept.append(order[len(kept)])
        mass += shares[kept[-1]].item()
    seen = drawn(given, Sampling(max_tokens=1, temperature=temperature, top_p=top_p, seed=1), 4000)
    assert set(seen) == set(kept)
    for token in kept:
        assert seen[token] / 4000 == pytest.approx(shares[token].item() / mass, abs=0.03)


def test_top_p_that_takes_more_than_the_first_look():
    given = logits(spread=0.1)  # nearly even shares
    seen = drawn(given, Sampling(max_tokens=1, top_p=0.9, seed=1), 6000)
    shares = given[0].softmax(-1).sort(descending=True)
    kept = int((shares.values.cumsum(0) < 0.9).sum()) + 1
    assert kept > FIRST_LOOK and set(seen) <= set(shares.indices[:kept].tolist())
    assert max(shares.indices.tolist().index(token) for token in seen) > 0.98 * kept


@pytest.mark.parametrize("temperature", [1e-45, 1e-9, 1e-3])
def test_next_to_no_temperature_is_greedy(temperature):
    given = 100 * logits().float()
    assert set(drawn(given, Sampling(max_tokens=1, temperature=temperature), 20)) == {int(given.argmax())}


def test_a_row_draws_the_same_beside_any_others():
    given = logits(6)
    asked = [Sampling(max_tokens=9, seed=5), Sampling(max_tokens=9, top_p=0.7, seed=6)]
    alone = []
    for row, sampling in enumerate(asked):
        chooser = Chooser(sampling)
        alone.append([choose(given[row : row + 1].clone(), [chooser], [False]).ids[0] for _ in range(5)])
    others = [Sampling(max_tokens=9, top_p=top_p) for top_p in (0.2, 0.999, 1.0, 0.5)]
    rows = [Chooser(sampling) for sampling in (*asked, *others)]
    together = [choose(given.clone(), rows, [False] * 6).ids for _ in range(5)]
    assert [[ids[row] for ids in together] for row in range(2)] == alone
    assert Chooser(Sampling(1, seed=3)).draw() != Chooser(Sampling(1, seed=-3)).draw()


def test_bias_and_penalties_add_up_over_what_was_written():
    given = torch.zeros(1, 5)
    sampling = Sampling(
        1,
        temperature=0,
        logit_bias={0: 3.0, 1: 2.5},
        frequency_penalty=1.0,
        presence_penalty=0.25,
        logprobs=5,
    )
    chooser = Chooser(sampling)
    # 0: 3 -> 1.75 -> 0.75; 1: 2.5 -> 1.25 -> 0.25
    ids = [choose(given.clone(), [chooser], [False]).ids[0] for _ in range(4)]
    assert ids == [0, 1, 0, 1]
    (chances,) = choose(given.clone(), [chooser], [False]).chances
    expected = torch.tensor([0.75, 0.25, 0, 0, 0]).log_softmax(-1)
    assert chances.logprob == pytest.approx(expected[0].item()) and chances.top[0][0] == 0
    assert [value for _, value in chances.top] == pytest.approx(expected.tolist())


def test_in_a_refused_row_the_callers_changes_do_not_act():
    given = torch.zeros(1, 5)
    given[0, 2] = 30.0  # what a refusal begins with
    sampling = Sampling(1, temperature=2.0, seed=1, logit_bias={2: -100.0}, presence_penalty=2.0)
    assert set(drawn(given, sampling, 500, refused=True)) == {2}
    assert 2 not in drawn(given, sampling, 500)
    warm = torch.tensor([[1.0, 0.0]])
    seen = drawn(warm, Sampling(1, temperature=2.0, seed=1), 4000, refused=True)
    assert seen[0] / 4000 == pytest.approx(warm.softmax(-1)[0, 0].item(), abs=0.03)  # as at 1


def test_logprobs_are_given_where_asked():
    given = logits(3)
    rows = [Chooser(Sampling(1, temperature=2, seed=1, logprobs=count)) for count in (None, 0, 20)]
    chosen = choose(given.clone(), rows, [False] * 3)
    assert chosen.chances[0] is None and chosen.chances[1].top == () and len(chosen.chances[2].top) == 20
    expected = given.log_softmax(-1)
    assert chosen.chances[1].logprob == pytest.approx(expected[1, chosen.ids[1]].item())
    assert dict(chosen.chances[2].top)[int(given[2].argmax())] == pytest.approx(expected[2].max().item())


def test_a_refused_row_does_not_tell_what_else_there_was():
    given = logits(2)
    given[:, 7] = 30.0
    rows = [Chooser(Sampling(1, temperature=0, logprobs=count)) for count in (20, 0)]
    told = choose(given.clone(), rows, [True] * 2).chances
    own = given.log_softmax(-1)[0, 7].item()
    assert told[0].top == ((7, pytest.approx(own)),) and told[1].top == ()
    assert len(choose(given.clone(), rows, [False] * 2).chances[0].top) == 20


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"temperature": 2.1}, "temperature is 2.1; give a number from 0 to 2"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": float("nan")}, "top_p is nan"),
        ({"frequency_penalty": -3}, "frequency_penalty is -3"),
        ({"presence_penalty": 3}, "presence_penalty is 3"),
        ({"logprobs": 21}, "logprobs is 21; give a number from 0 to 20"),
        ({"stop": ("a", "")}, "a stop string is empty"),
        ({"logit_bias": {5: 1.0}}, "names token 5; the model has tokens 0 to 4"),
        ({"logit_bias": {-1: 1.0}}, "names token -1"),
        ({"logit_bias": {1: 101.0}}, "of token 1 is 101.0"),
    ],
)
def test_what_is_not_allowed_is_named(settings, message):
    with pytest.raises(MoguError, match=message):
        check_sampling(Sampling(**{"max_tokens": 1, **settings}), vocabulary=5)
    check_sampling(Sampling(1, seed=1, logit_bias={4: -100.0}, logprobs=0, stop=("a",)), vocabulary=5)
