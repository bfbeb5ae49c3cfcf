"""The workers' part of scheduled jobs: ask for a slot, keep its lease, do the work, say how it went.

The registry decides who runs what (`contracts.jobs`). A worker asks when it starts (so a run that was missed
while everything was down happens then), at each slot, when it is woken, and when it was told to ask again.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import uuid4

from nats.aio.msg import Msg
from prometheus_client import Counter, Histogram

from synaxis_common import subjects
from synaxis_common.bus import Bus, BusUnavailable
from synaxis_common.clock import Clock
from synaxis_common.contracts.jobs import (
    ClaimReply,
    JobClaim,
    JobFinish,
    JobGrant,
    JobHeartbeat,
    JobName,
    LeaseReply,
    RunStatus,
)
from synaxis_common.logging import get_logger, scrub
from synaxis_common.schedule import Schedule

log = get_logger(__name__)

RUNS = Counter("synaxis_job_runs_total", "Runs of jobs in this process, by how they ended", ["job", "status"])
DURATION = Histogram(
    "synaxis_job_run_seconds",
    "How long runs of jobs took",
    ["job"],
    buckets=(0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0),
)

DEFAULT_LEASE_S = 30.0
"""How soon another worker may take over from one that died. Source: our choice."""
REPLY_TIMEOUT_S = 5.0
FIRST_BACK_OFF_S = 0.5
LONGEST_BACK_OFF_S = 15.0
"""Between questions to a registry that does not answer."""
WORTH_A_WARNING_S = 5.0
"""From this back-off on, the silence is no longer that of a registry that is starting."""
JITTER_SHARE = 0.1
"""At most this share of the time to the next slot is waited after a slot."""
LONGEST_SLEEP_S = 30.0
"""The wall clock is looked at again this often: it may be set, and a suspended machine does not count."""
LAST_WORD_TIMEOUT_S = 2.0
"""A worker that is stopped says so within this time."""

CANCEL_AGAIN_AFTER_S = 0.5

_random = random.SystemRandom()


class JobFailed(Exception):
    """The run came to nothing, or to something that must be tried again; `counts` says how far it got."""

    def __init__(self, message: str, counts: Mapping[str, int] | None = None) -> None:
        super().__init__(message)
        self.counts = dict(counts or {})


Work = Callable[[JobGrant], Awaitable[dict[str, int]]]
"""Does a run and answers its counts. It is cancelled when the lease is lost."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job as one of its workers knows it."""

    name: JobName
    schedule: Schedule
    work: Work
    jitter_s: float = 0.0
    """Ask up to this much after a slot, at random, so that a fleet does not act in the same second."""
    lease_s: float = DEFAULT_LEASE_S


def _storable(error: str) -> str:
    return scrub(error).replace("\x00", " ").encode(errors="replace").decode()


