"""Books leases. Those that wait for the same limits are booked together, by the next statement.

Who books on a limit holds its lock until Postgres has written the commit to its disk, so that a busy tenant's
asks would stand in line there. Those that come while others on the same limits are under way wait here
instead, and share a round trip, a lock and a commit. Asks on other limits do not wait for them.

The commit waits for the disk: a lease that a gateway uses and Postgres forgot in a crash would pass a limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import asyncpg

from synaxis_registry.core.admission import Grant
from synaxis_registry.core.leasing import Ask
from synaxis_registry.store import ledger
from synaxis_registry.store.database import Database

TOGETHER_AT_MOST: Final = 64
"""Asks in a statement, so that the first of them does not wait long for the last."""

_Limits = tuple[str | None, tuple[str, ...]]
"""The tenant and the scopes that asks have in common."""


class _Waiting:
    """An ask, and what came of it."""

    __slots__ = ("ask", "granted")

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.granted: asyncio.Future[Grant | None] = asyncio.get_running_loop().create_future()


class Bookings:
    """Has leases booked in the order in which they are asked for, each with an answer of its own."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: dict[_Limits, list[_Waiting]] = {}
        """Limits stay here for as long as something is booked on them."""
        self._booking: set[asyncio.Task[None]] = set()

    async def book(self, ask: Ask) -> Grant | None:
        """Book a lease; None: there is no limit on it any more. Raises DatabaseUnavailable.

        Who does not wait for the answer any longer has nothing booked, unless that has begun.
        """
        waiting = _Waiting(ask)
        limits = (ask.tenant_id, ask.scopes)
        if limits in self._waiting:
            self._waiting[limits].append(waiting)
        else:
            self._waiting[limits] = [waiting]
            task = asyncio.create_task(self._book_all(limits))
            self._booking.add(task)
            task.add_done_callback(self._booking.discard)
        return await waiting.granted

    async def _book_all(self, limits: _Limits) -> None:
        """Book what waits for these limits, until nothing does."""
        try:
            while waiting := self._waiting[limits]:
                self._waiting[limits] = waiting[TOGETHER_AT_MOST:]
                await self._book(_still(waiting[:TOGETHER_AT_MOST]))
        finally:
            for left in self._waiting.pop(limits):
                left.granted.cancel()

    async def _book(self, together: Sequence[_Waiting]) -> None:
        if not together:
            return
        asks = [one.ask for one in together]
        try:
            grants = await self._database.call(lambda connection: ledger.grant(connection, asks))
        except asyncio.CancelledError:
            for one in together:
                one.granted.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - it is raised where it is waited for
            if len(together) > 1 and isinstance(error, asyncpg.PostgresError):
                # Nothing was booked because of one of them; it alone is to fail.
                for one in together:
                    await self._book(_still([one]))
                return
            for one in _still(together):
                one.granted.set_exception(error)
        else:
            for one, granted in zip(together, grants, strict=True):
                if not one.granted.done():
                    one.granted.set_result(granted)


def _still(waiting: Sequence[_Waiting]) -> list[_Waiting]:
    """Those that somebody waits for."""
    return [one for one in waiting if not one.granted.done()]
