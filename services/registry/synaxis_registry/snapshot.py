"""The catalog in memory, kept fresh from Postgres: what every routing decision is made on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

from prometheus_client import Gauge

from synaxis_common.clock import Clock
from synaxis_common.contracts.leases import PlansStale
from synaxis_common.logging import get_logger
from synaxis_registry.core import health
from synaxis_registry.core.catalog import (
    ApiKey,
    Catalog,
    EndpointHealth,
    EndpointKey,
    Gone,
    KeyLimit,
    Limit,
)
from synaxis_registry.core.effective import effective_endpoint, effective_model, effective_provider
from synaxis_registry.core.records import GlobalModelRecord, ProviderModelRecord, ProviderRecord
from synaxis_registry.core.stale import stale
from synaxis_registry.store import catalog as stored
from synaxis_registry.store import queries
from synaxis_registry.store.database import Connection, Database, DatabaseUnavailable
from synaxis_registry.store.records import HEALTH, PROVIDER, PROVIDER_MODEL

log = get_logger(__name__)
SQL = queries.load("snapshot")

POLL_S = 1.0
"""How old the snapshot may grow when no notice comes (a notice is sent with every commit)."""
STALE_S = 10.0
REST = 4
"""Resting this many times as long as a reading took keeps a busy catalog's from taking all of a core."""

AGE = Gauge("synaxis_snapshot_age_seconds", "Seconds since the routing snapshot was last read")
ENDPOINTS = Gauge("synaxis_snapshot_endpoints", "Provider models in the routing snapshot")


@dataclass(frozen=True, slots=True)
class _Delta:
    """What was written since a horizon."""

    horizon: str
    providers: tuple[ProviderRecord, ...]
    rows: tuple[ProviderModelRecord, ...]
    models: tuple[GlobalModelRecord, ...]
    keys: tuple[ApiKey, ...]
    revoked: frozenset[str]
    limits: tuple[Limit, ...]
    lifted: frozenset[tuple[str, str]]
    key_limits: tuple[KeyLimit, ...]
    lifted_keys: frozenset[str]
    tenant_of: dict[str, str]
    """By key id, of the keys that have a limit among all this."""
    health: dict[EndpointKey, EndpointHealth]


Tell = Callable[[PlansStale], Awaitable[None]]


