"""Leases that are booked together: as exact as those that are booked alone, whatever goes wrong meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal

import asyncpg
import pytest
from tests.support.registry import eventually

from synaxis_common import ids
from synaxis_registry.booking import Bookings
from synaxis_registry.core.admission import Grant
from synaxis_registry.core.leasing import Ask
from synaxis_registry.store.database import Connection, Database
from synaxis_registry.store.migrate import migrate

SCOPE = "t/acme/*"
ALLOWED = 20
TENANT = f"""
INSERT INTO tenant (id, name) VALUES ('acme', 'Acme');
INSERT INTO tenant_model_limit (tenant_id, global_model_id, allowed_rpm) VALUES ('acme', '*', {ALLOWED});
"""
BEING_BOOKED = """
FROM pg_stat_activity
WHERE datname = current_database() AND query LIKE '%grant_leases%' AND wait_event = 'advisory'
"""


@pytest.fixture
async def database(fresh_database_url: str) -> AsyncIterator[Database]:
    database = Database(fresh_database_url, 4)
    await database.connect()
    await migrate(database)
    await database.run(lambda connection: connection.execute(TENANT))
    yield database
    await database.close()


@pytest.fixture
async def other(
    fresh_database_url: str, database: Database
) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """Another connection, past the pool."""
    connection = await asyncpg.connect(fresh_database_url)
    yield connection
    await connection.close()


def ask(usd: str = "0") -> Ask:
    return Ask(ids.uuid7(), "g1", "acme", (SCOPE,), usd_each=Decimal(usd))


def granted(answers: list[Grant | None]) -> list[int]:
    return [0 if answer is None else answer.permits for answer in answers]


async def test_several_registries_grant_just_what_is_allowed(database: Database) -> None:
    registries = [Bookings(database) for _ in range(3)]
    answers = await asyncio.gather(*(registries[place % 3].book(ask()) for place in range(90)))
    assert sorted(granted(answers)) == [0] * (90 - ALLOWED) + [1] * ALLOWED
    refused = [answer.uses[0].verdict for answer in answers if answer and not answer.permits]
    assert set(refused) == {"rpm"}


async def test_of_those_together_the_first_are_granted(database: Database) -> None:
    bookings = Bookings(database)
    answers = await asyncio.gather(*(bookings.book(ask()) for _ in range(ALLOWED + 5)))
    assert granted(answers) == [1] * ALLOWED + [0] * 5
    assert [answer and answer.uses[0].used_requests for answer in answers[: ALLOWED + 1]] == list(
        range(ALLOWED + 1)
    ), "each sees those before it"


async def test_one_that_cannot_be_stored_fails_alone(
    database: Database, other: asyncpg.Connection[asyncpg.Record]
) -> None:
    bookings = Bookings(database)
    asks = [ask("1"), ask("2000000000000"), ask("3")]
    answers = await asyncio.gather(*map(bookings.book, asks), return_exceptions=True)
    assert isinstance(answers[1], asyncpg.CheckViolationError)
    assert [answer.usd for answer in answers if isinstance(answer, Grant)] == [1, 3]
    assert await other.fetchval("SELECT reserved FROM budget WHERE scope = $1", SCOPE) == 4
    assert await other.fetchval("SELECT sum(requests) FROM rate_bucket WHERE scope = $1", SCOPE) == 2


async def test_a_connection_that_is_lost_meanwhile_books_nobody_twice(
    database: Database, other: asyncpg.Connection[asyncpg.Record]
) -> None:
    bookings = Bookings(database)
    held = other.transaction()
    await held.start()
    await other.execute("SELECT lock_scopes($1)", [SCOPE])
    answers = asyncio.gather(*(bookings.book(ask()) for _ in range(5)))

    async def waits() -> bool:
        return bool(await database.call(_waiting))

    await eventually(waits, "the asks wait for the lock")
    assert await other.fetchval(f"SELECT count(pg_terminate_backend(pid)) {BEING_BOOKED}") == 1
    await held.rollback()
    assert granted(await answers) == [1] * 5
    assert await other.fetchval("SELECT sum(requests) FROM rate_bucket WHERE scope = $1", SCOPE) == 5


async def _waiting(connection: Connection) -> int:
    count: int = await connection.fetchval(f"SELECT count(*) {BEING_BOOKED}")
    return count


async def test_what_a_registry_of_the_former_release_books_counts_alike(
    database: Database, other: asyncpg.Connection[asyncpg.Record]
) -> None:
    former = "SELECT * FROM grant_lease($1, 'g1', 'acme', $2, 3, 0, 0, 0, '{}', 2, 900, 5, 2, 4, 0)"
    lease_id = ids.uuid7()
    (row,) = await other.fetch(former, lease_id, [SCOPE])
    assert (row["limit_scope"], row["verdict"], row["granted_permits"]) == (SCOPE, None, 3)
    (again,) = await other.fetch(former, lease_id, [SCOPE])
    assert again["granted_permits"] == 3, "a lease that was granted before is answered the same"
    answers = [await Bookings(database).book(ask()) for _ in range(ALLOWED)]
    assert granted(answers) == [1] * (ALLOWED - 3) + [0] * 3
    (refused,) = await other.fetch(former, ids.uuid7(), [SCOPE])
    assert (refused["verdict"], refused["granted_permits"]) == ("rpm", 0)
