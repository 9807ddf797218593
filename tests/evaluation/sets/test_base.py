import pytest

from mogu.defenses.base import Talk
from mogu.errors import MoguError
from mogu.evaluation.sets import SETS, parse
from mogu.evaluation.sets.base import Sample, spread

SAMPLES = [
    Sample(f"{kind}{number}", Talk([]), kind)
    for kind, count in (("a", 50), ("b", 3), ("c", 10))
    for number in range(count)
]


def kinds(samples):
    return [sum(sample.kind == kind for sample in samples) for kind in "abc"]


def test_a_limit_takes_as_many_of_each_kind_while_they_last():
    assert kinds(spread(SAMPLES, 6, 0)) == [2, 2, 2]
    assert kinds(spread(SAMPLES, 20, 0)) == [9, 3, 8] or kinds(spread(SAMPLES, 20, 0)) == [8, 3, 9]
    assert kinds(spread(SAMPLES, 40, 0)) == [27, 3, 10]
    assert spread(SAMPLES, 63, 0) == spread(SAMPLES, 1000, 0) == SAMPLES


def test_a_limit_is_the_same_in_every_run_and_keeps_the_order():
    chosen = spread(SAMPLES, 12, 7)
    assert chosen == spread(SAMPLES, 12, 7)
    assert chosen == [sample for sample in SAMPLES if sample in chosen]
    assert chosen != spread(SAMPLES, 12, 8)
    assert set(map(id, chosen)) <= set(map(id, spread(SAMPLES, 20, 7)))


def test_a_limit_below_the_number_of_kinds_does_not_always_leave_out_the_same():
    assert {spread(SAMPLES, 1, seed)[0].kind for seed in range(20)} == {"a", "b", "c"}


def test_a_limit_leaves_something():
    with pytest.raises(MoguError, match=r"A limit of 0 leaves no prompt of 'own_direct'\. Give 1 or more"):
        SETS["own_direct"].load(limit=0)


@pytest.mark.parametrize("name", SETS)
def test_every_set_says_what_it_is_and_whose(name):
    prompts = SETS[name]
    assert (prompts.name, prompts.label in ("malicious", "benign")) == (name, True)
    assert any(licence in prompts.description for licence in ("MIT", "CC-BY-4.0", "Apache-2.0", "licence"))


def test_a_spec_is_a_name_and_maybe_a_place():
    assert parse("advbench") == (SETS["advbench"], None)
    assert parse("advbench=data/a=b.json") == (SETS["advbench"], "data/a=b.json")
    assert parse(" xstest_safe = x.json ") == (SETS["xstest_safe"], "x.json")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "advbnch=a.json",
            r"^There is no prompt set 'advbnch'\. Did you mean advbench.*\? There are: advbench, .*followups\.$",
        ),
        ("qqqqqq", r"^There is no prompt set 'qqqqqq'\. There are: advbench, "),
        ("", r"^There is no prompt set ''\. There are: "),
        ("sap=", r"^'sap=' names no file or folder after the equals sign\. Write sap=PATH or sap$"),
    ],
)
def test_a_wrong_spec_is_told_in_one_line(spec, message):
    with pytest.raises(MoguError, match=message) as raised:
        parse(spec)
    assert "\n" not in str(raised.value)
