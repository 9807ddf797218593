"""API keys: where they come from, and the layer that asks for one. Only their digests are kept."""

import hashlib
import hmac
import os
from collections.abc import Sequence
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from mogu.errors import MoguError
from mogu.serving.http.faults import Fault

VARIABLE = "MOGU_API_KEYS"
"""Environment variable with keys, commas or spaces between them."""

OPEN = ("/health",)
"""Paths that need no key."""


def read_keys(file: Path | None) -> list[bytes]:
    """The digests of all keys, of the file and of the environment.

    Args:
        file: one key a line; empty lines and those that begin with # are none.

    Raises:
        MoguError: If the file holds no key, or a line holds white space.
    """
    keys = os.environ.get(VARIABLE, "").replace(",", " ").split()
    if file is not None:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
        of_file = [line for line in lines if line and not line.startswith("#")]
        if not of_file:
            raise MoguError(f"{file} holds no key; write one a line")
        for number, line in enumerate(lines, start=1):
            if not line.startswith("#") and len(line.split()) > 1:
                raise MoguError(f"line {number} of {file} holds white space; write one key a line")
        keys += of_file
    return [_digest(key.encode()) for key in keys]


class KeyCheck:
    """A layer that answers 401 to requests without one of the keys.

    Args:
        app: what answers the others.
        keys: digests; with none, every request passes.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[bytes]) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http" or not self._keys or scope["path"] in OPEN:
            await self._app(scope, receive, send)
            return
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        kind, _, key = (given[0] if len(given) == 1 else b"").partition(b" ")
        if kind.lower() == b"bearer" and self._known(key.strip()):
            await self._app(scope, receive, send)
            return
        told = "The API key is not known here." if given else "This server asks for an API key."
        fault = Fault(
            401,
            f"{told} Send 'Authorization: Bearer KEY'.",
            code="invalid_api_key",
            headers={"WWW-Authenticate": 'Bearer realm="mogu"'},
        )
        scope["state"]["record"].error = fault.code
        await fault.response()(scope, receive, send)

    def _known(self, key: bytes) -> bool:
        digest = _digest(key)
        # All of them, whichever fits: how long it takes tells nothing.
        return sum(hmac.compare_digest(digest, each) for each in self._keys) > 0


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
