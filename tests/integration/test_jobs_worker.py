"""A worker asks for runs of its job, keeps its lease, and says how each run ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.support.workers import StubRegistry, grant, worker_world

from synaxis_cli.embedded.nats import NatsServer
from synaxis_common.bus import Bus
from synaxis_common.contracts.jobs import JobClaim, JobDenied, JobGrant, JobHeartbeat, JobName, RunStatus
from synaxis_common.jobs import Job, JobFailed, JobWorker, Work, new_worker_id
from synaxis_common.schedule import parse_schedule
from synaxis_common.service import Runtime

World = tuple[Runtime, StubRegistry]
JOB: JobName = "provider-discovery"


@pytest.fixture
async def world(nats_url: str) -> AsyncIterator[World]:
    async with worker_world(nats_url) as made:
        yield made


def start(runtime: Runtime, work: Work, schedule: str = "1d", name: str = "job", **fields: Any) -> None:
    job = Job(JOB, parse_schedule(schedule), work, **fields)
    runtime.tasks.start(name, JobWorker(runtime.bus, runtime.clock, job, new_worker_id()).run)


def gaps(claims: list[JobClaim]) -> list[timedelta]:
    """Between the slots that were asked for."""
    return [later.scheduled_at - earlier.scheduled_at for earlier, later in pairwise(claims)]


async def nothing(_grant: JobGrant) -> dict[str, int]:
    return {}


async def never(_grant: JobGrant) -> dict[str, int]:
    await asyncio.Event().wait()
    return {}


async def test_a_worker_asks_at_its_start_for_the_slot_that_it_may_have_missed(world: World) -> None:
    runtime, registry = world
    before = datetime.now(UTC)
    start(runtime, nothing)
    await registry.until(lambda: bool(registry.claims))
    claim = registry.claims[0]
    assert before - timedelta(days=1) < claim.scheduled_at <= before
    assert (claim.job, claim.scheduled_at.hour, claim.scheduled_at.minute) == (JOB, 0, 0)


async def test_a_granted_run_is_done_and_its_counts_are_told(world: World) -> None:
    runtime, registry = world
    run_id = registry.grant_once({"models": "hash"})
    seen: list[JobGrant] = []

    async def work(granted: JobGrant) -> dict[str, int]:
        seen.append(granted)
        return {"polled": 3}

    start(runtime, work)
    end = await registry.end()
    assert (end.run_id, end.fence, end.status, end.counts, end.error) == (
        run_id,
        1,
        RunStatus.SUCCEEDED,
        {"polled": 3},
        None,
    )
    assert seen[0].checkpoint == {"models": "hash"}


async def test_after_a_run_it_asks_again_at_once_for_there_may_be_another(world: World) -> None:
    runtime, registry = world
    waiting: list[JobGrant | JobDenied] = [JobDenied(), grant(), grant(trigger="manual")]
    registry.decide = lambda _claim: waiting.pop() if waiting else JobDenied()
    start(runtime, nothing)
    await registry.end(2)
    await registry.until(lambda: len(registry.claims) == 3)


async def test_a_failure_is_told_with_how_far_it_got_and_without_keys(world: World) -> None:
    runtime, registry = world
    registry.grant_once()

    async def work(_grant: JobGrant) -> dict[str, int]:
        raise JobFailed("no answer to Bearer sk-verysecretverysecret", {"messages": 2})

    start(runtime, work)
    end = await registry.end()
    assert (end.status, end.counts) == (RunStatus.FAILED, {"messages": 2})
    assert end.error is not None
    assert end.error.startswith("no answer to")
    assert "verysecret" not in end.error


async def test_an_unexpected_error_fails_the_run_and_not_the_worker(world: World) -> None:
    runtime, registry = world
    registry.grant_once()

    async def work(_grant: JobGrant) -> dict[str, int]:
        raise KeyError("a\x00b\ud800")

    start(runtime, work)
    end = await registry.end()
    assert end.status == RunStatus.FAILED
    assert (end.error or "").startswith("KeyError")
    registry.grant_once()
    await registry.wake(JOB)
    await registry.end(2)


async def test_a_hint_makes_it_ask_at_once(world: World) -> None:
    runtime, registry = world
    start(runtime, nothing)
    await registry.until(lambda: len(registry.claims) == 1)
    registry.grant_once()
    await registry.wake(JOB)
    await registry.end(timeout=3.0)


async def test_it_asks_at_every_slot(world: World) -> None:
    runtime, registry = world
    start(runtime, nothing, "1s")
    await registry.until(lambda: len(registry.claims) >= 3)
    assert gaps(registry.claims[:3]) == [timedelta(seconds=1)] * 2


async def test_it_asks_again_when_it_was_told_to(world: World) -> None:
    runtime, registry = world
    registry.decide = lambda _claim: JobDenied(retry_after_s=0.6) if len(registry.claims) == 1 else grant()
    begun = runtime.clock.monotonic()

    async def once(_grant: JobGrant) -> dict[str, int]:
        registry.decide = lambda _claim: JobDenied()
        return {}

    start(runtime, once)
    await registry.end()
    assert 0.6 <= runtime.clock.monotonic() - begun < 5


async def test_the_lease_is_renewed_while_the_work_goes_on(world: World) -> None:
    runtime, registry = world
    run_id = registry.grant_once()
    enough = asyncio.Event()

    async def work(_grant: JobGrant) -> dict[str, int]:
        await enough.wait()
        return {"done": 1}

    def holds(_beat: JobHeartbeat) -> bool:
        if len(registry.heartbeats) == 4:
            enough.set()
        return True

    registry.holds_lease = holds
    start(runtime, work, lease_s=0.6)  # four heartbeats take longer than one lease
    end = await registry.end()
    assert (end.run_id, end.status, end.counts) == (run_id, RunStatus.SUCCEEDED, {"done": 1})
    assert {beat.run_id for beat in registry.heartbeats} == {run_id}


async def test_work_is_cancelled_and_nothing_told_when_the_lease_is_another_s(world: World) -> None:
    runtime, registry = world
    registry.grant_once()
    registry.holds_lease = lambda _beat: False
    cancelled = asyncio.Event()

    async def work(_grant: JobGrant) -> dict[str, int]:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return {}

    start(runtime, work, lease_s=0.6)
    async with asyncio.timeout(5):
        await cancelled.wait()
    await registry.until(lambda: len(registry.claims) == 2)
    assert not registry.ends


class _Deaf(Bus):
    """A bus on which heartbeats get no answer."""

    async def request(self, subject: str, *arguments: Any, **named: Any) -> Any:
        if subject.endswith("heartbeat"):
            subject = "nobody.is.here"
        return await super().request(subject, *arguments, **named)


async def test_work_is_cancelled_when_the_lease_runs_out_because_nobody_answers(
    world: World,
) -> None:
    runtime, registry = world
    runtime.bus.__class__ = _Deaf
    registry.grant_once()
    begun = runtime.clock.monotonic()
    start(runtime, never, lease_s=1.0)
    await registry.until(lambda: len(registry.claims) == 2)
    assert 0.9 <= runtime.clock.monotonic() - begun < 4
    assert not registry.ends


async def test_a_worker_that_is_stopped_lets_go_of_its_run_at_once(world: World) -> None:
    runtime, registry = world
    run_id = registry.grant_once()
    begun = asyncio.Event()

    async def work(granted: JobGrant) -> dict[str, int]:
        begun.set()
        return await never(granted)

    start(runtime, work)
    async with asyncio.timeout(5):
        await begun.wait()
    await runtime.tasks.stop()
    end = await registry.end(timeout=3.0)
    assert (end.run_id, end.status) == (run_id, RunStatus.FAILED)
    assert "stopped" in (end.error or "")


async def test_it_keeps_asking_while_no_registry_answers(nats_url: str) -> None:
    async with worker_world(nats_url, answering=False) as (runtime, registry):
        registry.grant_once()
        refused = asyncio.Event()

        class Told(Bus):
            async def request(self, *arguments: Any, **named: Any) -> Any:
                try:
                    return await super().request(*arguments, **named)
                finally:
                    refused.set()

        runtime.bus.__class__ = Told
        start(runtime, nothing)
        async with asyncio.timeout(10):
            await refused.wait()
        await registry.listen()
        await registry.end()


async def test_the_jitter_never_skips_a_slot(world: World) -> None:
    runtime, registry = world
    start(runtime, nothing, "1s", jitter_s=3600.0)
    await registry.until(lambda: len(registry.claims) >= 3)
    assert gaps(registry.claims[:3]) == [timedelta(seconds=1)] * 2


async def test_of_many_replicas_one_is_granted_and_the_others_wait(world: World) -> None:
    runtime, registry = world
    granted: set[datetime] = set()

    def first_of_slot(claim: JobClaim) -> JobGrant | JobDenied:
        if claim.scheduled_at in granted:
            return JobDenied()
        granted.add(claim.scheduled_at)
        return grant()

    registry.decide = first_of_slot
    for number in range(5):
        start(runtime, nothing, name=f"replica-{number}")
    await registry.until(lambda: len(registry.claims) == 6)  # five at the start, one again after its run
    assert len(registry.ends) == 1
    assert len({claim.worker_id for claim in registry.claims}) == 5


async def test_it_asks_again_when_the_bus_is_back_for_a_hint_may_have_been_missed(
    tmp_path: Path,
) -> None:
    server = NatsServer(tmp_path / "nats")
    server.start()
    try:
        async with worker_world(server.url) as (runtime, registry):
            start(runtime, nothing)
            await registry.until(lambda: len(registry.claims) == 1)
            server.kill()
            server.start()
            await registry.until(lambda: len(registry.claims) >= 2, timeout=20)
    finally:
        server.kill()
