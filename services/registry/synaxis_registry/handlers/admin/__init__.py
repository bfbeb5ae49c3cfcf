"""The admin API on the bus: proves who asks, checks what is asked, and answers."""

from __future__ import annotations

from typing import Any, Final

from pydantic import ValidationError

from synaxis_common.bus import Bus
from synaxis_common.clock import Clock
from synaxis_common.contracts.admin import (
    ADMIN_ROUTES,
    AdminBody,
    AdminReply,
    AdminRequest,
    AdminStatus,
    KeyCreate,
    KeyStore,
    is_admin_proof,
)
from synaxis_common.logging import get_logger
from synaxis_registry.handlers.admin import jobs, models, providers, route, tenants
from synaxis_registry.handlers.admin.verb import Ask, Refused, Surroundings, Verb, invalid
from synaxis_registry.resolving import Resolving
from synaxis_registry.settings import RegistrySettings
from synaxis_registry.snapshot import Snapshot
from synaxis_registry.store.database import Database, DatabaseUnavailable

log = get_logger(__name__)

VERBS: Final[dict[str, Verb]] = {
    "provider.list": providers.list_all,
    "provider.put": providers.put,
    "provider.get": providers.get,
    "provider.delete": providers.delete,
    "model.list": models.list_models,
    "model.get": models.get_model,
    "model.patch": models.patch_one_model,
    "provider-model.list": models.list_provider_models,
    "provider-model.get": models.get_provider_model,
    "provider-model.patch": models.patch_provider_model,
    "tenant.list": tenants.list_tenants,
    "tenant.create": tenants.create_tenant,
    "tenant.get": tenants.get_tenant,
    "tenant.delete": tenants.delete_tenant,
    "key.list": tenants.list_keys,
    "key.create": tenants.create_key,
    "key.delete": tenants.delete_key,
    "limit.list": tenants.list_limits,
    "limit.put": tenants.put_limit,
    "limit.delete": tenants.delete_limit,
    "usage.query": tenants.usage,
    "job.list": jobs.list_all,
    "job.run": jobs.run,
    "job.runs": jobs.runs,
    "route": route.route,
}

_READS: Final = ("list", "get", "query", "runs", "route")
_BODIES: Final[dict[str, type[AdminBody] | None]] = {
    one.verb: KeyStore if one.body is KeyCreate else one.body for one in ADMIN_ROUTES
}
"""A gateway makes a key itself and asks for its hash to be stored."""


class AdminVerbs:
    """Answers every verb of the admin API."""

    def __init__(
        self,
        database: Database,
        snapshot: Snapshot,
        resolving: Resolving,
        settings: RegistrySettings,
        clock: Clock,
        bus: Bus,
    ) -> None:
        self._around = Surroundings(database, snapshot, resolving, settings, clock, bus)

    async def answer(self, verb: str, payload: bytes, proof: str) -> AdminReply:
        """Carry out a verb for whoever holds the admin key. Never raises: an operator always hears."""
        around = self._around
        key = around.settings.admin_key.get_secret_value()
        if not is_admin_proof(proof, key, verb, payload, around.clock.now().timestamp()):
            return AdminReply(status=AdminStatus.FORBIDDEN, error="the admin key is not the registry's")
        try:
            reply = await VERBS[verb](around, _asked(verb, payload))
            if not verb.endswith(_READS):
                # So that this registry's next answer knows of it; the others are told by Postgres.
                await around.snapshot.refresh()
        except Refused as refused:
            return refused.reply
        except DatabaseUnavailable as error:
            log.warning("admin_verb_failed", verb=verb, error=str(error))
            return AdminReply(
                status=AdminStatus.UNAVAILABLE, error="Postgres cannot be reached at the moment"
            )
        except Exception:
            log.exception("admin_verb_failed", verb=verb)
            return AdminReply(
                status=AdminStatus.UNAVAILABLE, error="this failed inside the registry; see its log"
            )
        return reply


def _asked(verb: str, payload: bytes) -> Ask:
    try:
        request = AdminRequest.model_validate_json(payload)
    except ValidationError as error:
        raise _refused(error, "request") from error
    kind = _BODIES[verb]
    if kind is None:
        return Ask(request.path, request.query, None)
    body: Any = {} if request.body is None else request.body
    try:
        return Ask(request.path, request.query, kind.model_validate(body))
    except ValidationError as error:
        raise _refused(error, "body") from error


def _refused(error: ValidationError, whole: str) -> Refused:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    field = ".".join(str(part) for part in first["loc"]) or whole
    return invalid(f"{field}: {first['msg']}", field)
