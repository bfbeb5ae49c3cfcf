"""An exchange on a connection that aiohttp's server has: one that was used for something else before."""

from __future__ import annotations

import asyncio

from aiohttp import web

from synaxis_gateway.http import body
from synaxis_gateway.http.middleware import KEY_HASH, LOG_FIELDS, REQUEST_ID
from synaxis_gateway.wire.header_lines import split


class AiohttpExchange:
    """The request is aiohttp's; `response` is there once the answer has begun."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self.response: web.StreamResponse | None = None

    @property
    def request_id(self) -> str:
        """See `Exchange`, as for all that follow."""
        return str(self._request[REQUEST_ID])

    @property
    def key_hash(self) -> str:
        return self._request[KEY_HASH]

    @property
    def notes(self) -> dict[str, str | int | None]:
        return self._request[LOG_FIELDS]

    @property
    def is_begun(self) -> bool:
        return self.response is not None

    @property
    def push(self) -> None:
        return None

    def header(self, name: str) -> str | None:
        return self._request.headers.get(name)

    async def body(self, limit: int, timeout: float) -> bytes:
        return await body.read(self._request, limit, timeout)

    async def begin(self, header_lines: str) -> None:
        response = web.StreamResponse(headers=split(header_lines))
        await response.prepare(self._request)
        self.response = response

    async def write(self, piece: bytes, timeout: float) -> None:
        assert self.response is not None
        async with asyncio.timeout(timeout):
            await self.response.write(piece)

    async def end(self) -> None:
        assert self.response is not None
        await self.response.write_eof()

    def cut(self) -> None:
        if self.response is not None:
            self.response.force_close()
