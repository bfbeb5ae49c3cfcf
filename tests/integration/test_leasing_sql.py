"""The SQL of leases and its reference in Python give the same answers and leave the same books.

The database's clock is one that the test sets: a schema before `pg_catalog` in the search path has its own
`clock_timestamp()`. Each example is a transaction that is rolled back.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, cast
from uuid import UUID

import asyncpg
from hypothesis import given, settings
from hypothesis import strategies as st

from synaxis_common.contracts.leases import GATEWAY_TTL_S, LeaseDraw, LeaseReturn
from synaxis_common.money import plain
from synaxis_registry.core import leasing, settling
from synaxis_registry.core.admission import Grant
from synaxis_registry.core.leasing import Ask, Books, Bounds, Budget, Lease, SlotsHeld, Terms, Told
from synaxis_registry.core.settling import Call, Lapsed
from synaxis_registry.store import ledger
from synaxis_registry.store.database import Connection, Database
from synaxis_registry.store.ledger import LAPSE_AFTER_S, SQL
from synaxis_registry.store.migrate import migrate

TENANT: Final = "acme"
ALL, MODEL, KEY, PROVIDER = f"t/{TENANT}/*", f"t/{TENANT}/m", "k/key-1", "p/cheap"
TERMS: Final = Terms(lapse_s=LAPSE_AFTER_S)
BEGIN: Final = datetime(2026, 11, 30, 23, 59, 30, tzinfo=UTC)
MONTH_END: Final = datetime(2026, 12, 1, tzinfo=UTC)
LEASES: Final = tuple(UUID(int=(7 << 76) + place) for place in range(3))
REQUESTS: Final = tuple(UUID(int=(8 << 76) + place) for place in range(5))
GATEWAYS: Final = ("gateway-1", "gateway-2")

CLOCK: Final = """
CREATE SCHEMA clock;
CREATE FUNCTION clock.clock_timestamp() RETURNS timestamptz LANGUAGE sql
    AS $$ SELECT current_setting('clock.now')::timestamptz $$;
INSERT INTO tenant (id, name) VALUES ('acme', 'Acme');
INSERT INTO api_key (key_id, tenant_id, name, key_hash) VALUES ('key-1', 'acme', '', 'hash');
INSERT INTO provider (provider_id, record, is_on) VALUES ('cheap', '{}', true);
"""

_VALUES: Final = """
(deleted_at, allowed_rpm, allowed_tpm, allowed_concurrency, monthly_budget_usd, {names})
VALUES ($1, $2, $3, $4, $5, {key})
ON CONFLICT ({names}) DO UPDATE SET deleted_at = $1, allowed_rpm = $2, allowed_tpm = $3,
    allowed_concurrency = $4, monthly_budget_usd = $5
"""
_OF_TENANT: Final = "INSERT INTO tenant_model_limit" + _VALUES
SET_LIMIT: Final = {
    ALL: _OF_TENANT.format(names="tenant_id, global_model_id", key="'acme', '*'"),
    MODEL: _OF_TENANT.format(names="tenant_id, global_model_id", key="'acme', 'm'"),
    KEY: "INSERT INTO key_limit" + _VALUES.format(names="key_id", key="'key-1'"),
}

usd = st.sampled_from([Decimal(text) for text in ("0.5", "0", "0.000001", "0.1", "0.25", "1", "2.5", "3")])
counts = st.sampled_from([0, 1, 2, 3, 7, 50])
maybe_usd = st.none() | st.sampled_from([Decimal(text) for text in ("0", "0.3", "1", "10", "100.5")])
scopes = st.sampled_from([(ALL,), (ALL, MODEL), (ALL, MODEL, KEY), (MODEL, ALL)])
leases = st.sampled_from(LEASES)


@st.composite
def bounds_of(draw: st.DrawFn, scope: str) -> Bounds:
    rpm = draw(st.none() | st.sampled_from([0, 1, 4, 40, 200]))
    tpm = draw(st.none() | st.sampled_from([0, 5, 60, 1000]))
    if scope == PROVIDER:
        return Bounds(rpm, tpm)
    return Bounds(rpm, tpm, draw(st.none() | st.sampled_from([0, 1, 3, 8])), draw(maybe_usd))


@dataclass(frozen=True)
class Wait:
    """Time passes."""

    seconds: Decimal


@dataclass(frozen=True)
class UntilMonthEnds:
    """Time passes until just before a month's end."""


