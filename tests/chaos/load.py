"""Clients: everybody asks for more than is allowed, and writes down what came of each request."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import openai
from tests.chaos.auditor import MARKER
from tests.chaos.world import Tenant

PATIENCE_S = 12.0
"""How long a client waits; a gateway that is stopped for longer loses it."""
PADDING_BYTES = 400


@dataclass
class Seen:
    """One request as its client saw it."""

    tenant: str
    stream: bool
    asked: float
    """Monotonic seconds."""
    took_s: float = 0.0
    status: int | None = None
    """None: no answer."""
    code: str | None = None
    """Of an error, or how the connection failed."""
    request_id: str | None = None
    is_complete: bool = False
    """The whole answer came, with its proper end."""
    retry_after: bool = False

    @property
    def result(self) -> str:
        """A word or two for the table."""
        if self.is_complete:
            return "200 complete"
        return f"{self.status or 'no answer'} {self.code or 'cut'}"


@dataclass
class Load:
    """All clients of a run. `keys` are by tenant."""

    url: str
    tenants: tuple[Tenant, ...]
    keys: Mapping[str, list[str]]
    seed: int
    seen: list[Seen] = field(default_factory=list)

    async def run(self, seconds: float) -> None:
        """Ask for `seconds`, and wait for the last answers."""
        # Half of the connections are new ones, so that gateways which came back are found.
        lasting = aiohttp.TCPConnector(limit=0)
        fleeting = aiohttp.TCPConnector(limit=0, force_close=True)
        timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
        async with (
            aiohttp.ClientSession(connector=lasting, timeout=timeout) as one,
            aiohttp.ClientSession(connector=fleeting, timeout=timeout) as other,
            asyncio.TaskGroup() as tasks,
        ):
            for number, tenant in enumerate(self.tenants):
                dice = random.Random(f"{self.seed}/{number}")
                tasks.create_task(self._tenant(tenant, (one, other), dice, time.monotonic() + seconds))

    async def _tenant(
        self,
        tenant: Tenant,
        sessions: tuple[aiohttp.ClientSession, aiohttp.ClientSession],
        dice: random.Random,
        end: float,
    ) -> None:
        under_way: set[asyncio.Task[None]] = set()
        number = 0
        due = time.monotonic() + dice.random()
        async with asyncio.TaskGroup() as tasks:
            while due < end:
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                due += dice.expovariate(tenant.per_s)
                number += 1
                if len(under_way) >= tenant.at_once:
                    continue
                key = dice.randrange(len(tenant.key_limits))
                body = _body(tenant, key, dice, number)
                seen = Seen(tenant.name, bool(body["stream"]), time.monotonic())
                self.seen.append(seen)
                secret = self.keys[tenant.name][key]
                if tenant.by_official_client and number % 4 == 0:
                    work = self._ask_officially(body, secret, seen)
                else:
                    work = self._ask(dice.choice(sessions), body, secret, seen)
                task = tasks.create_task(work)
                under_way.add(task)
                task.add_done_callback(under_way.discard)

    async def _ask(self, session: aiohttp.ClientSession, body: dict[str, Any], key: str, seen: Seen) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        try:
            async with session.post(
                f"{self.url}/v1/chat/completions", json=body, headers=headers
            ) as response:
                seen.status = response.status
                seen.request_id = response.headers.get("x-request-id")
                seen.retry_after = "retry-after" in response.headers
                data = await response.read()
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            seen.code = type(error).__name__
            return
        finally:
            seen.took_s = time.monotonic() - seen.asked
        if seen.status != 200:
            seen.code = _error_code(data)
        elif body["stream"]:
            seen.is_complete = data.rstrip().endswith(b"data: [DONE]")
        else:
            seen.is_complete = bool(json.loads(data)["choices"])

    async def _ask_officially(self, body: dict[str, Any], key: str, seen: Seen) -> None:
        async with openai.AsyncOpenAI(
            base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=PATIENCE_S
        ) as client:
            try:
                raw = await client.chat.completions.with_raw_response.create(**body)
                seen.status, seen.request_id = raw.status_code, raw.headers.get("x-request-id")
                answer = raw.parse()
                if body["stream"]:
                    finished = [chunk.choices[0].finish_reason async for chunk in answer if chunk.choices]
                    seen.is_complete = bool(finished) and finished[-1] == "stop"
                else:
                    seen.is_complete = bool(answer.choices)
            except openai.APIStatusError as error:
                seen.status, seen.code = error.status_code, error.code
                seen.retry_after = "retry-after" in error.response.headers
            except openai.APIError as error:
                seen.code = type(error).__name__
            except (TimeoutError, OSError) as error:
                seen.code = type(error).__name__
            finally:
                seen.took_s = time.monotonic() - seen.asked


def _body(tenant: Tenant, key: int, dice: random.Random, number: int) -> dict[str, Any]:
    marker = {
        "tenant": tenant.name,
        "key": key,
        "n": number,
        "lie": tenant.is_lied_to,
        "strict": tenant.is_counted_in_tokens,
    }
    padding = "x" * dice.randint(0, PADDING_BYTES)
    return {
        "model": dice.choice(tenant.models),
        "messages": [{"role": "user", "content": f"{MARKER}{json.dumps(marker)}\n{padding}"}],
        "max_tokens": tenant.max_tokens,
        "stream": dice.random() < tenant.streamed,
    }


def _error_code(data: bytes) -> str | None:
    try:
        error = json.loads(data)["error"]
        return str(error.get("code") or error.get("type"))
    except (ValueError, KeyError, AttributeError):
        return "not an error of ours"
