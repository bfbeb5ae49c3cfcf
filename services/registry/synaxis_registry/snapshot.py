"""The catalog in memory, kept fresh from Postgres: what every routing decision is made on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from sys import intern
from typing import TypeVar

from asyncpg import Record
from prometheus_client import Gauge

from synaxis_common import cycles, slices
from synaxis_common.clock import Clock
from synaxis_common.contracts.leases import PlansStale
from synaxis_common.logging import get_logger
from synaxis_common.slices import Steps
from synaxis_registry.core import health
from synaxis_registry.core.catalog import (
    ApiKey,
    Catalog,
    Changes,
    Endpoint,
    EndpointHealth,
    EndpointKey,
    Gone,
    KeyLimit,
    Limit,
)
from synaxis_registry.core.effective import effective_endpoint, effective_model, effective_provider
from synaxis_registry.core.records import GlobalModelRecord, ProviderModelRecord, ProviderRecord
from synaxis_registry.core.stale import comparing
from synaxis_registry.store import catalog as stored
from synaxis_registry.store import queries
from synaxis_registry.store.database import Connection, Database, DatabaseUnavailable
from synaxis_registry.store.records import GLOBAL_MODEL, HEALTH, PROVIDER, PROVIDER_MODEL

log = get_logger(__name__)
A = TypeVar("A")
T = TypeVar("T")
SQL = queries.load("snapshot")

POLL_S = 1.0
"""How old the snapshot may grow when no notice comes (a notice is sent with every commit)."""
STALE_S = 10.0
REST = 4
"""Resting this many times as long as a reading took keeps a busy catalog's from taking all of a core."""

MANY_ROWS = 1_000
"""A change of more is not looked through for garbage meanwhile."""

TENANTS_A_HINT = 1_000
"""So many are named in one message: NATS carries 1 MiB."""

AGE = Gauge("synaxis_snapshot_age_seconds", "Seconds since the routing snapshot was last read")
ENDPOINTS = Gauge("synaxis_snapshot_endpoints", "Provider models in the routing snapshot")


@dataclass(frozen=True, slots=True)
class _Rows:
    """What was written since a horizon, as Postgres gave it: there may be very much of it."""

    horizon: str
    providers: tuple[ProviderRecord, ...]
    models: Sequence[str]
    rows: Sequence[str]
    keys: Sequence[Record]
    limits: Sequence[Record]
    key_limits: Sequence[Record]
    health: Sequence[Record]

    @property
    def count(self) -> int:
        return sum(map(len, (self.models, self.rows, self.keys, self.limits, self.key_limits, self.health)))


