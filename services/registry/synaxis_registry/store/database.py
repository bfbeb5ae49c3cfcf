"""The pool of connections, with every wait bounded, and what is tried again when Postgres fails."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from synaxis_common.logging import get_logger

log = get_logger(__name__)

T = TypeVar("T")
if TYPE_CHECKING:
    Connection = PoolConnectionProxy[asyncpg.Record]
else:
    Connection = PoolConnectionProxy  # generic in the type stubs only

COMMAND_TIMEOUT_S = 10.0
ACQUIRE_TIMEOUT_S = 3.0
RELISTEN_S = 1.0
ATTEMPTS = 4

_AGAIN = (
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.InvalidCachedStatementError,  # a migration changed a table under a prepared statement
)
_AWAY = (
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.PostgresConnectionError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.InsufficientResourcesError,
    asyncpg.QueryCanceledError,
    OSError,
    TimeoutError,
)


_LOST = (
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.ConnectionDoesNotExistError,
    asyncpg.InterfaceError,  # "connection is closed"
    asyncpg.InternalClientError,  # it was lost between two steps of its protocol
    ConnectionError,
)
"""The connection was lost; another one of the pool may be fine, or Postgres may be back already."""


class DatabaseUnavailable(Exception):
    """Postgres cannot be asked now; what was under way may or may not have been done."""


async def _reset(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """On the way back to the pool: nobody here leaves anything in a session but a transaction cut off."""
    if connection.is_in_transaction():
        await connection.reset()


class Database:
    """A pool. All work goes through `run`, which retries what is safe to retry and names what is not."""

    def __init__(self, url: str, size: int) -> None:
        self._url, self._size = url, size
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._reachable = False

    def problem(self) -> str | None:
        """Why the database keeps the service from being ready."""
        return None if self._reachable else "Postgres cannot be reached"

    async def connect(self) -> None:
        """Open the pool, trying for ever: a registry may start before its database."""
        delay = 0.2
        while True:
            try:
                self._pool = await asyncpg.create_pool(
                    self._url,
                    min_size=2,
                    max_size=self._size,
                    timeout=5,
                    command_timeout=COMMAND_TIMEOUT_S,
                    reset=_reset,
                    server_settings={
                        "application_name": "synaxis-registry",
                        "timezone": "UTC",
                        "statement_timeout": str(int(COMMAND_TIMEOUT_S * 1000)),
                        "idle_in_transaction_session_timeout": "10000",
                    },
                )
            except _AWAY as error:
                log.warning("database_not_reachable", error=type(error).__name__, retry_in_s=delay)
                await asyncio.sleep(delay)
                delay = min(delay * 2, 5.0)
            else:
                self._reachable = True
                return

    async def close(self) -> None:
        """Close the pool, waiting a little for what is under way."""
        if self._pool is not None:
            try:
                async with asyncio.timeout(5):
                    await self._pool.close()
            except TimeoutError:
                self._pool.terminate()

    async def run(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Run `work` on a connection, in a transaction.

        Deadlocks and the like, and once a lost connection, are tried again, so `work` must be safe to repeat:
        a commit whose answer was lost may have been done. Raises DatabaseUnavailable when Postgres is away.
        """

        async def in_transaction(connection: Connection) -> T:
            async with connection.transaction():
                return await work(connection)

        return await self.call(in_transaction)

    async def call(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """`run` for a single statement, which is a transaction by itself: that saves two round trips."""
        if self._pool is None:
            raise DatabaseUnavailable("not connected")
        is_lost = False
        for attempt in range(1, ATTEMPTS + 1):
            try:
                async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection:
                    result = await work(connection)
            except _AGAIN as error:
                if attempt == ATTEMPTS:
                    raise DatabaseUnavailable(type(error).__name__) from error
                await asyncio.sleep(random.uniform(0, 0.02 * 2**attempt))  # noqa: S311 - spreads retries
            except _AWAY as error:
                if isinstance(error, _LOST) and not is_lost:
                    is_lost = True
                    continue
                self._reachable = False
                raise DatabaseUnavailable(type(error).__name__) from error
            else:
                self._reachable = True
                return result
        raise AssertionError("the last attempt returns or raises")

    async def listen(self, channels: tuple[str, ...], on_notice: Callable[[str], None]) -> None:
        """Call `on_notice(channel)` for every NOTIFY, for ever, and for each channel after a reconnect."""
        while True:
            try:
                await self._listen(channels, on_notice)
            except _AWAY as error:
                log.warning("notices_lost", error=type(error).__name__, retry_in_s=RELISTEN_S)
            await asyncio.sleep(RELISTEN_S)

    async def _listen(self, channels: tuple[str, ...], on_notice: Callable[[str], None]) -> None:
        """Listen until the connection is lost."""
        connection = await asyncpg.connect(self._url, timeout=5)
        lost = asyncio.Event()
        connection.add_termination_listener(lambda _: lost.set())
        try:
            for channel in channels:
                await connection.add_listener(channel, lambda _c, _p, name, _t: on_notice(name))
                on_notice(channel)  # what came before this listener was there
            while not lost.is_set():
                await connection.execute("SELECT 1", timeout=5)
                try:
                    async with asyncio.timeout(5):
                        await lost.wait()
                except TimeoutError:
                    continue
        finally:
            connection.terminate()
