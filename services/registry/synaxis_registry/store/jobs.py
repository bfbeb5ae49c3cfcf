"""Runs of jobs: each slot is run by one worker, which keeps a lease with a fencing token."""

from __future__ import annotations

import json
from datetime import datetime
from uuid import UUID

import asyncpg

from synaxis_common.contracts.jobs import JobClaim, JobDenied, JobFinish, JobGrant, JobHeartbeat, JobRun
from synaxis_common.ids import uuid7
from synaxis_registry.store import catalog, queries
from synaxis_registry.store.database import Connection

SQL = queries.load("jobs")


async def claim(connection: Connection, asked: JobClaim) -> JobGrant | JobDenied:
    """Give the slot to this worker, if nobody has had it and nobody runs the job now.

    A run that an operator asked for goes first. A slot whose last run failed is given again when its time
    to be retried has come; an older slot than the newest that was begun is over.
    """
    await connection.execute(SQL["lock_job"], asked.job)
    await connection.execute(SQL["fail_abandoned"], asked.job)
    taken = await connection.fetchrow(SQL["take_requested"], asked.job, asked.worker_id, asked.lease_s)
    if taken is not None:
        return await _grant(connection, taken)
    running = await connection.fetchrow(SQL["running"], asked.job)
    if running is not None:
        return JobDenied(retry_after_s=max(running["ends_in_s"], 1.0))
    newest = await connection.fetchrow(SQL["newest_slot"], asked.job)
    trigger, attempt = "schedule", 1
    if newest is not None:
        if newest["scheduled_at"] > asked.scheduled_at:
            return JobDenied()
        if newest["scheduled_at"] == asked.scheduled_at:
            if newest["status"] == "succeeded":
                return JobDenied()
            if newest["retry_in_s"] > 0:
                return JobDenied(retry_after_s=newest["retry_in_s"])
            trigger, attempt = "retry", newest["attempt"] + 1
    begun = await connection.fetchrow(
        SQL["begin"], uuid7(), asked.job, trigger, asked.scheduled_at, attempt, asked.worker_id, asked.lease_s
    )
    assert begun is not None
    return await _grant(connection, begun)


async def _grant(connection: Connection, row: asyncpg.Record) -> JobGrant:
    return JobGrant(
        run_id=row["run_id"],
        fence=row["fence"],
        trigger=row["trigger"],
        checkpoint=await catalog.checkpoint(connection),
    )


async def keep(connection: Connection, heartbeat: JobHeartbeat) -> bool:
    """Extend a lease. False: it is another's now, or the run has ended."""
    held = await connection.fetchval(SQL["keep"], heartbeat.run_id, heartbeat.fence, heartbeat.lease_s)
    return held is not None


async def finish(connection: Connection, ended: JobFinish) -> bool:
    """End a run. False: it was not this worker's any more."""
    counts = json.dumps(ended.counts)
    held = await connection.fetchval(
        SQL["finish"], ended.run_id, ended.fence, ended.status.value, counts, ended.error
    )
    return held is not None


async def request_run(connection: Connection, job: str) -> JobRun:
    """A run that an operator asks for; the next worker that claims anything of this job gets it."""
    row = await connection.fetchrow(SQL["request"], uuid7(), job)
    assert row is not None
    return _run(row)


async def list_runs(
    connection: Connection, job: str, limit: int, cursor: str | None
) -> tuple[list[JobRun], str | None]:
    """Runs, newest first, and the cursor of the next page. Raises ValueError for a cursor that is none."""
    await connection.execute(SQL["fail_abandoned"], job)
    before = None if cursor is None else datetime.fromisoformat(cursor)
    rows = await connection.fetch(SQL["runs"], job, before, limit + 1)
    more = rows[limit - 1]["created_at"].isoformat() if len(rows) > limit else None
    return [_run(row) for row in rows[:limit]], more


async def last_runs(connection: Connection) -> dict[str, JobRun]:
    """The newest run of each job."""
    return {row["job"]: _run(row) for row in await connection.fetch(SQL["last_runs"])}


def _run(row: asyncpg.Record) -> JobRun:
    run_id: UUID = row["run_id"]
    return JobRun(
        run_id=run_id,
        job=row["job"],
        status=row["status"],
        trigger=row["trigger"],
        attempt=row["attempt"],
        scheduled_at=row["scheduled_at"],
        started_at=row["started_at"] or row["created_at"],
        finished_at=row["finished_at"],
        counts=json.loads(row["counts"]),
        error=row["error"],
    )
