"""Identifiers: time-ordered UUIDs, and tenant keys that can be checked without asking anybody."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import uuid
import zlib
from dataclasses import dataclass

import uuid_utils

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PREFIX = "sk-syn-"
_SECRET_LENGTH = 43  # 43 base-62 digits hold 256 bits
_ID_LENGTH = 12
PEPPER_VERSION = "k1"
"""Names the pepper a key hash was made with, so that a pepper can be rotated."""


def uuid7() -> uuid.UUID:
    """A new UUIDv7 (RFC 9562): unique, and sorted by the time it was made."""
    return uuid.UUID(int=uuid_utils.uuid7().int)


def uuid7_text() -> str:
    """The same as text, for where nothing but its text is needed."""
    return str(uuid_utils.uuid7())


def _random_base62(length: int) -> str:
    return "".join(secrets.choice(_BASE62) for _ in range(length))


def _checksum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"


@dataclass(frozen=True, slots=True)
class NewTenantKey:
    """A tenant key as it is made: `key` is shown once, `key_id` may be shown always."""

    key_id: str
    key: str


def new_tenant_key() -> NewTenantKey:
    """Make a key `sk-syn-<key id>-<256 random bits in base 62>-<crc32>`."""
    key_id = _random_base62(_ID_LENGTH)
    body = f"{_PREFIX}{key_id}-{_random_base62(_SECRET_LENGTH)}"
    return NewTenantKey(key_id=key_id, key=f"{body}-{_checksum(body)}")


def is_well_formed_key(key: str) -> bool:
    """Whether `key` has the form and checksum of a tenant key: garbage never reaches the bus."""
    body, _, checksum = key.rpartition("-")
    return (
        key.isascii()
        and body.startswith(_PREFIX)
        and len(body) == len(_PREFIX) + _ID_LENGTH + 1 + _SECRET_LENGTH
        and hmac.compare_digest(checksum, _checksum(body))
    )


def key_hash(key: str, pepper: str) -> str:
    """The keyed hash under which a tenant key is stored: `k1:<hex HMAC-SHA256(pepper, key)>`.

    The keys are 256 random bits, so a slow password hash would buy nothing. Raises ValueError for an
    empty pepper: an HMAC with an empty key is one that anybody can make.
    """
    if not pepper:
        raise ValueError("the key pepper must not be empty")
    return f"{PEPPER_VERSION}:{hmac.new(pepper.encode(), key.encode(), hashlib.sha256).hexdigest()}"
