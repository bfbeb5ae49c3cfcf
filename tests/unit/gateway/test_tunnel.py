"""What a proxy says before the tunnel is there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synaxis_gateway.upstream.tunnel import MAX_HEAD_BYTES, RefusedByProxy, lets_through


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 Connection established\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nVia: 1.1 proxy\r\n\r\n",
        b"HTTP/1.1 200 \r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 204\r\n\r\n",
    ],
)
def test_a_head_lets_us_through_when_it_is_whole_and_not_before(head: bytes) -> None:
    assert lets_through(head)
    assert not any(lets_through(head[:length]) for length in range(len(head)))


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 4\r\n\r\nwho?", "(407)"),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "(403)"),
        (b"HTTP/1.0 502 Bad Gateway\r\n\r\n<html>", "(502)"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://login/\r\n\r\n", "(302)"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", "(100)"),
        (b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n{}", "said more"),
        (b"HTTP/1.1 200 OK\r\n\r\n\x16", "said more"),
        (b"HTTP/1.1 200OK\r\n\r\n", "not answer in HTTP"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "not answer in HTTP"),
        (b"HTTP/2 200\r\n\r\n", "not answer in HTTP"),
        (b"SSH-2.0-OpenSSH", "not answer in HTTP"),
        (b"\r\n", "not answer in HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * MAX_HEAD_BYTES, "too large"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n", "too large"),
    ],
)
def test_whatever_else_it_says_is_refused_in_our_own_words(said: bytes, why: str) -> None:
    with pytest.raises(RefusedByProxy) as refusal:
        lets_through(said)
    assert why in str(refusal.value)
    assert str(refusal.value).startswith("cannot be reached through the proxy (")


@given(st.binary())
def test_any_bytes_are_refused_or_waited_on(said: bytes) -> None:
    try:
        is_through = lets_through(said)
    except RefusedByProxy:
        is_through = False
    assert not is_through or said.startswith(b"HTTP/1.")
