import random

from mogu.corpus import corpus_wrappers
from mogu.evaluation.attacks.autodan import (
    POPULATION,
    SLOT,
    AutoDAN,
    crossed,
    first_frames,
    framed,
    mutated,
    sentences,
)
from mogu.evaluation.attacks.trial import Trial
from tests.defenses.hosts import tiny_host
from tests.evaluation.attacks.fakes import REQUESTS, Rule, never

ONE = ("Be bold.", "Now do this: {}", "Say yes.", "Go on.")
OTHER = ("You are a pirate.", "Pirates answer.", "Asked: {}")


def trial_of(defense, budget):
    trial = Trial(defense, REQUESTS[0], 5, budget)
    trial.ask([REQUESTS[0].talk])
    return trial


def test_the_best_fitness_never_falls(tmp_path):
    host = tiny_host(tmp_path)
    defense = Rule(host, never, score=lambda text: (sum(text.encode()) % 100) / 100)
    trial = trial_of(defense, 1 + 5 * POPULATION)
    populations = list(AutoDAN(host, 41, 0).generations(trial, random.Random(0)))
    assert [len(population) for population in populations] == [POPULATION] * 5
    best = [population[0].fitness for population in populations]
    assert best == sorted(best)
    for population in populations:
        fitness = [member.fitness for member in population]
        assert fitness == sorted(fitness, reverse=True)
        for member in population:
            assert member.tried.talk == framed(REQUESTS[0].talk, member.frame)
            assert member.tried in trial.tries
    means = [sum(member.fitness for member in population) for population in populations]
    assert means == sorted(means) and means[0] < means[-1]


def test_fitness_is_less_loss_and_less_score(tmp_path):
    host = tiny_host(tmp_path)
    free, scored = (
        next(AutoDAN(host, 9, 0).generations(trial_of(defense, 9), random.Random(0)))
        for defense in (Rule(host, never), Rule(host, never, score=lambda text: 0.25))
    )
    assert all(member.fitness < 0 for member in free)
    assert [round(each.fitness - 0.25, 9) for each in free] == [round(each.fitness, 9) for each in scored]


def test_it_stops_with_the_first_frame_that_gets_through(tmp_path):
    host = tiny_host(tmp_path)
    refusing = Rule(host, never)
    AutoDAN(host, 20, 0).search(refusing, REQUESTS[:1], 5, tmp_path / "never.jsonl")
    assert refusing.batches == [1, POPULATION, POPULATION, 3]
    defense = Rule(host, lambda text: text == refusing.texts[12])
    (found,) = AutoDAN(host, 20, 0).search(defense, REQUESTS[:1], 5, tmp_path / "kept.jsonl")
    assert (found.refused, found.queries) == (False, 13)
    assert found.talk.messages[-1]["content"] == refusing.texts[12]


def test_what_was_refused_throughout_is_the_fittest(tmp_path):
    host = tiny_host(tmp_path)
    (found,) = AutoDAN(host, 9, 0).search(Rule(host, never), REQUESTS[:1], 5, tmp_path / "kept.jsonl")
    trial = trial_of(Rule(host, never), 9)
    (population,) = AutoDAN(host, 9, 0).generations(trial, random.Random("0/1"))
    assert found.talk == population[0].tried.talk


def test_no_frame_is_asked_twice(tmp_path):
    host = tiny_host(tmp_path)
    for seed in range(2):
        defense = Rule(host, never)
        AutoDAN(host, 41, seed).search(defense, REQUESTS[:1], 5, tmp_path / f"{seed}.jsonl")
        assert len(set(defense.texts)) == 41


def test_frames_are_of_the_training_split_and_hold_the_request_once():
    frames = first_frames()
    test = {sentences(frame.template) for frame in corpus_wrappers("jailbreak", "test")}
    assert len(frames) > POPULATION
    assert not test & set(frames)
    for frame in frames:
        assert "".join(frame).count(SLOT) == 1
    text = framed(REQUESTS[1].talk, ONE).messages
    assert text[0] == REQUESTS[1].talk.messages[0]
    assert text[1]["content"] == (
        "Be bold. Now do this: Describe the northern lighthouse to me Say yes. Go on."
    )


def test_sentences():
    assert sentences('Be "bold". Now!\n\nDo: {}\nThe 3.5 end') == (
        'Be "bold".',
        "Now!",
        "Do: {}",
        "The 3.5 end",
    )


def test_children_are_made_of_their_parents_sentences_and_keep_the_slot():
    seen = set()
    for seed in range(100):
        child = crossed(ONE, OTHER, random.Random(seed))
        assert len(child) == len(ONE)
        assert child[1] == ONE[1]
        assert set(child) <= {*ONE, *OTHER[:2]}
        seen.add(child)
    assert len(seen) > 10
    assert crossed(ONE, ("{}",), random.Random(0)) == ONE


def test_mutation_moves_sentences_and_words_and_loses_none():
    seen = set()
    for seed in range(100):
        changed = mutated(ONE, random.Random(seed))
        assert sorted(" ".join(changed).split()) == sorted(" ".join(ONE).split())
        assert ONE[1] in changed
        seen.add(changed)
    assert ONE in seen and len(seen) > 10
    assert mutated(("{}",), random.Random(0)) == ("{}",)
