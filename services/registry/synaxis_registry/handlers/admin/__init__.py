"""The admin API on the bus: proves who asks, checks what is asked, and answers."""

from __future__ import annotations

import re
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
from synaxis_registry.handlers.admin import (
    curation,
    dead_letters,
    jobs,
    limits,
    models,
    provider_models,
    providers,
    route,
    tenants,
    usage,
    webhooks,
)
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
    "model.list": models.list_all,
    "model.get": models.get,
    "model.patch": models.patch,
    "model.merge": curation.merge_models,
    "model.split": curation.split_model,
    "provider-model.list": provider_models.list_all,
    "provider-model.get": provider_models.get,
    "provider-model.patch": provider_models.patch,
    "tenant.list": tenants.list_tenants,
    "tenant.create": tenants.create_tenant,
    "tenant.patch": tenants.patch_tenant,
    "tenant.get": tenants.get_tenant,
    "tenant.delete": tenants.delete_tenant,
    "key.list": tenants.list_keys,
    "key.create": tenants.create_key,
    "key.delete": tenants.delete_key,
    "key-limit.get": limits.get_key_limit,
    "key-limit.put": limits.put_key_limit,
    "key-limit.delete": limits.delete_key_limit,
    "limit.list": limits.list_limits,
    "limit.put": limits.put_limit,
    "limit.delete": limits.delete_limit,
    "usage.query": usage.query,
    "dead-letter.list": dead_letters.list_all,
    "dead-letter.replay": dead_letters.replay,
    "dead-letter.delete": dead_letters.delete,
    "webhook.list": webhooks.list_all,
    "webhook.create": webhooks.create,
    "webhook.get": webhooks.get,
    "webhook.patch": webhooks.patch,
    "webhook.delete": webhooks.delete,
    "webhook.rotate": webhooks.rotate,
    "webhook.deliveries": webhooks.deliveries,
    "webhook.replay-one": webhooks.replay_one,
    "webhook.replay": webhooks.replay_since,
    "job.list": jobs.list_all,
    "job.run": jobs.run,
    "job.runs": jobs.runs,
    "route": route.route,
}

_ROUTES: Final = {one.verb: one for one in ADMIN_ROUTES}
_WRITES: Final = frozenset(
    one.verb
    for one in ADMIN_ROUTES
    if one.method != "GET" and not one.verb.startswith(("dead-letter.", "webhook."))
) - {"route", "job.run"}
"""These may change what the snapshot shows."""

_PARAMETER: Final = re.compile(r"\{(\w+)")
MAX_PARAMETER: Final = 1_000
"""Characters of a value in the path or query; the longest id has 300."""


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
        now = around.clock.now().timestamp()
        if not (proof.isascii() and is_admin_proof(proof, key, verb, payload, now)):
            return AdminReply(status=AdminStatus.FORBIDDEN, error="the admin key is not the registry's")
        try:
            reply = await VERBS[verb](around, _asked(verb, payload))
        except Refused as refused:
            return refused.reply
        except DatabaseUnavailable as error:
            log.warning("admin_verb_failed", verb=verb, error=str(error))
            return AdminReply(
                status=AdminStatus.UNAVAILABLE, error="Postgres cannot be reached at the moment"
            )
        except Exception:
            log.exception("admin_verb_failed", verb=verb)
            return AdminReply(status=AdminStatus.UNAVAILABLE, error="internal error")
        if verb in _WRITES:
            await self._renew(verb)
        return reply

    async def _renew(self, verb: str) -> None:
        """Have this registry's next answer know of the change; the others are told by Postgres.

        What is written stays written when this fails, and the snapshot's own task goes on trying.
        """
        try:
            await self._around.snapshot.refresh()
        except DatabaseUnavailable as error:
            log.warning("snapshot_not_refreshed", verb=verb, error=str(error))
        except Exception:
            log.exception("snapshot_not_refreshed", verb=verb)


def _asked(verb: str, payload: bytes) -> Ask:
    try:
        request = AdminRequest.model_validate_json(payload)
    except ValidationError as error:
        raise _refused(error, "request") from error
    route = _ROUTES[verb]
    for name in _PARAMETER.findall(route.path):
        if not request.path.get(name):
            raise invalid(f"{name} is missing in the path", name)
    for name, value in (*request.path.items(), *request.query.items()):
        if len(value) > MAX_PARAMETER or "\x00" in value:
            raise invalid("the path and the query hold no NUL and no values this long", _storable(name))
    if route.body is None:
        return Ask(request.path, request.query, None)
    kind: type[AdminBody] = KeyStore if route.body is KeyCreate else route.body
    body: Any = {} if request.body is None else request.body
    try:
        return Ask(request.path, request.query, kind.model_validate(body))
    except ValidationError as error:
        raise _refused(error, "body") from error


def _storable(text: str) -> str:
    return text.replace("\x00", "")[:MAX_PARAMETER]


def _refused(error: ValidationError, whole: str) -> Refused:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    field = _storable(".".join(str(part) for part in first["loc"])) or whole
    return invalid(f"{field}: {first['msg']}", field)
