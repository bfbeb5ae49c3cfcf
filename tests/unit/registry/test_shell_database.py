"""What is done about a connection to Postgres that was lost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from synaxis_registry.store.database import Database, DatabaseUnavailable


class Pool:
    """Hands out connections that are nothing."""

    @asynccontextmanager
    async def acquire(self, timeout: float) -> AsyncIterator[None]:
        assert timeout
        yield


def failing(times: int) -> tuple[Database, Any, list[int]]:
    database, calls = Database("postgresql://nobody@127.0.0.1:9/none", 2), list[int]()
    database._pool = Pool()  # type: ignore[assignment]

    async def work(_connection: Any) -> str:
        calls.append(1)
        if len(calls) <= times:
            raise asyncpg.InternalClientError("cannot switch to state 11; another operation is in progress")
        return "done"

    return database, work, calls


async def test_a_connection_lost_between_two_steps_of_its_protocol_is_left_for_another() -> None:
    database, work, calls = failing(1)
    assert (await database.call(work), len(calls)) == ("done", 2)


async def test_two_lost_connections_mean_that_postgres_is_away() -> None:
    database, work, _ = failing(2)
    with pytest.raises(DatabaseUnavailable):
        await database.call(work)
    assert database.problem() is not None
