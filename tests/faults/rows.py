"""The rows of the matrix that are done to the whole fleet: each breaks something, and mends it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import shutil
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import nats
import nats.errors
from nats.aio.msg import Msg
from tests.chaos import books
from tests.chaos.nemesis import children_of
from tests.faults.stage import Stage
from tests.support.proxy import Toxics

from synaxis_cli.embedded.process import EmbeddedServer
from synaxis_common import subjects
from synaxis_common.contracts.usage import split_reports

HOUR_S = 3600.0
SLOW_S = 0.5
REPORT_WITHIN_S = 20.0
DATABASE_MAY_WRITE_BYTES = 1 << 20
"""Less than where its log is written, so that Postgres can commit nothing, as on a disk without space."""
FILLED_AT_ONCE_BYTES = 1 << 12
"""A page, so that not one is left."""
HELD_UP_S = 0.3
NO_ANSWER, UNAVAILABLE = "no answer", "503"


@dataclass(frozen=True)
class Row:
    """A row. `do` breaks something for so many seconds and returns when it is mended."""

    number: int
    fault: str
    do: Callable[[Stage, float], Awaitable[None]]
    well_within_s: float
    """What RELIABILITY's matrix says."""
    may_see: frozenset[str] = frozenset()
    """What clients may get besides their answers."""
    lasts: bool = True
    """For as long as it is told; otherwise it is over at once."""


async def _kill_a_gateway(stage: Stage, _outage_s: float) -> None:
    stage.gateway_kills.append(time.monotonic())
    os.kill(stage.processes("synaxis_gateway")[0], signal.SIGKILL)


async def _kill_a_registry(stage: Stage, _outage_s: float) -> None:
    os.kill(stage.processes("synaxis_registry")[0], signal.SIGKILL)


async def _stop_all_registries(stage: Stage, outage_s: float) -> None:
    await _sleep_through(stage.processes("synaxis_registry"), outage_s)


async def _stop_one_registry(stage: Stage, outage_s: float) -> None:
    """It may hold the lock of the outbox, of rows, and messages that it has not acknowledged."""
    await _sleep_through(stage.processes("synaxis_registry")[:1], outage_s)


async def _sleep_through(pids: Sequence[int], outage_s: float) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(outage_s)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


async def _kill_the_workers(stage: Stage, _outage_s: float) -> None:
    await stage.world.system.admin("POST", "/sync/runs")
    for module in ("synaxis_sync", "synaxis_discovery"):
        for pid in stage.processes(module):
            os.kill(pid, signal.SIGKILL)


async def _away(stage: Stage, server: EmbeddedServer, outage_s: float) -> None:
    server.kill()
    try:
        await asyncio.sleep(outage_s)
    finally:
        await stage.start_again(server)


async def _nats_restarts(stage: Stage, _outage_s: float) -> None:
    await _away(stage, stage.nats, 1.0)


async def _nats_away(stage: Stage, outage_s: float) -> None:
    await _away(stage, stage.nats, outage_s)


async def _nats_loses_its_disk(stage: Stage, _outage_s: float) -> None:
    """With a registry that holds reports it has not acknowledged, which are nowhere else but at gateways."""
    os.kill(stage.processes("synaxis_registry")[0], signal.SIGSTOP)
    await asyncio.sleep(HELD_UP_S)
    await _kill_a_registry(stage, 0.0)
    stage.nats.kill()
    stage.empty_nats()
    await stage.start_again(stage.nats)


async def _consumer_deleted(stage: Stage, _outage_s: float) -> None:
    bus = await nats.connect(stage.nats.url, connect_timeout=2)
    try:
        await bus.jetstream(timeout=5).delete_consumer(subjects.STREAM_USAGE, "registry-usage")
    finally:
        await bus.close()


async def _postgres_restarts(stage: Stage, _outage_s: float) -> None:
    await _away(stage, stage.postgres, 0.0)


async def _postgres_away(stage: Stage, outage_s: float) -> None:
    await _away(stage, stage.postgres, outage_s)


async def _disk_full(stage: Stage, outage_s: float) -> None:
    if stage.database_disk is None:
        await _may_write_nothing(stage, outage_s)
        return
    filler = stage.database_disk / "filler"
    try:
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):  # until it is full
            while file.write(b"x" * FILLED_AT_ONCE_BYTES):
                pass
        if shutil.disk_usage(stage.database_disk).free:
            raise AssertionError("the database's disk is not full")
        await asyncio.sleep(outage_s)
    finally:
        filler.unlink()
        if not stage.postgres.is_running:
            await stage.start_again(stage.postgres)


async def _may_write_nothing(stage: Stage, outage_s: float) -> None:
    """The next best where no disk may be mounted."""
    assert stage.postgres.pid is not None
    for pid in (stage.postgres.pid, *children_of(stage.postgres.pid)):
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (DATABASE_MAY_WRITE_BYTES, hard))
    await asyncio.sleep(outage_s)
    # The limit is this process' own, so there is space again for a Postgres that is started anew.
    stage.postgres.kill()
    await stage.start_again(stage.postgres)


