"""The HTTP server: all routes, all layers, and how it starts and stops."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from synaxis_common.clock import Clock
from synaxis_common.health import Health
from synaxis_common.logging import get_logger
from synaxis_gateway.http import middleware, openapi
from synaxis_gateway.http.auth import TenantKeys
from synaxis_gateway.http.door import KEEPALIVE_S, LINGER_S, Desk, Door
from synaxis_gateway.http.exchange import Serve
from synaxis_gateway.http.journal import Journal
from synaxis_gateway.http.listener import Listener, claim_descriptors
from synaxis_gateway.http.routes import POLICIES, Policy, Route, add_routes
from synaxis_gateway.http.under_way import UnderWay
from synaxis_gateway.settings import GatewaySettings

log = get_logger(__name__)

FIRST_WORDS_S = 0.1
"""In which a client that has connected sends its request: it does so at once or has no hurry."""
CUT_S = 2.0
"""How long what is cut may take to clean up."""


def build_app(
    settings: GatewaySettings,
    clock: Clock,
    health: Health,
    routes: Sequence[Route],
    keys: TenantKeys,
    journal: Journal,
) -> web.Application:
    """The application: `routes`, the health endpoints and the description of it all."""
    app = web.Application(
        middlewares=[
            middleware.observe(clock, journal),
            middleware.authorize(keys, settings.admin_key.get_secret_value()),
        ],
        client_max_size=settings.max_body_bytes,
    )
    app[POLICIES] = {}
    own = [
        *routes,
        *(Route(each.method, each.path, Policy.PUBLIC, each.handler, "Health") for each in health.routes()),
    ]
    description = msgspec.json.encode(openapi.document(own))

    async def describe(_request: web.Request) -> web.Response:
        return web.Response(body=description, content_type="application/json")

    own.append(Route("GET", "/openapi.json", Policy.PUBLIC, describe, "This description"))
    add_routes(app, own)
    app.on_response_prepare.append(middleware.mark)
    return app


class HttpServer:
    """Serves an application, and the hot path at a door of its own; stops in three steps: no new connections,
    finish, cut."""

    def __init__(
        self,
        app: web.Application,
        settings: GatewaySettings,
        hot: Mapping[str, Serve],
        keys: TenantKeys,
        journal: Journal,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._under_way = UnderWay()
        self._stopping = False
        app.middlewares.insert(0, self._track())
        app.on_response_prepare.append(self._say_that_it_ends)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handler_cancellation=True,
            keepalive_timeout=KEEPALIVE_S,
            lingering_time=LINGER_S,
            auto_decompress=False,
            shutdown_timeout=1.0,
        )
        self._desk = Desk(hot, keys, journal, clock, self._under_way, settings.max_body_bytes, self._other)
        self._listener = Listener(lambda: Door(self._desk), self._connections)

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return self._listener.port

    async def start(self) -> None:
        """Listen. Raises OSError when the port is taken."""
        claim_descriptors()
        await self._runner.setup()
        settings = self._settings
        await self._listener.start(settings.http_host, settings.http_port, reuse_port=settings.reuse_port)
        log.info("listening", host=self._settings.http_host, port=self.port)

    def let_go(self) -> None:
        """Every connection ends with its next answer, which says so: clients go elsewhere by themselves."""
        self._stopping = True
        self._desk.is_closing = True

    async def stop_accepting(self) -> None:
        """Take no new connections; who has been taken in the last moment has one to say what for."""
        if self._listener.close():
            await asyncio.sleep(FIRST_WORDS_S)

    async def finish(self, timeout: float) -> bool:
        """Wait for the requests under way, at most `timeout` seconds; answers whether all are done."""
        return await self._under_way.finished(timeout)

    async def cut(self) -> None:
        """Cancel what is under way and close all connections."""
        await self._under_way.cut(CUT_S)
        self._listener.close()
        self._desk.close()
        await self._runner.cleanup()

    def _other(self) -> asyncio.Protocol:
        """aiohttp's end of a connection."""
        assert self._runner.server is not None
        return self._runner.server()

    def _connections(self) -> int:
        assert self._runner.server is not None
        return len(self._desk.doors) + len(self._runner.server.connections)

    async def _say_that_it_ends(self, _request: web.Request, response: web.StreamResponse) -> None:
        """A stream that began before has promised to keep its connection: the next answer there says so."""
        if self._stopping:
            response.force_close()
            response.headers["Connection"] = "close"  # what aiohttp says of it has been decided already

    def _track(self) -> Middleware:
        @web.middleware
        async def layer(request: web.Request, handler: Handler) -> web.StreamResponse:
            task = asyncio.current_task()
            assert task is not None
            self._under_way.add(task)
            try:
                return await handler(request)
            finally:
                self._under_way.discard(task)

        return layer
