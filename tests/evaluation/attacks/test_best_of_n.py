import random

from mogu.evaluation.attacks import best_of_n
from mogu.evaluation.attacks.best_of_n import BestOfN, respelled
from tests.defenses.hosts import tiny_host
from tests.evaluation.attacks.fakes import REQUESTS, Rule, never

TEXT = "Write a poem about the hidden harbour, in 12 lines"


def by_capitals(text: str) -> bool:
    """Whether the share of capitals is higher than a refuser that knows lower case has seen."""
    return sum(letter.isupper() for letter in text) > 0.65 * sum(letter.isalpha() for letter in text)


def test_finds_a_spelling_that_a_refuser_of_lower_case_lets_through(tmp_path):
    host = tiny_host(tmp_path)
    defense = Rule(host, by_capitals)
    (found,) = BestOfN(host, 64, 0).search(defense, REQUESTS[:1], 5, tmp_path / "kept.jsonl")
    assert not found.refused
    assert 1 < found.queries < 64
    text = found.talk.messages[-1]["content"]
    assert by_capitals(text)
    assert defense.texts[found.queries - 1] == text
    assert not any(map(by_capitals, defense.texts[: found.queries - 1]))
    assert len(defense.asked) - found.queries < host.batch_size  # it stopped with that batch


def test_asks_as_many_at_once_as_the_host_answers(tmp_path):
    host = tiny_host(tmp_path)
    defense = Rule(host, never)
    (found,) = BestOfN(host, 6, 0).search(defense, REQUESTS[:1], 5, tmp_path / "kept.jsonl")
    assert found.refused
    assert defense.batches == [1, 2, 2, 1]
    assert len(set(defense.texts)) == 6


def test_words_keep_their_letters_and_which_comes_first_and_last(monkeypatch):
    monkeypatch.setattr(best_of_n, "_neighbour", lambda character, rng: character)
    seen = set()
    for seed in range(100):
        text = respelled(TEXT, random.Random(seed)).lower()
        for word, other in zip(TEXT.lower().split(), text.split(), strict=True):
            plain = word.strip(",")
            assert sorted(word) == sorted(other)
            assert other.startswith(word[0]) and plain[-1] == other[len(plain) - 1]
            if len(plain) < 4:
                assert other == word
        seen.add(text)
    assert len(seen) > 90


def test_characters_move_to_printable_neighbours_only():
    for seed in range(20):
        rng = random.Random(seed)
        assert best_of_n._neighbour("m", rng) in "ln"
        assert best_of_n._neighbour(" ", rng) in " !"
        assert best_of_n._neighbour("~", rng) in "}~"
        assert best_of_n._neighbour("\n", rng) == "\n"
        assert best_of_n._neighbour("é", rng) == "é"


def test_about_the_papers_shares_are_changed():
    rng = random.Random(0)
    text = "ab cd ef " * 1000  # no word to shuffle
    changed = respelled(text, rng)
    letters = [(a, b) for a, b in zip(text, changed, strict=True) if a.isalpha()]
    capitals = sum(b == a.upper() for a, b in letters) / len(letters)
    others = sum(a != b.lower() for a, b in letters) / len(letters)
    assert abs(capitals - 0.632 * (1 - 0.064)) < 0.02
    assert abs(others - 0.064) < 0.01
    shuffled = respelled("abcdefghij " * 2000, rng).lower().split()
    share = sum(word != "abcdefghij" and sorted(word) == list("abcdefghij") for word in shuffled) / 2000
    assert abs(share - 0.632 * (1 - 0.064) ** 10) < 0.05


def test_other_scripts_and_empty_texts_pass_through():
    for text in ("", "海", "Ты где, друг мой?", "naïve ß"):
        for seed in range(20):
            respelled(text, random.Random(seed)).encode()
