"""What all attacks share: the budget, the request as it stands first, and searches that go on."""

import random

import pytest

from mogu.defenses.none import NoDefense
from mogu.errors import MoguError
from mogu.evaluation.attacks import ATTACKS, as_prompts, make_attack
from mogu.evaluation.attacks.base import Attack
from mogu.evaluation.attacks.trial import Trial, reworded
from mogu.judges.endpoint import EndpointOptions
from mogu.judges.refusal import holds_refusal
from tests.defenses.hosts import tiny_host
from tests.defenses.states import State
from tests.defenses.talks import user
from tests.evaluation.attacks.fakes import GLAD, REFUSAL, REQUESTS, Rule, never
from tests.judges.chat_server import says, serving

PROPOSAL = '{"improvement": "So.", "prompt": "Sing of the harbour"}'


class Numbers(Attack):
    """Asks for random numbers, two at once."""

    name = "numbers"
    paper = "a test"
    default_budget = 5

    def attack(self, trial, rng):
        while trial.left and not trial.broken:
            trial.ask([reworded(trial.request.talk, str(rng.random())) for _ in range(2)])
        return trial.best()


def test_the_request_as_it_stands_is_asked_first_and_nothing_else_if_it_is_answered(tmp_path):
    host = tiny_host(tmp_path)
    defense = Rule(host, lambda text: "poem" in text)
    found = Numbers(host, 4, 0).search(defense, REQUESTS[:2], 5, tmp_path / "kept.jsonl")
    assert [(each.id, each.refused, each.queries) for each in found] == [("1", False, 1), ("2", True, 4)]
    assert found[0].talk == REQUESTS[0].talk
    assert found[0].reply == GLAD
    assert found[1].reply == REFUSAL
    assert defense.asked[:2] == [REQUESTS[0].talk, REQUESTS[1].talk]
    assert defense.batches == [1, 1, 2, 1]  # the last batch is what the budget has left


def test_what_stands_before_the_request_and_how_the_reply_begins_stay(tmp_path):
    host = tiny_host(tmp_path)
    defense = Rule(host, never)
    Numbers(host, 2, 0).search(defense, REQUESTS[1:], 5, tmp_path / "kept.jsonl")
    assert all(talk.messages[0] == REQUESTS[1].talk.messages[0] for talk in defense.asked[:2])
    assert [talk.opener for talk in defense.asked] == ["", "", "Well,", "Well,"]


def test_queries_are_those_of_an_attacker_who_asks_one_by_one(tmp_path):
    host = tiny_host(tmp_path)
    drawn = random.Random("0/1")
    first = str(drawn.random())
    defense = Rule(host, lambda text: text == first)
    (found,) = Numbers(host, 5, 0).search(defense, REQUESTS[:1], 5, tmp_path / "kept.jsonl")
    assert (found.queries, found.talk.messages[-1]["content"]) == (2, first)
    assert len(defense.asked) == 3  # its batch was asked whole


@pytest.mark.parametrize("reply", ["", "  \n"])
def test_a_reply_without_a_word_is_no_way_through(tmp_path, reply):
    host = tiny_host(tmp_path)
    defense = Rule(host, lambda text: True, reply=reply)
    (found,) = Numbers(host, 4, 0).search(defense, REQUESTS[:1], 5, tmp_path / "kept.jsonl")
    assert (found.refused, found.queries) == (True, 4)


def test_of_what_was_refused_the_lowest_score_is_the_best_and_of_equals_the_latest(tmp_path):
    host = tiny_host(tmp_path)
    defense = Rule(host, never, score=lambda text: {"b": 0.2, "c": 0.2}.get(text, 0.9))
    trial = Trial(defense, REQUESTS[0], 5, 4)
    trial.ask([reworded(REQUESTS[0].talk, text) for text in "abcd"])
    assert trial.best().talk.messages[-1]["content"] == "c"


@pytest.mark.parametrize("most", range(1, 13))
def test_a_killed_search_goes_on_with_the_same_result_and_asks_for_no_request_twice(tmp_path, most):
    host = tiny_host(tmp_path)
    heard = []
    whole = Rule(host, never, score=lambda text: len(text) / 100)
    expected = Numbers(host, 4, 1).search(whole, REQUESTS, 5, tmp_path / "whole.jsonl")

    kept = tmp_path / "killed.jsonl"
    killed = Rule(host, never, score=lambda text: len(text) / 100, most=most)
    if most < 12:
        with pytest.raises(KeyboardInterrupt):
            Numbers(host, 4, 1).search(killed, REQUESTS, 5, kept)
        if kept.exists():
            with kept.open("a") as file:
                file.write('{"id": "3", "ta')  # as a line that was being written
    rest = Rule(host, never, score=lambda text: len(text) / 100)
    found = Numbers(host, 4, 1).search(rest, REQUESTS, 5, kept, lambda *step: heard.append(step))
    assert found == expected
    assert kept.read_text() == (tmp_path / "whole.jsonl").read_text()
    assert heard == [(1, 3), (2, 3), (3, 3)]
    done = most // 4 if most < 12 else 0  # requests of four queries each
    assert rest.asked == whole.asked[4 * done :]


