"""`synaxis up`, as a newcomer meets it: no keys, no servers, then Ctrl-C, then again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.support.models_dev import SHARED, ModelsDevServer
from tests.support.registry import eventually
from tests.support.system import System

ASK: dict[str, Any] = {"model": "demo-chat-1", "messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture
def of_small_world() -> Iterator[dict[str, str]]:
    """The environment of a system that need not take in the whole of models.dev."""
    with ModelsDevServer.of_small_world() as models_dev:
        yield {"SYNAXIS_MODELS_DEV_URL": models_dev.url}


def all_pids(found: object) -> Iterator[int]:
    """Every process id in `pids` of the JSON line."""
    if isinstance(found, int):
        yield found
    elif isinstance(found, dict):
        for value in found.values():
            yield from all_pids(value)
    elif isinstance(found, list):
        for value in found:
            yield from all_pids(value)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def none_alive(pids: list[int]) -> bool:
    return not any(is_alive(pid) for pid in pids)


async def test_without_a_key_demo_providers_answer_fail_over_and_the_state_survives(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    data = tmp_path / "data"
    async with System.started(data_dir=data) as system:
        assert system.info["providers"] == ["demo-swift", "demo-thrifty"]
        assert system.info["models"] == 1
        async with system.openai() as client:
            raw = await client.chat.completions.with_raw_response.create(**ASK)
            assert raw.headers["x-synaxis-provider"] == "demo-thrifty"
            assert Decimal(raw.headers["x-synaxis-cost-usd"]) > 0
            row = (await system.admin("GET", "/providers/demo-thrifty")).body
            async with aiohttp.ClientSession() as session:
                fail = row["base_url"].removesuffix("/v1") + "/demo/fail"
                async with session.post(fail, json={"mode": "500"}) as answer:
                    assert answer.status == 200
            stream = await client.chat.completions.create(**ASK, stream=True)
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
            assert "demo-swift" in text
        pids = list(all_pids(system.info["pids"]))
        assert len(pids) == 6
        first = system.info
    assert await none_alive(pids), "a stopped system leaves no process"
    async with System.started(data_dir=data) as system:
        assert system.info["tenant_key"] == first["tenant_key"]
        assert system.info["admin_key"] == first["admin_key"]

        async def both_settled() -> bool:
            return int((await system.admin("GET", "/usage")).body["data"][0]["requests"]) == 2

        await eventually(both_settled, "both requests are in the ledger", within_s=20)
        async with system.openai() as client:
            assert (await client.models.list()).data[0].id == "demo-chat-1"


async def test_a_killed_service_is_started_again_and_a_killed_up_leaves_nobody(
    of_small_world: dict[str, str],
) -> None:
    async with System.started(of_small_world) as system:
        gateway = system.info["pids"]["gateway"][0]
        os.kill(gateway, signal.SIGKILL)

        async def answers() -> bool:
            try:
                return not is_alive(gateway) and (await system.http("GET", "/v1/models")).status == 200
            except aiohttp.ClientError:
                return False

        await eventually(answers, "the gateway is back")
        assert "started again" in system.log.read_text()
        pids = list(all_pids(system.info["pids"]))
        os.kill(system.process.pid, signal.SIGKILL)
        await eventually(lambda: none_alive(pids), "all children end with their parent")


async def test_a_second_up_on_the_same_directory_refuses_and_harms_nothing(
    of_small_world: dict[str, str],
) -> None:
    async with System.started(of_small_world) as system:
        data = system.log.parent / "data"
        second = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "synaxis_cli.main", "up", "--data-dir", str(data)),
            env={"PATH": os.environ["PATH"], "SYNAXIS_HTTP_PORT": "0"},
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await asyncio.wait_for(second.communicate(), 30)
        assert second.returncode == 1
        assert b"another `synaxis up` is running" in said
        assert (await system.http("GET", "/v1/models")).status == 200


async def test_the_whole_of_models_dev_is_taken_in_exactly() -> None:
    """With the real documents where they lie beside the checkout, else with a small world."""
    server = ModelsDevServer.of_shared() if SHARED.is_dir() else ModelsDevServer.of_small_world()
    wanted = json.loads(server.documents["/api.json"], parse_float=Decimal)
    with server:
        async with System.started({"SYNAXIS_MODELS_DEV_URL": server.url}) as system:
            rows = await system.query("SELECT * FROM provider_model")
    found = {
        (row["provider_id"], row["provider_model_id"]): row for row in rows if row["provider_id"] in wanted
    }
    expected = {
        (provider_id, model_id): model.get("cost", {})
        for provider_id, provider in wanted.items()
        for model_id, model in provider["models"].items()
    }
    assert found.keys() == expected.keys()
    for key, cost in expected.items():
        for name, column in (("input", "input_price"), ("output", "output_price")):
            price = None if cost.get(name) is None else Decimal(cost[name])
            assert found[key][column] == price, (key, name)
