"""What all admin verbs share: their surroundings, and how they say no."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from pydantic import JsonValue

from synaxis_common.bus import Bus
from synaxis_common.clock import Clock
from synaxis_common.contracts.admin import AdminBody, AdminReply, AdminStatus
from synaxis_registry.core.lookup import Ambiguous, Found, Missing, lookup
from synaxis_registry.resolving import Resolving
from synaxis_registry.settings import RegistrySettings
from synaxis_registry.snapshot import Snapshot
from synaxis_registry.store.database import Database


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


def conflict(error: str, field: str) -> Refused:
    """`field` is fine, and does not go with what is there."""
    return Refused(AdminStatus.CONFLICT, error, field)


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


async def known_model(around: Surroundings, name: str) -> str:
    """The id of the global model that `name` means. Raises Refused."""
    match await _looked_up(around, name):
        case Found(model):
            return model.id
        case Ambiguous(candidates):
            raise conflict(f"'{name}' may be any of: {', '.join(candidates)}", "model")
        case Missing(nearest):
            hint = f"; did you mean {', '.join(nearest)}?" if nearest else ""
            raise not_found(f"no model '{name}'{hint}")


async def model_or_literal(around: Surroundings, name: str | None) -> str | None:
    """`known_model` for a filter: what names no model is looked for as it is written."""
    if name is None:
        return None
    found = await _looked_up(around, name)
    return found.model.id if isinstance(found, Found) else name


async def _looked_up(around: Surroundings, name: str) -> Found | Ambiguous | Missing:
    found = lookup(around.snapshot.catalog, name)
    if isinstance(found, Missing):
        # It may have come through another registry a moment ago.
        await around.snapshot.refresh()
        found = lookup(around.snapshot.catalog, name)
    return found
