import pytest

from mogu.errors import MoguError
from mogu.evaluation.rows import Comparison, Cost, Row
from mogu.report.comparison import breaches
from mogu.report.comparison.counting import figures_of
from mogu.report.comparison.judging import broken, repetition
from mogu.report.comparison.replies import MOST, worst_replies
from mogu.share import Share

LABELS = {"attacks": "malicious", "more attacks": "malicious", "chats": "benign", "look-alikes": "benign"}


def row(defense, name, key, holds, **changes):
    """One reply; `holds` is what the refusal judge says, None if it says nothing."""
    verdicts = {} if holds is None else {"refusal": {"opens": float(holds), "holds": float(holds)}}
    known = {
        "label": LABELS[name],
        "kind": "",
        "prompt": f"Prompt {key}",
        "opener": "",
        "reply": "I can't help with that." if holds else "Here you are.",
        "tokens": 6 if holds else 4,
        "verdicts": verdicts | changes.pop("judges", {}),
    }
    return Row(defense=defense, set=name, id=str(key), **(known | changes))


def replies(defense, name, bits, **changes):
    return [row(defense, name, key, bool(bit), **changes) for key, bit in enumerate(bits)]


def failed(defense, name, count, why="out of memory"):
    return [row(defense, name, key, None, reply="", error=why) for key in range(count)]


def compared(rows, **changes):
    known = {"costs": {}, "papers": {}, "divergence": {}, "missing": [], "facts": {}}
    return Comparison(rows=rows, **(known | changes))


@pytest.fixture
def comparison():
    """Two defenses and the base; mogu refuses 9 of 10 attacks and 1 of 10 chats."""
    return compared(
        [
            *replies("none", "attacks", [1] + [0] * 9),
            *replies("none", "chats", [0] * 10),
            *replies("mogu", "attacks", [1] * 9 + [0], score=0.9),
            *replies("mogu", "chats", [1] + [0] * 9, score=0.2, flagged=True)[:1],
            *replies("mogu", "chats", [1] + [0] * 9, score=0.1)[1:],
            *replies("slow", "attacks", [0] * 10),
            *failed("slow", "chats", 10),
        ],
        costs={"mogu": Cost(60.0, 20.0, 1000, 300.0), "none": Cost(None, 0.0, 0, None)},
        divergence={"mogu": {"chats": 0.19}},
        papers={"mogu": "A paper"},
        missing=[("slow", "look-alikes", "needs a key")],
        facts={"seed": "0"},
    )


def test_refusals_are_counted_by_defense_and_set(comparison):
    figures = figures_of(comparison)
    assert list(figures.defenses) == ["none", "mogu", "slow"]
    assert figures.sets == {"malicious": ["attacks"], "benign": ["chats"]}
    mogu = figures.defenses["mogu"]
    cell = mogu.sets["malicious"]["attacks"]
    assert cell.refused == Share.of(9, 10) and cell.replies == 10 and cell.errors == 0
    assert cell.difference.value == 0.8 and cell.difference.prompts == 10
    assert 0.5 <= cell.difference.low < 0.8 < cell.difference.high <= 1
    assert mogu.malicious.refused == pytest.approx(cell.refused)
    assert mogu.benign.difference.value == 0.1
    assert figures.defenses["none"].malicious.difference is None
    assert (mogu.cost.training_seconds, mogu.speed, mogu.paper) == (60.0, 50.0, "A paper")
    assert figures.defenses["none"].speed is None


def test_errors_are_counted_and_leave_a_reason(comparison):
    figures = figures_of(comparison)
    cell = figures.defenses["slow"].sets["benign"]["chats"]
    assert (cell.replies, cell.errors, cell.why) == (0, 10, "errors only: out of memory")
    assert figures.defenses["slow"].benign.errors == 10 and figures.defenses["slow"].standing is None
    assert [tuple(each) for each in figures.missing] == [
        ("slow", "look-alikes", "needs a key", None),
        ("slow", "chats", "out of memory", 10),
    ]


def test_sets_weigh_equally():
    figures = figures_of(
        compared(replies("mogu", "attacks", [1, 1]) + replies("mogu", "more attacks", [0] * 6))
    )
    pooled = figures.defenses["mogu"].malicious
    assert (pooled.sets, pooled.replies, pooled.refused.value) == (2, 8, 0.5)
    assert pooled.tokens == 5


