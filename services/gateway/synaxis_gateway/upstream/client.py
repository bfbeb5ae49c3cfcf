"""Sends requests to providers and reads what they answer, piece by piece."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace

import aiohttp

from synaxis_common import egress
from synaxis_gateway.upstream.errors import NoConnection, Reset, TooLate, Unreadable

STALE_CONNECTION_S = 1.0
"""A reused connection that fails later than this was not stale: the provider was at work on the request."""
LARGE_BODY_BYTES = 512 * 1024
"""aiohttp writes bytes at one go, and warns from 1 MiB on that this holds up the event loop."""


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """One POST to a provider."""

    base_url: str
    path: str
    body: bytes
    headers: Mapping[str, str] = field(repr=False)
    connect_timeout_s: float
    allow_private: bool
    may_repeat: bool = True
    """Whether it may be sent once more when a kept connection turns out to be closed. The provider may have
    had it all the same: not where each attempt counts against a limit or has to be paid for."""
    may_begin: Callable[[], bool] = lambda: True
    """Asked when the connection is there, just before the first byte goes out."""


class UpstreamAnswer:
    """The answer of a provider: status and headers are here, the body comes in pieces."""

    def __init__(self, response: aiohttp.ClientResponse, max_bytes: int) -> None:
        self._response = response
        self._left = max_bytes
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.headers.items()}

    @property
    def content_type(self) -> str:
        """Without parameters, lower case."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def at_eof(self) -> bool:
        """The end has come, and nothing is left to be read."""
        return self._response.content.at_eof()

    async def read_some(self, timeout: float | None = None) -> bytes:
        """What has arrived, at least a byte; empty at the end. Raises Reset, Unreadable or TimeoutError."""
        try:
            async with asyncio.timeout(timeout):
                data = await self._response.content.readany()
        except (aiohttp.ClientPayloadError, aiohttp.ClientResponseError) as error:
            raise Unreadable(f"broke off its answer ({type(error).__name__})") from error
        except (aiohttp.ClientConnectionError, OSError) as error:
            raise Reset(f"closed the connection ({type(error).__name__})") from error
        self._left -= len(data)
        if self._left < 0:
            raise Unreadable("sent more than is taken")
        return data

    async def read_all(self) -> bytes:
        """The whole body. Raises Reset or Unreadable."""
        pieces = []
        while piece := await self.read_some():
            pieces.append(piece)
        return b"".join(pieces)

    async def read_prefix(self, limit: int) -> bytes:
        """The first bytes of the body, about `limit` of them. Raises Reset or Unreadable."""
        prefix = b""
        while len(prefix) < limit and (piece := await self.read_some()):
            prefix += piece
        return prefix

    def close(self) -> None:
        """Let go: an answer that was read to its end leaves the connection for the next request,
        any other cancels what the provider is doing by closing it."""
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()


class UpstreamClient:
    """Connections to all providers. Only the public internet, unless a candidate says otherwise."""

    def __init__(self, max_answer_bytes: int) -> None:
        self._max_answer_bytes = max_answer_bytes
        self._public = egress.client_session(allow_private=False)
        self._private = egress.client_session(allow_private=True)
        for session in (self._public, self._private):
            session.trace_configs.append(_connection_trace())

    async def open(self, request: UpstreamRequest) -> UpstreamAnswer:
        """Send a request and wait for the head of its answer. Raises UpstreamError, and TooLate.

        A kept connection may have been closed at the very moment we used it; then, and only then, the
        request is sent once more.
        """
        loop = asyncio.get_running_loop()
        begun = loop.time()
        used = SimpleNamespace(reused=False, may_begin=request.may_begin)
        try:
            return await self._send(request, used)
        except Reset:
            if not (used.reused and request.may_repeat) or loop.time() - begun > STALE_CONNECTION_S:
                raise
            return await self._send(request, SimpleNamespace(reused=False, may_begin=request.may_begin))

    async def close(self) -> None:
        """Close all connections."""
        await self._public.close()
        await self._private.close()

    async def _send(self, request: UpstreamRequest, used: SimpleNamespace) -> UpstreamAnswer:
        url = f"{request.base_url.rstrip('/')}{request.path}"
        session = self._private if request.allow_private else self._public
        try:
            egress.check_url(url, allow_private=request.allow_private)
            response = await session.post(
                url,
                data=_payload(request.body),
                headers=request.headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(
                    total=None, connect=request.connect_timeout_s, sock_connect=request.connect_timeout_s
                ),
                trace_request_ctx=used,
            )
        except egress.ForbiddenAddress as error:
            raise NoConnection("its address is one we do not send to") from error
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL) as error:
            raise NoConnection(f"cannot be reached ({type(error).__name__})") from error
        except (aiohttp.ClientConnectionError, OSError) as error:
            raise Reset(f"closed the connection ({type(error).__name__})") from error
        except (aiohttp.ClientError, ValueError) as error:
            raise Unreadable(f"did not answer in HTTP ({type(error).__name__})") from error
        return UpstreamAnswer(response, self._max_answer_bytes)


def _payload(body: bytes) -> bytes | io.BytesIO:
    """A large body goes out in pieces, so that other requests are served between them."""
    return body if len(body) <= LARGE_BODY_BYTES else io.BytesIO(body)


def _connection_trace() -> aiohttp.TraceConfig:
    """Notes whether a connection was used before, and lets nothing go out that is too late."""
    trace = aiohttp.TraceConfig()

    async def reused(
        _session: aiohttp.ClientSession,
        context: SimpleNamespace,
        _params: aiohttp.TraceConnectionReuseconnParams,
    ) -> None:
        context.trace_request_ctx.reused = True
        if not context.trace_request_ctx.may_begin():
            raise TooLate

    async def made(
        _session: aiohttp.ClientSession,
        context: SimpleNamespace,
        _params: aiohttp.TraceConnectionCreateEndParams,
    ) -> None:
        if not context.trace_request_ctx.may_begin():
            raise TooLate

    trace.on_connection_reuseconn.append(reused)
    trace.on_connection_create_end.append(made)
    trace.freeze()
    return trace
