"""Row 32: too few descriptors, no space on the disk of the logs and of the spool, nobody to take reports."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import nats
import pytest
import pytest_asyncio
from tests.chaos.nemesis import children_of
from tests.support.gateway import candidate, granted, plan, post, running_gateway
from tests.support.models_dev import ModelsDevServer
from tests.support.registry import eventually
from tests.support.system import System
from tests.support.upstream import FakeProvider

from synaxis_cli.client import Answer
from synaxis_cli.ports import free_port
from synaxis_common import subjects
from synaxis_common.contracts.leases import PlansStale
from synaxis_gateway.http.listener import PATIENCE_S

MODEL = "talker-2-mini"
ASK: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}
FEW = 256
IDLE = 200
MANY = 600
"""More than there are descriptors for, so that not even a connection that is refused can be accepted."""
NOT_FLUSHED = 120
"""What Python ends with when all has gone well but that its standard error takes nothing."""
MOST_CPU = 0.5
"""Of a core, while nothing is asked: a gateway that tries to accept again and again takes all of it."""

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(90)]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def system() -> AsyncIterator[System]:
    async with FakeProvider("alpha", models=["acme/talker-2-mini"]) as provider:
        with ModelsDevServer.of_small_world() as models_dev:
            environment = {"SYNAXIS_MODELS_DEV_URL": models_dev.url}
            async with System.started(environment) as system:
                body = {"base_url": provider.base_url, "kind": "openai", "api_key_env": None}
                assert (await system.admin("PUT", "/providers/alpha", body)).status == 200

                async def is_served() -> bool:
                    found = await system.admin("GET", f"/provider-models?model={MODEL}&available=true")
                    return bool(found.body["data"])

                await eventually(is_served, "the model is served")
                yield system


def gateway_of(system: System) -> int:
    """Its pid."""
    (found,) = [
        pid
        for pid in children_of(system.process.pid)
        if b"synaxis_gateway" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    ]
    return found


def cpu_s(pid: int) -> float:
    """What it has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def chat(system: System, key: str = "tenant") -> Answer:
    return await system.http("POST", "/v1/chat/completions", json.dumps(ASK).encode(), key)


async def new_tenant(system: System, name: str) -> str:
    """The key of a tenant that no request has been booked for yet."""
    assert (await system.admin("POST", "/tenants", {"id": name, "name": name})).status == 201
    return str((await system.admin("POST", f"/tenants/{name}/keys", {"name": ""})).body["key"])


async def requests_booked(system: System, tenant: str) -> int:
    return int((await system.admin("GET", f"/usage?tenant={tenant}")).body["data"][0]["requests"])


async def test_a_gateway_with_too_few_descriptors_refuses_connections_and_answers_probes(
    system: System,
) -> None:
    pid = gateway_of(system)
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (FEW, before[1]))
    host, port = system.url.removeprefix("http://").split(":")
    async with AsyncExitStack() as stack:
        for _ in range(IDLE):
            _, writer = await asyncio.open_connection(host, int(port))
            stack.callback(writer.close)
        await asyncio.sleep(2 * PATIENCE_S)  # until then, refused ones hold what is kept back
        refused = await chat(system)
        assert (refused.status, refused.body["error"]["type"]) == (503, "service_unavailable")
        assert (await system.http("GET", "/healthz", key=None)).status == 200
    assert gateway_of(system) == pid, "it has not died of it"

    async def is_well() -> bool:
        return (await chat(system)).status == 200

    await eventually(is_well, "clients are served again", within_s=10 * PATIENCE_S)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


async def test_a_gateway_without_a_descriptor_left_neither_dies_nor_spins_and_is_well_afterwards(
    system: System,
) -> None:
    pid = gateway_of(system)
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (FEW, before[1]))
    host, port = system.url.removeprefix("http://").split(":")
    try:
        async with AsyncExitStack() as stack:
            for _, writer in await asyncio.gather(
                *(asyncio.open_connection(host, int(port)) for _ in range(MANY))
            ):
                stack.callback(writer.close)
            begun, used = time.monotonic(), cpu_s(pid)
            await asyncio.sleep(4 * PATIENCE_S)
            share = (cpu_s(pid) - used) / (time.monotonic() - begun)
        assert share < MOST_CPU

        async def is_well() -> bool:
            return (await chat(system)).status == 200

        await eventually(is_well, "clients are served with no more descriptors than before", 20 * PATIENCE_S)
        assert (await system.http("GET", "/healthz", key=None)).status == 200
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    assert gateway_of(system) == pid, "it has not died of it"


async def test_a_full_disk_under_logs_and_spool_costs_no_request_and_no_report(system: System) -> None:
    pid = gateway_of(system)
    key = await new_tenant(system, "diskless")
    hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, hard))
    try:
        assert [(await chat(system, key)).status for _ in range(5)] == [200] * 5
        ready = await system.http("GET", "/readyz", key=None)
        assert (ready.status, "spool" in json.dumps(ready.body)) == (503, True)
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))

    async def is_ready() -> bool:
        return (await system.http("GET", "/readyz", key=None)).status == 200

    await eventually(is_ready, "with space on its disk the gateway is ready again")
    assert (await chat(system, key)).status == 200

    async def all_are_booked() -> bool:
        return await requests_booked(system, "diskless") == 6

    await eventually(all_are_booked, "every request is in the ledger, once")
    assert gateway_of(system) == pid


async def test_a_gateway_whose_log_nobody_takes_serves_and_stops_as_ever(fresh_nats_url: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "synaxis_gateway"),
        env={
            **{name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ},
            "SYNAXIS_NATS_URL": fresh_nats_url,
            "SYNAXIS_HTTP_HOST": "127.0.0.1",
            "SYNAXIS_HTTP_PORT": str(port),
            "SYNAXIS_ADMIN_KEY": "admin",
            "SYNAXIS_KEY_PEPPER": "pepper",
            "SYNAXIS_LOG_LEVEL": "DEBUG",
        },
        stderr=writing,
    )
    os.close(writing)
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:

            async def is_alive() -> bool:
                try:
                    async with session.get("/healthz") as answer:
                        return answer.status == 200
                except aiohttp.ClientConnectionError:
                    return False

            await eventually(is_alive, "the gateway has started", within_s=30)
            async with session.post("/v1/chat/completions", json=ASK) as answer:
                assert answer.status == 401
            assert await is_alive()
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 30) in (0, NOT_FLUSHED)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_when_neither_disk_nor_bus_takes_reports_limited_tenants_are_refused(
    fresh_nats_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(_descriptor: int, _data: bytes) -> int:
        raise OSError(28, "No space left on device")

    async with FakeProvider("good") as good:
        one = candidate(good)
        async with running_gateway(fresh_nats_url, one, spool_dir=tmp_path) as rig:
            assert (await post(rig, ASK))[0] == 200
            bus = await nats.connect(fresh_nats_url)
            await rig.report()
            await bus.jetstream().delete_stream(subjects.STREAM_USAGE)
            with monkeypatch.context() as full:
                full.setattr(os, "write", no_space)
                assert (await post(rig, ASK))[0] == 200, "there are no limits to be broken"
                rig.decide = lambda request: plan(request, one, permit=granted(request))
                await rig.tell(PlansStale(tenants=("acme",)))

                async def is_refused() -> bool:
                    return (await post(rig, ASK))[0] == 503

                await eventually(is_refused, "a tenant with limits is refused")

            async def is_served() -> bool:
                return (await post(rig, ASK))[0] == 200

            await eventually(is_served, "with space on the disk it is served again")
            await bus.close()