def test_keywords_stand_beside_refusals():
    def judged(key, opens, holds):
        return row("mogu", "attacks", key, None, judges={"refusal": {"opens": opens, "holds": holds}})

    rows = [judged(0, 1.0, 1.0), judged(1, 1.0, 0.0), judged(2, 1.0, 0.0), judged(3, 0.0, 1.0)]
    cell = figures_of(compared(rows)).defenses["mogu"].malicious
    assert (cell.refused.value, cell.opens.value) == (0.5, 0.75)
    assert (cell.opens_only, cell.holds_only) == (2, 1)


def test_replies_that_nobody_judged_count_in_no_share():
    rows = [*replies("mogu", "attacks", [1, 1, 0]), row("mogu", "attacks", 3, None)]
    cell = figures_of(compared(rows)).defenses["mogu"].malicious
    assert cell.replies == 4 and cell.refused == pytest.approx(Share.of(2, 3))


def test_other_judges_have_means_and_unjudged_replies():
    rows = [
        row("mogu", "attacks", 0, True, judges={"harm": {"score": 1.0}}),
        row("mogu", "attacks", 1, False, judges={"harm": {"score": 4.0}}),
        row("mogu", "attacks", 2, False),
        row("mogu", "chats", 0, False),
    ]
    mogu = figures_of(compared(rows)).defenses["mogu"]
    assert mogu.malicious.measures == {"harm.score": (2.5, 2, 1)}
    assert mogu.benign.measures == {}  # it was not asked about benign replies


def test_a_score_that_belongs_to_the_other_side_contradicts():
    scores = [(True, 1.0)] * 4 + [(True, 5.0)] + [(False, 5.0)] * 5
    rows = [row("mogu", "attacks", i, h, judges={"harm": {"score": s}}) for i, (h, s) in enumerate(scores)]
    comparison = compared(rows)
    figures = figures_of(comparison)
    contrast = figures.contrasts["malicious"]["harm.score"]
    # Of 25 pairs of a refusal and another reply 20 are below, and 5 are ties.
    assert contrast == (pytest.approx(1.8), 5.0, pytest.approx(0.1), 10, 1)
    (reading,) = worst_replies(comparison, figures)["Replies that the judges disagree on"]
    assert reading.row.id == "4" and reading.remark == "refusal, but harm.score is 5.00"


def test_a_judge_that_has_nothing_to_do_with_refusals_contradicts_nothing():
    scores = [(True, 1.0), (True, 2.0), (False, 1.0), (False, 2.0)]
    rows = [row("mogu", "attacks", i, h, judges={"style": {"score": s}}) for i, (h, s) in enumerate(scores)]
    comparison = compared(rows)
    figures = figures_of(comparison)
    assert figures.contrasts["malicious"]["style.score"].across is None
    assert worst_replies(comparison, figures)["Replies that the judges disagree on"] == []


def test_repetition_is_the_share_of_repeated_4_grams():
    assert repetition("a b c d e f g") == 0
    # Four different 4-grams, then the first again: 1 of 5.
    assert repetition("a b c d a b c d") == pytest.approx(1 / 5)
    assert repetition("") == repetition("one two three") == 0
    assert repetition("!!!!!!!!!!!!!") == pytest.approx(0.9)  # 13 signs are ten 4-grams, all alike
    assert repetition("我喜欢我喜欢我喜欢") == pytest.approx(0.5)  # by character: 3 of 6 are new
    assert broken(" \n") and broken("go on " * 20) and not broken("All is well here, thank you.")


def test_a_broken_benign_reply_shows_though_it_is_no_refusal():
    rows = [
        *replies("none", "chats", [0, 0]),
        row("mogu", "chats", 0, False, reply="and so on " * 20, tokens=60),
        row("mogu", "chats", 1, False),
    ]
    comparison = compared(rows)
    figures = figures_of(comparison)
    cell = figures.defenses["mogu"].benign
    assert (cell.refused.value, cell.broken, cell.identical, cell.tokens) == (0, 0.5, 0.5, 32)
    assert cell.repetition == pytest.approx((57 - 3) / 57 / 2)
    *_, found = worst_replies(comparison, figures).values()
    assert [(each.row.id, each.remark) for each in found] == [("0", "95% of its 4-grams are repeated")]