def test_what_is_found_for_a_request_depends_on_no_other_request(tmp_path):
    host = tiny_host(tmp_path)
    all_of_them = Numbers(host, 4, 0).search(Rule(host, never), REQUESTS, 5, tmp_path / "all.jsonl")
    (alone,) = Numbers(host, 4, 0).search(Rule(host, never), REQUESTS[1:2], 5, tmp_path / "one.jsonl")
    other_seed = Numbers(host, 4, 1).search(Rule(host, never), REQUESTS, 5, tmp_path / "seed.jsonl")
    assert all_of_them[1] == alone
    assert all(one.talk != other.talk for one, other in zip(all_of_them, other_seed, strict=True))


def test_what_was_found_is_a_prompt_set(tmp_path):
    host = tiny_host(tmp_path)
    found = Numbers(host, 2, 0).search(Rule(host, never), REQUESTS, 5, tmp_path / "kept.jsonl")
    prompts = as_prompts(found)
    assert prompts.label == "malicious"
    assert [(sample.id, sample.talk) for sample in prompts.samples] == [
        (each.id, each.talk) for each in found
    ]
    assert as_prompts([]).samples == []


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("budget", [1, 3])
def test_every_attack_keeps_its_budget_and_needs_no_request(tmp_path, name, budget):
    host = tiny_host(tmp_path)
    with serving(says(PROPOSAL)) as server:
        attack = make_attack(f"{name}:{budget}", host, EndpointOptions(server.url, "tiny"))
        assert attack.search(Rule(host, never), [], 5, tmp_path / "none.jsonl") == []
        defense = Rule(host, never)
        found = attack.search(defense, REQUESTS, 5, tmp_path / "kept.jsonl")
        assert [(each.id, each.refused, each.queries) for each in found] == [
            (number, True, budget) for number in "123"
        ]
        assert len(defense.asked) == 3 * budget
        assert all(each.talk in defense.asked for each in found)
        again = Rule(host, never)
        assert attack.search(again, REQUESTS, 5, tmp_path / "kept.jsonl") == found
        assert again.asked == []
    assert not (tmp_path / "none.jsonl").exists()
    assert attack.estimate([]) == (0, 0, 0)
    assert attack.estimate(REQUESTS).replies == 3 * budget
    assert attack.settings["attack"] == name
    assert attack.paper and attack.default_budget > 1


@pytest.mark.parametrize("name", ATTACKS)
def test_no_attack_goes_on_after_a_request_that_is_answered(tmp_path, name):
    host = tiny_host(tmp_path)
    attack = make_attack(name, host, EndpointOptions("http://localhost:1/v1", "nobody there"))
    defense = Rule(host, lambda text: True)
    found = attack.search(defense, REQUESTS, 5, tmp_path / "kept.jsonl")
    assert [(each.talk, each.refused, each.queries) for each in found] == [
        (request.talk, False, 1) for request in REQUESTS
    ]
    assert defense.batches == [1, 1, 1]


@pytest.mark.parametrize("name", ["gcg", "autodan", "best_of_n"])
def test_the_real_model_is_attacked_and_left_as_it_was(tmp_path, name):
    host = tiny_host(tmp_path)
    state = State(host.mogu.model)
    with NoDefense(host) as defense:
        found = make_attack(f"{name}:3", host).search(defense, REQUESTS, 4, tmp_path / "kept.jsonl")
        answers = defense.reply([each.talk for each in found], 4)
    assert [each.reply for each in found] == [answer.text for answer in answers]
    state.assert_same()


def test_a_budget_can_be_left_out(tmp_path):
    host = tiny_host(tmp_path)
    assert make_attack("gcg", host).budget == ATTACKS["gcg"].default_budget
    assert make_attack(" best_of_n : 7 ", host).budget == 7


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("gcgs", "There is no attack 'gcgs'. Did you mean gcg"),
        ("gcg:", "'gcg:' names no budget: write gcg:33, or gcg"),
        ("gcg:many", "'gcg:many' names no budget"),
        ("gcg:-1", "'gcg:-1' names no budget"),
        ("gcg:0", "the budget of gcg is 0; give at least 1 reply"),
        ("pair", "the attack pair asks a model: give an endpoint's address and the model's name"),
    ],
)
def test_what_cannot_be_made_is_named(tmp_path, spec, message):
    with pytest.raises(MoguError, match=message):
        make_attack(spec, tiny_host(tmp_path))


def test_an_unencodable_request_is_an_error(tmp_path):
    host = tiny_host(tmp_path)
    bad = REQUESTS[0]._replace(talk=REQUESTS[0].talk._replace(messages=[user("\ud800")]))
    with pytest.raises(MoguError, match="half a surrogate pair"):
        Numbers(host, 2, 0).search(NoDefense(host), [bad], 5, tmp_path / "kept.jsonl")


def test_the_fakes_refuse_and_comply_for_the_judge():
    assert holds_refusal(REFUSAL)
    assert not holds_refusal(GLAD)
