"""Each limit with its own status: size 413, length 400, queue 429, time 504."""

import json
import socket
import time
from urllib.parse import urlsplit

import openai
import pytest

from mogu.serving.http import app as app_module
from mogu.serving.http import body as body_module
from mogu.serving.http.limits import Limits, Pace
from tests.serving.http.fake import FakeEngine, words
from tests.serving.http.live import NAME, eventually, served

JSON = {"content-type": "application/json"}
TALK = [{"role": "user", "content": "Hi"}]


def test_a_large_body_is_refused_whatever_its_header_says():
    with served(FakeEngine(), limits=Limits(body=2000)) as live:
        assert live.chat("x" * 1000).status_code == 200
        for size in (2000, 20_000, 10 * 2**20):
            answer = live.chat("x" * size)
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
            assert "2,000 bytes" in answer.json()["error"]["message"]

        def pieces():
            yield b'{"model": "'
            for _ in range(100):
                yield b"x" * 1000

        chunked = live.post("chat/completions", content=pieces(), headers=JSON)
        assert "content-length" not in chunked.request.headers
        assert chunked.status_code == 413
        assert live.chat("Hi").status_code == 200


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"logit_bias": dict.fromkeys(map(str, range(1025)), 1)}, "an object has more than 1024 keys"),
        (dict.fromkeys(map(str, range(1025)), 1), "an object has more than 1024 keys"),
        ({"prompt": [-1] * 100_000}, "prompt: Input should be a valid string or Input"),
        ({"prompt": [[-1]] * 100_000}, "prompt: Input should be a valid string or Input"),
        ({"stop": [1] * 100_000}, "stop: Input should be a valid string"),
    ],
)
def test_of_many_mistakes_no_list_is_made(monkeypatch, fields, reason):
    most = []
    original = body_module._fault
    monkeypatch.setattr(body_module, "_fault", lambda errors: most.append(len(errors)) or original(errors))
    with served(FakeEngine()) as live:
        answer = live.complete(**({"prompt": "Hi"} | fields))
    assert answer.status_code == 400 and reason in answer.json()["error"]["message"]
    assert sum(most) < 5


def test_a_raw_prompt_that_asks_for_no_length_gets_what_there_is():
    engine = FakeEngine(longest=20)
    with served(engine, limits=Limits(reply=8)) as live:
        assert live.complete([5]).status_code == live.complete([5] * 15).status_code == 200
        assert [sampling.max_tokens for _, sampling in engine.jobs] == [8, 5]
        assert live.complete([5], max_tokens=9).status_code == 400


def test_a_client_that_asks_before_it_sends_is_told_before_it_sends():
    with served(FakeEngine(), limits=Limits(body=2000)) as live:
        address = urlsplit(live.url)
        with socket.create_connection((address.hostname, address.port)) as raw:
            raw.sendall(
                b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
                b"content-length: 99999999\r\nexpect: 100-continue\r\n\r\n"
            )
            assert raw.recv(1000).startswith(b"HTTP/1.1 413")


def test_a_body_that_does_not_arrive_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(body_module, "SECONDS", 0.05)
    with served(FakeEngine()) as live:
        address = urlsplit(live.url)
        with socket.create_connection((address.hostname, address.port)) as raw:
            raw.sendall(
                b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
                b"content-length: 100\r\n\r\n{"
            )
            assert raw.recv(1000).startswith(b"HTTP/1.1 408")
        assert live.chat("Hi").status_code == 200


def test_no_more_bodies_are_read_at_once_than_fit_in_memory(monkeypatch):
    monkeypatch.setattr(app_module, "READERS", 1)
    with served(FakeEngine()) as live:
        address = urlsplit(live.url)
        with socket.create_connection((address.hostname, address.port)) as raw:
            raw.sendall(
                b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
                b"content-length: 100\r\n\r\n{"
            )
            assert eventually(lambda: live.chat("Hi").status_code == 429)
        assert eventually(lambda: live.chat("Hi").status_code == 200)


def test_a_prompt_that_is_too_long_is_told_both_numbers():
    with served(FakeEngine(), limits=Limits(prompt=100)) as live:
        for answer, field in [
            (live.chat("x" * 200), "messages"),
            (live.complete("x" * 200), "prompt"),
            (live.complete([5] * 200), "prompt"),
        ]:
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (400, "context_length_exceeded")
            assert error["param"] == field
            assert " 200 tokens" in error["message"] or " 218 tokens" in error["message"]
            assert "at most 100 tokens" in error["message"]


