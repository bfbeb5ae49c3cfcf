"""Registries in this process, on a real bus and a real database, and somebody who talks to them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from nats.js.api import RawStreamMsg
from pydantic import SecretStr

from synaxis_common import ids, subjects
from synaxis_common.bus import Bus
from synaxis_common.clock import SystemClock
from synaxis_common.contracts.admin import PROOF_HEADER, AdminReply, AdminRequest, admin_proof
from synaxis_common.contracts.catalog import (
    CatalogComplete,
    CatalogMetadata,
    CatalogModel,
    CatalogProvider,
    CatalogProviderModel,
    ModelFacts,
    Prices,
    SeenProvider,
)
from synaxis_common.contracts.events import CloudEvent
from synaxis_common.contracts.leases import LeaseAsk, LeaseDraw, LeaseReturn, LeaseReturned
from synaxis_common.contracts.observation import (
    ObservedModel,
    PollOutcome,
    ProviderObservation,
    TargetsReply,
    TargetsRequest,
)
from synaxis_common.contracts.routing import Needs, RoutePlan, RouteRefusal, RouteReply, RouteRequest
from synaxis_common.contracts.usage import (
    AttemptOutcome,
    AttemptReport,
    CallReport,
    RequestOutcome,
    TokenUsage,
)
from synaxis_common.health import Health
from synaxis_common.service import Runtime
from synaxis_common.settings import ServiceSettings
from synaxis_common.tasks import TaskSupervisor
from synaxis_registry.app import serving
from synaxis_registry.settings import RegistrySettings

ADMIN_KEY = "admin-key-of-the-tests"
PEPPER = "pepper-of-the-tests"
PROVIDERS = {"alpha": "0.10", "beta": "0.20"}
MODEL = "talker-2-mini"
PATIENCE_S = 25.0
"""A slow machine's, and yet less than the 30 s after which messages that nobody has acknowledged come again:
what only that mends is found out."""


@dataclass
class Rig:
    """One bus, one database, some registries, and a client of them."""

    bus: Bus
    database: asyncpg.Connection[asyncpg.Record]

    async def admin(self, verb: str, body: Any = None, **path: str) -> AdminReply:
        """Ask an admin verb as a gateway does."""
        payload = AdminRequest(path=path, body=body).to_bytes()
        proof = admin_proof(ADMIN_KEY, verb, payload, int(time.time()))
        return await self.bus.request_bytes(
            subjects.admin(verb), payload, AdminReply, timeout=10, headers={PROOF_HEADER: proof}
        )

    async def put_provider(self, provider_id: str) -> None:
        """A provider that needs no key."""
        body = {"base_url": f"http://127.0.0.1:9/{provider_id}/v1", "api_key_env": None}
        reply = await self.admin("provider.put", body, provider=provider_id)
        assert reply.status == "ok", reply

    async def new_key(self, tenant_id: str) -> str:
        """The hash of a new key of a tenant, which is made if it is not there."""
        await self.admin("tenant.create", {"id": tenant_id, "name": tenant_id})
        made = ids.new_tenant_key()
        key_hash = ids.key_hash(made.key, PEPPER)
        body = {"name": "", "key_id": made.key_id, "key_hash": key_hash}
        reply = await self.admin("key.create", body, tenant=tenant_id)
        assert reply.status == "created", reply
        return key_hash

    async def new_limited_key(self, tenant_id: str, model: str, limit: dict[str, Any]) -> str:
        """`new_key` of a tenant with a limit, which every registry that knows the key knows too."""
        await self.admin("tenant.create", {"id": tenant_id, "name": tenant_id})
        reply = await self.admin("limit.put", limit, tenant=tenant_id, model=model)
        assert reply.status == "ok", reply
        return await self.new_key(tenant_id)

    async def route(
        self,
        key_hash: str,
        model: str = MODEL,
        *,
        request_id: UUID | None = None,
        lease: LeaseAsk | None = None,
        **needs: Any,
    ) -> RoutePlan | RouteRefusal:
        """Ask for a plan."""
        request = RouteRequest(
            request_id=request_id or ids.uuid7(),
            key_hash=key_hash,
            model=model,
            needs=Needs(**needs),
            lease=lease,
        )
        return (await self.bus.request(subjects.ROUTE, request, RouteReply, timeout=10)).answer

    async def give_back(self, lease_id: UUID, **unused: Any) -> None:
        """Give a lease back, and wait until it is taken."""
        returned = LeaseReturn(lease_id=lease_id, tenant_id="acme", **unused)
        await self.bus.request(subjects.LEASE_RETURN, returned, LeaseReturned, timeout=10)

    async def store(self, subject: str, message: Any, message_id: str | None = None) -> None:
        """Put a message into its stream."""
        await self.bus.store(subject, message.to_bytes(), message_id or str(ids.uuid7()))

    async def observe(
        self,
        provider_id: str,
        models: tuple[str, ...] | None,
        *,
        at: datetime | None = None,
        outcome: PollOutcome = PollOutcome.UNREACHABLE,
    ) -> None:
        """A poll of a provider: a list of models, or (None) a failure."""
        message = ProviderObservation(
            poll_id=ids.uuid7(),
            provider_id=provider_id,
            observed_at=at or datetime.now(UTC),
            outcome=outcome if models is None else PollOutcome.OK,
            models=tuple(ObservedModel(provider_model_id=model) for model in models or ()),
        )
        await self.store(subjects.observation(provider_id), message)

    async def catalog(self, at: datetime, run: int, prices: dict[str, str] | None = None) -> None:
        """What a sync says: one model at the providers of `prices`."""
        run_id = UUID(int=run)
        facts = ModelFacts(
            name="Talker 2 Mini", context_window=128_000, max_output=8_192, release_date="2026-03-01"
        )
        metadata = CatalogMetadata(
            run_id=run_id,
            observed_at=at,
            content_hash="models",
            models=(CatalogModel(source_id="acme/talker-2-mini", facts=facts),),
        )
        await self.store(subjects.catalog_models(), metadata)
        seen = []
        for provider_id, price in (prices or PROVIDERS).items():
            message = CatalogProvider(
                run_id=run_id,
                observed_at=at,
                content_hash=f"{provider_id}-{price}",
                provider_id=provider_id,
                name=provider_id.title(),
                base_url=f"https://api.{provider_id}.example/v1",
                api_key_envs=(f"{provider_id.upper()}_API_KEY",),
                npm="@ai-sdk/openai-compatible",
                models=(
                    CatalogProviderModel(
                        provider_model_id=MODEL,
                        facts=facts,
                        prices=Prices(input=Decimal(price), output=Decimal(price) * 2),
                    ),
                ),
            )
            seen.append(SeenProvider(provider_id=provider_id, content_hash=message.content_hash))
            await self.store(subjects.catalog_provider(provider_id), message)
        complete = CatalogComplete(
            run_id=run_id, observed_at=at, source="models.dev", metadata_hash="models", providers=tuple(seen)
        )
        await self.store(subjects.CATALOG_COMPLETE, complete)
        await eventually(lambda: self.is_applied("complete", at), f"the sync of {at} is applied")

    async def is_applied(self, name: str, at: datetime) -> bool:
        """Whether a word of sync has been applied."""
        found = await self.database.fetchval("SELECT observed_at FROM catalog_source WHERE name = $1", name)
        return bool(found == at)

    async def targets(self, *keys_present: str) -> TargetsReply:
        """What discovery asks, saying which variables are set."""
        request = TargetsRequest(worker_id="w", keys_present=keys_present)
        return await self.bus.request(subjects.DISCOVERY_TARGETS, request, TargetsReply, timeout=10)

    async def available(self) -> dict[str, str | None]:
        """By provider: why its model is unavailable, None: it is available."""
        rows = await self.database.fetch(
            "SELECT provider_id, is_available, unavailable_reason FROM provider_model ORDER BY 1"
        )
        return {row["provider_id"]: row["unavailable_reason"] for row in rows}

    async def events(self) -> list[str]:
        """The subjects of all events so far, in order, without their common beginning."""
        found = await self._stream()
        return [(message.subject or "").removeprefix(f"{subjects.EVENTS}.") for message in found]

    async def read_events(self) -> list[CloudEvent]:
        """All events so far, in order."""
        return [CloudEvent.model_validate_json(message.data or b"") for message in await self._stream()]

    async def _stream(self) -> list[RawStreamMsg]:
        jetstream = self.bus.jetstream
        last = (await jetstream.stream_info(subjects.STREAM_EVENTS)).state.last_seq
        return [await jetstream.get_msg(subjects.STREAM_EVENTS, seq) for seq in range(1, last + 1)]


def report(
    plan: RoutePlan,
    *,
    outcome: AttemptOutcome = AttemptOutcome.OK,
    request_id: UUID | None = None,
    **usage: int,
) -> CallReport:
    """What a gateway reports of a request by a plan, whose first candidate answered."""
    candidate = plan.candidates[0]
    permit = plan.permit
    draws: tuple[LeaseDraw, ...] = ()
    if permit is not None:
        draws = (LeaseDraw(lease_id=permit.lease_id, tokens=permit.tokens_each, usd=permit.usd_each),)
    attempt = AttemptReport(
        provider_id=candidate.provider_id,
        provider_model_id=candidate.provider_model_id,
        outcome=outcome,
        http_status=200,
        latency_s=0.1,
        time_to_first_token_s=0.05,
        usage=TokenUsage(**usage) if usage else None,
        prices=candidate.prices,
    )
    return CallReport(
        request_id=request_id or plan.request_id,
        lease_id=None if permit is None else permit.lease_id,
        draws=draws,
        tenant_id=plan.tenant_id,
        key_id=plan.key_id,
        global_model_id=plan.global_model_id,
        model_asked=plan.global_model_id,
        started_at=datetime.now(UTC),
        outcome=RequestOutcome.OK,
        http_status=200,
        latency_s=0.1,
        attempts=(attempt,),
    )


async def eventually(check: Callable[[], Awaitable[bool]], what: str, within_s: float = PATIENCE_S) -> None:
    """Wait until `check` holds, or fail saying that `what` did not come true."""
    try:
        async with asyncio.timeout(within_s):
            while not await check():
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"not within {within_s} s: {what}")


@asynccontextmanager
async def running_registries(
    nats_url: str, database_url: str, count: int = 1, confirm_after_s: float = 0.2, **others: Any
) -> AsyncIterator[Rig]:
    """Start `count` registries on one bus and database."""
    settings = RegistrySettings(
        nats_url=SecretStr(nats_url),
        database_url=SecretStr(database_url),
        admin_key=SecretStr(ADMIN_KEY),
        discovery_confirm_after=timedelta(seconds=confirm_after_s),
        allow_private_providers=True,
        **others,
    )
    async with AsyncExitStack() as stack:

        async def connected(name: str) -> Bus:
            bus = Bus(ServiceSettings(nats_url=SecretStr(nats_url)), name)
            await bus.connect()
            stack.push_async_callback(bus.close)
            return bus

        buses = [await connected(f"registry-{number}") for number in range(count)]
        running: list[AbstractAsyncContextManager[None]] = []

        async def stop_all() -> None:
            # Together: each waits for what it is fetching.
            await asyncio.gather(*(one.__aexit__(None, None, None) for one in running))

        stack.push_async_callback(stop_all)
        for bus in buses:
            one = serving(Runtime(bus, TaskSupervisor(), Health(), SystemClock()), settings)
            await one.__aenter__()
            running.append(one)
        database = await asyncpg.connect(database_url)
        stack.push_async_callback(database.close)
        yield Rig(await connected("client"), database)
