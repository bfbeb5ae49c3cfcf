"""One line a route: who may call it is part of it, and a route without that is denied."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from enum import Enum

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Policy(Enum):
    """Who may call a route."""

    PUBLIC = "public"
    """Anybody: it says nothing about tenants."""
    TENANT = "tenant"
    """Whoever has a tenant key."""
    ADMIN = "admin"
    """Whoever has the admin key."""


@dataclass(frozen=True, slots=True)
class Route:
    """A route, as it is registered and as `/openapi.json` shows it."""

    method: str
    path: str
    policy: Policy
    handler: Handler
    summary: str = ""


POLICIES: web.AppKey[dict[web.AbstractRoute, Policy]] = web.AppKey("policies", dict)


def add_routes(app: web.Application, routes: Iterable[Route]) -> None:
    """Register `routes` with their policies."""
    for route in routes:
        registered = app.router.add_route(route.method, route.path, route.handler)
        app[POLICIES][registered] = route.policy


def policy_of(request: web.Request) -> Policy | None:
    """The policy of the route that was matched, not of what its path looks like; None: denied."""
    return request.config_dict[POLICIES].get(request.match_info.route)