@dataclass(frozen=True)
class SetLimit:
    """An operator changes a limit; None removes it."""

    scope: str
    bounds: Bounds | None


@dataclass(frozen=True)
class Lapse:
    """A registry looks for dead gateways, after a time."""

    after_s: Decimal


@dataclass(frozen=True)
class Alive:
    """A gateway says that it is there."""

    gateway_id: str
    slots: dict[str, int]
    seq: int


@dataclass(frozen=True)
class Again:
    """The question with this lease's id comes once more."""

    lease_id: UUID


@dataclass(frozen=True)
class Together:
    """Questions on the same limits come at once."""

    asks: tuple[Ask, ...]


Step = (
    Together | Wait | UntilMonthEnds | SetLimit | Lapse | Alive | Ask | Again | LeaseReturn | tuple[Call, ...]
)

waits = st.sampled_from(["0.3", "1", "1.7", "2.001", "14", "16", "59", "61", "901"]).map(
    lambda text: Wait(Decimal(text))
)
asks = st.builds(
    Ask,
    lease_id=leases,
    gateway_id=st.sampled_from(GATEWAYS),
    tenant_id=st.just(TENANT),
    scopes=scopes,
    permits=st.sampled_from([0, 1, 1, 2, 5, 40]),
    tokens_each=st.sampled_from([0, 1, 3, 20]),
    usd_each=usd,
    usd_extra=usd,
    slots=st.dictionaries(st.sampled_from([ALL, MODEL, KEY]), st.integers(1, 4), max_size=2),
    slots_seq=st.integers(0, 5),
)
asks_at_provider = st.builds(
    Ask,
    lease_id=leases,
    gateway_id=st.sampled_from(GATEWAYS),
    tenant_id=st.none(),
    scopes=st.just((PROVIDER,)),
    permits=st.sampled_from([1, 2, 5, 40]),
    tokens_each=st.sampled_from([0, 1, 3, 20]),
)
together = st.lists(asks, min_size=2, max_size=5).map(
    lambda several: Together(tuple(replace(one, scopes=several[0].scopes) for one in several))
)
returns = st.builds(
    LeaseReturn,
    lease_id=leases,
    tenant_id=st.sampled_from([TENANT, TENANT, TENANT, None, "stranger"]),
    unused_permits=counts,
    unused_tokens=counts,
    unused_usd=usd,
    everything=st.booleans(),
)
draws = st.builds(
    LeaseDraw, lease_id=leases, permits=st.integers(0, 2), tokens=st.sampled_from([0, 1, 3, 20]), usd=usd
)
calls = st.builds(
    Call,
    request_id=st.sampled_from(REQUESTS),
    tenant_id=st.sampled_from([TENANT, TENANT, TENANT, "stranger"]),
    key_id=st.just("key-1"),
    global_model_id=st.sampled_from(["m", "n"]),
    started_at=st.sampled_from([BEGIN.timestamp(), MONTH_END.timestamp() + 3600]),
    cost_usd=st.none() | usd,
    used_tokens=st.sampled_from([0, 1, 2, 30]),
    draws=st.lists(draws, max_size=3).map(tuple),
)
batches = st.lists(calls, min_size=1, max_size=3, unique_by=lambda call: call.request_id).map(
    lambda batch: (*batch, batch[0])  # one of them twice
)
new_limits = st.sampled_from([ALL, MODEL, KEY, PROVIDER]).flatmap(
    lambda scope: st.builds(SetLimit, st.just(scope), st.none() | bounds_of(scope))
)
alive = st.builds(
    Alive,
    st.sampled_from(GATEWAYS),
    st.dictionaries(st.sampled_from([ALL, MODEL, KEY]), st.integers(0, 4), max_size=2),
    st.integers(0, 5),
)
steps = st.lists(
    asks
    | asks
    | asks_at_provider
    | together
    | st.builds(Again, leases)
    | returns
    | batches
    | waits
    | alive
    | new_limits
    | st.builds(Lapse, st.sampled_from([Decimal(0), Decimal(16), Decimal(901)]))
    | st.just(UntilMonthEnds()),
    min_size=3,
    max_size=25,
)
first_limits = st.fixed_dictionaries(
    {ALL: st.just(Bounds()) | bounds_of(ALL)},
    optional={scope: bounds_of(scope) for scope in (MODEL, KEY, PROVIDER)},
)


