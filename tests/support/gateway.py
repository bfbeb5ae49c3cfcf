"""A gateway in this process, on a real bus, with a registry that answers what a test tells it."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import aiohttp
import openai
from nats.aio.msg import Msg
from pydantic import SecretStr
from tests.support.upstream import FakeProvider

from synaxis_common import ids, subjects
from synaxis_common.bus import Bus
from synaxis_common.clock import SystemClock
from synaxis_common.contracts.admin import AdminReply, AdminRequest, AdminStatus
from synaxis_common.contracts.catalog import Prices
from synaxis_common.contracts.leases import (
    GatewayAlive,
    GatewayAliveReply,
    LeaseReturn,
    LeaseReturned,
    Permit,
    PlansStale,
    ProviderLease,
    ProviderLeaseAsk,
    SlotGrant,
)
from synaxis_common.contracts.routing import (
    Candidate,
    ModelsPage,
    ModelsRequest,
    RoutePlan,
    RouteRefusal,
    RouteReply,
    RouteRequest,
    Timeouts,
)
from synaxis_common.contracts.usage import CallReport, split_reports
from synaxis_common.health import Health
from synaxis_common.service import Runtime
from synaxis_common.tasks import TaskSupervisor
from synaxis_gateway.app import serving
from synaxis_gateway.settings import GatewaySettings

ADMIN_KEY = "admin-key-of-the-tests"
PEPPER = "pepper-of-the-tests"
QUICK = Timeouts(connect_s=5.0, first_token_s=1.0, between_tokens_s=1.0, total_s=5.0)
"""Short for who waits until they are over, and long enough for a provider that answers on a busy machine."""
PRICES = Prices(input=Decimal("0.10"), output=Decimal("0.30"))


def candidate(provider: FakeProvider, **changes: Any) -> Candidate:
    """A candidate that `provider` serves."""
    return Candidate(
        **{
            "provider_id": provider.name,
            "provider_model_id": f"{provider.name}/model",
            "global_model_id": "test-model",
            "base_url": provider.base_url,
            "kind": "openai",
            "allow_private": True,
            "timeouts": QUICK,
            "prices": PRICES,
            **changes,
        }
    )


Decide = Callable[[RouteRequest], RoutePlan | RouteRefusal]


@dataclass
class Rig:
    """A running gateway and what its surroundings saw."""

    url: str
    decide: Decide
    health: Health
    stop: Callable[[], None]
    tenant_key: str = field(default_factory=lambda: ids.new_tenant_key().key)
    route_requests: list[RouteRequest] = field(default_factory=list)
    reports: list[CallReport] = field(default_factory=list)
    returns: list[LeaseReturn] = field(default_factory=list)
    provider_leases: Callable[[ProviderLeaseAsk], ProviderLease] = field(
        default=lambda ask: ProviderLease(
            lease_id=ask.lease_id, permits=ask.permits, tokens=ask.permits * ask.tokens_each
        )
    )
    provider_asks: list[ProviderLeaseAsk] = field(default_factory=list)
    alive: list[GatewayAlive] = field(default_factory=list)
    hints: Callable[[PlansStale], Awaitable[None]] | None = None
    quiet: Callable[[], Awaitable[None]] | None = None
    admin_requests: list[tuple[str, AdminRequest, Mapping[str, str], bytes]] = field(default_factory=list)
    admin_reply: AdminReply = field(
        default_factory=lambda: AdminReply(status=AdminStatus.OK, body={"data": []})
    )
    models: Callable[[ModelsRequest], ModelsPage] = field(default=lambda _request: ModelsPage())
    clients: list[openai.AsyncOpenAI] = field(default_factory=list)
    news: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def headers(self) -> dict[str, str]:
        """With a tenant's key, and a client's patience."""
        return {"Authorization": f"Bearer {self.tenant_key}"}

    def openai(self, **options: Any) -> openai.AsyncOpenAI:
        """The official client, without its own retries."""
        client = openai.AsyncOpenAI(
            base_url=f"{self.url}/v1", api_key=self.tenant_key, **{"max_retries": 0, "timeout": 20, **options}
        )
        self.clients.append(client)
        return client

    async def report(self, number: int = 1, timeout: float = 25.0) -> CallReport:
        """The `number`-th call report, waiting for it."""
        async with asyncio.timeout(timeout), self.news:
            await self.news.wait_for(lambda: len(self.reports) >= number)
        return self.reports[number - 1]

    async def lease_return(self, timeout: float = 25.0) -> LeaseReturn:
        """The first lease that was given back."""
        async with asyncio.timeout(timeout), self.news:
            await self.news.wait_for(lambda: bool(self.returns))
        return self.returns[0]

    def serve(self, *candidates: Candidate, **changes: Any) -> None:
        """Have every request whose shape is new routed to these candidates."""
        self.decide = lambda request: plan(request, *candidates, **changes)

    async def serve_now(self, *candidates: Candidate, **changes: Any) -> None:
        """Have every request routed to these candidates from now on."""
        self.serve(*candidates, **changes)
        await self.tell(PlansStale(tenants=("acme",)))

    async def silence(self) -> None:
        """From now on no registry answers a question for a plan."""
        assert self.quiet is not None
        await self.quiet()

    async def tell(self, hint: PlansStale) -> None:
        """Tell the gateway that plans have become wrong, and wait until it has heard."""
        assert self.hints is not None
        await self.hints(hint)


def granted(request: RouteRequest, permits: int | None = None, **changes: Any) -> Permit:
    """The lease that `request` asks for, or one of `permits`."""
    assert request.lease is not None
    number = request.lease.permits if permits is None else permits
    each = {"usd_each": Decimal(0), "tokens_each": 0, **changes}
    return Permit(
        **{
            "lease_id": request.lease.lease_id,
            "permits": number,
            "expires_in_s": 2.0,
            "reserved_usd": number * each["usd_each"] or request.lease.usd,
            "tokens": number * each["tokens_each"],
            **each,
        }
    )


def plan(request: RouteRequest, *candidates: Candidate, **changes: Any) -> RoutePlan:
    """The plan for `request`."""
    return RoutePlan(
        **{
            "request_id": request.request_id,
            "tenant_id": "acme",
            "key_id": "key-1",
            "global_model_id": "test-model",
            "candidates": candidates,
            **changes,
        }
    )


@asynccontextmanager
async def running_gateway(
    nats_url: str,
    *candidates: Candidate,
    environment: Mapping[str, str] | None = None,
    registry: bool = True,
    **settings: Any,
) -> AsyncIterator[Rig]:
    """A gateway whose registry plans `candidates`; without `registry` nobody answers."""
    configured = GatewaySettings(
        **{
            "nats_url": SecretStr(nats_url),
            "http_host": "127.0.0.1",
            "http_port": 0,
            "admin_key": SecretStr(ADMIN_KEY),
            "key_pepper": SecretStr(PEPPER),
            "shutdown_grace_s": 6.0,
            **settings,
        }
    )
    surroundings, bus = Bus(configured, "surroundings"), Bus(configured, "gateway")
    await surroundings.connect()
    await bus.connect()
    runtime = Runtime(bus=bus, tasks=TaskSupervisor(), health=Health(), clock=SystemClock())
    stop = asyncio.Event()
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def live() -> None:
        async with serving(runtime, configured, environment or {}) as server:
            ready.set_result(f"http://127.0.0.1:{server.port}")
            await stop.wait()
        await runtime.tasks.stop()

    life = asyncio.create_task(live())
    waiting: set[asyncio.Future[Any]] = {life, ready}
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    if life.done():
        life.result()
    rig = Rig(ready.result(), lambda request: plan(request, *candidates), runtime.health, stop.set)
    await _surround(surroundings, rig, registry=registry)
    try:
        yield rig
    finally:
        for client in rig.clients:
            await client.close()
        stop.set()
        async with asyncio.timeout(15):
            await life
        await bus.close()
        await surroundings.close()


async def _surround(bus: Bus, rig: Rig, *, registry: bool) -> None:
    async def routed(message: Msg) -> None:
        request = RouteRequest.model_validate_json(message.data)
        rig.route_requests.append(request)
        await message.respond(RouteReply(answer=rig.decide(request)).to_bytes())

    async def listed(message: Msg) -> None:
        await message.respond(rig.models(ModelsRequest.model_validate_json(message.data)).to_bytes())

    async def administered(message: Msg) -> None:
        request = AdminRequest.model_validate_json(message.data)
        verb = message.subject.removeprefix(f"{subjects.ADMIN}.")
        rig.admin_requests.append((verb, request, message.headers or {}, message.data))
        await message.respond(rig.admin_reply.to_bytes())

    async def reported(message: Msg) -> None:
        async with rig.news:
            rig.reports += map(CallReport.model_validate_json, split_reports(message.data))
            rig.news.notify_all()

    async def returned(message: Msg) -> None:
        returned = LeaseReturn.model_validate_json(message.data)
        await message.respond(LeaseReturned(lease_id=returned.lease_id).to_bytes())
        async with rig.news:
            rig.returns.append(returned)
            rig.news.notify_all()

    async def leased(message: Msg) -> None:
        ask = ProviderLeaseAsk.model_validate_json(message.data)
        rig.provider_asks.append(ask)
        await message.respond(rig.provider_leases(ask).to_bytes())

    async def lives(message: Msg) -> None:
        said = GatewayAlive.model_validate_json(message.data)
        grants = tuple(SlotGrant(scope=scope, slots=slots) for scope, slots in said.slots.items())
        await message.respond(GatewayAliveReply(slots=grants).to_bytes())
        async with rig.news:
            rig.alive.append(said)
            rig.news.notify_all()

    async def hint(stale: PlansStale) -> None:
        await bus.publish(subjects.PLANS_STALE, stale)
        await bus.client.flush()
        await asyncio.sleep(0.05)  # the gateway's own connection reads it next

    rig.hints = hint

    if registry:
        routes = await bus.client.subscribe(subjects.ROUTE, queue=subjects.QUEUE_REGISTRY, cb=routed)
        rig.quiet = routes.unsubscribe
        await bus.client.subscribe(subjects.MODELS, queue=subjects.QUEUE_REGISTRY, cb=listed)
        await bus.client.subscribe(f"{subjects.ADMIN}.>", queue=subjects.QUEUE_REGISTRY, cb=administered)
        await bus.client.subscribe(subjects.LEASE_ALIVE, queue=subjects.QUEUE_REGISTRY, cb=lives)
        await bus.client.subscribe(subjects.LEASE_PROVIDER, queue=subjects.QUEUE_REGISTRY, cb=leased)
    await bus.client.subscribe(subjects.USAGE, cb=reported)
    await bus.client.subscribe(subjects.LEASE_RETURN, cb=returned)
    await bus.client.flush()


async def post(
    rig: Rig, body: Any, path: str = "/v1/chat/completions", **options: Any
) -> tuple[int, Any, Any]:
    """POST `body` (bytes, pieces of them, or an object); answers status, headers and the parsed answer."""
    if isinstance(body, dict):
        body = json.dumps(body).encode()
        options = {"headers": {**rig.headers, "Content-Type": "application/json"}, **options}
    if isinstance(body, bytes) and len(body) > 1_000_000:
        body = io.BytesIO(body)
    options = {"headers": rig.headers, **options}
    async with (
        aiohttp.ClientSession() as session,
        session.post(rig.url + path, data=body, **options) as answer,
    ):
        return answer.status, answer.headers, await answer.json(content_type=None)