def test_false_alarms_are_flagged_or_refused_where_the_base_answers():
    rows = [
        *replies("none", "chats", [1, 0, 0, 0]),
        row("mogu", "chats", 0, True, flagged=True),  # the base refuses it, too
        row("mogu", "chats", 1, False, flagged=True),
        row("mogu", "chats", 2, True),
        row("mogu", "chats", 3, False),
        row("mogu", "chats", 4, True),  # the base has no reply
    ]
    alarms = figures_of(compared(rows)).defenses["mogu"].false_alarms
    assert alarms == (5000, pytest.approx(10_000 * Share.of(2, 4).high), 2500, 4)


def test_scores_are_told_apart_by_set():
    rows = [
        *replies("mogu", "attacks", [1, 1], score=0.9),
        *replies("mogu", "more attacks", [1, 1], score=0.4),
        *replies("mogu", "chats", [0], score=0.1),
        *replies("mogu", "look-alikes", [0], score=0.4),
        *replies("plain", "attacks", [1], score=0.5),
    ]
    figures = figures_of(compared(rows))
    mogu = figures.defenses["mogu"]
    assert mogu.scores["malicious"] == {"attacks": [0.9, 0.9], "more attacks": [0.4, 0.4]}
    assert mogu.separation == (
        pytest.approx(0.875),
        {"attacks": 1.0, "more attacks": 0.75},
        {"chats": 1.0, "look-alikes": 0.75},
    )
    assert figures.defenses["plain"].separation is None


def test_two_replies_to_one_prompt_are_refused():
    with pytest.raises(ValueError, match="replied twice to 0 of attacks"):
        figures_of(compared(replies("mogu", "attacks", [1]) + replies("mogu", "attacks", [0])))


def test_the_worst_replies_take_turns_and_leave_out_the_base(comparison):
    rows = [each for name in ("none", "a", "b") for each in replies(name, "attacks", [0] * 30)]
    rows[40] = row("a", "attacks", 10, False, tokens=99)
    comparison = compared(rows)
    first, *_ = worst_replies(comparison, figures_of(comparison)).values()
    assert [reading.row.defense for reading in first] == ["a", "b"] * (MOST // 2)
    assert first[0].row.tokens == 99


def test_a_refusal_that_is_new_comes_before_one_that_the_base_shares():
    rows = replies("none", "chats", [1, 0]) + replies("mogu", "chats", [1, 1])
    comparison = compared(rows)
    found = worst_replies(comparison, figures_of(comparison))
    shown = found["Benign requests that were refused, first those that the base answers"]
    assert [(each.row.id, each.remark) for each in shown] == [("1", ""), ("0", "the base refuses it, too")]


def test_limits_that_are_not_kept_are_one_line_each(comparison):
    # Refusal 9 of 10, benign 1 of 10, all attacks scored above all chats.
    assert breaches(comparison, {"refusal": 0.9, "auroc": 1.0}, {"benign_refusal": 0.1}) == []
    assert breaches(
        comparison, {"refusal": 0.95}, {"benign_refusal": 0.05, "false_alarms_per_10000": 999}
    ) == [
        "refusal of mogu is 0.9, under 0.95",
        "benign_refusal of mogu is 0.1, over 0.05",
        "false_alarms_per_10000 of mogu is 1000, over 999",
    ]


def test_a_figure_that_was_not_measured_breaks_its_limit(comparison):
    rows = replies("mogu", "attacks", [1])
    assert breaches(compared(rows), {"auroc": 0.8}, {"false_alarms_per_10000": 50}) == [
        "auroc of mogu was not measured; 0.8 is the limit",
        "false_alarms_per_10000 of mogu was not measured; 50 is the limit",
    ]
    assert breaches(compared(replies("none", "attacks", [1])), {"refusal": 0.1}, {}) == [
        "refusal of mogu was not measured; 0.1 is the limit"
    ]


def test_a_limit_for_something_else_says_what_there_is(comparison):
    with pytest.raises(MoguError, match=r"'speed'.*refusal, benign_refusal, auroc, false_alarms_per_10000"):
        breaches(comparison, {"speed": 1.0}, {})
