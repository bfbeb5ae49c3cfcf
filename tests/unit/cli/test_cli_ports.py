"""How the gateways' port is taken."""

from __future__ import annotations

import socket

import pytest

from synaxis_cli.ports import PortUnavailable, hold, url_of


def listener(port: int = 0, *, shares: bool = False) -> socket.socket:
    """Somebody who listens on a port of 127.0.0.1."""
    found = socket.socket()
    if shares:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        found.bind(("127.0.0.1", port))
    except OSError:
        found.close()
        raise
    found.listen()
    return found


@pytest.mark.parametrize("shares", [False, True], ids=["alone", "sharing"])
def test_a_port_where_a_stranger_listens_is_refused_even_if_he_would_share(shares: bool) -> None:
    with listener(shares=shares) as stranger:
        port = stranger.getsockname()[1]
        with pytest.raises(PortUnavailable, match=f"port {port} is taken"):
            hold("127.0.0.1", port)


def test_a_held_port_is_shared_by_our_own_and_closed_to_others() -> None:
    with hold("127.0.0.1", 0) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            listener(port)
        with listener(port, shares=True) as first, listener(port, shares=True) as second:
            assert first.getsockname() == second.getsockname()
            for _ in range(20):  # the holder does not listen, so that it is never given a connection
                socket.create_connection(("127.0.0.1", port), timeout=1).close()


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 99_999), ("192.0.2.1", 0)])
def test_what_cannot_be_had_is_said(host: str, port: int) -> None:
    with pytest.raises(PortUnavailable, match="cannot listen"):
        hold(host, port)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("192.0.2.1", "http://192.0.2.1:80"),
        ("::1", "http://[::1]:80"),
    ],
)
def test_the_printed_url_reaches_the_server_from_this_machine(host: str, url: str) -> None:
    assert url_of(host, 80) == url
