"""Replies as server-sent events: one JSON object each, and `[DONE]` at the end of those that are whole."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mogu.serving.http.answers import Format
from mogu.serving.http.faults import Fault
from mogu.serving.http.logs import Record
from mogu.serving.http.replies import Replies

SLOWNESS = 30.0
"""Seconds for which a client may still read, after the time in which the reply must be written."""


class EventStream(Response):
    """Streams replies.

    Nothing is sent before the first piece: until then a request that fails is answered with its status. After it a
    failure is the last event, an error in OpenAI's shape, and no `[DONE]` follows.

    Args:
        replies: not entered yet.
        format: makes events of their pieces.
        record: told what went wrong once the answer has begun.
    """

    media_type = "text/event-stream"

    def __init__(self, replies: Replies, format: Format, record: Record) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._replies = replies
        self._format = format
        self._record = record

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events as they come.

        Raises:
            Fault: What goes wrong before the first piece.
            TimeoutError: The client reads too slowly.
        """
        async with asyncio.timeout_at(self._replies.deadline + SLOWNESS), self._replies as replies:
            begun = False
            try:
                async for index, piece in replies:
                    if not begun:
                        begun = True
                        await send(
                            {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
                        )
                    if events := self._format.chunks(index, piece):
                        await send(_message(*map(_event, events)))
            except Fault as fault:
                if not begun:
                    raise
                self._record.error = fault.code
                await send(_message(_event(fault.body)))
            else:
                end = ["data: [DONE]\n\n"]
                if self._format.with_usage:
                    end.insert(0, _event(self._format.usage_chunk(replies.verdicts, replies.usage)))
                await send(_message(*end))
            await send({"type": "http.response.body", "body": b""})


def _event(values: Mapping[str, Any]) -> str:
    # In ASCII: many clients break lines at U+2028 and U+0085 too, which JSON leaves as they are.
    return f"data: {json.dumps(values)}\n\n"


def _message(*events: str) -> dict[str, Any]:
    return {"type": "http.response.body", "body": "".join(events).encode(), "more_body": True}
