"""`synaxis up` with real services: who gets which key, what comes back after a crash, what is refused."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from tests.support.models_dev import ModelsDevServer
from tests.support.registry import eventually
from tests.support.system import System
from tests.support.upstream import FakeProvider

KEY = "sk-alpha-0123456789abcdef0123456789"
MODEL = "talker-2-mini"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory that every user may pass on the way to."""
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)
    return tmp_path / "data"


def holders(system: System, value: str) -> set[str]:
    """The names of the processes whose environment holds `value`."""
    pids = {
        name: found if isinstance(found, list) else [found] for name, found in system.info["pids"].items()
    }
    return {
        name
        for name, numbers in pids.items()
        for number in numbers
        if value.encode() in Path(f"/proc/{number}/environ").read_bytes()
    }


async def chat(system: System) -> tuple[int, str | None]:
    """The status of one request, and who answered it."""
    async with system.openai() as client:
        answer = await client.chat.completions.with_raw_response.create(
            model=MODEL, messages=[{"role": "user", "content": "Hello"}]
        )
    return answer.status_code, answer.headers.get("x-synaxis-provider")


async def test_a_key_switches_its_provider_on_and_reaches_only_who_calls_providers() -> None:
    with ModelsDevServer.of_small_world() as models_dev:
        environment = {"SYNAXIS_MODELS_DEV_URL": models_dev.url, "ALPHA_API_KEY": KEY}
        async with System.started(environment) as system:
            assert system.info["providers"] == ["alpha"]
            assert holders(system, KEY) == {"gateway", "discovery"}
            assert holders(system, system.info["admin_key"]) == {"gateway", "registry"}
            assert holders(system, system.info["database_url"]) == {"registry"}
            rows = await system.query("SELECT * FROM provider")
            assert KEY not in repr(rows)
            system.process.send_signal(signal.SIGINT)
            assert await asyncio.wait_for(system.process.wait(), 30) == 0
            log = system.log.read_text()
            for secret in (KEY, system.info["admin_key"], system.info["tenant_key"]):
                assert secret not in log


@pytest.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    provider = FakeProvider("mine", models=["acme/talker-2-mini"])
    await provider.start()
    yield provider
    await provider.stop()


async def test_killed_servers_come_back_and_a_provider_of_the_operators_replaces_the_demo(
    data: Path, provider: FakeProvider
) -> None:
    body = {"base_url": provider.base_url, "kind": "openai", "api_key_env": None}
    with ModelsDevServer.of_small_world() as models_dev:
        environment = {"SYNAXIS_MODELS_DEV_URL": models_dev.url}
        async with System.started(environment, data_dir=data) as system:
            assert system.info["providers"] == ["demo-swift", "demo-thrifty"]
            for name in ("postgres", "nats-server"):
                os.kill(system.info["pids"][name], signal.SIGKILL)

            async def takes_a_provider() -> bool:
                try:
                    return (await system.admin("PUT", "/providers/mine", body)).status == 200
                except (aiohttp.ClientError, TimeoutError):
                    return False

            # A request that was under way when the bus went away is answered only by its 15 s timeout.
            await eventually(takes_a_provider, "the registry writes again", within_s=40)

            async def serves() -> bool:
                rows = (await system.admin("GET", "/provider-models?provider=mine&available=true")).body
                return "data" in rows and len(rows["data"]) == 1

            await eventually(serves, "the provider's models are found")
            assert await chat(system) == (200, "mine")
            log = system.log.read_text()
            assert "Postgres ended; started again" in log
            assert "nats-server ended; started again" in log
        async with System.started(environment, data_dir=data) as system:
            assert system.info["providers"] == ["mine"]
            assert (await system.admin("GET", "/providers/demo-swift")).status == 404
            assert await chat(system) == (200, "mine")


async def refusal(data: Path, **environment: str) -> str:
    """What `synaxis up` says when it cannot start."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "synaxis_cli.main", "up", "--data-dir", str(data)),
        env={"PATH": os.environ["PATH"], "SYNAXIS_HTTP_PORT": "0", **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, said = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 1
    assert out == b""
    return said.decode().splitlines()[-1]


async def test_a_port_that_is_taken_is_named(data: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        said = await refusal(data, SYNAXIS_HTTP_PORT=str(port))
    assert said.startswith(f"synaxis: port {port} is taken")


async def test_a_wrong_setting_ends_it_at_once_and_is_named(data: Path) -> None:
    said = await refusal(data, SYNAXIS_SYNC_SCHEDULE="now and then")
    assert said == "synaxis: the settings of sync are wrong; it says above which"
