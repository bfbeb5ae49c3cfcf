"""Bring the database to the newest schema; safe when many replicas start at once."""

from __future__ import annotations

import asyncio
from importlib.resources import files

import asyncpg

from synaxis_common.logging import get_logger
from synaxis_registry.store.database import Connection, Database, DatabaseUnavailable

log = get_logger(__name__)

LOCK = 0x53594E41584953
"""The advisory lock of migrations: "SYNAXIS" in ASCII."""
LOCK_TIMEOUT = "5s"
"""DDL that waits for a lock queues every later query behind it: rather give up and try again."""


def migrations() -> list[tuple[int, str, str]]:
    """(number, name, SQL) in order. Raises ValueError when a number is missing or stands twice."""
    found = sorted(
        (int(entry.name.split("_", 1)[0]), entry.name, entry.read_text(encoding="utf-8"))
        for entry in files("synaxis_registry.store").joinpath("migrations").iterdir()
        if entry.name.endswith(".sql")
    )
    if [number for number, _, _ in found] != list(range(1, len(found) + 1)):
        raise ValueError(f"the migrations are not numbered 1, 2, 3 …: {[name for _, name, _ in found]}")
    return found


async def migrate(database: Database) -> None:
    """Apply what is missing, each migration in its own transaction under the advisory lock."""
    for number, name, sql in migrations():

        async def apply(
            connection: Connection, number: int = number, name: str = name, sql: str = sql
        ) -> None:
            await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK)
            await connection.execute(
                "CREATE TABLE IF NOT EXISTS schema_migration (number integer PRIMARY KEY, name text NOT NULL,"
                " applied_at timestamptz NOT NULL DEFAULT clock_timestamp())"
            )
            if await connection.fetchval("SELECT 1 FROM schema_migration WHERE number = $1", number):
                return
            await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
            await connection.execute(sql)
            await connection.execute("INSERT INTO schema_migration VALUES ($1, $2)", number, name)
            log.info("migrated", migration=name)

        while True:
            try:
                await database.run(apply)
            except (asyncpg.LockNotAvailableError, DatabaseUnavailable) as error:
                log.warning("migration_waits", migration=name, error=type(error).__name__)
                await asyncio.sleep(1)
            else:
                break
