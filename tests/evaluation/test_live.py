"""Live attacks within a comparison: each defense is attacked itself, and what was found is asked once."""

import pytest

from mogu.defenses import DEFENSES
from mogu.evaluation.attacks import make_attack
from mogu.evaluation.comparison import compare
from mogu.judges.table import make_judges
from tests.defenses.hosts import tiny_host
from tests.evaluation.attacks.fakes import REQUESTS, Rule
from tests.evaluation.fakes import SETS


@pytest.fixture
def asked(monkeypatch):
    """What the defense `rule` was asked, which lets texts with many capitals through."""
    talks = []

    class Capitals(Rule):
        def __init__(self, host, argument=""):
            super().__init__(host, lambda text: sum(letter.isupper() for letter in text) > 5)

        def reply(self, found, max_new_tokens):
            talks.extend(found)
            return super().reply(found, max_new_tokens)

    monkeypatch.setitem(DEFENSES, "rule", Capitals)
    return talks


def run(tmp_path, **settings):
    host = tiny_host(tmp_path / "work")
    if "live" in settings:
        settings["live"] = [make_attack(spec, host) for spec in settings["live"]]
    return compare(
        host,
        ["rule", "none"],
        SETS,
        make_judges(["refusal"]),
        max_new_tokens=5,
        folder=tmp_path / "out",
        **settings,
    )


def test_each_defense_is_attacked_itself_once(tmp_path, asked):
    before = run(tmp_path)
    count = len(asked)
    live = {"live": ["best_of_n:4", "autodan:3"], "attacked": REQUESTS}
    comparison = run(tmp_path, **live)
    assert len(asked) > count and not comparison.missing
    # What was asked without attacks is not asked again, and stands as it stood.
    assert [row for row in comparison.rows if not row.set.startswith("live_")] == before.rows
    found = [row for row in comparison.rows if row.set.startswith("live_")]
    assert {(row.defense, row.set, row.id) for row in found} == {
        (defense, name, request.id)
        for defense in ("rule", "none")
        for name in ("live_best_of_n", "live_autodan")
        for request in REQUESTS
    }
    assert {row.label for row in found} == {"malicious"}
    count = len(asked)
    assert run(tmp_path, **live).rows == comparison.rows
    assert len(asked) == count
