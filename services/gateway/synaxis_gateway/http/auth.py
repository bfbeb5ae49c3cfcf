"""Who is asking: the key of a request, checked as far as that goes without asking anybody."""

from __future__ import annotations

import hmac

from aiohttp import web

from synaxis_common import ids
from synaxis_gateway.http import errors

_MISSING = "Send a key: 'Authorization: Bearer <key>' or 'x-api-key: <key>'."


def bearer(request: web.Request) -> str:
    """The one key a request carries. Raises a 401 where it has none, or more than one can be meant."""
    authorizations = request.headers.getall("Authorization", [])
    plain = request.headers.getall("x-api-key", [])
    if len(authorizations) > 1 or len(plain) > 1:
        raise errors.unauthorized("Send one key; the request has the same header twice.")
    keys = {key.strip() for key in plain}
    for value in authorizations:
        scheme, _, key = value.strip().partition(" ")
        if scheme.lower() != "bearer":
            raise errors.unauthorized("The Authorization header must be 'Bearer <key>'.")
        keys.add(key.strip())
    if len(keys) > 1:
        raise errors.unauthorized("Send one key; 'Authorization' and 'x-api-key' differ.")
    key = keys.pop() if keys else ""
    if not key:
        raise errors.unauthorized(_MISSING)
    return key


def tenant_key_hash(request: web.Request, pepper: str) -> str:
    """The hash under which a request's tenant key is known. Raises a 401 for what cannot be one."""
    key = bearer(request)
    if not ids.is_well_formed_key(key):
        raise errors.unauthorized("The API key is not valid.")
    return ids.key_hash(key, pepper)


def check_admin(request: web.Request, admin_key: str) -> None:
    """Raise a 401 unless the request carries the admin key."""
    key = bearer(request)
    if not hmac.compare_digest(key.encode(errors="surrogateescape"), admin_key.encode()):
        raise errors.unauthorized("The admin key is not valid.")
