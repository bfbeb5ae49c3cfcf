"""`/asyncapi.json`: every channel and message of the bus, for whoever subscribes to it."""

from __future__ import annotations

import asyncio

import msgspec
from aiohttp import web

from synaxis_common.channels import asyncapi_document
from synaxis_gateway.http.routes import Policy, Route


class AsyncApiHandlers:
    """Makes the document when it is first asked for: most gateways never are."""

    def __init__(self) -> None:
        self._document: bytes | None = None

    def routes(self) -> list[Route]:
        """The endpoint."""
        return [Route("GET", "/asyncapi.json", Policy.PUBLIC, self.describe, "The messages of the bus")]

    async def describe(self, _request: web.Request) -> web.Response:
        """`GET /asyncapi.json`."""
        if self._document is None:
            self._document = await asyncio.to_thread(_rendered)
        return web.Response(body=self._document, content_type="application/json")


def _rendered() -> bytes:
    return msgspec.json.encode(asyncapi_document())
