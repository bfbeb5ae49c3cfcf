"""The registry in trouble: broken messages, failing transactions, late reports, a database that goes away."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import asyncpg
import nats.errors
import pytest
from nats.aio.msg import Msg
from tests.support.registry import MODEL, Rig, eventually, report, running_registries

from synaxis_cli.embedded.postgres import PostgresServer
from synaxis_common import ids, subjects
from synaxis_common.contracts.catalog import CatalogMetadata, CatalogModel, ModelFacts
from synaxis_common.contracts.routing import RefusalCode, RoutePlan
from synaxis_common.contracts.usage import AttemptOutcome
from synaxis_registry.resolving import Resolving
from synaxis_registry.store import catalog
from synaxis_registry.store.database import Connection, Database, DatabaseUnavailable
from synaxis_registry.store.migrate import migrate

BUDGET = {"monthly_budget_usd": "0.01"}


@pytest.fixture
async def rig(fresh_nats_url: str, fresh_database_url: str) -> AsyncIterator[Rig]:
    async with running_registries(fresh_nats_url, fresh_database_url, count=2) as running:
        yield running


@pytest.fixture
async def served(rig: Rig) -> Rig:
    await serve(rig)
    return rig


async def serve(rig: Rig) -> None:
    """Two providers that serve one model."""
    await rig.catalog(datetime.now(UTC), run=1)
    for provider_id in ("alpha", "beta"):
        await rig.put_provider(provider_id)
        await rig.observe(provider_id, (MODEL,))

    async def available() -> bool:
        return await rig.available() == {"alpha": None, "beta": None}

    await eventually(available, "both providers are available")


@pytest.fixture
async def database(fresh_database_url: str) -> AsyncIterator[Database]:
    database = Database(fresh_database_url, 4)
    await database.connect()
    await migrate(database)
    yield database
    await database.close()


@pytest.fixture
def postgres() -> Iterator[PostgresServer]:
    """A Postgres that a test may kill."""
    with tempfile.TemporaryDirectory(prefix="synaxis-test-") as folder:
        Path(folder).chmod(0o755)
        server = PostgresServer(Path(folder) / "postgres")
        server.start()
        yield server
        server.kill()


async def planned(rig: Rig, key_hash: str) -> RoutePlan:
    answer = await rig.route(key_hash, input_tokens=100)
    assert isinstance(answer, RoutePlan), answer
    return answer


async def spent(rig: Rig) -> tuple[Decimal, Decimal]:
    """What the tenant has spent and reserved for all models."""
    row = await rig.database.fetchrow("SELECT spent, reserved FROM budget WHERE scope = 't/acme/*'")
    return (Decimal(0), Decimal(0)) if row is None else (row["spent"], row["reserved"])


async def in_ledger(rig: Rig) -> int:
    count: int = await rig.database.fetchval("SELECT count(*) FROM usage_ledger")
    return count


async def test_a_report_that_postgres_cannot_hold_is_set_aside_and_does_not_stop_the_others(
    served: Rig,
) -> None:
    plan = await planned(served, await served.new_key("acme"))
    absurd = report(plan, input=1).model_copy(update={"request_id": ids.uuid7(), "http_status": 2**40})
    await served.store(subjects.USAGE, absurd)
    await served.store(subjects.USAGE, report(plan, input=1))

    async def handled() -> bool:
        return await in_ledger(served) == 1

    await eventually(handled, "the good report is in the ledger")

    async def set_aside() -> bool:
        return bool(await served.database.fetchval("SELECT count(*) FROM dead_letter") == 1)

    await eventually(set_aside, "the other one is set aside", within_s=30)


async def test_a_question_that_cannot_be_read_is_not_answered_and_does_no_harm(served: Rig) -> None:
    with pytest.raises(nats.errors.TimeoutError):
        await served.bus.client.request(subjects.ROUTE, b'{"model": 7}', timeout=0.3)
    assert await planned(served, await served.new_key("acme"))


async def test_an_admin_message_without_proof_is_refused(rig: Rig) -> None:
    answer = await rig.bus.client.request(
        subjects.admin("tenant.create"), b'{"body": {"id": "x"}}', timeout=5
    )
    assert b'"forbidden"' in answer.data
    assert await rig.database.fetchval("SELECT count(*) FROM tenant") == 0


async def test_metadata_in_parts_counts_as_applied_when_all_parts_have_come(rig: Rig) -> None:
    def part(number: int) -> CatalogMetadata:
        return CatalogMetadata(
            run_id=UUID(int=1),
            observed_at=datetime.now(UTC),
            content_hash="two parts",
            part=number,
            parts=2,
            models=(CatalogModel(source_id=f"acme/talker-{number}", facts=ModelFacts(name=f"T{number}")),),
        )

    async def has(source: str) -> bool:
        found = await rig.database.fetchval("SELECT value FROM catalog_source WHERE name = $1", source)
        return bool(found == "two parts")

    await rig.store(subjects.catalog_models(0), part(0))
    await eventually(lambda: has("models/0"), "the first part is applied")
    assert not await has("models")
    await rig.store(subjects.catalog_models(1), part(1))
    await eventually(lambda: has("models"), "all of it is applied")
    names = await rig.database.fetch("SELECT name FROM global_model ORDER BY id")
    assert [row["name"] for row in names] == ["T0", "T1"]


async def test_what_was_spent_before_a_budget_was_set_counts_against_it(served: Rig) -> None:
    key_hash = await served.new_key("acme")
    await served.store(subjects.USAGE, report(await planned(served, key_hash), input=200_000))

    async def charged() -> bool:
        return await spent(served) == (Decimal("0.02"), Decimal(0))

    await eventually(charged, "0.02 USD are spent")
    await served.admin("limit.put", BUDGET, tenant="acme", model="*")

    async def refused() -> bool:
        answer = await served.route(key_hash)
        return not isinstance(answer, RoutePlan) and answer.code is RefusalCode.INSUFFICIENT_QUOTA

    await eventually(refused, "the budget of 0.01 USD is known to be spent")


async def test_a_permit_nobody_reports_on_is_charged_in_full_until_a_late_report_corrects_it(
    served: Rig,
) -> None:
    plan = await planned(served, await served.new_limited_key("acme", "*", BUDGET))
    assert plan.permit is not None
    reserved = plan.permit.reserved_usd
    assert await spent(served) == (Decimal(0), reserved)

    for charged in (1, 0):
        lapsed = await served.database.fetch("SELECT * FROM lapse_leases(-1, 100)")
        assert len(lapsed) == charged
    assert await spent(served) == (reserved, Decimal(0))

    await served.store(subjects.USAGE, report(plan, input=1_000))

    async def corrected() -> bool:
        return await spent(served) == (Decimal("0.0001"), Decimal(0))

    await eventually(corrected, "only what was used is charged")


async def test_a_cost_above_its_reservation_is_recorded_and_only_then_keeps_others_out(served: Rig) -> None:
    key_hash = await served.new_limited_key("acme", "*", BUDGET)
    plan = await planned(served, key_hash)
    await served.store(subjects.USAGE, report(plan, input=1_000_000))

    async def overrun() -> bool:
        return await spent(served) == (Decimal("0.1"), Decimal(0))

    await eventually(overrun, "ten times the budget is spent and recorded")
    answer = await served.route(key_hash)
    assert not isinstance(answer, RoutePlan)
    assert answer.code is RefusalCode.INSUFFICIENT_QUOTA


async def test_grants_returns_and_reports_at_once_neither_deadlock_nor_drift(served: Rig) -> None:
    limit = {"allowed_rpm": 1_000, "monthly_budget_usd": "100"}
    key_hash = await served.new_limited_key("acme", "*", limit)
    await served.admin("limit.put", limit, tenant="acme", model=MODEL)

    async def one(number: int) -> int:
        plan = await planned(served, key_hash)
        if number % 2:
            await served.give_back(plan.request_id, everything=True)
            return 0
        await served.store(subjects.USAGE, report(plan, input=1_000))
        return 1

    reported = sum(await asyncio.gather(*(one(number) for number in range(120))))

    async def settled() -> bool:
        return await spent(served) == (Decimal("0.0001") * reported, Decimal(0))

    await eventually(settled, "what was used is spent, and nothing reserved", within_s=30)
    counted = await served.database.fetchval("SELECT sum(requests) FROM rate_bucket WHERE scope = 't/acme/*'")
    assert counted == reported


async def test_a_model_made_in_a_transaction_that_failed_is_stored_by_the_next_one(
    database: Database,
) -> None:
    resolving = Resolving()

    async def meet(connection: Connection) -> str:
        async with resolving.session(connection) as resolve:
            return resolve("alpha", "acme/talker-9", ModelFacts(name="Talker 9")).global_model_id

    async def meet_and_fail(connection: Connection) -> None:
        await meet(connection)
        raise RuntimeError("after the resolution")

    with pytest.raises(RuntimeError):
        await database.run(meet_and_fail)
    assert await database.run(catalog.read_models) == {}
    model_id = await database.run(meet)
    assert set(await database.run(catalog.read_models)) == {model_id}


async def test_a_resolver_knows_what_another_registry_has_stored(database: Database) -> None:
    here, there = Resolving(), Resolving()

    async def meet(resolving: Resolving, connection: Connection) -> str:
        async with resolving.session(connection) as resolve:
            return resolve("alpha", "talker-9", ModelFacts()).rule

    await database.run(lambda connection: meet(here, connection))
    await database.run(lambda connection: meet(there, connection))
    first = await database.run(lambda connection: meet(here, connection))
    second = await database.run(lambda connection: meet(there, connection))
    assert first == second
    assert len(await database.run(catalog.read_models)) == 1


async def test_deadlocks_are_tried_again(database: Database) -> None:
    await database.run(lambda c: c.execute("CREATE TABLE t (n integer PRIMARY KEY, v integer)"))
    await database.run(lambda c: c.execute("INSERT INTO t VALUES (1, 0), (2, 0)"))
    both_have_one = asyncio.Barrier(2)
    is_first_try = {1: True, 2: True}

    async def cross(first: int, second: int, connection: Connection) -> None:
        await connection.execute("UPDATE t SET v = v + 1 WHERE n = $1", first)
        if is_first_try[first]:
            is_first_try[first] = False
            await both_have_one.wait()
        await connection.execute("UPDATE t SET v = v + 1 WHERE n = $1", second)

    await asyncio.gather(
        database.run(lambda c: cross(1, 2, c)),
        database.run(lambda c: cross(2, 1, c)),
    )
    rows = await database.run(lambda c: c.fetch("SELECT v FROM t ORDER BY n"))
    assert [row["v"] for row in rows] == [2, 2]


async def test_without_postgres_unlimited_tenants_are_served_and_limited_ones_told_when_to_come_back(
    fresh_nats_url: str, postgres: PostgresServer
) -> None:
    async with running_registries(fresh_nats_url, postgres.url(), count=1) as rig:
        await serve(rig)
        limited = await rig.new_limited_key("small", "*", {"allowed_rpm": 100})
        unlimited = await rig.new_key("big")
        before = await planned(rig, unlimited)
        assert isinstance(await rig.route(limited), RoutePlan)

        postgres.kill()
        assert isinstance(await rig.route(unlimited), RoutePlan)
        refused = await rig.route(limited)
        assert not isinstance(refused, RoutePlan)
        assert refused.code is RefusalCode.UNAVAILABLE
        assert refused.retry_after_s
        assert (await rig.admin("tenant.list")).status == "unavailable"
        await rig.store(subjects.USAGE, report(before, input=10))
        await rig.observe("alpha", None)

        postgres.start()

        async def limited_is_served() -> bool:
            return isinstance(await rig.route(limited), RoutePlan)

        await eventually(limited_is_served, "the limited tenant is served again")
        await rig.database.close()
        rig.database = again = await asyncpg.connect(postgres.url())

        async def reported() -> bool:
            return await in_ledger(rig) == 1

        await eventually(reported, "the report of the outage is in the ledger", within_s=30)
        assert await rig.database.fetchval("SELECT count(*) FROM dead_letter") == 0
        later = await rig.new_key("later")
        assert isinstance(await rig.route(later), RoutePlan)
        await again.close()


async def test_a_database_that_never_was_there_is_said_to_be_unavailable() -> None:
    database = Database("postgresql://nobody@127.0.0.1:9/none", 2)
    assert database.problem() is not None
    with pytest.raises(DatabaseUnavailable):
        await database.run(lambda connection: connection.fetchval("SELECT 1"))


async def test_a_live_404_has_the_provider_polled_at_once(served: Rig) -> None:
    asked: asyncio.Queue[bytes] = asyncio.Queue()

    async def note(message: Msg) -> None:
        await asked.put(message.data)

    await served.observe("alpha", (MODEL,), at=datetime.now(UTC) - timedelta(seconds=1))
    plan = await planned(served, await served.new_key("acme"))
    await served.bus.client.subscribe(subjects.DISCOVERY_POLL, cb=note)
    await served.bus.client.flush()
    await served.store(subjects.USAGE, report(plan, outcome=AttemptOutcome.NOT_FOUND))
    async with asyncio.timeout(10):
        while b'"provider_id":"alpha"' not in await asked.get():
            continue
