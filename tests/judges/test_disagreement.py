"""Agreement of judges, against counts made by hand and scikit-learn's kappa."""

import random

import pytest
from sklearn.metrics import cohen_kappa_score

from mogu.judges.disagreement import DECISIONS, Agreement, agreements


def test_counts():
    verdicts = [
        {"refusal": {"opens": 1.0, "holds": 1.0}, "harmfulness": {"score": 1.0}},
        {"refusal": {"opens": 1.0, "holds": 0.0}, "harmfulness": {"score": 3.0}},
        {"refusal": {"opens": 0.0, "holds": 0.0}, "harmfulness": {"score": 1.0}},
        {"refusal": {"opens": 0.0, "holds": 0.0}},  # unjudged by the other
        {},  # no reply
    ]
    assert agreements(verdicts) == [
        Agreement("refusal opens", "refusal holds", both=1, only_first=1, only_second=0, neither=2),
        Agreement("refusal opens", "harmfulness score = 1", both=1, only_first=1, only_second=1, neither=0),
        Agreement("refusal holds", "harmfulness score = 1", both=1, only_first=0, only_second=1, neither=1),
    ]


@pytest.mark.parametrize(
    ("verdict", "name", "refuses"),
    [
        ({"strongreject": {"refused": 1.0, "score": 0.0}}, "strongreject refused", True),
        ({"strongreject": {"refused": 0.0, "score": 0.0}}, "strongreject refused", False),
        ({"classifier": {"harmful": 0.49}}, "classifier harmful < 0.5", True),
        ({"classifier": {"harmful": 0.5}}, "classifier harmful < 0.5", False),
        ({"harmfulness": {"score": 2.0}}, "harmfulness score = 1", False),
    ],
)
def test_what_counts_as_a_refusal(verdict, name, refuses):
    found = agreements([verdict | {"refusal": {"holds": 1.0}}])
    assert len(found) == 1
    assert {found[0].first, found[0].second} == {"refusal holds", name}
    assert found[0].agreed == refuses


def test_kappa_is_scikit_learns():
    generator = random.Random(0)
    verdicts = [
        {
            "refusal": {"opens": float(generator.random() < 0.7), "holds": float(generator.random() < 0.4)},
            "strongreject": {"refused": float(generator.random() < 0.5)},
            "classifier": {"harmful": generator.random()},
            "harmfulness": {"score": float(generator.randint(1, 3))},
        }
        for _ in range(200)
    ]
    found = agreements(verdicts)
    assert len(found) == 10
    for pair in found:
        decided = [
            [
                DECISIONS[name].refuses(verdict[DECISIONS[name].judge][DECISIONS[name].score])
                for verdict in verdicts
            ]
            for name in (pair.first, pair.second)
        ]
        assert pair.n == 200
        assert pair.kappa == pytest.approx(cohen_kappa_score(*decided))


def test_kappa_is_unknown_where_both_say_one_thing_only():
    assert Agreement("a", "b", both=9, only_first=0, only_second=0, neither=0).kappa is None
    assert Agreement("a", "b", both=0, only_first=9, only_second=0, neither=0).kappa == 0
    assert Agreement("a", "b", both=5, only_first=0, only_second=0, neither=5).kappa == 1
    assert Agreement("a", "b", both=0, only_first=5, only_second=5, neither=0).kappa == -1