@dataclass
class Pair:
    """The database and the frozen books, told the same at the same time."""

    connection: asyncpg.Connection[asyncpg.Record]
    at: datetime = BEGIN
    books: Books = Books()
    limits: dict[str, Bounds] = field(default_factory=dict)
    asked: dict[UUID, Ask] = field(default_factory=dict)

    @property
    def now(self) -> float:
        return self.at.timestamp()

    async def wait(self, seconds: Decimal | float) -> None:
        self.at += timedelta(milliseconds=int(Decimal(seconds) * 1000))
        await self.connection.execute("SELECT set_config('clock.now', $1, true)", self.at.isoformat())

    async def take(self, step: Step) -> None:
        """Let both do it, and compare what they answer."""
        match step:
            case Wait(seconds):
                await self.wait(seconds)
            case UntilMonthEnds():
                if self.at < MONTH_END - timedelta(seconds=1):
                    await self.wait((MONTH_END - self.at).total_seconds() - 0.5)
            case SetLimit(scope, bounds):
                await self.set_limit(scope, bounds)
            case Again(lease_id):
                if lease_id in self.asked:
                    await self.ask(self.asked[lease_id])
            case Ask():
                # An id stands for one question: with other words it is never asked again.
                await self.ask(self.asked.setdefault(step.lease_id, step))
            case Together(together):
                known = [self.asked.setdefault(one.lease_id, one) for one in together]
                await self.ask(*(one for one in known if one.scopes == known[0].scopes))
            case LeaseReturn():
                self.books, done = settling.give_back(self.books, step, self.limits, self.now)
                assert (
                    await self.connection.fetchval(
                        SQL["return_lease"],
                        step.lease_id,
                        step.tenant_id,
                        step.unused_permits,
                        step.unused_tokens,
                        step.unused_usd,
                        step.everything,
                    )
                    == done
                )
            case Lapse(after_s):
                await self.wait(after_s)
                self.books, lapsed = settling.lapse(self.books, self.limits, GATEWAY_TTL_S, self.now)
                rows = await self.connection.fetch(SQL["lapse_leases"], GATEWAY_TTL_S, 500)
                assert tuple(Lapsed(*row) for row in rows) == lapsed
            case Alive(gateway_id, slots, seq):
                self.books, granted = leasing.renew_slots(
                    self.books, gateway_id, slots, self.limits, self.now, seq=seq
                )
                rows = await self.connection.fetch(
                    SQL["renew_slots"], gateway_id, json.dumps(slots), GATEWAY_TTL_S, seq
                )
                assert {row["slot_scope"]: row["granted"] for row in rows} == granted
            case _:
                self.books, added = settling.record(self.books, step, self.limits, self.now)
                rows = await self.connection.fetch(
                    SQL["record_calls"], json.dumps([_line(one) for one in step])
                )
                assert {row[0] for row in rows} == added

    async def ask(self, *asks: Ask) -> None:
        """At the database together, at its reference one after another."""
        expected: list[Grant | None] = []
        for ask in asks:
            self.books, granted = leasing.grant(self.books, ask, self.limits, TERMS, self.now)
            expected.append(granted)
        assert await ledger.grant(cast(Connection, self.connection), asks) == expected

    async def set_limit(self, scope: str, bounds: Bounds | None) -> None:
        if scope == PROVIDER:  # it is there, limited or not
            self.limits[scope] = bounds = bounds or Bounds()
            record = {"rate_limit_rpm": bounds.allowed_rpm, "rate_limit_tpm": bounds.allowed_tpm}
            await self.connection.execute("UPDATE provider SET record = $1", json.dumps(record))
            return
        if bounds is None:
            self.limits.pop(scope, None)
        else:
            self.limits[scope] = bounds
        there = bounds or Bounds()
        await self.connection.execute(
            SET_LIMIT[scope],
            MONTH_END if bounds is None else None,
            there.allowed_rpm,
            there.allowed_tpm,
            there.allowed_concurrency,
            there.monthly_budget_usd,
        )

    async def compare(self) -> None:
        """What is booked, spent and recorded is the same on both sides."""
        fetch = self.connection.fetch
        books, second = self.books, leasing.second_of(self.now)
        assert {
            (row["scope"], row["second"]): (row["requests"], row["tokens"])
            for row in await fetch("SELECT * FROM rate_bucket WHERE second > $1", second - 61)
        } == {
            (scope, at): (amount, traffic.tokens.buckets[at])
            for scope, traffic in books.traffic.items()
            for at, amount in traffic.requests.seen_at(second).buckets.items()
        }
        assert {
            (row["scope"], row["month"]): Budget(*tuple(row)[2:])
            for row in await fetch("SELECT * FROM budget")
        } == books.budgets
        assert {
            row["lease_id"]: Lease(
                gateway_id=row["gateway_id"],
                tenant_id=row["tenant_id"],
                scopes=tuple(row["scopes"]),
                granted_at=row["granted_at"].timestamp(),
                lapses_at=row["lapses_at"].timestamp(),
                **{
                    name: row[name]
                    for name in (
                        "second",
                        "month",
                        "granted_permits",
                        "granted_tokens",
                        "granted_usd",
                        "permits",
                        "tokens",
                        "usd",
                        "charged",
                        "is_returned",
                    )
                },
            )
            for row in await fetch("SELECT * FROM lease")
        } == books.leases
        assert {
            (row["scope"], row["gateway_id"]): SlotsHeld(
                row["slots"], row["expires_at"].timestamp(), row["seq"]
            )
            for row in await fetch("SELECT * FROM slot")
        } == books.slots
        assert {
            row["gateway_id"]: row["seen_at"].timestamp() for row in await fetch("SELECT * FROM gateway")
        } == books.seen
        assert {
            row["request_id"]: row["cost_usd"] for row in await fetch("SELECT * FROM usage_ledger")
        } == books.ledger
        told = [json.loads(row["data"]) for row in await fetch("SELECT data FROM outbox ORDER BY id")]
        assert tuple(_told(one) for one in told) == books.told


