"""Clients that leave, clients that read slowly, and the end of the server itself."""

import json
import socket
import threading
from urllib.parse import urlsplit

import openai
import pytest

from mogu.serving.engine.job import Piece
from tests.serving.http.fake import ANSWERED, FakeEngine, words
from tests.serving.http.live import NAME, eventually, served
from tests.serving.models import chat_model, served_model
from tests.tiny import IM_END

TALK = [{"role": "user", "content": "Hi"}]


def raw_request(live, **fields):
    """A connection on which a request has been sent and nothing is read."""
    address = urlsplit(live.url)
    body = json.dumps({"model": NAME, "messages": TALK} | fields).encode()
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.connect((address.hostname, address.port))
    raw.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n%s" % (len(body), body)
    )
    return raw


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("begun", [False, True])
def test_a_client_that_hangs_up_frees_its_rows(stream, begun):
    engine = FakeEngine(lambda *_: words("a " * 200) if begun else words("a"))
    go = engine.go
    go.clear()
    with served(engine) as live:
        raw = raw_request(live, stream=stream, n=2)
        assert eventually(lambda: len(engine.tickets) == 2)
        if begun:
            go.set()
            if stream:
                assert raw.recv(10)
            go.clear()
        raw.close()
        assert eventually(lambda: all(ticket.cancelled.is_set() for ticket in engine.tickets))
        assert eventually(lambda: engine.running == 0)
        go.set()
        assert live.chat("Hi").status_code == 200


def test_a_client_that_breaks_a_stream_off_frees_its_row():
    engine = FakeEngine(lambda *_: words("a b"))
    with served(engine) as live:
        stream = live.openai().chat.completions.create(model=NAME, messages=TALK, stream=True)
        next(iter(stream))
        stream.close()
        assert eventually(engine.tickets[0].cancelled.is_set)


def test_a_slow_reader_stalls_nobody():
    long = "x" * 100_000
    pieces = [Piece(long, index + 1, (), ANSWERED, None) for index in range(100)]
    engine = FakeEngine(lambda index, _: [*pieces, *words("end")] if index == 0 else words("a b"))
    with served(engine) as live:
        raw = raw_request(live, stream=True)
        # The engine has written its 10 MB, of which the client has read nothing.
        assert eventually(lambda: len(engine.tickets) == 1 and engine.running == 0)
        for stream in (False, True):
            assert live.chat("Hi", stream=stream).status_code == 200
        raw.settimeout(10)
        answer = b""
        while not answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"):
            answer += raw.recv(2**20)
        assert answer.count(long.encode()) == 100
        raw.close()


def test_a_server_that_is_stopped_finishes_what_runs():
    engine = FakeEngine(lambda *_: words("a b c"))
    engine.go.clear()
    with served(engine, patience=5) as live:
        found = {}

        def ask(stream):
            client = live.openai()
            reply = client.chat.completions.create(model=NAME, messages=TALK, stream=stream)
            if stream:
                found[stream] = "".join(chunk.choices[0].delta.content or "" for chunk in reply)
            else:
                found[stream] = reply.choices[0].message.content

        threads = [threading.Thread(target=ask, args=(stream,)) for stream in (False, True)]
        for thread in threads:
            thread.start()
        assert eventually(lambda: engine.running == 2)
        live.server.should_exit = True
        assert eventually(lambda: engine.closed)
        assert engine.closed[0] == 5
        address = urlsplit(live.url)
        with pytest.raises(OSError):
            socket.create_connection((address.hostname, address.port), timeout=1).close()
        engine.go.set()
        for thread in threads:
            thread.join(10)
        assert found == {False: "a b c", True: "a b c"}


def test_what_runs_on_when_the_patience_is_over_is_told_so():
    cut = Piece("", 1, (), ANSWERED, "cancelled")

    class Impatient(FakeEngine):
        def close(self, patience):
            super().close(patience)
            self.go.set()

    def pieces(index, sampling):
        return [*words("a b")[:1], cut] if index else [cut]

    engine = Impatient(pieces)
    engine.go.clear()
    with served(engine) as live:
        errors = []

        def ask(stream):
            try:
                list(live.openai().chat.completions.create(model=NAME, messages=TALK, stream=stream))
            except openai.APIError as error:
                errors.append(error)

        threads = []
        for count, stream in enumerate((False, True), start=1):
            threads.append(threading.Thread(target=ask, args=(stream,)))
            threads[-1].start()
            assert eventually(lambda count=count: engine.running == count)
        live.server.should_exit = True
        for thread in threads:
            thread.join(10)
        assert [error.code for error in errors] == ["closing", "closing"]
        assert any(isinstance(error, openai.InternalServerError) for error in errors)


def test_an_engine_that_closes_takes_no_job():
    engine = FakeEngine(closing=True)
    with served(engine) as live:
        answer = live.chat("Hi")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "closing")


@pytest.mark.parametrize("stream", [False, True])
def test_a_row_of_the_real_engine_is_freed(stream):
    with served_model(chat_model(), engine={"rows": 1, "waiting": 0, "threshold": 1.0}) as live:
        never_ends = {"stream": stream, "max_tokens": 1500, "logit_bias": {str(IM_END): -100}}
        raw = raw_request(live, **never_ends)
        metrics = live.url.replace("/v1", "/metrics")
        assert eventually(lambda: "mogu_running_replies 1.0" in live.get(metrics).text)
        assert live.chat("Hi", max_tokens=1).status_code == 429
        raw.close()
        assert eventually(lambda: live.chat("Hi", max_tokens=1).status_code == 200)