def new_worker_id() -> str:
    """A name for this process that no other has, and that tells an operator where it runs."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"


def heed_cancellation() -> None:
    """Raise CancelledError if this task was cancelled and has not noticed.

    `asyncio.wait_for` of Python 3.11, by which the NATS client waits, loses a cancellation that comes at the
    same moment as the result.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def _ended(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks until they have ended: see `heed_cancellation` for why once may not be enough."""
    running = set(tasks)
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=CANCEL_AGAIN_AFTER_S)
    await asyncio.gather(*tasks, return_exceptions=True)


class JobWorker:
    """Runs one job whenever the registry grants it a run."""

    def __init__(self, bus: Bus, clock: Clock, job: Job, worker_id: str) -> None:
        self._bus, self._clock, self._job, self._worker_id = bus, clock, job, worker_id
        self._woken = asyncio.Event()
        self._back_off_s = FIRST_BACK_OFF_S
        bus.on_reconnect(self._wake)  # a hint may have been missed meanwhile

    async def run(self) -> None:
        """Work until cancelled."""
        subscription = await self._bus.client.subscribe(subjects.job_wake(self._job.name), cb=self._on_hint)
        try:
            while True:
                self._woken.clear()
                delay_s = await self._ask()
                heed_cancellation()
                await self._sleep(delay_s)
        finally:
            if self._bus.is_connected:
                await subscription.unsubscribe()

    async def _on_hint(self, _message: Msg) -> None:
        self._woken.set()

    async def _wake(self) -> None:
        self._woken.set()

    async def _ask(self) -> float | None:
        """Claim, and work if granted. Answers when to ask again, in seconds; None: at the next slot."""
        job = self._job
        claim = JobClaim(
            job=job.name,
            worker_id=self._worker_id,
            scheduled_at=job.schedule.last_slot(self._clock.now()),
            lease_s=job.lease_s,
        )
        asked_at = self._clock.monotonic()
        try:
            reply = await self._bus.request(subjects.JOB_CLAIM, claim, ClaimReply, REPLY_TIMEOUT_S)
        except BusUnavailable as error:
            delay = self._back_off_s * _random.uniform(0.5, 1.0)
            self._back_off_s = min(self._back_off_s * 2, LONGEST_BACK_OFF_S)
            # While a registry is starting nobody answers, which is nothing to warn of.
            tell = log.info if self._back_off_s < WORTH_A_WARNING_S else log.warning
            tell("job_not_claimed", job=job.name, error=str(error), retry_in_s=round(delay, 1))
            return delay
        self._back_off_s = FIRST_BACK_OFF_S
        if isinstance(reply.answer, JobGrant):
            await _Run(self._bus, self._clock, job, reply.answer, asked_at).carry_out()
            return 0.0  # there may be more: the slot itself, after a run that an operator asked for
        retry_after_s = reply.answer.retry_after_s
        return None if retry_after_s is None else max(retry_after_s, FIRST_BACK_OFF_S)

    async def _sleep(self, delay_s: float | None) -> None:
        """Wait for `delay_s`, for the next slot with its jitter, or for a hint: whatever comes first."""
        schedule, now = self._job.schedule, self._clock.now()
        slot = schedule.next_slot(now)
        gap_s = (schedule.next_slot(slot) - slot).total_seconds()
        jitter_s = _random.uniform(0.0, min(self._job.jitter_s, gap_s * JITTER_SHARE))
        until = slot + timedelta(seconds=jitter_s)
        if delay_s is not None:
            until = min(until, now + timedelta(seconds=delay_s))
        while (left_s := (until - self._clock.now()).total_seconds()) > 0:
            try:
                async with asyncio.timeout(min(left_s, LONGEST_SLEEP_S)):
                    await self._woken.wait()
            except TimeoutError:
                continue
            return


class _Run:
    """One granted run."""

    def __init__(self, bus: Bus, clock: Clock, job: Job, grant: JobGrant, asked_at: float) -> None:
        self._bus, self._clock, self._job, self._grant = bus, clock, job, grant
        self._held_until = asked_at + job.lease_s
        self._log = log.bind(job=job.name, run_id=str(grant.run_id), trigger=grant.trigger)

    async def carry_out(self) -> None:
        """Work while the lease is held, then say how it ended."""
        begun = self._clock.monotonic()
        self._log.info("job_started")
        working = asyncio.create_task(self._outcome())
        keeping = asyncio.create_task(self._keep_lease())
        try:
            await asyncio.wait({working, keeping}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                await self._finish(working.result())
            else:
                keeping.result()
                RUNS.labels(self._job.name, "lost").inc()
                self._log.warning("job_lease_lost")
        except asyncio.CancelledError:
            await self._say_stopped(working.result() if working.done() else None)
            raise
        finally:
            await _ended(working, keeping)
            DURATION.labels(self._job.name).observe(self._clock.monotonic() - begun)

    async def _outcome(self) -> JobFinish:
        try:
            return self._end(RunStatus.SUCCEEDED, await self._job.work(self._grant))
        except JobFailed as failure:
            self._log.warning("job_failed", error=str(failure))
            return self._end(RunStatus.FAILED, failure.counts, str(failure))
        except Exception as error:
            log.exception("job_broke", job=self._job.name, run_id=str(self._grant.run_id))
            return self._end(RunStatus.FAILED, {}, f"{type(error).__name__}: {error}")

    def _end(self, status: RunStatus, counts: dict[str, int], error: str | None = None) -> JobFinish:
        return JobFinish.model_validate(
            {
                "run_id": self._grant.run_id,
                "fence": self._grant.fence,
                "status": status,
                "counts": counts,
                "error": None if error is None else _storable(error),
            }
        )

    async def _keep_lease(self) -> None:
        """Renew the lease again and again; returns when it is lost."""
        pause_s = self._job.lease_s / 3
        beat = JobHeartbeat(run_id=self._grant.run_id, fence=self._grant.fence, lease_s=self._job.lease_s)
        while True:
            await asyncio.sleep(max(0.0, min(pause_s, self._held_until - self._clock.monotonic())))
            sent_at = self._clock.monotonic()
            if sent_at >= self._held_until:
                return
            try:
                reply = await self._bus.request(
                    subjects.JOB_HEARTBEAT, beat, LeaseReply, min(REPLY_TIMEOUT_S, self._held_until - sent_at)
                )
            except BusUnavailable:
                pause_s = FIRST_BACK_OFF_S
                continue
            if not reply.held:
                return
            self._held_until, pause_s = sent_at + self._job.lease_s, self._job.lease_s / 3

    async def _finish(self, end: JobFinish) -> None:
        """Tell the registry; when it does not answer until the lease is over, it knows by itself."""
        delay = FIRST_BACK_OFF_S
        while True:
            try:
                reply = await self._bus.request(subjects.JOB_FINISH, end, LeaseReply, REPLY_TIMEOUT_S)
            except BusUnavailable as error:
                if self._clock.monotonic() + delay >= self._held_until:
                    RUNS.labels(self._job.name, "unreported").inc()
                    self._log.error("job_end_not_reported", status=end.status, error=str(error))
                    return
                await asyncio.sleep(delay)
                delay = min(delay * 2, LONGEST_BACK_OFF_S)
                continue
            RUNS.labels(self._job.name, end.status if reply.held else "lost").inc()
            self._log.info("job_finished", status=end.status, held=reply.held, **end.counts)
            return

    async def _say_stopped(self, end: JobFinish | None) -> None:
        """Let go of the run at once, so that its retry does not have to wait for the lease to expire."""
        RUNS.labels(self._job.name, "stopped").inc()
        end = end or self._end(RunStatus.FAILED, {}, "the worker was stopped while it ran")
        try:
            await self._bus.request(subjects.JOB_FINISH, end, LeaseReply, LAST_WORD_TIMEOUT_S)
        except BusUnavailable as error:
            self._log.warning("job_end_not_reported", status=end.status, error=str(error))
