"""What every request goes through: an id, a policy, errors in one shape, one line of log."""

from __future__ import annotations

import asyncio
from uuid import UUID

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from synaxis_common import ids, logging
from synaxis_common.clock import Clock
from synaxis_common.logging import get_logger
from synaxis_gateway import metrics
from synaxis_gateway.http import auth
from synaxis_gateway.http.auth import TenantKeys
from synaxis_gateway.http.errors import ApiError
from synaxis_gateway.http.journal import Journal
from synaxis_gateway.http.routes import Policy, policy_of

log = get_logger(__name__)

REQUEST_ID = web.RequestKey("request_id", UUID)
"""Ours, never the client's: the ledger's primary key must not be somebody else's choice."""
KEY_HASH = web.RequestKey("key_hash", str)
LOG_FIELDS = web.RequestKey("log_fields", dict[str, str | int | None])
"""What a handler adds to the line of log: ids and counts, never content."""

CLIENT_GONE_STATUS = 499
"""nginx's number for a client that closed the connection; only logs and metrics ever see it."""

_LEFT_UNREAD = frozenset({400, 401, 403, 408, 413, 415})
"""Answers that may come before the body was read: what follows on the connection is not a request."""


def observe(clock: Clock, journal: Journal) -> Middleware:
    """The outermost layer: makes the request's id, turns errors into answers, counts and logs."""

    @web.middleware
    async def layer(request: web.Request, handler: Handler) -> web.StreamResponse:
        request[REQUEST_ID] = request_id = ids.uuid7()
        notes: dict[str, str | int | None] = {}
        request[LOG_FIELDS] = notes
        logging.REQUEST_ID.set(str(request_id))
        started = clock.monotonic()
        status = CLIENT_GONE_STATUS
        metrics.IN_FLIGHT.count += 1
        try:
            response = await _answer(request, handler)
            status = response.status
            return response
        finally:
            metrics.IN_FLIGHT.count -= 1
            resource = request.match_info.route.resource
            endpoint = "unmatched" if resource is None else resource.canonical
            took = clock.monotonic() - started
            journal.note(request.method, endpoint, status, took, str(request_id), notes)

    return layer


def authorize(keys: TenantKeys, admin_key: str) -> Middleware:
    """Denies every request whose matched route does not say who may call it."""

    @web.middleware
    async def layer(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.match_info.http_exception is None:
            match policy_of(request):
                case Policy.PUBLIC:
                    pass
                case Policy.TENANT:
                    request[KEY_HASH] = keys.of(request)
                case Policy.ADMIN:
                    auth.check_admin(request, admin_key)
                case None:
                    raise ApiError(403, "forbidden", "This path is not served.", kind="permission_error")
        return await handler(request)

    return layer


async def mark(request: web.Request, response: web.StreamResponse) -> None:
    """Signal before the headers of any answer go out."""
    response.headers["Server"] = "synaxis"  # aiohttp would name its version
    response.headers["x-request-id"] = str(request[REQUEST_ID])


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ApiError as error:
        response: web.StreamResponse = error.response()
    except web.HTTPException as error:
        response = _in_our_shape(error)
    except (asyncio.CancelledError, ConnectionError):
        raise
    except Exception:
        log.exception("request_failed")
        response = ApiError(500, "internal_error", "The gateway failed.", "server_error").response()
    if response.status in _LEFT_UNREAD and not request.content.is_eof():
        response.force_close()
    return response


def _in_our_shape(error: web.HTTPException) -> web.Response:
    if error.status == 404:
        return ApiError(404, "not_found", "There is nothing at this path.").response()
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return ApiError(
            405, "method_not_allowed", f"This path takes {allowed}.", headers={"Allow": allowed}
        ).response()
    return ApiError(error.status, "invalid_request", error.reason).response()
