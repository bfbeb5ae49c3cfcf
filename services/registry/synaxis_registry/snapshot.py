"""The catalog in memory, kept fresh from Postgres: what every routing decision is made on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from sys import intern

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
from synaxis_registry.core.stale import stale
from synaxis_registry.store import catalog as stored
from synaxis_registry.store import queries
from synaxis_registry.store.database import Connection, Database, DatabaseUnavailable
from synaxis_registry.store.records import GLOBAL_MODEL, HEALTH, PROVIDER, PROVIDER_MODEL

log = get_logger(__name__)
SQL = queries.load("snapshot")

POLL_S = 1.0
"""How old the snapshot may grow when no notice comes (a notice is sent with every commit)."""
STALE_S = 10.0
REST = 4
"""Resting this many times as long as a reading took keeps a busy catalog's from taking all of a core."""

ROWS_AT_ONCE = 1_000
"""So many of a result are decoded in a millisecond or two."""
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
    rows: list[ProviderModelRecord] = field(default_factory=list)
    models: list[GlobalModelRecord] = field(default_factory=list)
    keys: list[ApiKey] = field(default_factory=list)
    revoked: set[str] = field(default_factory=set)
    limits: list[Limit] = field(default_factory=list)
    lifted: set[tuple[str, str]] = field(default_factory=set)
    key_limits: list[KeyLimit] = field(default_factory=list)
    lifted_keys: set[str] = field(default_factory=set)
    tenant_of: dict[str, str] = field(default_factory=dict)
    """By key id, of the keys that have a limit among all this."""
    health: dict[EndpointKey, EndpointHealth] = field(default_factory=dict)


Tell = Callable[[PlansStale], Awaitable[None]]


class Snapshot:
    """Holds the present `Catalog`. Readers take `catalog` once a decision; it is replaced, never changed.

    `tell` hears what a change makes wrong in plans that were made before it.
    """

    def __init__(self, database: Database, clock: Clock, tell: Tell) -> None:
        self._database, self._clock, self._tell = database, clock, tell
        self.catalog = Catalog()
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
                await self._apply(await slices.run(_taking_apart(rows), monotonic=self._clock.monotonic))
            self._read_at = self._clock.monotonic()
            AGE.set(0)
            ENDPOINTS.set(len(self.catalog.endpoints))

    async def _read(self, connection: Connection) -> _Rows:
        since = self._horizon
        horizon = await stored.current_horizon(connection)
        models = [row[0] for row in await _fetched(connection, stored.SQL["models_since"], since)]
        providers = tuple(PROVIDER.read(row[0]) for row in await connection.fetch(SQL["providers"], since))
        moved = [record.provider_id for record in providers if self._is_seen_differently(record)]
        return _Rows(
            horizon=horizon,
            providers=providers,
            models=models,
            rows=[row[0] for row in await _fetched(connection, SQL["provider_models"], since, moved)],
            keys=await _fetched(connection, SQL["keys"], since),
            limits=await _fetched(connection, SQL["limits"], since),
            key_limits=await _fetched(connection, SQL["key_limits"], since),
            health=await _fetched(connection, SQL["health"], since),
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
        before, monotonic = self.catalog, self._clock.monotonic
        catalog = await slices.run(self._with(delta, providers), monotonic=monotonic)
        is_first = self._horizon == stored.FIRST  # nobody has a plan that was made by this registry before
        self.catalog, self.providers, self._horizon = catalog, providers, delta.horizon
        if not is_first:
            tenants = list(await slices.run(_changed_tenants(before, delta), monotonic=monotonic))
            first = tenants[:TENANTS_A_HINT]
            hint = await slices.run(stale(before, catalog, first), monotonic=monotonic)
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
                        keys=frozenset(delta.revoked),
                        limits=frozenset(delta.lifted),
                        key_limits=frozenset(delta.lifted_keys),
                    ),
                )
            )
        )


async def _fetched(connection: Connection, statement: str, *arguments: object) -> list[Record]:
    """All rows, some at a time: what has arrived of a result is decoded at once, however much it is."""
    cursor = await connection.cursor(statement, *arguments)
    rows = found = await cursor.fetch(ROWS_AT_ONCE)
    while len(found) == ROWS_AT_ONCE:
        found = await cursor.fetch(ROWS_AT_ONCE)
        rows += found
    return rows


def _taking_apart(rows: _Rows) -> Steps[_Delta]:
    """What has been read, row by row."""
    delta = _Delta(rows.horizon, rows.providers)
    for text in rows.rows:
        delta.rows.append(PROVIDER_MODEL.read(text))
        yield
    for text in rows.models:
        delta.models.append(GLOBAL_MODEL.read(text))
        yield
    for row in rows.keys:
        if row["revoked_at"] is None:
            delta.keys.append(_key(row))
        else:
            delta.revoked.add(row["key_hash"])
        yield
    for row in rows.limits:
        if row["deleted_at"] is None:
            delta.limits.append(_limit(row))
        else:
            delta.lifted.add((row["tenant_id"], row["global_model_id"]))
        yield
    for row in rows.key_limits:
        delta.tenant_of[row["key_id"]] = row["tenant_id"]
        if row["deleted_at"] is None:
            delta.key_limits.append(_key_limit(row))
        else:
            delta.lifted_keys.add(row["key_id"])
        yield
    for row in rows.health:
        key = (row["provider_id"], row["provider_model_id"])
        delta.health[key] = health.view(HEALTH.read(row["state"]))
        yield
    return delta


def _key(row: Record) -> ApiKey:
    return ApiKey(row["key_id"], row["key_hash"], intern(row["tenant_id"]), row["hedge"])


def _limit(row: Record) -> Limit:
    return Limit(
        intern(row["tenant_id"]),
        intern(row["global_model_id"]),
        row["allowed_rpm"],
        row["allowed_tpm"],
        row["monthly_budget_usd"],
        row["allowed"],
        row["allowed_concurrency"],
    )


def _key_limit(row: Record) -> KeyLimit:
    return KeyLimit(
        row["key_id"],
        row["allowed_rpm"],
        row["allowed_tpm"],
        row["monthly_budget_usd"],
        row["allowed_concurrency"],
    )


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
