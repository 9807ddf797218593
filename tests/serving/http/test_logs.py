"""One JSON line a request, without anybody's words, and the metrics."""

import io
import json

from prometheus_client.parser import text_string_to_metric_families

from mogu.serving.http.limits import Limits
from tests.serving.http.fake import REFUSED, FakeEngine, words
from tests.serving.http.live import eventually, served

SECRET = "the-cellar-door"


def logged(log, count):
    assert eventually(lambda: len(log.getvalue().splitlines()) >= count)
    return [json.loads(line) for line in log.getvalue().splitlines()]


def test_a_line_a_request():
    log = io.StringIO()
    with served(FakeEngine(lambda *_: words("I am sorry.", REFUSED)), log=log) as live:
        live.chat("Hi", n=2)
        live.post("chat/completions", json={}, headers={"x-request-id": "second"})
        live.chat("Hi", stream=True)
        live.get(f"models/{SECRET}")
        first, second, third, fourth = logged(log, 4)
    assert first.keys() == {
        "time", "id", "route", "status", "seconds", "prompt_tokens", "completion_tokens", "total_tokens",
        "first_token_seconds", "score", "threshold", "reply_threshold", "refused", "refused_from",
    }  # fmt: skip
    told = {
        name: first[name] for name in ("route", "status", "prompt_tokens", "completion_tokens", "refused")
    }
    assert told == {
        "route": "/v1/chat/completions",
        "status": 200,
        "prompt_tokens": 20,
        "completion_tokens": 8,
        "refused": True,
    }
    assert (first["score"], first["refused_from"]) == (0.75, 0)
    assert first["seconds"] >= first["first_token_seconds"] > 0
    assert (second["id"], second["status"], second["error"]) == ("second", 400, "missing_required_parameter")
    assert (third["status"], third["refused"], third["completion_tokens"]) == (200, True, 4)
    assert (fourth["route"], fourth["status"], fourth["error"]) == ("other", 404, "model_not_found")


def test_no_line_holds_a_word_of_prompt_reply_or_key():
    log = io.StringIO()
    with served(FakeEngine(lambda *_: words(SECRET)), log=log, keys=[b"digest"]) as live:
        live.chat(SECRET, headers={})
        live.get(f"models/{SECRET}", headers={"authorization": f"Bearer {SECRET}"})
    with served(FakeEngine(lambda *_: words(SECRET)), log=log) as live:
        live.chat(SECRET)
        live.chat(SECRET, stream=True, user=SECRET)
        live.complete(SECRET)
        live.chat(SECRET, **{SECRET: 1})
        live.chat(SECRET, model=SECRET)
        live.chat(SECRET, stop=[SECRET], logit_bias={SECRET: 1})
        live.get(SECRET, params={SECRET: SECRET})
        live.post("chat/completions", content=SECRET, headers={"content-type": SECRET})
        logged(log, 10)
    assert SECRET not in log.getvalue()


def test_the_words_are_there_where_they_are_asked_for():
    log = io.StringIO()
    with served(FakeEngine(), log=log, log_text=True) as live:
        live.chat(SECRET, temperature=0)
        live.complete(SECRET, stream=True)
        chat, raw = logged(log, 2)
    assert chat["asked"]["messages"] == [{"role": "user", "content": SECRET}]
    assert (chat["asked"]["temperature"], chat["replied"]) == (0, ["Hello there, friend."])
    assert (raw["asked"]["prompt"], raw["replied"]) == ([SECRET], ["Hello there, friend."])


def test_what_ends_early_is_told():
    log = io.StringIO()
    engine = FakeEngine()
    engine.go.clear()
    with served(engine, log=log, limits=Limits(seconds=0.1)) as live:
        live.chat("Hi")
        assert [(line["status"], line["error"]) for line in logged(log, 1)] == [(504, "timeout")]


def test_an_error_that_nobody_foresaw_is_a_500_without_its_inside(caplog):
    log = io.StringIO()
    engine = FakeEngine()

    def submit(*_):
        raise ZeroDivisionError(SECRET)

    engine.submit = submit
    with served(engine, log=log) as live:
        answer = live.chat("Hi")
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
        assert SECRET not in answer.text
        assert answer.headers["x-request-id"] in answer.text
        (line,) = logged(log, 1)
        assert (line["status"], line["error"]) == (500, "internal_error")
        assert "ZeroDivisionError" in caplog.text
        assert live.get("models").status_code == 200


def metrics(live):
    text = live.get(live.url.replace("/v1", "/metrics"))
    assert text.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.text)
        for sample in family.samples
    }


def test_metrics():
    engine = FakeEngine(lambda index, _: words("a b c", REFUSED) if index else words("a b"))
    with served(engine) as live:
        live.chat("Hi")
        live.complete("Hi", n=2)
        live.chat("Hi", model="x")
        live.get("nope")
        chats = ("route", "/v1/chat/completions")
        requests = ("mogu_requests_total", chats, ("status", "404"))
        assert eventually(lambda: metrics(live).get(requests) == 1)
        told = metrics(live)
        assert told["mogu_requests_total", chats, ("status", "200")] == 1
        assert told["mogu_requests_total", ("route", "/v1/completions"), ("status", "200")] == 1
        assert told["mogu_requests_total", ("route", "other"), ("status", "404")] == 1
        assert told["mogu_prompt_tokens_total",] == 20 + 2
        assert told["mogu_reply_tokens_total",] == 3 + 4 + 4
        assert told["mogu_replies_total",] == 3
        assert told["mogu_refused_replies_total",] == 2
        assert told["mogu_time_to_first_token_seconds_count",] == 2
        assert told["mogu_time_per_token_seconds_count",] == 2
        assert told["mogu_request_seconds_count", chats] == 2
        assert told["mogu_running_replies",] == told["mogu_waiting_replies",] == 0
        assert told["process_resident_memory_bytes",] > 0


def test_metrics_say_what_runs():
    engine = FakeEngine(running=3)
    with served(engine) as live:
        assert metrics(live)["mogu_running_replies",] == 3
