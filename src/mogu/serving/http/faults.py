"""What a client is told when it gets no reply: a status and one clear line, in OpenAI's shape."""

from collections.abc import Mapping

from starlette.responses import JSONResponse
from typing_extensions import TypedDict  # pydantic reads no other one before Python 3.12


class Error(TypedDict):
    """What went wrong: a sentence, OpenAI's kind of it, the field that is to blame, and a word for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(TypedDict):
    """The body of every answer that is no success, and the last event of a stream that failed."""

    error: Error


_TYPES = {
    401: "authentication_error",
    408: "timeout_error",
    429: "rate_limit_error",
    499: "client_closed_request",
    503: "overloaded_error",
    504: "timeout_error",
}
"""By status; of the others what is below 500 is the request's fault, and the rest the server's."""


class Fault(Exception):  # noqa: N818 - most are the client's
    """A request that gets no reply, or not the whole of one.

    Args:
        status: of HTTP.
        message: what was given, what is allowed and what to try.
        param: the field that is to blame.
        code: a word for programs.
        headers: sent along.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = headers

    @property
    def body(self) -> ErrorBody:
        """The error in OpenAI's shape."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The answer, where none has begun."""
        return JSONResponse(self.body, self.status, self.headers)
