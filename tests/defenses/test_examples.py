import pytest

from mogu.corpus import corpus_requests
from mogu.defenses import examples
from mogu.defenses.base import Talk
from mogu.defenses.examples import benign_examples, english_requests, refusal_examples
from mogu.judges.refusal import opens_with_refusal
from tests.defenses.counting import Heard
from tests.defenses.hosts import tiny_host

TOKENS = 6
REQUESTS = english_requests("benign", "train", 5, seed=0)


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    monkeypatch.setattr(examples, "REPLY_TOKENS", TOKENS)


def test_requests_are_english_ones_of_the_split():
    there = {request.id: request for request in corpus_requests("malicious", "train")}
    found = english_requests("malicious", "train", 5, seed=3)
    assert [there[request.id] for request in found] == found
    assert [request.language for request in found] == ["en"] * 5
    assert english_requests("malicious", "train", 5, seed=3) == found
    assert english_requests("malicious", "train", 5, seed=4) != found


def test_each_malicious_request_gets_a_refusal():
    requests = english_requests("malicious", "train", 5, seed=3)
    rows = refusal_examples(requests, seed=3)
    assert [row.messages for row in rows] == [request.messages for request in requests]
    assert all(opens_with_refusal(row.reply) and row.ended for row in rows)
    assert refusal_examples(requests, seed=3) == rows


def test_benign_requests_get_the_base_s_own_replies(tmp_path):
    host, heard = tiny_host(tmp_path), Heard()
    rows = benign_examples(host, REQUESTS, heard)
    assert heard.calls == [(2, 5), (4, 5), (5, 5)]
    assert [row.messages for row in rows] == [
        request.messages for request in sorted(REQUESTS, key=lambda request: len(request.text))
    ]
    # Batches of the same rows, for in others a reply may differ by rounding.
    answers = host.base_replies([Talk(row.messages) for row in rows], TOKENS)
    assert [row.reply for row in rows] == [answer.text for answer in answers]
    assert [row.ended for row in rows] == [answer.tokens < TOKENS for answer in answers]


def test_a_reply_that_ended_is_told_from_one_that_was_cut_off(tmp_path, monkeypatch):
    host = tiny_host(tmp_path)
    cut = benign_examples(host, REQUESTS, Heard())
    assert not any(row.ended for row in cut)
    (end, *_) = host.mogu.tokenizer(cut[0].reply).input_ids
    monkeypatch.setattr(host.mogu.model.generation_config, "eos_token_id", end)
    host.work = tmp_path / "other"
    assert benign_examples(host, REQUESTS, Heard())[0] == cut[0]._replace(reply=cut[0].reply[0], ended=True)


def test_a_killed_run_goes_on_from_its_last_batch(tmp_path, monkeypatch):
    host = tiny_host(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        benign_examples(host, REQUESTS, Heard(stop_at=4))
    (kept,) = tmp_path.iterdir()
    with kept.open("a") as file:
        file.write('{"request": "cut o')
    asked = []
    generate = host.base_replies
    monkeypatch.setattr(host, "base_replies", lambda talks, n: asked.append(len(talks)) or generate(talks, n))
    rows = benign_examples(host, REQUESTS, Heard())
    assert asked == [1]
    assert rows == benign_examples(tiny_host(tmp_path / "fresh"), REQUESTS, Heard())
    assert benign_examples(host, REQUESTS, Heard()) == rows
    assert asked == [1]
