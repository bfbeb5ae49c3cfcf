"""`/healthz`, `/readyz` and `/metrics`: the same in every service."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

Check = Callable[[], str | None]
"""Answers why the service is not ready, or None when this part of it is."""


class Health:
    """Collects what must hold before a service takes work."""

    def __init__(self) -> None:
        self._checks: dict[str, Check] = {}
        self.stopping = False

    def add(self, name: str, check: Check) -> None:
        """Make readiness depend on `check`."""
        self._checks[name] = check

    def problems(self) -> dict[str, str]:
        """What keeps the service from being ready, by check; empty: it is ready."""
        found = {name: problem for name, check in self._checks.items() if (problem := check()) is not None}
        if self.stopping:
            found["service"] = "stopping"
        return found

    def routes(self) -> list[web.RouteDef]:
        """The three endpoints, for any aiohttp application."""
        return [
            web.get("/healthz", self._healthz),
            web.get("/readyz", self._readyz),
            web.get("/metrics", self._metrics),
        ]

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _readyz(self, _request: web.Request) -> web.Response:
        problems = self.problems()
        return web.json_response(
            {"status": "not ready" if problems else "ready", "problems": problems},
            status=503 if problems else 200,
        )

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})


class HealthServer:
    """Serves the health endpoints of a service that has no other HTTP door."""

    def __init__(self, health: Health, host: str, port: int) -> None:
        self._health, self._host, self._port = health, host, port
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen. Raises OSError when the port is taken."""
        app = web.Application()
        app.add_routes(self._health.routes())
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port).start()

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()
