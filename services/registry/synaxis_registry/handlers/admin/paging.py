"""Lists, page by page: how many rows, from where on, and never more than a message of the bus carries."""

from __future__ import annotations

import base64
import json
from typing import Any

from synaxis_common.contracts.admin import AdminReply, page
from synaxis_registry.handlers.admin.verb import Ask, Refused, invalid, ok

DEFAULT_LIMIT = 100
MAX_LIMIT = 1_000
MAX_PAGE_BYTES = 700_000
"""NATS carries 1 MiB: a page ends early rather than be too large."""


def limit_of(ask: Ask) -> int:
    """How many rows a page may have. Raises Refused."""
    text = ask.query.get("limit", str(DEFAULT_LIMIT))
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(MAX_LIMIT))):
        raise invalid(f"limit must be a number from 1 to {MAX_LIMIT}", "limit")
    if not 1 <= int(text) <= MAX_LIMIT:
        raise invalid(f"limit must be a number from 1 to {MAX_LIMIT}", "limit")
    return int(text)


def cursor_after(*key: str) -> str:
    """The cursor of what comes after the row with this key."""
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode()


def after(ask: Ask, parts: int) -> tuple[str, ...]:
    """The key, of so many parts, after which the page begins; empty strings: at the start. Raises Refused."""
    cursor = ask.query.get("cursor")
    if cursor is None:
        return ("",) * parts
    try:
        key = json.loads(base64.b64decode(cursor, altchars=b"-_", validate=True))
    except ValueError as error:  # not base64, not UTF-8 or not JSON
        raise no_cursor() from error
    if not (isinstance(key, list) and len(key) == parts and all(_is_key_part(part) for part in key)):
        raise no_cursor()
    return tuple(key)


def _is_key_part(part: object) -> bool:
    """Whether Postgres can compare with it: neither NUL nor half a character."""
    return isinstance(part, str) and "\x00" not in part and not any("\ud800" <= c <= "\udfff" for c in part)


def no_cursor() -> Refused:
    """The refusal of a cursor that no page of ours has given."""
    return invalid("cursor must be the next_cursor of a page before", "cursor")


def fitting(rows: list[dict[str, Any]], limit: int) -> int:
    """How many of `rows` one page holds: at most `limit`, fewer if they are large, at least one."""
    size = 0
    for count, row in enumerate(rows[:limit]):
        size += size_of(row)
        if count and size > MAX_PAGE_BYTES:
            return count
    return min(len(rows), limit)


def size_of(row: Any) -> int:
    """Bytes of `row` as JSON."""
    return len(json.dumps(row, ensure_ascii=False).encode())


def paged(rows: list[dict[str, Any]], limit: int, *key: str) -> AdminReply:
    """A page of `rows`, of which one more than `limit` may have been read. `key`: the fields of their key."""
    shown = fitting(rows, limit)
    more = shown < len(rows)
    last = rows[shown - 1] if more else {}
    return ok(page(rows[:shown], cursor_after(*(str(last[name]) for name in key)) if more else None))
