"""A real server on loopback, at a random port, in a thread."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from openai import OpenAI

from mogu.serving.http.app import make_app
from mogu.serving.http.server import Server, bind
from tests.tiny import tiny_tokenizer

NAME = "tiny-mogu"


class Live(httpx.Client):
    """A client of a running server; `server` is the server, `url` its address with /v1."""

    server: Server
    url: str

    def openai(self, **options: Any) -> OpenAI:
        return OpenAI(base_url=self.url, **{"api_key": "none", "max_retries": 0} | options)

    def chat(self, *contents: str, **fields: Any) -> httpx.Response:
        """Ask with a user's turn, or with turns of user and assistant."""
        roles = ("user", "assistant") * len(contents)
        messages = [
            {"role": role, "content": content} for role, content in zip(roles, contents, strict=False)
        ]
        return self.post("chat/completions", json={"model": NAME, "messages": messages} | fields)

    def complete(self, prompt: Any, **fields: Any) -> httpx.Response:
        return self.post("completions", json={"model": NAME, "prompt": prompt} | fields)


@contextmanager
def served(engine: Any, tokenizer: Any = None, *, patience: float = 5, **options: Any) -> Iterator[Live]:
    """Serve an engine until the block is left; options go to `make_app`."""
    app = make_app(engine, tokenizer or tiny_tokenizer(), NAME, **options)
    bound = bind("127.0.0.1", 0, public=False, remedy="")
    ready = threading.Event()
    server = Server(app, engine, patience, ready.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    assert ready.wait(10)
    url = f"http://127.0.0.1:{bound.getsockname()[1]}"
    with Live(base_url=f"{url}/v1/", timeout=20) as client:
        client.server, client.url = server, f"{url}/v1"
        try:
            yield client
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


def eventually(true: Any, seconds: float = 10) -> bool:
    """Whether something becomes true."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
