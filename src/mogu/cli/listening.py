"""The address that `mogu serve` and `mogu ui` listen on."""

import socket
from ipaddress import ip_address

from mogu.errors import MoguError


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Args:
        host: A name or an address of this machine.
        port: 0 takes any free one.

    Raises:
        MoguError: The machine has no such address, or the port is taken or not allowed.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise MoguError(
            f"cannot listen on {host} port {port}: {error.strerror}; choose others with --host and --port, "
            "port 0 takes any free one"
        ) from error


def is_loopback(listener: socket.socket) -> bool:
    """Whether this machine alone can reach what listens."""
    return ip_address(listener.getsockname()[0]).is_loopback


def url(listener: socket.socket) -> str:
    """Where a browser on this machine finds what listens."""
    address, port = listener.getsockname()[:2]
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"
