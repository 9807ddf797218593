"""The client of an endpoint against a local server: what is retried, what is an error, how many at once."""

import asyncio
import json
import sys

import pytest

from mogu.errors import MoguError
from mogu.judges.endpoint import Endpoint, EndpointError, EndpointOptions
from tests.judges.chat_server import SOON, Response, Server, says, serving


def ask(server: Server, *questions: str, **options) -> list[str]:
    async def run():
        endpoint = server.endpoint(**options)
        try:
            return await asyncio.gather(*(endpoint.ask(question) for question in questions))
        finally:
            await endpoint.close()

    return asyncio.run(run())


def test_a_question_is_asked_greedily_and_answered(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with serving(says("Fine.")) as server:
        assert ask(server, "How are you?", seed=7, max_tokens=30) == ["Fine."]
    (request,) = server.requests
    assert request == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "How are you?"}],
        "temperature": 0,
        "seed": 7,
        "max_tokens": 30,
    }
    assert server.keys == ["Bearer none"]


def test_the_key_comes_from_the_named_variable(monkeypatch):
    monkeypatch.setenv("MY_KEY", " secret\n")
    with serving(says("Fine.")) as server:
        ask(server, "How are you?", key_variable="MY_KEY")
    assert server.keys == ["Bearer secret"]


@pytest.mark.parametrize("host", ["api.openai.com", "8.8.8.8", "[2606:4700::1111]:443"])
def test_a_remote_endpoint_needs_a_key(host, monkeypatch):
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(MoguError, match=r"needs an API key: set MY_KEY"):
        Endpoint(EndpointOptions(f"https://{host}/v1", "m", key_variable="MY_KEY"))


@pytest.mark.parametrize(
    "host", ["localhost:8000", "127.0.0.1", "[::1]:80", "192.168.0.5:1", "vllm", "pc.local"]
)
def test_a_local_endpoint_needs_none(host, monkeypatch):
    monkeypatch.delenv("MY_KEY", raising=False)
    Endpoint(EndpointOptions(f"http://{host}/v1", "m", key_variable="MY_KEY"))


def test_a_rate_limit_is_waited_for_as_long_as_the_server_says():
    # 0.9 s is more than the client's own first back-off of half a second.
    busy = Response('{"error": {"message": "slow down"}}', 429, {"Retry-After": "0.9"})
    with serving(busy, says("Fine.")) as server:
        assert ask(server, "How are you?", retries=1) == ["Fine."]
    assert server.times[1] - server.times[0] >= 0.9


def test_server_errors_are_retried_so_often_and_then_raised():
    broken = Response('{"error": {"message": "out of memory"}}', 500, SOON)
    with (
        serving(broken) as server,
        pytest.raises(EndpointError, match=r"/v1, model tiny: .*500.*out of memory"),
    ):
        ask(server, "How are you?", retries=3)
    assert len(server.requests) == 4


def test_a_refused_request_is_not_retried():
    wrong = Response('{"error": {"message": "no such model"}}', 404, SOON)
    with serving(wrong) as server, pytest.raises(EndpointError, match="no such model"):
        ask(server, "How are you?", retries=3)
    assert len(server.requests) == 1


def test_a_timeout_is_retried_and_then_raised():
    with serving(says("Late.", delay=0.8)) as server, pytest.raises(EndpointError, match="timed out"):
        ask(server, "How are you?", retries=1, timeout=0.2)
    assert len(server.requests) == 2


def test_a_timeout_then_an_answer():
    with serving(says("Late.", delay=1.2), says("Fine.")) as server:
        assert ask(server, "How are you?", retries=1, timeout=0.5) == ["Fine."]


def test_nobody_there():
    with serving(says("")) as server:
        pass
    with pytest.raises(EndpointError, match=r"Connection error\. \(.+\)"):
        ask(server, "How are you?", retries=0)


@pytest.mark.parametrize(
    "response",
    [
        Response("{not json"),
        Response("<html>Welcome</html>", headers={"Content-Type": "text/html"}),
        Response("[]"),
        Response("null"),
        Response('{"choices": []}'),
        Response('{"choices": null}'),
        Response('{"choices": [{"message": null}]}'),
        Response('{"error": "in a body that claims success"}'),
    ],
)
def test_what_is_no_chat_completion_is_an_error(response):
    with serving(response) as server, pytest.raises(EndpointError, match=r"/v1, model tiny: \S") as error:
        ask(server, "How are you?", retries=2)
    assert len(server.requests) == 1
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [None, ["a", "list"]])
def test_an_answer_without_text_is_empty(content):
    body = json.dumps({"choices": [{"index": 0, "message": {"role": "assistant", "content": content}}]})
    with serving(Response(body)) as server:
        assert ask(server, "How are you?") == [""]


def test_a_question_that_utf_8_cannot_carry_is_this_questions_error():
    with serving(says("Fine.")) as server, pytest.raises(EndpointError, match="surrogates"):
        ask(server, "half a character: \ud800")


def test_only_so_many_are_under_way_at_once():
    with serving(says("Fine.", delay=0.03)) as server:
        assert ask(server, *"abcdefg", concurrency=2) == ["Fine."] * 7
    assert server.most == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_url": "localhost:8000/v1"}, "no address of an endpoint"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"retries": -1}, "retries is -1"),
        ({"timeout": 0}, "timeout is 0"),
        ({"max_tokens": 0}, "max_tokens is 0"),
    ],
)
def test_options_that_cannot_work(options, message):
    with pytest.raises(MoguError, match=message):
        EndpointOptions(**({"base_url": "http://localhost/v1", "model": "m"} | options))


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MoguError, match=r'pip install "mogu-llm\[eval\]"'):
        Endpoint(EndpointOptions("http://localhost/v1", "m"))
