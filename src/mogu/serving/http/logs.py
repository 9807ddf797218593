"""What becomes of a request: its id, one JSON line about it, and its place in the metrics.

No line holds text of a prompt or a reply unless that is asked for.
"""

import json
import logging
import re
import time
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mogu.serving.http.answers import mogu_object
from mogu.serving.http.faults import Fault
from mogu.serving.http.metrics import Metrics
from mogu.serving.http.replies import Replies

logger = logging.getLogger(__name__)

_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


@dataclass
class Record:
    """What is known of a request while it is answered.

    Attributes:
        id: the client's x-request-id, or a new one.
        began: in seconds of the monotonic clock.
        replies: of a request that got so far.
        asked: the fields of the request, where texts are logged.
        error: a word for what went wrong.
    """

    id: str
    began: float
    replies: Replies | None = None
    asked: dict[str, Any] | None = None
    error: str | None = None


class Observer:
    """The outermost layer of the app: it names each request, and tells of it once it has been answered.

    An error that nobody has foreseen is answered with 500 here, and its traceback is logged.

    Args:
        app: what answers.
        routes: the paths that are told by name; any other one is `other`, for it may hold anything.
        metrics: counts requests.
        log: where a line of each goes; None for nowhere.
    """

    def __init__(self, app: ASGIApp, routes: Collection[str], metrics: Metrics, log: IO[str] | None) -> None:
        self._app = app
        self._routes = routes
        self._metrics = metrics
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, and tell of it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        name = given.decode("latin-1")
        record = Record(name if _ID.fullmatch(name) else uuid.uuid4().hex, time.monotonic())
        scope.setdefault("state", {})["record"] = record
        status = 0

        async def tell(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", record.id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, tell)
        except TimeoutError:
            record.error = "slow_reader"
        except Exception:
            logger.exception("Request %s failed", record.id)
            record.error = "internal_error"
            if not status:
                fault = Fault(500, f"The server failed; its log has more on {record.id}.", code=record.error)
                await fault.response()(scope, receive, tell)
        finally:
            route = scope["path"] if scope["path"] in self._routes else "other"
            self._tell(record, route, status)

    def _tell(self, record: Record, route: str, status: int) -> None:
        seconds = time.monotonic() - record.began
        replies = record.replies
        self._metrics.count(route, status, seconds, replies)
        if self._log is None:
            return
        line: dict[str, Any] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "id": record.id,
            "route": route,
            "status": status,
            "seconds": round(seconds, 4),
        }
        if record.error:
            line["error"] = record.error
        if replies is not None:
            line |= replies.usage
            if replies.first_seconds is not None:
                line["first_token_seconds"] = round(replies.first_seconds, 4)
            if replies.verdicts:
                line |= mogu_object(replies.verdicts)
        if record.asked is not None:
            line["asked"] = record.asked
            line["replied"] = [] if replies is None else replies.texts
        print(json.dumps(line), file=self._log, flush=True)