def _told(data: dict[str, Any]) -> Told:
    scope = f"k/{data['key_id']}" if data["key_id"] else f"t/{data['tenant_id']}/{data['global_model_id']}"
    return Told(scope, data["threshold_percent"], Decimal(data["spent_usd"]), Decimal(data["budget_usd"]))


def _line(call: Call) -> dict[str, Any]:
    return {
        "request_id": str(call.request_id),
        "tenant_id": call.tenant_id,
        "key_id": call.key_id,
        "global_model_id": call.global_model_id,
        "operation": "chat",
        "stream": False,
        "outcome": "ok",
        "http_status": 200,
        "started_at": datetime.fromtimestamp(call.started_at, UTC).isoformat(),
        "latency_s": 1.0,
        "input_tokens": call.used_tokens,
        "output_tokens": 0,
        "cache_read_tokens": 0,
        "cache_write_tokens": 0,
        "reasoning_tokens": 0,
        "cost_usd": None if call.cost_usd is None else plain(call.cost_usd),
        "is_estimated": False,
        "attempts": [],
        "reserved_usd": "0",
        "used_tokens": call.used_tokens,
        "draws": [draw.model_dump(mode="json") for draw in call.draws],
    }


async def _prepared(url: str) -> asyncpg.Connection[asyncpg.Record]:
    database = Database(url, 2)
    await database.connect()
    await migrate(database)
    await database.run(lambda connection: connection.execute(CLOCK))
    await database.close()
    return await asyncpg.connect(url, server_settings={"search_path": "clock, public, pg_catalog"})


async def _example(
    connection: asyncpg.Connection[asyncpg.Record], limits: dict[str, Bounds], todo: list[Step]
) -> None:
    transaction = connection.transaction()
    await transaction.start()
    try:
        pair = Pair(connection)
        await pair.wait(0)
        await pair.set_limit(PROVIDER, limits.get(PROVIDER))
        for scope in sorted(limits.keys() - {PROVIDER}):
            await pair.set_limit(scope, limits[scope])
        for step in todo:
            await pair.take(step)
        await pair.compare()
    finally:
        await transaction.rollback()


def test_whatever_happens_the_database_and_its_reference_agree(fresh_database_url: str) -> None:
    with asyncio.Runner() as runner:
        connection = runner.run(_prepared(fresh_database_url))

        @settings(max_examples=500, print_blob=True)
        @given(first_limits, steps)
        def check(limits: dict[str, Bounds], todo: list[Step]) -> None:
            runner.run(_example(connection, limits, todo))

        try:
            check()
        finally:
            runner.run(connection.close())
