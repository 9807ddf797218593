import pytest

from mogu.corpus import corpus_requests
from mogu.defenses import examples
from mogu.defenses.base import Talk
from mogu.defenses.examples import benign_examples, english_requests, refusal_examples
from mogu.judges.refusal import opens_with_refusal
from tests.defenses.counting import Heard
from tests.defenses.hosts import tiny_host

TOKENS = 6


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    monkeypatch.setattr(examples, "ROWS", 5)
    monkeypatch.setattr(examples, "REPLY_TOKENS", TOKENS)


def test_refusals_follow_english_malicious_requests_of_the_training_split():
    rows = refusal_examples(seed=3)
    requests = {r.text: r for r in corpus_requests("malicious", "train")}
    asked = [requests[row.messages[0]["content"]] for row in rows]
    assert [request.language for request in asked] == ["en"] * 5
    assert [request.id for request in asked] == [
        request.id for request in english_requests("malicious", "train", 5, seed=3)
    ]
    assert all(opens_with_refusal(row.reply) and row.ended for row in rows)
    assert refusal_examples(seed=3) == rows
    assert refusal_examples(seed=4) != rows


def test_benign_requests_get_the_base_s_own_replies(tmp_path):
    host, heard = tiny_host(tmp_path), Heard()
    rows = benign_examples(host, heard)
    assert heard.calls == [(2, 5), (4, 5), (5, 5)]
    wanted = {r.text for r in english_requests("benign", "train", 5, seed=0)}
    assert {row.messages[0]["content"] for row in rows} == wanted
    # Batches of the same rows, for in others a reply may differ by rounding.
    answers = host.base_replies([Talk(row.messages) for row in rows], TOKENS)
    assert [row.reply for row in rows] == [answer.text for answer in answers]
    assert [row.ended for row in rows] == [answer.tokens < TOKENS for answer in answers]


def test_a_reply_that_ended_is_told_from_one_that_was_cut_off(tmp_path, monkeypatch):
    host = tiny_host(tmp_path)
    cut = benign_examples(host, Heard())
    assert not any(row.ended for row in cut)
    (end, *_) = host.mogu.tokenizer(cut[0].reply).input_ids
    monkeypatch.setattr(host.mogu.model.generation_config, "eos_token_id", end)
    host.work = tmp_path / "other"
    assert benign_examples(host, Heard())[0] == cut[0]._replace(reply=cut[0].reply[0], ended=True)


def test_a_killed_run_goes_on_from_its_last_batch(tmp_path, monkeypatch):
    host = tiny_host(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        benign_examples(host, Heard(stop_at=4))
    (kept,) = tmp_path.iterdir()
    with kept.open("a") as file:
        file.write('{"id": "corpus/ben')
    asked = []
    generate = host.base_replies
    monkeypatch.setattr(host, "base_replies", lambda talks, n: asked.append(len(talks)) or generate(talks, n))
    rows = benign_examples(host, Heard())
    assert asked == [1]
    assert rows == benign_examples(tiny_host(tmp_path / "fresh"), Heard())
    assert benign_examples(host, Heard()) == rows
    assert asked == [1]