def test_what_the_model_takes_is_the_limit_where_none_is_set():
    engine = FakeEngine()
    with served(engine) as live:
        answer = live.complete("x" * 2048)
        assert answer.status_code == 400
        assert "2048 tokens, but this server takes at most 2047 tokens" in answer.json()["error"]["message"]
        assert live.complete("x" * 2047, max_tokens=1).status_code == 200
        answer = live.complete("x" * 2000, max_tokens=100)
        assert answer.status_code == 400
        assert "2000 tokens and a reply of 100 are 2100 together" in answer.json()["error"]["message"]
        assert answer.json()["error"]["param"] == "max_tokens"


def test_a_prompt_of_100_000_tokens():
    with served(FakeEngine()) as live:
        for answer in (live.chat("x" * 100_000), live.complete([5] * 100_000), live.chat(*["x y z"] * 4001)):
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")
        assert "100018 tokens" in live.chat("x" * 100_000).text
        assert live.chat("Hi").status_code == 200


def test_the_longest_reply_and_their_number():
    engine = FakeEngine()
    with served(engine, limits=Limits(reply=50, replies=4)) as live:
        assert live.chat("Hi").status_code == 200
        assert engine.jobs[-1][1].max_tokens == 50
        answer = live.chat("Hi", max_tokens=51)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "max_tokens")
        assert "51 tokens" in answer.json()["error"]["message"]
        assert live.chat("Hi", n=4).status_code == 200
        for answer in (live.chat("Hi", n=5), live.complete(["a"] * 5), live.complete(["a", "b"], n=3)):
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "n")
            assert "at most 4" in answer.json()["error"]["message"]


def test_a_full_queue_says_when_to_try_again():
    engine = FakeEngine(places=2)
    engine.go.clear()
    with served(engine) as live:
        client = live.openai()
        # One reply of two finds no place: the other one gives its own back.
        engine.places = 1
        answer = live.chat("Hi", n=2)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        assert answer.json()["error"]["code"] == "queue_full"
        assert engine.tickets[0].cancelled.is_set()
        assert eventually(lambda: engine.running == 0)
        for stream in (False, True):
            engine.places = 0
            with pytest.raises(openai.RateLimitError):
                client.chat.completions.create(model=NAME, messages=TALK, stream=stream)
        engine.places = 1
        engine.go.set()
        assert live.chat("Hi").status_code == 200


def test_a_client_that_is_told_to_try_again_does_so():
    engine = FakeEngine(places=0)
    with served(engine) as live:
        submit = engine.submit

        def then_free(*arguments):
            try:
                return submit(*arguments)
            finally:
                engine.places = 1

        engine.submit = then_free
        client = live.openai(max_retries=1)
        assert client.chat.completions.create(model=NAME, messages=TALK).choices


def test_the_pace_is_that_of_the_latest_replies():
    pace = Pace(rows=2)
    assert pace.retry_after == 1
    for _ in range(100):
        pace.took(20)
    assert pace.retry_after == 10
    for _ in range(100):
        pace.took(1000)
    assert pace.retry_after == 60


def test_whole_replies_and_streams_set_the_pace(monkeypatch):
    seconds = []
    monkeypatch.setattr(Pace, "took", lambda self, took: seconds.append(took))
    with served(FakeEngine()) as live:
        for stream in (False, True):
            assert live.chat("Hi", n=2, stream=stream).status_code == 200
    assert len(seconds) == 2 and all(0 < each < 20 for each in seconds)


def test_a_reply_that_takes_too_long():
    engine = FakeEngine()
    engine.go.clear()
    with served(engine, limits=Limits(seconds=0.2)) as live:
        for stream in (False, True):  # no piece has come: the status says it
            answer = live.chat("Hi", stream=stream)
            assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
        assert all(ticket.cancelled.is_set() for ticket in engine.tickets)
        assert eventually(lambda: engine.running == 0)


def test_a_stream_that_is_out_of_time_ends_with_an_error_event():
    def slow(index, sampling):
        yield from words("a b")[:2]
        time.sleep(0.5)
        yield from words("c")

    with served(FakeEngine(slow), limits=Limits(seconds=0.3)) as live:
        answer = live.chat("Hi", stream=True)
        assert answer.status_code == 200
        events = answer.text.rstrip().split("\n\n")
        assert json.loads(events[-2][6:])["choices"][0]["delta"] == {"content": " b"}
        assert json.loads(events[-1][6:])["error"]["code"] == "timeout"
        with pytest.raises(openai.APIError, match="longer than this server allows"):
            list(live.openai().chat.completions.create(model=NAME, messages=TALK, stream=True))
