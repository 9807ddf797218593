"""A local server that speaks as much of OpenAI's chat completions as a judge needs."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from mogu.judges.endpoint import Endpoint, EndpointOptions

SOON = {"Retry-After-Ms": "5"}
"""Headers that make the client try again at once."""


class Response(NamedTuple):
    """What the server sends, after a delay in seconds."""

    body: str
    status: int = 200
    headers: dict[str, str] = {}  # noqa: RUF012
    delay: float = 0.0


@dataclass
class Server:
    """A running server.

    Attributes:
        url: the endpoint's address.
        requests: the JSON body of every request so far.
        times: when each came.
        keys: what each sent as authorization.
        most: highest number of requests under way at once.
    """

    url: str
    requests: list[dict[str, Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    most: int = 0

    def questions(self) -> list[str]:
        return [request["messages"][0]["content"] for request in self.requests]

    def endpoint(self, **options: Any) -> Endpoint:
        return Endpoint(EndpointOptions(self.url, "tiny", **options))


def says(text: str | None, **more: Any) -> Response:
    """A good completion with this text."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "tiny", "choices": [choice]}
    return Response(json.dumps(body), **more)


@contextmanager
def serving(*responses: Response | Callable[[dict[str, Any]], Response]) -> Iterator[Server]:
    """Serve these responses in turn, the last one for good; a function makes one from the request's body."""
    lock = threading.Lock()
    under_way = 0

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            nonlocal under_way
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                response = responses[min(len(server.requests), len(responses) - 1)]
                server.requests.append(request)
                server.times.append(time.monotonic())
                server.keys.append(self.headers["Authorization"])
                under_way += 1
                server.most = max(server.most, under_way)
            if self.path != "/v1/chat/completions":
                response = Response("no such page", 404)
            made = response if isinstance(response, Response) else response(request)
            time.sleep(made.delay)
            with lock:
                under_way -= 1
            body = made.body.encode()
            self.send_response(made.status)
            for name, value in ({"Content-Type": "application/json"} | made.headers).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """A client that timed out has hung up."""

    http = Quiet(("127.0.0.1", 0), Handler)
    server = Server(f"http://127.0.0.1:{http.server_port}/v1")
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
