"""Row 17: a worker that is stopped for longer than its lease finds its run another's, and writes no more."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.support.models_dev import ModelsDevServer
from tests.support.registry import Rig, eventually, running_registries

from synaxis_common import subjects
from synaxis_common.contracts.jobs import JobFinish, LeaseReply, RunStatus

JOB = "models-dev-sync"
_MACHINE = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV")


@pytest.fixture
async def rig(fresh_nats_url: str, fresh_database_url: str) -> AsyncIterator[Rig]:
    async with running_registries(fresh_nats_url, fresh_database_url, count=2) as made:
        yield made


@asynccontextmanager
async def sync(nats_url: str, models_dev: ModelsDevServer, log: Path) -> AsyncIterator[int]:
    """A real process that syncs; its pid."""
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "synaxis_sync"),
            env={
                **{name: os.environ[name] for name in _MACHINE if name in os.environ},
                "SYNAXIS_NATS_URL": nats_url,
                "SYNAXIS_MODELS_DEV_URL": models_dev.url,
                "SYNAXIS_SYNC_JITTER_S": "0",
                "SYNAXIS_HEALTH_PORT": "0",
            },
            stdout=output,
            stderr=output,
        )
    try:
        yield process.pid
    finally:
        os.kill(process.pid, signal.SIGCONT)
        process.terminate()
        await process.wait()


async def newest_runs(rig: Rig) -> list[dict[str, Any]]:
    rows = await rig.database.fetch("SELECT * FROM job_run WHERE job = $1 ORDER BY created_at DESC", JOB)
    return [dict(row) for row in rows]


@pytest.mark.timeout(300)
async def test_who_sleeps_through_its_lease_changes_nothing_when_it_wakes(
    rig: Rig, fresh_nats_url: str, tmp_path: Path
) -> None:
    sleeper_log, other_log = tmp_path / "sleeper", tmp_path / "other"
    with ModelsDevServer.of_small_world() as models_dev:
        models_dev.mode = "hang"
        async with sync(fresh_nats_url, models_dev, sleeper_log) as sleeper:

            async def has_begun() -> bool:
                return "job_started" in sleeper_log.read_text()

            await eventually(has_begun, "a sync has begun and knows it", within_s=60)
            os.kill(sleeper, signal.SIGSTOP)
            (lost,) = await newest_runs(rig)
            await rig.database.execute("UPDATE job_run SET lease_expires_at = now() - interval '1 s'")
            models_dev.mode = "ok"
            async with sync(fresh_nats_url, models_dev, other_log):

                async def is_done() -> bool:
                    return bool((await newest_runs(rig))[0]["status"] == "succeeded")

                await eventually(is_done, "another one has taken the run over", within_s=60)
                before = await newest_runs(rig)
                late = JobFinish(run_id=lost["run_id"], fence=lost["fence"], status=RunStatus.SUCCEEDED)
                assert not (await rig.bus.request(subjects.JOB_FINISH, late, LeaseReply, 5.0)).held
                os.kill(sleeper, signal.SIGCONT)

                async def has_noticed() -> bool:
                    said = sleeper_log.read_text()
                    # Its work may be done before its next heartbeat, and then it hears so with the end of it.
                    return "job_lease_lost" in said or '"held": false' in said

                await eventually(has_noticed, "the sleeper knows that its lease is lost", within_s=60)
                assert await newest_runs(rig) == before, "nothing that the sleeper does is believed"
    assert [(run["status"], run["error"]) for run in before] == [
        ("succeeded", None),
        ("failed", "its worker was lost"),
    ]
    assert before[1]["fence"] > lost["fence"]
