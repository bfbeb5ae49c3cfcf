"""What all admin verbs share: their surroundings, and how they say no."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from synaxis_common.bus import Bus
from synaxis_common.clock import Clock
from synaxis_common.contracts.admin import AdminBody, AdminReply, AdminStatus, page
from synaxis_registry.core.lookup import Ambiguous, Found, lookup
from synaxis_registry.resolving import Resolving
from synaxis_registry.settings import RegistrySettings
from synaxis_registry.snapshot import Snapshot
from synaxis_registry.store.database import Database

DEFAULT_LIMIT = 100
MAX_LIMIT = 1_000
MAX_PAGE_BYTES = 700_000
"""NATS carries 1 MiB: a page ends early rather than be too large."""


class Refused(Exception):
    """The verb is not carried out; carries the answer."""

    def __init__(self, status: AdminStatus, error: str, field: str | None = None) -> None:
        super().__init__(error)
        self.reply = AdminReply(status=status, error=error, field=field)


def not_found(what: str) -> Refused:
    """Nothing is there by this name."""
    return Refused(AdminStatus.NOT_FOUND, what)


def invalid(error: str, field: str) -> Refused:
    """`field` of the input is at fault."""
    return Refused(AdminStatus.INVALID, error, field)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a verb may use."""

    database: Database
    snapshot: Snapshot
    resolving: Resolving
    settings: RegistrySettings
    clock: Clock
    bus: Bus


@dataclass(frozen=True, slots=True)
class Ask:
    """One request for a verb, with its body checked."""

    path: dict[str, str]
    query: dict[str, str]
    body: AdminBody | None

    def limit(self) -> int:
        """How many rows a page may have. Raises Refused."""
        text = self.query.get("limit", str(DEFAULT_LIMIT))
        if not (text.isascii() and text.isdigit() and 1 <= int(text) <= MAX_LIMIT):
            raise invalid(f"limit must be a number from 1 to {MAX_LIMIT}", "limit")
        return int(text)

    def flag(self, name: str) -> bool | None:
        """A yes or no of the query; None: not given. Raises Refused."""
        text = self.query.get(name)
        if text not in (None, "true", "false"):
            raise invalid(f"{name} must be true or false", name)
        return None if text is None else text == "true"


Verb = Callable[[Surroundings, Ask], Awaitable[AdminReply]]


def ok(body: JsonValue) -> AdminReply:
    """Done."""
    return AdminReply(status=AdminStatus.OK, body=body)


def created(body: JsonValue) -> AdminReply:
    """Made."""
    return AdminReply(status=AdminStatus.CREATED, body=body)


def paged(rows: list[dict[str, Any]], limit: int, cursor_of: Callable[[dict[str, Any]], str]) -> AdminReply:
    """A page of at most `limit` of `rows`, of which one more may have been read; fewer if they are large."""
    size, shown = 0, 0
    for row in rows[:limit]:
        size += len(str(row))
        if shown and size > MAX_PAGE_BYTES:
            break
        shown += 1
    more = shown < len(rows)
    return ok(page(rows[:shown], cursor_of(rows[shown - 1]) if more else None))


def canonical_model(around: Surroundings, name: str) -> str:
    """The id of the global model that `name` means. Raises Refused."""
    match lookup(around.snapshot.catalog, name):
        case Found(model, None):
            return model.id
        case Found(_, pinned) if pinned is not None:
            return pinned.global_model_id
        case Ambiguous(candidates):
            raise Refused(AdminStatus.CONFLICT, f"'{name}' may be any of: {', '.join(candidates)}", "model")
        case missing:
            nearest = getattr(missing, "nearest", ())
            hint = f"; did you mean {', '.join(nearest)}?" if nearest else ""
            raise not_found(f"no model '{name}'{hint}")
