"""The whole system with a quick upstream, each process on its core, and a tenant with every kind of limit."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
from tests.bench import pinning
from tests.bench.pinning import Busy, Cores
from tests.bench.upstream import MODEL
from tests.support.registry import eventually
from tests.support.system import System

MANY = 10_000_000
"""A limit that counts and never refuses."""
LOAD_WITHIN_S = 120.0
LEDGER_WITHIN_S = 60.0
LEDGER_LOOK_S = 0.1
NICE = ("registry", "postgres", "sync", "discovery")
"""What stores and sums up waits for what asks and answers, so that the load generator is not starved."""


LOGS = {"SYNAXIS_LOG_LEVEL": "INFO"}
"""A line a request, into a file."""


class NotPrepared(Exception):
    """The system did not take what the benchmark needs."""


def prompt(text: str, *, stream: bool = False) -> bytes:
    """A request's body, without white space between its parts, as OpenAI's clients write it."""
    body: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": text}]}
    if stream:
        body = {"model": MODEL, "stream": True, "messages": body["messages"]}
    return json.dumps(body, separators=(",", ":")).encode()


@dataclass
class Stage:
    """What is measured. Use `Stage.ready()`."""

    system: System
    cores: Cores
    upstream: asyncio.subprocess.Process
    upstream_url: str
    key: str
    session: aiohttp.ClientSession

    @classmethod
    @asynccontextmanager
    async def ready(cls) -> AsyncIterator[Stage]:
        """Start everything, and warm it up."""
        cores = Cores.of_this_machine()
        with pinning.staying_off_the_gateways_core(cores):
            async with running_upstream() as (process, url), System.started(LOGS) as system:
                pids = system.info["pids"]
                for gateway in pids["gateway"]:
                    pinning.pin(gateway, cores.gateway)
                for name in NICE:
                    for pid in _as_list(pids[name]):
                        pinning.be_nice(pid)
                key = await _prepare(system, url)
                async with aiohttp.ClientSession() as session:
                    yield cls(system, cores, process, url, key, session)

    @property
    def gateway(self) -> int:
        """Its process id."""
        return int(self.system.info["pids"]["gateway"][0])

    @property
    def direct(self) -> str:
        """Where the upstream answers."""
        return f"{self.upstream_url}/chat/completions"

    @property
    def through(self) -> str:
        """Where the gateway answers."""
        return f"{self.system.url}/v1/chat/completions"

    async def load(self, url: str, body: bytes, *arguments: str) -> dict[str, Any]:
        """What a load generator tells. Raises RuntimeError when it fails, TimeoutError."""
        return await load(url, self.key, body, *arguments)

    async def counters(self, name: str, label: str) -> dict[str, float]:
        """A counter of the gateway by its label."""
        async with self.session.get(f"{self.system.url}/metrics") as answer:
            text = await answer.text()
        found = re.findall(rf'^{name}\{{{label}="([^"]+)"\}} (\S+)', text, re.MULTILINE)
        return {each: float(number) for each, number in found}

    async def in_ledger(self) -> int:
        """How many requests of our tenant the ledger has."""
        answer = await self.system.admin("GET", "/usage?group_by=tenant&tenant=busy")
        return sum(int(row["requests"]) for row in answer.body["data"])

    async def ledger_lag(self, requests: int) -> tuple[float, int]:
        """Wait until the ledger has so many; answers how many seconds that took, and how many are missing.

        None is, unless `LEDGER_WITHIN_S` is not enough.
        """
        begun = time.perf_counter()
        while (missing := requests - await self.in_ledger()) > 0:
            if time.perf_counter() - begun > LEDGER_WITHIN_S:
                break
            await asyncio.sleep(LEDGER_LOOK_S)
        return time.perf_counter() - begun, missing

    def meter(self) -> Meter:
        """What everybody has taken so far."""
        pids = self.system.info["pids"]
        own = {"gateway": self.gateway, "upstream": self.upstream.pid}
        others = {name: pids[name] for name in ("nats-server", "registry", "postgres")}
        return Meter(
            cpu_s={name: pinning.cpu_s(pid) for name, pid in own.items()}
            | {
                name: sum(pinning.cpu_of_family_s(pid) for pid in _as_list(found))
                for name, found in others.items()
            },
            at=time.perf_counter(),
            gateways_core=Busy.now(self.cores.gateway),
            other_cores=Busy.now(self.cores.others),
        )


@dataclass(frozen=True, slots=True)
class Meter:
    """CPU seconds by process, and how busy the cores were."""

    cpu_s: Mapping[str, float]
    at: float
    gateways_core: Busy
    other_cores: Busy

    def cpu_us_each(self, later: Meter, count: int, names: tuple[str, ...]) -> dict[str, float]:
        """Microseconds of CPU by process for each of so many requests or events."""
        return {
            f"{name}_cpu_us": round((later.cpu_s[name] - self.cpu_s[name]) / max(count, 1) * 1e6, 1)
            for name in names
        }

    def shares(self, later: Meter) -> dict[str, float | str]:
        """How much of its core each took, and what had no more to give."""
        seconds = later.at - self.at
        gateway = (later.cpu_s["gateway"] - self.cpu_s["gateway"]) / seconds
        upstream = (later.cpu_s["upstream"] - self.cpu_s["upstream"]) / seconds
        busy, stolen = later.gateways_core.share_since(self.gateways_core)
        others_busy, others_stolen = later.other_cores.share_since(self.other_cores)
        return {
            "gateway_share": round(gateway, 2),
            "upstream_share": round(upstream, 2),
            "gateways_core_share": round(busy, 2),
            "other_cores_share": round(others_busy, 2),
            "stolen_share": round(max(stolen, others_stolen), 2),
            "limited_by": limited_by(gateway, busy, others_busy),
        }


async def load(url: str, key: str, body: bytes, *arguments: str) -> dict[str, Any]:
    """What a load generator tells. Raises RuntimeError when it fails, TimeoutError."""
    async with generator("load", url, key, body, *arguments) as out, asyncio.timeout(LOAD_WITHIN_S):
        found: dict[str, Any] = json.loads(await told(out))
        return found


@asynccontextmanager
async def generator(
    module: str, url: str, key: str, body: bytes, *arguments: str
) -> AsyncIterator[asyncio.StreamReader]:
    """A load generator in a process of its own; answers its standard output.

    Raises RuntimeError when it ends with an error.
    """
    with tempfile.NamedTemporaryFile() as file:
        file.write(body)
        file.flush()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", f"tests.bench.{module}", url, "--key", key),
            *("--body", file.name, *arguments),
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        is_done = False
        try:
            yield process.stdout
            is_done = True
        finally:
            if not is_done and process.returncode is None:
                process.kill()
            status = await process.wait()
    if status:
        raise RuntimeError(f"the load generator ended with {status}")


async def told(out: asyncio.StreamReader) -> bytes:
    """A line of a load generator. Raises RuntimeError when it has ended."""
    line = await out.readline()
    if not line:
        raise RuntimeError("the load generator ended without a word; see above")
    return line


FULL = 0.93
"""Of a core: there is always a tick that the kernel takes."""


def limited_by(gateway: float, gateways_core: float, other_cores: float) -> str:
    """What a closed loop could not get more of."""
    if gateway >= FULL:
        return "the gateway"
    if gateways_core >= FULL:
        return "strangers on the gateway's core"
    return "the other cores" if other_cores >= FULL else "nobody"


def _as_list(pids: int | list[int]) -> list[int]:
    return pids if isinstance(pids, list) else [pids]


@asynccontextmanager
async def running_upstream() -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """The upstream, and the root under which it serves."""
    async with serving("tests.bench.upstream") as (process, url):
        yield process, f"{url}/v1"


@asynccontextmanager
async def serving(*module: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A server in a process of its own, which prints its port first, and where it serves."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *module, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        port = int(await process.stdout.readline())
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        await process.communicate()


async def _prepare(system: System, upstream_url: str) -> str:
    """Tell the system of the upstream and the tenant; answers the tenant's key. Raises NotPrepared."""

    async def ask(method: str, path: str, body: Any = None) -> Any:
        answer = await system.admin(method, path, body)
        if answer.status >= 300:
            raise NotPrepared(f"{method} {path}: {answer.status} {answer.body}")
        return answer.body

    await ask("PUT", "/providers/alpha", {"base_url": upstream_url, "kind": "openai", "api_key_env": None})

    async def serves() -> bool:
        return len((await ask("GET", "/provider-models?provider=alpha&available=true"))["data"]) == 1

    await eventually(serves, "the upstream is found")
    await ask("PATCH", f"/provider-models/alpha/{MODEL}", {"input_price": "0.1", "output_price": "0.4"})
    await ask("POST", "/tenants", {"id": "busy", "name": "Busy"})
    limit = {"allowed_rpm": MANY, "allowed_tpm": 2**40, "monthly_budget_usd": str(MANY)}
    await ask("PUT", "/tenants/busy/limits/*", limit)
    made = await ask("POST", "/tenants/busy/keys", {"name": "bench"})
    await ask("PUT", f"/tenants/busy/keys/{made['key_id']}/limits", {"allowed_rpm": MANY})
    return str(made["key"])
