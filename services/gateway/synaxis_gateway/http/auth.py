"""Who is asking: the key of a request, checked as far as that goes without asking anybody."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import Final

from aiohttp import web

from synaxis_common import ids
from synaxis_gateway.http import errors

REMEMBERED: Final = 10_000
"""Keys whose hash is remembered, in memory only; a few hundred bytes each."""
_MISSING = "Send a key: 'Authorization: Bearer <key>' or 'x-api-key: <key>'."


def bearer(authorizations: Sequence[str], plain: Sequence[str]) -> str:
    """The one key a request carries in its `Authorization` and `x-api-key` headers.

    Raises a 401 where it has none, or more than one can be meant.
    """
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


class TenantKeys:
    """The hashes of tenant keys, the latest remembered: a client sends its key again and again."""

    def __init__(self, pepper: str) -> None:
        self._pepper = pepper
        self._known: dict[tuple[tuple[str, ...], tuple[str, ...]], str] = {}

    def hash_of(self, authorizations: tuple[str, ...], plain: tuple[str, ...]) -> str:
        """The hash under which a request's tenant key is known. Raises a 401 for what cannot be one."""
        known = self._known.get((authorizations, plain))
        if known is not None:
            return known
        key = bearer(authorizations, plain)
        if not ids.is_well_formed_key(key):
            raise errors.unauthorized("The API key is not valid.")
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        self._known[authorizations, plain] = found = ids.key_hash(key, self._pepper)
        return found

    def of(self, request: web.Request) -> str:
        """The same for a request of aiohttp's server."""
        return self.hash_of(*_headers(request))


def check_admin(request: web.Request, admin_key: str) -> None:
    """Raise a 401 unless the request carries the admin key."""
    key = bearer(*_headers(request))
    if not hmac.compare_digest(key.encode(errors="surrogateescape"), admin_key.encode()):
        raise errors.unauthorized("The admin key is not valid.")


def _headers(request: web.Request) -> tuple[tuple[str, ...], tuple[str, ...]]:
    headers = request.headers
    return tuple(headers.getall("Authorization", [])), tuple(headers.getall("x-api-key", []))
