"""Answers the workers' claims, heartbeats and ends of runs."""

from __future__ import annotations

from synaxis_common.contracts.jobs import ClaimReply, JobClaim, JobDenied, JobFinish, JobHeartbeat, LeaseReply
from synaxis_common.logging import get_logger
from synaxis_registry.store import jobs
from synaxis_registry.store.database import Database, DatabaseUnavailable

log = get_logger(__name__)

RETRY_AFTER_S = 5.0


class JobHandlers:
    """The registry's side of scheduled jobs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(self, message: JobClaim) -> ClaimReply:
        """Exactly one worker is granted a slot."""
        try:
            answer = await self._database.run(lambda connection: jobs.claim(connection, message))
        except DatabaseUnavailable as error:
            log.warning("claim_not_decided", job=message.job, error=str(error))
            answer = JobDenied(retry_after_s=RETRY_AFTER_S)
        return ClaimReply(answer=answer)

    async def heartbeat(self, message: JobHeartbeat) -> LeaseReply | None:
        """None (no answer): it cannot be said now; the worker goes on until its lease ends."""
        try:
            return LeaseReply(
                held=await self._database.run(lambda connection: jobs.keep(connection, message))
            )
        except DatabaseUnavailable as error:
            log.warning("lease_not_kept", error=str(error))
            return None

    async def finish(self, message: JobFinish) -> LeaseReply | None:
        """None (no answer): it cannot be stored now; the worker tells it again."""
        try:
            held = await self._database.run(lambda connection: jobs.finish(connection, message))
        except DatabaseUnavailable as error:
            log.warning("run_not_finished", error=str(error))
            return None
        return LeaseReply(held=held)
