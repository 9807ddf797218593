from mogu.corpus import corpus_refusals, corpus_requests
from mogu.defenses.base import Talk
from mogu.defenses.icd import InContextDefense, demonstrations
from tests.defenses.hosts import tiny_host
from tests.defenses.talks import TALKS


def test_demonstrations_are_refused_malicious_requests_of_the_training_split():
    shown = demonstrations()
    assert [turn["role"] for turn in shown] == ["user", "assistant", "user", "assistant"]
    requests = {request.text: request for request in corpus_requests("malicious", "train")}
    assert [requests[turn["content"]].kind for turn in shown[::2]] == ["imperative", "question"]
    refusals = [turn["content"] for turn in shown[1::2]]
    assert refusals == [
        "I'm sorry, but I can't help with that. If I have misunderstood you, please tell me what you need it for.",
        "I'm sorry, but I can't help with that.",
    ]
    assert set(refusals) <= set(corpus_refusals()["en"])


def test_demonstrations_stand_before_the_conversation_and_after_its_system_message(tmp_path):
    host, shown = tiny_host(tmp_path), demonstrations()
    expected = [
        Talk([*shown, *TALKS[0].messages]),
        Talk([TALKS[1].messages[0], *shown, *TALKS[1].messages[1:]]),
        Talk([*shown, *TALKS[2].messages], opener="Sure, the"),
    ]
    answers = InContextDefense(host).reply(TALKS, 5)
    assert answers == host.base_replies(expected, 5)
    assert answers != host.base_replies(TALKS, 5)


def test_no_talks_no_answers(tmp_path):
    assert InContextDefense(tiny_host(tmp_path)).reply([], 5) == []
