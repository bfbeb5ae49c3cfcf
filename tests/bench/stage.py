"""A system under test with one provider of ours, and a tenant that has every kind of limit."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tests.bench.processes import Pids, arrange
from tests.bench.upstream import MODEL
from tests.support.registry import eventually
from tests.support.system import System

LIMIT = {"allowed_rpm": 2**30, "allowed_tpm": 2**45, "monthly_budget_usd": "100000000"}
PRICE = {"input_price": "0.1", "output_price": "0.4"}


@dataclass(frozen=True)
class Stage:
    """What a benchmark works with."""

    system: System
    pids: Pids
    upstream_url: str
    key: str

    @property
    def direct(self) -> str:
        """Chat completions without Synaxis."""
        return f"{self.upstream_url}/chat/completions"

    @property
    def through(self) -> str:
        """Chat completions through it."""
        return f"{self.system.url}/v1/chat/completions"

    async def load(
        self, url: str, body: bytes, connections: int, seconds: float, *more: str
    ) -> dict[str, Any]:
        """Load from a process of its own."""
        with tempfile.NamedTemporaryFile() as file:
            file.write(body)
            file.flush()
            return await told(
                *("tests.bench.load", url, "--key", self.key, "--body", file.name),
                *("--connections", str(connections), "--seconds", str(seconds), *more),
            )

    async def ledger_rows(self) -> int:
        """Requests of the tenant that are in the ledger."""
        answer = await self.system.admin("GET", "/usage?tenant=busy")
        return int(answer.body["data"][0]["requests"]) if answer.body["data"] else 0


async def told(module: str, *arguments: str) -> dict[str, Any]:
    """What a module run as a process prints, which is JSON."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{module} ended with {process.returncode}")
    found: dict[str, Any] = json.loads(out)
    return found


@asynccontextmanager
async def set_up(*upstream: str) -> AsyncIterator[Stage]:
    """Everything running, on its cores. `upstream`: options of the provider."""
    provider = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.upstream", *upstream, stdout=asyncio.subprocess.PIPE
    )
    assert provider.stdout is not None
    url = f"http://127.0.0.1:{int(await provider.stdout.readline())}/v1"
    try:
        async with System.started() as system:
            key = await _furnish(system, url)
            pids = Pids.of(system.info["pids"])
            arrange(pids)
            yield Stage(system, pids, url, key)
    finally:
        provider.kill()
        await provider.wait()


async def _furnish(system: System, url: str) -> str:
    await system.admin("PUT", "/providers/alpha", {"base_url": url, "kind": "openai", "api_key_env": None})

    async def serves() -> bool:
        rows = await system.admin("GET", "/provider-models?provider=alpha&available=true")
        return rows.status == 200 and len(rows.body["data"]) == 1

    await eventually(serves, "the upstream is found")
    await system.admin("PATCH", f"/provider-models/alpha/{MODEL}", PRICE)
    await system.admin("POST", "/tenants", {"id": "busy", "name": "Busy"})
    await system.admin("PUT", "/tenants/busy/limits/*", LIMIT)
    made = await system.admin("POST", "/tenants/busy/keys", {"name": "bench"})
    return str(made.body["key"])
