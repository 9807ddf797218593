import numpy as np
import pytest

from mogu.report.comparison.front import Refusals, standings
from mogu.report.comparison.intervals import auroc, paired_difference, pooled_share
from mogu.share import Share


def outcomes(bits, name="set"):
    return {name: {str(index): float(bit) for index, bit in enumerate(bits)}}


def test_a_paired_bootstrap_has_the_quantiles_of_resampled_prompts():
    # 50 of 100 prompts change: resampled, their number is binomial(100, 1/2), with quantiles at 40 and 60.
    found = paired_difference(outcomes([1] * 60 + [0] * 40), outcomes([0] * 50 + [1] * 10 + [0] * 40))
    assert found.value == 0.5 and found.prompts == 100
    assert found.low == pytest.approx(0.40, abs=0.011)
    assert found.high == pytest.approx(0.60, abs=0.011)
    assert found.sign == 1


def test_it_agrees_with_drawing_prompts_one_by_one():
    rng = np.random.default_rng(5)
    ours, theirs = rng.integers(0, 2, 40), rng.integers(0, 2, 40)
    draws = (ours - theirs)[rng.integers(0, 40, (20_000, 40))].mean(axis=1)
    found = paired_difference(outcomes(ours), outcomes(theirs))
    assert [found.low, found.high] == pytest.approx(np.percentile(draws, [2.5, 97.5]), abs=0.026)


def test_the_same_prompts_are_compared_not_the_shares():
    # Both refuse half, but never the same prompt: wide. Both refuse the same half: no difference, no width.
    half, other_half = outcomes([1, 0] * 20), outcomes([0, 1] * 20)
    assert paired_difference(half, half)[:3] == (0, 0, 0)
    apart = paired_difference(half, other_half)
    assert apart.value == 0 and apart.low < -0.2 and apart.high > 0.2 and apart.sign == 0


def test_only_prompts_that_both_answered_count():
    found = paired_difference({"a": {"1": 1.0, "2": 1.0, "3": 0.0}}, {"a": {"2": 0.0, "4": 1.0}})
    assert found == (1.0, 1.0, 1.0, 1)
    assert paired_difference({"a": {"1": 1.0}}, {"a": {"2": 1.0}, "b": {"1": 1.0}}) is None
    assert paired_difference({}, {}) is None


def test_sets_weigh_equally_in_a_difference():
    ours = outcomes([1] * 2, "small") | outcomes([0] * 50, "large")
    theirs = outcomes([0] * 2, "small") | outcomes([0] * 50, "large")
    assert paired_difference(ours, theirs) == (0.5, 0.5, 0.5, 52)


def test_intervals_are_the_same_again():
    ours, theirs = outcomes([1, 1, 0, 1, 0, 0, 1, 1]), outcomes([0, 1, 1, 0, 0, 0, 0, 1])
    assert paired_difference(ours, theirs) == paired_difference(ours, theirs)


def test_a_sum_that_is_zero_but_for_its_last_bit_is_zero():
    # 0.1 + 0.2 - 0.3 is not 0 in binary.
    ours = outcomes([1] + [0] * 9, "a") | outcomes([1] * 2 + [0] * 8, "b") | outcomes([0] * 10, "c")
    theirs = outcomes([0] * 10, "a") | outcomes([0] * 10, "b") | outcomes([1] * 3 + [0] * 7, "c")
    assert paired_difference(ours, theirs).value == 0


@pytest.mark.parametrize("hits", [0, 3, 20, 40])
def test_a_pooled_share_of_sets_of_one_size_has_the_wilson_interval_of_all_replies(hits):
    assert pooled_share([Share.of(hits, 40)]) == pytest.approx(Share.of(hits, 40))
    assert pooled_share([Share.of(hits, 40), Share.of(0, 40)]) == pytest.approx(Share.of(hits, 80))


def test_a_pooled_share_weighs_sets_equally_and_is_less_sure_for_a_small_one():
    # The small set carries half the weight: as sure as 4 / (1/10 + 1/90) = 36 replies, 18 of them refusals.
    found = pooled_share([Share.of(10, 10), Share.of(0, 90)])
    assert found.value == 0.5 and found.replies == 100
    assert found[:3] == pytest.approx(Share.of(18, 36)[:3])


def test_auroc_counts_ties_half():
    assert auroc([0.9, 0.5], [0.5, 0.1]) == 0.875
    assert auroc([0.2], [0.1, 0.3]) == 0.5
    assert auroc([1.0], [0.0]) == 1.0


def refusals(attacks, benign):
    return Refusals(outcomes(attacks), outcomes(benign))


def test_a_defense_that_is_worse_in_both_is_dominated():
    found = standings(
        {
            "good": refusals([1] * 30, [0] * 30),
            "bad": refusals([0] * 30, [1] * 30),
            "other": refusals([1] * 30, [1] * 30),
        }
    )
    assert found["bad"].place == "dominated" and found["bad"].by == ["good"]
    # As many attacks as the good one: not outside the intervals, so not dominated.
    assert found["other"].place == "close" and found["other"].by == ["good"]
    assert found["good"].place == "front" and found["good"].by == []
    assert [name for name, each in found.items() if each.on_front] == ["good", "other"]


def test_a_tie_within_the_intervals_only_looks_dominated():
    found = standings(
        {
            "better": refusals([1] * 20 + [0] * 10, [0] * 30),
            "worse": refusals([1] * 19 + [0] * 11, [0] * 29 + [1]),
        }
    )
    assert found["worse"].place == "close" and found["worse"].by == ["better"] and found["worse"].on_front
    assert found["better"].place == "front"


def test_equal_defenses_and_trade_offs_stand_on_the_front():
    same = refusals([1, 0] * 15, [0, 0, 1] * 10)
    assert {each.place for each in standings({"a": same, "b": same}).values()} == {"front"}
    trade = {"strict": refusals([1] * 30, [1] * 30), "lax": refusals([0] * 30, [0] * 30)}
    assert {each.place for each in standings(trade).values()} == {"front"}


def test_a_defense_without_one_of_the_kinds_stands_nowhere():
    assert standings({"a": refusals([1], []), "b": refusals([1], [0])}).keys() == {"b"}
