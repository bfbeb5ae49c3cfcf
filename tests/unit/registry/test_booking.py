"""Leases that wait for the same limits are booked together, and each has an answer of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from typing import Any, TypeVar, cast
from uuid import UUID

import asyncpg
import pytest

from synaxis_registry.booking import TOGETHER_AT_MOST, Bookings
from synaxis_registry.core.admission import Grant
from synaxis_registry.core.leasing import Ask
from synaxis_registry.store.database import Database, DatabaseUnavailable

T = TypeVar("T")


class Postgres:
    """Grants as many permits as are asked for, when it is told to go on."""

    def __init__(self) -> None:
        self.statements: list[list[int]] = []
        """The numbers of the leases in each."""
        self.goes_on = asyncio.Event()
        self.poison: set[int] = set()
        self.unlimited: set[int] = set()
        self.is_away = False

    async def call(self, work: Callable[[Any], Awaitable[T]]) -> T:
        return await work(self)

    async def fetch(
        self, _sql: str, _tenant: str, _scopes: Sequence[str], *columns: Any
    ) -> list[dict[str, Any]]:
        leases = [lease.int for lease in columns[0]]
        self.statements.append(leases)
        await self.goes_on.wait()
        if self.is_away:
            raise DatabaseUnavailable("away")
        if self.poison.intersection(leases):
            raise asyncpg.CheckViolationError("too dear")
        return [
            _row(place, permits)
            for place, (lease, permits) in enumerate(zip(leases, columns[2], strict=True), start=1)
            if lease not in self.unlimited
        ]


def _row(place: int, permits: int) -> dict[str, Any]:
    use = dict.fromkeys(
        ("verdict", "retry_after_s", "reset_s", "allowed_rpm", "allowed_tpm", "allowed_concurrency", "slots"),
    )
    amounts = {
        "monthly_budget_usd": None,
        "spent": Decimal(0),
        "reserved": Decimal(0),
        "granted_usd": Decimal(0),
    }
    counts = {"used_requests": 0, "used_tokens": 0, "granted_permits": permits, "granted_tokens": 0}
    return {"place": place, "limit_scope": "t/acme/*", **use, **amounts, **counts}


@pytest.fixture
def postgres() -> Postgres:
    return Postgres()


@pytest.fixture
def bookings(postgres: Postgres) -> Bookings:
    return Bookings(cast(Database, postgres))


Answer = asyncio.Task[Grant | None]


async def asked(bookings: Bookings, *leases: int, tenant: str = "acme") -> list[Answer]:
    """They ask one after another, for as many permits as their number says."""
    answers = []
    for lease in leases:
        ask = Ask(UUID(int=lease), "g1", tenant, (f"t/{tenant}/*",), permits=lease)
        answers.append(asyncio.create_task(bookings.book(ask)))
    for _ in range(3):
        await asyncio.sleep(0)
    return answers


async def permits(answers: Sequence[Answer]) -> list[int]:
    return [granted.permits if granted else -1 for granted in await asyncio.gather(*answers)]


async def test_who_asks_while_others_are_booked_is_booked_by_the_next_statement(
    bookings: Bookings, postgres: Postgres
) -> None:
    first = await asked(bookings, 1)
    others = [*await asked(bookings, 5, 3), *await asked(bookings, 4)]
    assert postgres.statements == [[1]]
    postgres.goes_on.set()
    assert await permits(first + others) == [1, 5, 3, 4]
    assert postgres.statements == [[1], [5, 3, 4]], "in the order in which they asked"


async def test_asks_on_other_limits_do_not_wait(bookings: Bookings, postgres: Postgres) -> None:
    answers = [*await asked(bookings, 1), *await asked(bookings, 2, tenant="globex")]
    assert postgres.statements == [[1], [2]]
    postgres.goes_on.set()
    assert await permits(answers) == [1, 2]


async def test_one_that_has_no_limit_any_more_is_told_so_alone(
    bookings: Bookings, postgres: Postgres
) -> None:
    postgres.unlimited = {2}
    postgres.goes_on.set()
    answers = await asyncio.gather(*await asked(bookings, 1, 2, 3))
    assert [granted and granted.permits for granted in answers] == [1, None, 3]


async def test_a_statement_holds_no_more_than_a_number_of_asks(
    bookings: Bookings, postgres: Postgres
) -> None:
    postgres.goes_on.set()
    everybody = list(range(1, 2 * TOGETHER_AT_MOST + 2))
    assert await permits(await asked(bookings, *everybody)) == everybody
    assert [len(statement) for statement in postgres.statements] == [TOGETHER_AT_MOST, TOGETHER_AT_MOST, 1]


async def test_one_that_cannot_be_booked_does_not_fail_the_others(
    bookings: Bookings, postgres: Postgres
) -> None:
    postgres.poison = {2}
    first, poison, last = await asked(bookings, 1, 2, 3)
    postgres.goes_on.set()
    assert await permits([first, last]) == [1, 3]
    with pytest.raises(asyncpg.CheckViolationError):
        await poison
    assert postgres.statements == [[1, 2, 3], [1], [2], [3]]


async def test_without_postgres_all_that_wait_hear_so_and_the_next_try_again(
    bookings: Bookings, postgres: Postgres
) -> None:
    postgres.is_away = True
    answers = await asked(bookings, 1, 2)
    postgres.goes_on.set()
    for answer in answers:
        with pytest.raises(DatabaseUnavailable):
            await answer
    postgres.is_away = False
    assert await permits(await asked(bookings, 3)) == [3]
    assert postgres.statements == [[1, 2], [3]]


async def test_who_has_gone_while_waiting_is_not_booked(bookings: Bookings, postgres: Postgres) -> None:
    first, gone, last = [*await asked(bookings, 1), *await asked(bookings, 2, 3)]
    gone.cancel()
    postgres.goes_on.set()
    assert await permits([first, last]) == [1, 3]
    assert postgres.statements == [[1], [3]]


async def test_who_goes_while_being_booked_takes_nothing_from_the_others(
    bookings: Bookings, postgres: Postgres
) -> None:
    stays, goes = await asked(bookings, 1, 2)
    goes.cancel()
    late = await asked(bookings, 3)
    postgres.goes_on.set()
    assert await permits([stays, *late]) == [1, 3]
    assert postgres.statements == [[1, 2], [3]]


async def test_when_all_have_gone_nothing_is_booked(bookings: Bookings, postgres: Postgres) -> None:
    first, gone = [*await asked(bookings, 1), *await asked(bookings, 2)]
    gone.cancel()
    postgres.goes_on.set()
    assert await permits([first]) == [1]
    assert await permits(await asked(bookings, 3)) == [3]
    assert postgres.statements == [[1], [3]]