class Snapshot:
    """Holds the present `Catalog`. Readers take `catalog` once a decision; it is replaced, never changed.

    `tell` hears what a change makes wrong in plans that were made before it.
    """

    def __init__(self, database: Database, clock: Clock, tell: Tell) -> None:
        self._database, self._clock, self._tell = database, clock, tell
        self.catalog = Catalog.build()
        self.providers: dict[str, ProviderRecord] = {}
        self._health: dict[EndpointKey, EndpointHealth] = {}
        self._horizon = stored.FIRST
        self._read_at = -STALE_S
        self._refreshing = asyncio.Lock()
        self._begun = 0
        self._woken = asyncio.Event()
        self._hurried = asyncio.Event()

    def problem(self) -> str | None:
        """Why the snapshot keeps the service from being ready: it has never been read."""
        return "the catalog has not been read yet" if self._horizon == stored.FIRST else None

    def wake(self, *, urgent: bool) -> None:
        """Something was committed. `urgent`: a key or a limit, which nobody may go on using as it was."""
        self._woken.set()
        if urgent:
            self._hurried.set()

    async def run(self) -> None:
        """Refresh whenever woken, and every second in any case."""
        while True:
            await _either(self._woken, POLL_S)
            AGE.set(self._clock.monotonic() - self._read_at)
            self._woken.clear()
            self._hurried.clear()
            begun = self._clock.monotonic()
            try:
                await self.refresh()
            except DatabaseUnavailable as error:
                log.warning("snapshot_not_refreshed", error=str(error))
                await asyncio.sleep(POLL_S)
            else:
                await _either(self._hurried, min((self._clock.monotonic() - begun) * REST, POLL_S))

    async def refresh(self) -> None:
        """Read what was committed before this call. Raises DatabaseUnavailable.

        Callers that wait together share one reading, if it begins after all of them have called.
        """
        wanted = self._begun + 1
        async with self._refreshing:
            if self._begun >= wanted:
                return
            self._begun += 1
            await self._apply(await self._database.run(self._read))
            self._read_at = self._clock.monotonic()
            AGE.set(0)
            ENDPOINTS.set(len(self.catalog.endpoints))

    async def _read(self, connection: Connection) -> _Delta:
        since = self._horizon
        horizon, models = await stored.read_models_since(connection, since)
        providers = tuple(PROVIDER.read(row[0]) for row in await connection.fetch(SQL["providers"], since))
        moved = [record.provider_id for record in providers if self._is_seen_differently(record)]
        found = await connection.fetch(SQL["provider_models"], since, moved)
        texts = [row[0] for row in found]
        rows = await asyncio.to_thread(lambda: tuple(PROVIDER_MODEL.read(text) for text in texts))
        keys = await connection.fetch(SQL["keys"], since)
        limits = await connection.fetch(SQL["limits"], since)
        key_limits = await connection.fetch(SQL["key_limits"], since)
        measured = await connection.fetch(SQL["health"], since)
        return _Delta(
            horizon=horizon,
            providers=providers,
            rows=rows,
            models=tuple(models),
            keys=tuple(
                ApiKey(row["key_id"], row["key_hash"], row["tenant_id"], row["hedge"])
                for row in keys
                if row["revoked_at"] is None
            ),
            revoked=frozenset(row["key_hash"] for row in keys if row["revoked_at"] is not None),
            limits=tuple(
                Limit(**{name: row[name] for name in Limit.__slots__})
                for row in limits
                if row["deleted_at"] is None
            ),
            lifted=frozenset(
                (row["tenant_id"], row["global_model_id"]) for row in limits if row["deleted_at"] is not None
            ),
            key_limits=tuple(
                KeyLimit(**{name: row[name] for name in KeyLimit.__slots__})
                for row in key_limits
                if row["deleted_at"] is None
            ),
            lifted_keys=frozenset(row["key_id"] for row in key_limits if row["deleted_at"] is not None),
            tenant_of={row["key_id"]: row["tenant_id"] for row in key_limits},
            health={
                (row["provider_id"], row["provider_model_id"]): health.view(HEALTH.read(row["state"]))
                for row in measured
            },
        )

    def _is_seen_differently(self, record: ProviderRecord) -> bool:
        """Whether the provider's endpoints may look different, though their rows have not changed."""
        old = self.providers.get(record.provider_id)
        return (
            old is None
            or old.source != record.source
            or effective_provider(old) != effective_provider(record)
        )

    async def _apply(self, delta: _Delta) -> None:
        providers = {**self.providers, **{record.provider_id: record for record in delta.providers}}
        self._health.update(delta.health)
        before = self.catalog
        catalog = await asyncio.to_thread(self._with, delta, providers)  # indexing names takes a while
        is_first = self._horizon == stored.FIRST  # nobody has a plan that was made by this registry before
        self.catalog, self.providers, self._horizon = catalog, providers, delta.horizon
        if catalog is not before and not is_first:
            hint = await asyncio.to_thread(stale, before, catalog, _changed_tenants(before, delta))
            if hint is not None:
                await self._tell(hint)

    def _with(self, delta: _Delta, providers: Mapping[str, ProviderRecord]) -> Catalog:
        endpoints = {
            row.key: effective_endpoint(row, provider, self._health.get(row.key))
            for row in delta.rows
            if (provider := providers.get(row.provider_id)) is not None
        }
        for key, measured in delta.health.items():
            known = endpoints.get(key) or self.catalog.endpoints.get(key)
            if known is not None:
                endpoints[key] = replace(known, health=measured)
        if not any(
            (
                *(delta.providers, endpoints, delta.models, delta.keys, delta.revoked),
                *(delta.limits, delta.lifted, delta.key_limits, delta.lifted_keys),
            )
        ):
            return self.catalog
        return self.catalog.updated(
            providers=[effective_provider(record) for record in delta.providers],
            models=[effective_model(record) for record in delta.models if record.merged_into is None],
            endpoints=endpoints.values(),
            keys=delta.keys,
            limits=delta.limits,
            key_limits=delta.key_limits,
            gone=Gone(
                models=frozenset(record.id for record in delta.models if record.merged_into is not None),
                keys=delta.revoked,
                limits=delta.lifted,
                key_limits=delta.lifted_keys,
            ),
        )


def _changed_tenants(before: Catalog, delta: _Delta) -> frozenset[str]:
    """Tenants with a key or a limit that is not as it was. A delta tells of some rows twice."""
    return frozenset(
        (
            *(before.keys[one].tenant_id for one in delta.revoked if one in before.keys),
            *(
                one.tenant_id
                for one in delta.limits
                if before.limits.get((one.tenant_id, one.global_model_id)) != one
            ),
            *(tenant_id for tenant_id, model_id in delta.lifted if (tenant_id, model_id) in before.limits),
            *(
                delta.tenant_of[one.key_id]
                for one in delta.key_limits
                if before.key_limits.get(one.key_id) != one
            ),
            *(delta.tenant_of[key_id] for key_id in delta.lifted_keys if key_id in before.key_limits),
        )
    )


async def _either(event: asyncio.Event, timeout_s: float) -> None:
    """Wait for `event`, at most `timeout_s` seconds."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
