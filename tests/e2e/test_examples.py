"""The examples, run as a user runs them: each sees a model go away and come back."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.support.events import World, gateway_at, world_at

EXAMPLES = Path(__file__).parents[2] / "examples"
MODEL = "acme/talker-2.1"
SCRIPTS = {
    "faststream_subscriber.py": [sys.executable],
    "durable_consumer.py": [sys.executable],
    "events.sh": ["/bin/sh"],
}


@asynccontextmanager
async def started(name: str, environment: Mapping[str, str]) -> AsyncIterator[asyncio.StreamReader]:
    """An example, by what it prints."""
    process = await asyncio.create_subprocess_exec(
        *SCRIPTS[name],
        str(EXAMPLES / name),
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **environment},
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        yield process.stdout
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]  # else its pipe is closed by the collector


async def next_line(output: asyncio.StreamReader) -> str:
    async with asyncio.timeout(30):
        return (await output.readline()).decode().strip()


@pytest.mark.parametrize("name", SCRIPTS)
async def test_an_example_sees_a_model_go_away_and_come_back(
    name: str, fresh_nats_url: str, fresh_database_url: str
) -> None:
    world: World
    async with world_at(fresh_nats_url, fresh_database_url) as world, gateway_at(fresh_nats_url) as gateway:
        await world.run()
        await world.flip("alpha", MODEL)
        while not gateway.hub.position:
            await asyncio.sleep(0.02)
        environment = {"NATS_URL": fresh_nats_url, "SYNAXIS_URL": gateway.url, "SYNAXIS_KEY": gateway.key}
        async with started(name, environment) as output:
            assert await next_line(output) == "subscribed"
            for kind in ("model.unavailable", "model.available"):
                await world.flip("alpha", MODEL)
                assert (await next_line(output)).split()[:2] == [kind, f"alpha/{MODEL}"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_an_example_is_short(name: str) -> None:
    assert len((EXAMPLES / name).read_text().splitlines()) < 40