@dataclass(frozen=True, slots=True)
class _Delta:
    """What was written since a horizon."""

    horizon: str
    providers: Sequence[ProviderRecord]
    rows: Sequence[ProviderModelRecord]
    models: Sequence[GlobalModelRecord]
    keys: Sequence[ApiKey]
    revoked: frozenset[str]
    limits: Sequence[Limit]
    lifted: frozenset[tuple[str, str]]
    key_limits: Sequence[KeyLimit]
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
            rows = await self._database.run(self._read)
            with cycles.kept() if rows.count > MANY_ROWS else contextlib.nullcontext():
                await self._apply(await self._delta(rows))
            self._read_at = self._clock.monotonic()
            AGE.set(0)
            ENDPOINTS.set(len(self.catalog.endpoints))

    async def _read(self, connection: Connection) -> _Rows:
        since = self._horizon
        horizon = await stored.current_horizon(connection)
        models = [row[0] for row in await connection.fetch(stored.SQL["models_since"], since)]
        providers = tuple(PROVIDER.read(row[0]) for row in await connection.fetch(SQL["providers"], since))
        moved = [record.provider_id for record in providers if self._is_seen_differently(record)]
        return _Rows(
            horizon=horizon,
            providers=providers,
            models=models,
            rows=[row[0] for row in await connection.fetch(SQL["provider_models"], since, moved)],
            keys=await connection.fetch(SQL["keys"], since),
            limits=await connection.fetch(SQL["limits"], since),
            key_limits=await connection.fetch(SQL["key_limits"], since),
            health=await connection.fetch(SQL["health"], since),
        )

    async def _delta(self, rows: _Rows) -> _Delta:
        """What has been read, taken apart row by row, while others get their answers."""
        keys = await self._each(_key, rows.keys)
        limits = await self._each(_limit, rows.limits)
        key_limits = await self._each(_key_limit, rows.key_limits)
        return _Delta(
            horizon=rows.horizon,
            providers=rows.providers,
            rows=await self._each(PROVIDER_MODEL.read, rows.rows),
            models=await self._each(GLOBAL_MODEL.read, rows.models),
            keys=[key for key, is_gone in keys if not is_gone],
            revoked=frozenset(key.key_hash for key, is_gone in keys if is_gone),
            limits=[limit for limit, is_gone in limits if not is_gone],
            lifted=frozenset(
                (limit.tenant_id, limit.global_model_id) for limit, is_gone in limits if is_gone
            ),
            key_limits=[limit for limit, is_gone in key_limits if not is_gone],
            lifted_keys=frozenset(limit.key_id for limit, is_gone in key_limits if is_gone),
            tenant_of={row["key_id"]: row["tenant_id"] for row in rows.key_limits},
            health=dict(await self._each(_health, rows.health)),
        )

    async def _each(self, read: Callable[[A], T], rows: Sequence[A]) -> list[T]:
        return await slices.each(read, rows, monotonic=self._clock.monotonic)

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
        before, monotonic = self.catalog, self._clock.monotonic
        catalog = await slices.run(self._with(delta, providers), monotonic=monotonic)
        is_first = self._horizon == stored.FIRST  # nobody has a plan that was made by this registry before
        self.catalog, self.providers, self._horizon = catalog, providers, delta.horizon
        if catalog is not before and not is_first:
            tenants = sorted(await slices.run(_changed_tenants(before, delta), monotonic=monotonic))
            first = tenants[:TENANTS_A_HINT]
            hint = await slices.run(comparing(before, catalog, first), monotonic=monotonic)
            if hint is not None:
                await self._tell(hint)
            for begin in range(TENANTS_A_HINT, len(tenants), TENANTS_A_HINT):
                await asyncio.sleep(0)
                await self._tell(PlansStale(tenants=tuple(tenants[begin : begin + TENANTS_A_HINT])))

    def _with(self, delta: _Delta, providers: Mapping[str, ProviderRecord]) -> Steps[Catalog]:
        endpoints: dict[EndpointKey, Endpoint] = {}
        for row in delta.rows:
            provider = providers.get(row.provider_id)
            if provider is not None:
                endpoints[row.key] = effective_endpoint(row, provider, self._health.get(row.key))
            yield
        for key, measured in delta.health.items():
            known = endpoints.get(key) or self.catalog.endpoints.get(key)
            if known is not None:
                endpoints[key] = replace(known, health=measured)
            yield
        return (
            yield from self.catalog.changing(
                Changes(
                    providers=[effective_provider(record) for record in delta.providers],
                    models=[effective_model(record) for record in delta.models if record.merged_into is None],
                    endpoints=endpoints.values(),
                    keys=delta.keys,
                    limits=delta.limits,
                    key_limits=delta.key_limits,
                    gone=Gone(
                        models=frozenset(one.id for one in delta.models if one.merged_into is not None),
                        keys=delta.revoked,
                        limits=delta.lifted,
                        key_limits=delta.lifted_keys,
                    ),
                )
            )
        )


def _key(row: Record) -> tuple[ApiKey, bool]:
    """A key, and whether it has been revoked."""
    key = ApiKey(row["key_id"], row["key_hash"], intern(row["tenant_id"]), row["hedge"])
    return key, row["revoked_at"] is not None


def _limit(row: Record) -> tuple[Limit, bool]:
    """A limit, and whether it has been lifted."""
    limit = Limit(
        intern(row["tenant_id"]),
        intern(row["global_model_id"]),
        row["allowed_rpm"],
        row["allowed_tpm"],
        row["monthly_budget_usd"],
        row["allowed"],
        row["allowed_concurrency"],
    )
    return limit, row["deleted_at"] is not None


def _key_limit(row: Record) -> tuple[KeyLimit, bool]:
    """A key's limit, and whether it has been lifted."""
    limit = KeyLimit(
        row["key_id"],
        row["allowed_rpm"],
        row["allowed_tpm"],
        row["monthly_budget_usd"],
        row["allowed_concurrency"],
    )
    return limit, row["deleted_at"] is not None


def _health(row: Record) -> tuple[EndpointKey, EndpointHealth]:
    return (row["provider_id"], row["provider_model_id"]), health.view(HEALTH.read(row["state"]))


def _changed_tenants(before: Catalog, delta: _Delta) -> Steps[set[str]]:
    """Tenants with a key or a limit that is not as it was. A delta tells of some rows twice."""
    changed = {before.keys[one].tenant_id for one in delta.revoked if one in before.keys}
    changed |= {tenant_id for tenant_id, model_id in delta.lifted if (tenant_id, model_id) in before.limits}
    changed |= {delta.tenant_of[key_id] for key_id in delta.lifted_keys if key_id in before.key_limits}
    for limit in delta.limits:
        if before.limits.get((limit.tenant_id, limit.global_model_id)) != limit:
            changed.add(limit.tenant_id)
        yield
    for key_limit in delta.key_limits:
        if before.key_limits.get(key_limit.key_id) != key_limit:
            changed.add(delta.tenant_of[key_limit.key_id])
        yield
    return changed


async def _either(event: asyncio.Event, timeout_s: float) -> None:
    """Wait for `event`, at most `timeout_s` seconds."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
