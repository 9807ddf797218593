"""The process: an address that is safe to listen on, and an end that finishes what runs."""

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from typing import Protocol

import uvicorn
from fastapi import FastAPI

from mogu.errors import MoguError

LAST_BYTES = 10
"""Seconds that clients have, at the end, to read what has been written."""


class Closable(Protocol):
    """What finishes its work when it is closed: the engine."""

    def close(self, patience: float) -> None:
        """Finish what runs, within so many seconds."""


def bind(host: str, port: int, *, public: bool, remedy: str) -> socket.socket:
    """A socket at an address, which does not listen yet.

    Args:
        host: a name or an address.
        port: 0 for any free one.
        public: whether others than this machine may reach it.
        remedy: what to do where they may not, but could.

    Raises:
        MoguError: If the address is not to be had, or another machine could reach it and none may.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise MoguError(f"{host} is no address of this machine: {error.strerror}") from error
    if not public and not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback:
        raise MoguError(f"{host} can be reached from other machines, and there is no API key; {remedy}")
    bound = socket.socket(family, kind, protocol)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise MoguError(f"{host}:{port}: {error.strerror}; give another --host or --port") from error
    return bound


def url_of(bound: socket.socket) -> str:
    """Where a client on this machine finds what listens, without a path."""
    address, port = bound.getsockname()[:2]
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


class Server(uvicorn.Server):
    """Serves the app until it is told to stop; then no request is taken any more, and those that are there end.

    Args:
        app: what answers.
        engine: closed when the server is told to stop.
        patience: seconds in which running replies may end; what runs on is cut off with an error.
        ready: called once requests are answered.
        ending: called when the server is told to stop.
    """

    def __init__(
        self,
        app: FastAPI,
        engine: Closable,
        patience: float,
        ready: Callable[[], None] = lambda: None,
        ending: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                lifespan="off",
                timeout_graceful_shutdown=round(patience) + LAST_BYTES,
            )
        )
        self._engine = engine
        self._patience = patience
        self._ready = ready
        self._ending = ending

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the engine, which ends the replies, while the connections wait for them."""
        self._ending()
        closing = asyncio.create_task(asyncio.to_thread(self._engine.close, self._patience))
        await super().shutdown(sockets)
        self._engine.close(0)  # where the user has no patience left
        await closing
