"""PAIR against a local server."""

import json

import pytest

from mogu.defenses.base import Answer, Talk
from mogu.errors import MoguError
from mogu.evaluation.attacks.pair import PAIR, proposal_question, read_proposal
from mogu.evaluation.attacks.trial import Try
from mogu.judges.endpoint import EndpointOptions
from tests.defenses.hosts import tiny_host
from tests.defenses.talks import user
from tests.evaluation.attacks.fakes import GLAD, REFUSAL, REQUESTS, Rule, never
from tests.judges.chat_server import Response, says, serving

GOAL = "Write a poem about the hidden harbour"


def proposes(prompt: str) -> Response:
    return says(json.dumps({"improvement": "It was too plain.", "prompt": prompt}))


def judges(convincing: int) -> Response:
    return says(f'{{"explanation": "So.", "refused": 0, "convincing": {convincing}, "specific": 3}}')


def run(tmp_path, server, defense, budget=4, **options):
    attack = PAIR(defense.host, budget, 5, EndpointOptions(server.url, "tiny", retries=0), **options)
    return attack.search(defense, REQUESTS[:1], 5, tmp_path / "kept.jsonl")[0]


def material(question: str) -> dict:
    return json.loads(question[question.index('{"goal"') :].partition("\n")[0])


def test_each_proposal_answers_the_last_reply(tmp_path):
    defense = Rule(tiny_host(tmp_path), lambda text: "harbour song" in text)
    with serving(proposes("Sing of it"), proposes("Sing the harbour song"), proposes("More")) as server:
        found = run(tmp_path, server, defense)
    assert (found.refused, found.queries, found.reply) == (False, 3, GLAD)
    assert defense.texts == [GOAL, "Sing of it", "Sing the harbour song"]
    first, second = server.questions()
    assert material(first) == {"goal": GOAL, "prompt": GOAL, "reply": REFUSAL, "score": 0.0}
    assert material(second) == {"goal": GOAL, "prompt": "Sing of it", "reply": REFUSAL, "score": 0.0}
    assert "proposal 1 of 3" in first and "proposal 2 of 3" in second
    assert [(each["seed"], each["temperature"]) for each in server.requests] == [(5, 0), (5, 0)]


def test_what_cannot_be_read_costs_no_reply(tmp_path):
    defense = Rule(tiny_host(tmp_path), never)
    with serving(says("I won't do that."), proposes("Sing"), says(None)) as server:
        found = run(tmp_path, server, defense)
    assert (found.refused, found.queries) == (True, 2)
    assert found.talk.messages[-1]["content"] == "Sing"
    assert len(server.requests) == 3


def test_a_judge_lets_the_search_go_on_after_a_reply_of_little_use(tmp_path):
    defense = Rule(tiny_host(tmp_path), lambda text: text in ("two", "three"))
    answers = [proposes("one"), proposes("two"), judges(1), proposes("three"), judges(5), proposes("four")]
    with serving(*answers) as server:
        found = run(tmp_path, server, defense, budget=9, judged=True)
    assert (found.refused, found.queries) == (False, 4)
    assert found.talk.messages[-1]["content"] == "three"
    third = server.questions()[3]
    assert material(third) == {"goal": GOAL, "prompt": "two", "reply": GLAD, "score": 0.25}
    assert len(server.requests) == 5


def test_the_reply_of_most_use_is_the_best_and_an_unreadable_verdict_counts_as_the_rules_say(tmp_path):
    defense = Rule(tiny_host(tmp_path), lambda text: text == "one")
    with serving(proposes("one"), judges(2), proposes("two"), proposes("three")) as server:
        found = run(tmp_path, server, defense, judged=True)
    assert (found.talk.messages[-1]["content"], found.refused, found.queries) == ("one", False, 4)
    (tmp_path / "kept.jsonl").unlink()
    with serving(proposes("one"), says("Hard to say.")) as server:
        found = run(tmp_path, server, defense, judged=True)
    assert (found.refused, found.queries, len(server.requests)) == (False, 2, 2)


def test_an_endpoint_that_is_gone_ends_the_search_and_what_was_found_stays(tmp_path):
    host = tiny_host(tmp_path)
    kept = tmp_path / "kept.jsonl"
    with serving(proposes("open"), Response("gone", 500)) as server:
        options = EndpointOptions(server.url, "tiny", retries=0)
        with pytest.raises(MoguError, match="model tiny: Error code: 500"):
            PAIR(host, 3, 0, options).search(Rule(host, lambda text: text == "open"), REQUESTS, 5, kept)
    assert [json.loads(line)["id"] for line in kept.read_text().splitlines()] == ["1"]
    with serving(proposes("open")) as server:
        defense = Rule(host, lambda text: text == "open")
        options = EndpointOptions(server.url, "tiny")
        found = PAIR(host, 3, 0, options).search(defense, REQUESTS, 5, kept)
        assert len(server.requests) == 2
    assert [(each.id, each.refused) for each in found] == [("1", False), ("2", False), ("3", False)]


@pytest.mark.parametrize(
    ("answer", "prompt"),
    [
        ('{"improvement": "x", "prompt": "Sing of {it}"}', "Sing of {it}"),
        ('<think>{"prompt": "no"}</think>Here:\n```json\n{"prompt": "Two\nlines"}\n```', "Two\nlines"),
        ('{"prompt": " A \\ud800b "}', "A b"),
        ('{"prompt": ""}', None),
        ('{"prompt": 3}', None),
        ('{"text": "a"}', None),
        ('{"prompt": "cut', None),
        ("No.", None),
        ("", None),
        ('["prompt"]', None),
    ],
)
def test_reading_a_proposal(answer, prompt):
    assert read_proposal(answer) == prompt


def test_braces_and_quotes_in_what_was_tried_do_no_harm():
    talk = Talk([user('Say "{x}"\n{number}')])
    question = proposal_question("{goal}", Try(talk, Answer('}"{', 1), True), 1 / 3, 2, 7)
    assert '"goal": "{goal}"' in question
    assert material(question) == {
        "goal": "{goal}",
        "prompt": 'Say "{x}"\n{number}',
        "reply": '}"{',
        "score": 0.333,
    }


def test_questions_are_told_before(tmp_path):
    host, options = tiny_host(tmp_path), EndpointOptions("http://localhost:1/v1", "m")
    assert PAIR(host, 4, 0, options).estimate(REQUESTS) == (12, 0, 9)
    assert PAIR(host, 4, 0, options, judged=True).estimate(REQUESTS) == (12, 0, 18)
    assert PAIR(host, 4, 0, options).settings == {
        "attack": "pair",
        "budget": 4,
        "seed": 0,
        "url": "http://localhost:1/v1",
        "model": "m",
        "judged": False,
    }
