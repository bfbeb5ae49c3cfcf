"""`/admin/v1`: every line of the shared table becomes a route; the registry does what it says."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web
from pydantic import ValidationError

from synaxis_common import ids, subjects
from synaxis_common.bus import Bus, BusUnavailable
from synaxis_common.clock import Clock
from synaxis_common.contracts.admin import (
    ADMIN_ROUTES,
    PROOF_HEADER,
    AdminBody,
    AdminReply,
    AdminRequest,
    AdminRoute,
    AdminStatus,
    KeyCreate,
    KeyStore,
    admin_proof,
)
from synaxis_gateway.http import body, errors
from synaxis_gateway.http.routes import Handler, Policy, Route
from synaxis_gateway.settings import GatewaySettings
from synaxis_gateway.wire.json_object import JsonObject, NotAnObject

PREFIX = "/admin/v1"
MAX_ADMIN_BODY_BYTES = 512 * 1024
"""What fits into one message on the bus beside its headers."""
KEY_CREATE = "key.create"

_STATUSES: dict[AdminStatus, tuple[int, str]] = {
    AdminStatus.OK: (200, ""),
    AdminStatus.CREATED: (201, ""),
    AdminStatus.ACCEPTED: (202, ""),
    AdminStatus.INVALID: (400, "invalid_request"),
    AdminStatus.FORBIDDEN: (403, "forbidden"),
    AdminStatus.NOT_FOUND: (404, "not_found"),
    AdminStatus.CONFLICT: (409, "conflict"),
    AdminStatus.UNAVAILABLE: (503, "unavailable"),
}


class AdminHandlers:
    """Checks bodies, proves to the registry that an operator is asking, and passes its answers on."""

    def __init__(self, settings: GatewaySettings, bus: Bus, clock: Clock) -> None:
        self._admin_key = settings.admin_key.get_secret_value()
        self._pepper = settings.key_pepper.get_secret_value()
        self._timeout_s = settings.admin_timeout_s
        self._body_timeout_s = settings.body_timeout_s
        self._bus = bus
        self._clock = clock

    def routes(self) -> list[Route]:
        """The whole admin API."""
        return [
            Route(line.method, PREFIX + line.path, Policy.ADMIN, self._handler(line), line.summary)
            for line in ADMIN_ROUTES
        ]

    def _handler(self, line: AdminRoute) -> Handler:
        async def handle(request: web.Request) -> web.Response:
            return await self._serve(request, line)

        return handle

    async def _serve(self, request: web.Request, line: AdminRoute) -> web.Response:
        data = await body.read(request, MAX_ADMIN_BODY_BYTES, self._body_timeout_s)
        document = None if line.body is None else _document(data, line.body)
        query = {name: request.query.getall(name) for name in request.query}
        for name, values in query.items():
            if len(values) > 1:
                raise errors.bad_request(f"'{name}' is there twice.", name)
        made: ids.NewTenantKey | None = None
        if line.verb == KEY_CREATE and isinstance(document, KeyCreate):
            made = ids.new_tenant_key()
            document = KeyStore(
                name=document.name, key_id=made.key_id, key_hash=ids.key_hash(made.key, self._pepper)
            )
        try:
            reply = await self._ask(
                line.verb,
                AdminRequest(
                    path=dict(request.match_info),
                    query={name: values[0] for name, values in query.items()},
                    body=None if document is None else document.model_dump(mode="json", exclude_unset=True),
                ),
            )
        except ValidationError as error:
            raise errors.bad_request("The path or query cannot be read.") from error
        return _response(reply, made)

    async def _ask(self, verb: str, request: AdminRequest) -> AdminReply:
        payload = request.to_bytes()
        proof = admin_proof(self._admin_key, verb, payload, int(self._clock.now().timestamp()))
        try:
            return await self._bus.request_bytes(
                subjects.admin(verb), payload, AdminReply, self._timeout_s, headers={PROOF_HEADER: proof}
            )
        except BusUnavailable as error:
            raise errors.unavailable("No registry answers at the moment.") from error


def _document(data: bytes, kind: type[AdminBody]) -> AdminBody:
    """The body as `kind`. Raises a 400 that names the field at fault."""
    try:
        # Refuses what JSON parsers disagree about: the same field twice, NaN, another encoding.
        JsonObject.parse(data or b"{}")
        return kind.model_validate_json(data or b"{}")
    except NotAnObject as error:
        raise errors.bad_request(str(error)) from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or None
        raise errors.bad_request(f"'{field}': {first['msg']}." if field else first["msg"], field) from error


def _response(reply: AdminReply, made: ids.NewTenantKey | None) -> web.Response:
    status, code = _STATUSES[reply.status]
    if status >= 400:
        return errors.ApiError(
            status, code, reply.error or "The registry refused.", param=reply.field
        ).response()
    answer: Any = reply.body
    if made is not None:
        answer = {**(answer if isinstance(answer, dict) else {}), "key_id": made.key_id, "key": made.key}
    if answer is None:
        return web.Response(status=204)
    return web.Response(
        status=status,
        body=msgspec.json.encode(answer),
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )
