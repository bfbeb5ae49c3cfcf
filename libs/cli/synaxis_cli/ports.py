"""Ports of this machine."""

from __future__ import annotations

import errno
import socket

ALL_INTERFACES = frozenset({"0.0.0.0", "::", ""})


class PortUnavailable(Exception):
    """The wanted port cannot be had; says why."""


def free_port() -> int:
    """A port of 127.0.0.1 where nobody listens just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def hold(host: str, port: int) -> socket.socket:
    """Take a port (0: any that is free) so that only our own servers, which share it, can listen there.

    Raises PortUnavailable.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    holder = socket.socket(family)
    try:
        # Without SO_REUSEPORT it fails where anybody listens already, even who would share.
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            port = int(probe.getsockname()[1])
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind((host, port))
    except (OSError, OverflowError) as error:
        holder.close()
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            said = f"port {port} is taken: set SYNAXIS_HTTP_PORT to another one (0 picks a free one)"
        else:
            said = f"cannot listen on {host} port {port}: {error}"
        raise PortUnavailable(said) from error
    return holder


def url_of(host: str, port: int) -> str:
    """The URL under which this machine reaches a server that listens on `host`."""
    if host in ALL_INTERFACES:
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