async def _postgres_slow(stage: Stage, outage_s: float) -> None:
    stage.database_link.set(to_client=Toxics(latency_s=SLOW_S))
    try:
        await asyncio.sleep(outage_s)
    finally:
        stage.database_link.set()


async def _bus_black_holed(stage: Stage, outage_s: float) -> None:
    stage.bus_link.blackhole()
    try:
        await asyncio.sleep(outage_s)
    finally:
        stage.bus_link.set()


async def _bus_one_way(stage: Stage, outage_s: float) -> None:
    stage.bus_link.set(to_client=Toxics(stall=True))
    try:
        await asyncio.sleep(outage_s)
    finally:
        stage.bus_link.set()


async def _clock_jumps(stage: Stage, outage_s: float) -> None:
    try:
        for shift_s in (HOUR_S, -HOUR_S):
            stage.shift_clock(shift_s)
            await asyncio.sleep(outage_s / 2)
    finally:
        stage.shift_clock(0.0)


async def _reports_come_again(stage: Stage, outage_s: float) -> None:
    """Every report twice more, later and in the other order."""
    bus = await nats.connect(stage.nats.url, connect_timeout=2)
    heard: list[bytes] = []

    async def hear(message: Msg) -> None:
        heard.append(message.data)

    try:
        subscription = await bus.subscribe(subjects.USAGE, cb=hear)
        await asyncio.sleep(outage_s)
        await subscription.unsubscribe()
        for report in (*reversed(heard), *heard):
            await bus.jetstream(timeout=5).publish(subjects.USAGE, report)
        if not heard:
            raise AssertionError("there were no reports to repeat")
    finally:
        await bus.close()


async def _poison(stage: Stage, _outage_s: float) -> None:
    """All but the last are set aside; that one is a report from a newer gateway, and is taken."""
    bus = await nats.connect(stage.nats.url, connect_timeout=2)
    before = (await books.read(stage.where)).dead_letters
    poisons = (b"\0", b"{not json", b'{"schema": "other"}', b"[]", b'{"from_the_future": 1}')
    try:
        reports = await bus.subscribe(subjects.USAGE)
        report = json.loads(split_reports((await reports.next_msg(timeout=REPORT_WITHIN_S)).data)[0])
        newer = json.dumps({**report, "from_the_future": {"more": 1}}).encode()
        for message in (*poisons, newer):
            await bus.jetstream(timeout=5).publish(subjects.USAGE, message)
        try:
            await bus.publish(subjects.USAGE, b"x" * (bus.max_payload + 1))
        except nats.errors.MaxPayloadError:
            pass  # what is too large gets no further than its sender
        else:
            raise AssertionError("NATS took more than it carries")
    finally:
        await bus.close()
    async with asyncio.timeout(REPORT_WITHIN_S):
        while (await books.read(stage.where)).dead_letters < before + len(poisons):
            await asyncio.sleep(0.1)
    if (await books.read(stage.where)).dead_letters != before + len(poisons):
        raise AssertionError("something was set aside that was no poison")


_OUTAGE = frozenset({UNAVAILABLE})

ROWS = (
    Row(1, "kill -9 a gateway", _kill_a_gateway, 20.0, frozenset({NO_ANSWER}), lasts=False),
    Row(3, "kill -9 one of two registries", _kill_a_registry, 1.0, lasts=False),
    Row(4, "all registries stopped", _stop_all_registries, 2.0, _OUTAGE),
    Row(5, "kill -9 sync and discovery in a run", _kill_the_workers, 2.0, lasts=False),
    Row(6, "kill -9 nats-server, back after 1 s", _nats_restarts, 2.0, _OUTAGE),
    Row(7, "nats-server away", _nats_away, 2.0, _OUTAGE),
    Row(8, "NATS loses its disk", _nats_loses_its_disk, 10.0, _OUTAGE, lasts=False),
    Row(9, "the consumer of reports is deleted", _consumer_deleted, 15.0, lasts=False),
    Row(10, "kill -9 Postgres, started again", _postgres_restarts, 3.0, _OUTAGE, lasts=False),
    Row(11, "Postgres away", _postgres_away, 3.0, _OUTAGE),
    Row(12, "the database's disk is full", _disk_full, 3.0, _OUTAGE),
    Row(13, "Postgres 500 ms slow", _postgres_slow, 2.0),
    Row(14, "NATS black-holed", _bus_black_holed, 12.0, _OUTAGE),
    Row(15, "nothing comes back from NATS", _bus_one_way, 12.0, _OUTAGE),
    Row(17, "one of two registries stopped, with all its locks", _stop_one_registry, 2.0, _OUTAGE),
    Row(18, "gateways' clocks jump by an hour", _clock_jumps, 2.0),
    Row(19, "reports come again, reordered and late", _reports_come_again, 2.0),
    Row(20, "poison among the reports", _poison, 2.0, lasts=False),
)
