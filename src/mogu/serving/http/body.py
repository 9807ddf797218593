"""The bytes of a request -> its fields, or a fault that says what is wrong with them.

JSON is taken as its standard has it: no NaN, no key twice, no half characters. Knows nothing of models.
"""

import asyncio
import json
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import ClientDisconnect, Request

from mogu.serving.http.faults import Fault
from mogu.serving.http.limits import KEYS

Fields = TypeVar("Fields", bound=BaseModel)

DISCARDED = 16
"""Of a body that is too large so many times the limit is read and thrown away: a client that still sends when it is
answered may lose the answer."""

SECONDS = 30.0
"""In which a body must arrive."""

DIGITS = 300
"""Of a whole number, at most."""

SHOWN = 5
"""Mistakes that one answer names, at most."""

_CODES = {
    "extra_forbidden": "unknown_parameter",
    "missing": "missing_required_parameter",
    "unsupported": "unsupported_parameter",
}
_NESTED = ("messages", "stream_options")


async def read_body(request: Request, limit: int) -> bytes:
    """The body of a request.

    Args:
        request: not read yet.
        limit: bytes that are kept, at most, whatever the header says of the length.

    Raises:
        Fault: 408 if it does not arrive in time, 413 if there is more, 415 if it is not said to be JSON, 499 if the
            client is gone before its end.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # a page in a browser can send other types to a server on the same machine
        raise Fault(415, f"The content-type is '{kind[:80]}'; send 'content-type: application/json'.")
    too_large = Fault(
        413, f"The body has more than {limit:,} bytes, which is this server's limit.", code="body_too_large"
    )
    declared = request.headers.get("content-length", "")
    if "expect" in request.headers and declared.isdecimal() and int(declared) > limit:
        raise too_large
    chunks, size = [], 0
    try:
        async with asyncio.timeout(SECONDS):
            async for chunk in request.stream():
                size += len(chunk)
                if size <= limit:
                    chunks.append(chunk)
                elif size > DISCARDED * limit:
                    break
    except TimeoutError as error:
        raise Fault(408, f"The body did not arrive within {SECONDS:g} seconds.", code="timeout") from error
    except ClientDisconnect as error:
        raise Fault(499, "The client hung up before the body's end.", code="client_closed") from error
    if size > limit:
        raise too_large
    return b"".join(chunks)


def parse_body(body: bytes, fields: type[Fields]) -> Fields:
    """The fields of a body.

    Args:
        body: as it was sent.
        fields: which ones there are.

    Raises:
        Fault: 400; it names the first few fields that are unknown, missing or wrong.
    """
    try:
        text = body.decode("utf-8")
        values = json.loads(
            text, object_pairs_hook=_without_repeats, parse_constant=_no_number, parse_int=_whole_number
        )
        if "\\u" in text:
            json.dumps(values, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise _no_json(f"byte {error.start} is not UTF-8") from error
    except UnicodeEncodeError as error:
        raise _no_json("a text holds half a surrogate pair, which is no character") from error
    except RecursionError as error:
        raise _no_json("it is nested too deeply") from error
    except ValueError as error:
        raise _no_json(str(error)) from error
    if not isinstance(values, dict):
        raise _no_json("it is no object: a request is {...}")
    try:
        return fields.model_validate(values)
    except ValidationError as error:
        raise _fault(error.errors(include_url=False, include_input=False)) from error


def _fault(errors: list[ErrorDetails]) -> Fault:
    messages: dict[str, list[str]] = {}
    for each in errors:
        reason = "Unknown field." if each["type"] == "extra_forbidden" else each["msg"]
        messages.setdefault(_place(each), []).append(reason)
    lines = [f"{place}: {' or '.join(dict.fromkeys(reasons))}" for place, reasons in messages.items()]
    more = f" and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    return Fault(
        400,
        "; ".join(lines[:SHOWN]) + more,
        param=next(iter(messages)),
        code=_CODES.get(errors[0]["type"], "invalid_value"),
    )


def _place(error: ErrorDetails) -> str:
    """Where a mistake is, as `messages[0].content`; of other fields no more than their name."""
    parts: list[int | str] = list(error["loc"])
    if (field := error.get("ctx", {}).get("field")) is not None:
        parts.append(field)
    first, *rest = parts
    place = str(first)[:80]
    if first in _NESTED:
        for part in rest:
            place += f"[{part}]" if isinstance(part, int) else f".{part[:80]}"
    return place


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > KEYS:
        raise ValueError(f"an object has more than {KEYS} keys")
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("an object has the same key twice")
    return values


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _whole_number(digits: str) -> int:
    if len(digits) > DIGITS:
        raise ValueError(f"a number has more than {DIGITS} digits")
    return int(digits)


def _no_json(reason: str) -> Fault:
    return Fault(400, f"The body is not valid JSON: {reason}.", code="invalid_json")
