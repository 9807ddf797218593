"""What is not about replies: bodies that are no request, paths that are none, ids, and curl."""

import json
import shutil
import socket
import subprocess
from urllib.parse import urlsplit

import pytest

from tests.serving.http.fake import FakeEngine, words
from tests.serving.http.live import NAME, served

CURL = shutil.which("curl")
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def live():
    with served(FakeEngine(lambda *_: words("schöne Grüße 👋"))) as client:
        yield client


def root(live):
    return live.url.removesuffix("/v1")


def test_health_needs_nothing(live):
    assert live.get(f"{root(live)}/health").json() == {"status": "ok"}


def test_a_server_whose_engine_has_failed_is_not_healthy():
    with served(FakeEngine(failed=True, closing=True)) as client:
        answer = client.get(f"{root(client)}/health")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_failed")
        assert client.chat("Hi").status_code == 503


def test_a_path_or_a_method_that_is_not_there(live):
    for answer, status in [
        (live.get("engines"), 404),
        (live.get(f"{root(live)}/"), 404),
        (live.get(f"{root(live)}/docs"), 404),
        (live.get("chat/completions"), 405),
        (live.post("models"), 405),
    ]:
        assert answer.status_code == status
        assert "POST /v1/chat/completions" in answer.json()["error"]["message"]
    assert live.get("chat/completions").headers["allow"] == "POST"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"\xff\xfe", b'{"model": NaN}', b"[" * 100_000, b"\x00" * 9]
)
@pytest.mark.parametrize("path", ["chat/completions", "completions"])
def test_what_is_no_request_is_told_so_and_the_server_lives(live, path, body):
    answer = live.post(path, content=body, headers=JSON)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")
    assert live.chat("Hi").status_code == 200


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]
)
def test_a_body_of_another_type_is_refused(live, kind):
    # Else a page in a browser could ask a server on its user's machine without being asked itself.
    answer = live.post("chat/completions", content=b"{}", headers={"content-type": kind} if kind else {})
    assert answer.status_code == 415
    assert "application/json" in answer.json()["error"]["message"]


def test_the_type_may_name_its_charset(live):
    body = json.dumps({"model": NAME, "messages": [{"role": "user", "content": "Hi"}]})
    for kind in ("application/json; charset=utf-8", "Application/JSON"):
        answer = live.post("chat/completions", content=body, headers={"content-type": kind})
        assert answer.status_code == 200


def test_half_a_character_anywhere_is_told_so(live):
    for body in ('{"model": "\\ud800"}', '{"\\udfff": 1}', '{"user": ["\\ud800"]}'):
        answer = live.post("chat/completions", content=body.encode(), headers=JSON)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")


def test_text_goes_through_unchanged(live):
    assert live.chat("Hi").json()["choices"][0]["message"]["content"] == "schöne Grüße 👋"


def test_an_event_is_one_line_whatever_breaks_lines():
    text = "a\u2028b\u2029c\x85d\n\re schöne Grüße"
    with served(FakeEngine(lambda *_: words(text))) as client:
        body = {"model": NAME, "prompt": "Hi", "stream": True}
        with client.stream("POST", "completions", json=body) as answer:
            events = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert "".join(json.loads(each)["choices"][0]["text"] for each in events[:-1]) == text


def test_each_answer_has_the_requests_id_or_a_new_one(live):
    answer = live.post("chat/completions", content=b"{}", headers=JSON | {"x-request-id": "abc-1"})
    assert answer.headers["x-request-id"] == "abc-1"
    made = [
        live.get("models", headers={"x-request-id": given}).headers["x-request-id"]
        for given in ("", "a b", "x" * 200)
    ]
    assert all(len(each) == 32 for each in made)
    assert len(set(made)) == 3
    answer = live.chat("Hi")
    assert answer.json()["id"] == f"chatcmpl-{answer.headers['x-request-id']}"


def test_what_is_no_http_gets_a_400(live):
    address = urlsplit(live.url)
    with socket.create_connection((address.hostname, address.port)) as raw:
        raw.sendall(b"\x16\x03\x01 nonsense\r\n\r\n")
        assert raw.recv(1000).startswith(b"HTTP/1.1 400")
    assert live.chat("Hi").status_code == 200


@pytest.mark.skipif(CURL is None, reason="curl is not here")
def test_curl(live):
    def ask(path, body, *options):
        command = [CURL, "-sS", "-N", f"{live.url}/{path}", "-H", "content-type: application/json"]
        done = subprocess.run(
            [*command, *options, "-d", json.dumps({"model": NAME} | body)], capture_output=True, check=True
        )
        return done.stdout.decode()

    talk = {"messages": [{"role": "user", "content": "Hi"}]}
    assert json.loads(ask("chat/completions", talk))["choices"][0]["message"]["content"] == "schöne Grüße 👋"
    assert json.loads(ask("completions", {"prompt": "Hi"}))["mogu"]["refused"] is False
    events = ask("chat/completions", talk | {"stream": True}).split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert json.loads(events[-3].removeprefix("data: "))["mogu"]["score"] == 0.125
    assert ask("chat/completions", {"messages": []}, "-o", "/dev/null", "-w", "%{http_code}") == "400"
