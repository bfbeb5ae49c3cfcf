"""Changes that are committed, drainers that publish them, and a gateway that serves them to readers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import aiohttp
from nats.js import JetStreamContext
from pydantic import SecretStr

from synaxis_common import ids, subjects
from synaxis_common.bus import Bus
from synaxis_common.clock import SystemClock
from synaxis_common.contracts.events import (
    BudgetChange,
    Cause,
    CloudEvent,
    EventType,
    ModelChange,
    ModelState,
    ProviderChange,
)
from synaxis_common.health import Health
from synaxis_common.settings import ServiceSettings
from synaxis_gateway.events.hub import KEPT, Hub
from synaxis_gateway.events.stream import EventStream
from synaxis_gateway.http import errors
from synaxis_gateway.http.auth import TenantKeys
from synaxis_gateway.http.events import EventsHandlers
from synaxis_gateway.http.journal import Journal
from synaxis_gateway.http.server import HttpServer, build_app
from synaxis_gateway.settings import GatewaySettings
from synaxis_registry.core.changes import Event, model_state
from synaxis_registry.core.records import ProviderModelRecord, ProviderRecord, UnavailableReason
from synaxis_registry.outbox import Outbox
from synaxis_registry.store import catalog
from synaxis_registry.store.database import Connection, Database
from synaxis_registry.store.migrate import migrate

ADMIN_KEY = "admin-key-of-the-tests"
PEPPER = "pepper-of-the-tests"
PROVIDERS = ("alpha", "beta", "gamma")


@dataclass
class World:
    """A bus and a database, with drainers that can be killed."""

    nats_url: str
    database_url: str
    stack: AsyncExitStack
    bus: Bus
    database: Database
    inbox_prefix: str
    drainers: list[asyncio.Task[None]] = field(default_factory=list)

    async def drainer(self) -> Outbox:
        """Another registry's outbox, with connections of its own; not running yet."""
        database = Database(self.database_url, 2)
        await database.connect()
        self.stack.push_async_callback(database.close)
        return Outbox(database, await connected(self.stack, self.nats_url, self.inbox_prefix))

    async def run(self) -> asyncio.Task[None]:
        """Another registry's outbox, running."""
        task = asyncio.create_task((await self.drainer()).run())
        self.drainers.append(task)
        return task

    async def change(self, provider_id: str, number: int, model: str = "m.1") -> None:
        """Commit one change of a provider model."""
        await self.commit(provider_id, [change(provider_id, number, model)])

    async def commit(self, provider_id: str, events: Sequence[Event]) -> None:
        """Commit changes of a provider."""

        async def work(connection: Connection) -> None:
            await connection.execute(catalog.SQL["lock_provider"], provider_id)
            await catalog.add_events(connection, events)

        await self.database.run(work)

    async def flip(self, provider_id: str, model: str) -> None:
        """Commit a provider model's next change, the row with its event: it comes, or goes away again."""

        async def work(connection: Connection) -> None:
            await connection.execute(catalog.SQL["lock_provider"], provider_id)
            _, rows = await catalog.read_provider(connection, provider_id)
            now, known = datetime.now(UTC), rows.get(model)
            number = 0 if known is None else int(known.resolved_by) + 1
            row = ProviderModelRecord(
                provider_id=provider_id,
                provider_model_id=model,
                global_model_id=model,
                resolved_by=str(number),
                resolution_confidence=1.0,
                first_seen_at=now,
                last_seen_at=now,
                is_available=number % 2 == 0,
                unavailable_reason=UnavailableReason.PROVIDER_OFF if number % 2 else None,
            )
            await catalog.save_provider(
                connection, ProviderRecord(provider_id, provider_id, "operator", enabled=True)
            )
            await catalog.save_provider_models(connection, [row], rows)
            before = None if known is None else model_state(known)
            event = change(provider_id, number, model)
            assert isinstance(event.data, ModelChange)
            data = event.data.model_copy(update={"before": before, "after": model_state(row)})
            cause = data.cause.model_copy(update={"detail": str(number)})
            data = data.model_copy(update={"cause": cause})
            await catalog.add_events(connection, [Event(event.type, data)])

        await self.database.run(work)

    async def spend(self, tenant_id: str) -> None:
        """Commit that a tenant's budget is exhausted."""
        data = about_budget(tenant_id).model_dump_json()

        async def work(connection: Connection) -> None:
            await connection.execute(
                catalog.SQL["add_event"], ids.uuid7(), EventType.BUDGET_EXHAUSTED.value, data
            )

        await self.database.run(work)

    async def committed(self) -> list[str]:
        """The ids of all events that were ever in the outbox, in the order of their commits."""
        return [str(row[0]) for row in await self.database.run(_seen)]

    async def is_drained(self) -> bool:
        """Whether nothing is waiting."""
        return bool(
            await self.database.run(
                lambda connection: connection.fetchval("SELECT NOT EXISTS (SELECT FROM outbox)")
            )
        )

    async def stored(self) -> list[CloudEvent]:
        """All events in the stream."""
        return [event for _, event in await stored(self.bus.jetstream)]


async def _seen(connection: Connection) -> list[Any]:
    return list(await connection.fetch("SELECT event_id FROM seen ORDER BY id"))


async def stored(jetstream: JetStreamContext) -> list[tuple[int, CloudEvent]]:
    state = (await jetstream.stream_info(subjects.STREAM_EVENTS)).state
    found = await asyncio.gather(
        *(jetstream.get_msg(subjects.STREAM_EVENTS, seq) for seq in range(1, state.last_seq + 1))
    )
    return [(message.seq or 0, CloudEvent.model_validate_json(message.data or b"")) for message in found]


def change(provider_id: str, number: int, model: str = "m.1") -> Event:
    """The `number`-th change of a provider model: even ones make it available."""
    state = ModelState(is_available=number % 2 == 0, reason=str(number))
    return Event(
        EventType.MODEL_AVAILABLE if state.is_available else EventType.MODEL_UNAVAILABLE,
        ModelChange(
            provider_id=provider_id,
            provider_model_id=model,
            global_model_id=model,
            before=ModelState(is_available=not state.is_available),
            after=state,
            cause=Cause(kind="poll", id="p"),
        ),
    )


async def connected(stack: AsyncExitStack, nats_url: str, inbox_prefix: str) -> Bus:
    bus = Bus(ServiceSettings(nats_url=SecretStr(nats_url), nats_inbox_prefix=inbox_prefix), "tests")
    await bus.connect()
    stack.push_async_callback(bus.close)
    return bus


@asynccontextmanager
async def world_at(nats_url: str, database_url: str, inbox_prefix: str = "_INBOX") -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        database = Database(database_url, 4)
        await database.connect()
        stack.push_async_callback(database.close)
        await migrate(database)
        world = World(
            nats_url,
            database_url,
            stack,
            await connected(stack, nats_url, inbox_prefix),
            database,
            inbox_prefix,
        )
        await database.run(_remember_all)
        yield world
        pending = set(world.drainers)
        while pending:  # what they wait in may lose a cancellation, as `TaskSupervisor` knows too
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=1.0)


async def _remember_all(connection: Connection) -> None:
    await connection.execute(
        "CREATE TABLE seen (id bigint PRIMARY KEY, event_id uuid);"
        "CREATE FUNCTION remember() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO seen VALUES (NEW.id, NEW.event_id); RETURN NEW; END $$;"
        "CREATE TRIGGER remember AFTER INSERT ON outbox FOR EACH ROW EXECUTE FUNCTION remember()"
    )


def about_provider(provider_id: str, kind: EventType = EventType.PROVIDER_DISABLED) -> Event:
    """An event about a whole provider."""
    return Event(
        kind, ProviderChange(provider_id=provider_id, reason="r", cause=Cause(kind="operator", id="r-1"))
    )


def about_budget(tenant_id: str) -> BudgetChange:
    """What a budget event says."""
    return BudgetChange(
        tenant_id=tenant_id, global_model_id="*", spent_usd="8", budget_usd="10", threshold_percent=80
    )


@dataclass(frozen=True)
class Frame:
    """One block of server-sent events."""

    id: int | None = None
    event: str = ""
    data: Any = None
    retry: int | None = None


@dataclass
class Gateway:
    """A gateway that serves events and nothing else."""

    url: str
    hub: Hub
    server: HttpServer
    tenants: dict[str, str]
    """By the hash of a key."""
    key: str = ""

    def new_key(self, tenant_id: str) -> str:
        """A key of a tenant."""
        key = ids.new_tenant_key().key
        self.tenants[ids.key_hash(key, PEPPER)] = tenant_id
        return key

    @asynccontextmanager
    async def reading(
        self, query: str = "", *, last_id: int | None = None, key: str | None = None, path: str = "/v1/events"
    ) -> AsyncIterator[AsyncIterator[Frame]]:
        """The frames that a client gets."""
        headers = {"Authorization": f"Bearer {key or self.key}"}
        if last_id is not None:
            headers["Last-Event-ID"] = str(last_id)
        timeout = aiohttp.ClientTimeout(total=None, sock_read=30)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"{self.url}{path}{query}", headers=headers) as answer,
        ):
            assert answer.status == 200, await answer.text()
            assert answer.content_type == "text/event-stream"
            yield frames(answer)

    async def refused(
        self, query: str = "", key: str | None = None, path: str = "/v1/events"
    ) -> tuple[int, str]:
        """The status and the code of an answer that is no stream."""
        headers = {"Authorization": f"Bearer {key or self.key}"}
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self.url}{path}{query}", headers=headers) as answer,
        ):
            return answer.status, (await answer.json())["error"]["code"]


async def frames(answer: aiohttp.ClientResponse) -> AsyncIterator[Frame]:
    """The frames of an answer, as they come."""
    fields: dict[str, str] = {}
    async for raw in answer.content:
        line = raw.decode().rstrip("\n")
        if not line:
            yield Frame(
                int(fields["id"]) if "id" in fields else None,
                fields.get("event", ""),
                json.loads(fields["data"]) if "data" in fields else None,
                int(fields["retry"]) if "retry" in fields else None,
            )
            fields = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value


async def take(source: AsyncIterator[Frame], count: int, within_s: float = 15.0) -> list[Frame]:
    """The next `count` frames that are events."""
    found: list[Frame] = []
    async with asyncio.timeout(within_s):
        while len(found) < count:
            frame = await anext(source)
            if frame.event:
                found.append(frame)
    return found


@asynccontextmanager
async def gateway_at(
    nats_url: str, kept: int = KEPT, inbox_prefix: str = "_INBOX", **options: Any
) -> AsyncIterator[Gateway]:
    """A gateway on a bus."""
    settings = GatewaySettings(
        nats_url=SecretStr(nats_url),
        http_host="127.0.0.1",
        http_port=0,
        admin_key=SecretStr(ADMIN_KEY),
        key_pepper=SecretStr(PEPPER),
    )
    tenants: dict[str, str] = {}

    async def tenant_of(key_hash: str) -> str:
        if key_hash not in tenants:
            raise errors.unauthorized("The API key is not valid.")
        return tenants[key_hash]

    async with AsyncExitStack() as stack:
        stream = EventStream(await connected(stack, nats_url, inbox_prefix))
        hub = Hub(stream, kept)
        handlers = EventsHandlers(stream, hub, tenant_of, **options)
        clock = SystemClock()
        keys, journal = TenantKeys(PEPPER), Journal(clock)
        app = build_app(settings, clock, Health(), handlers.routes(), keys, journal)
        server = HttpServer(app, settings, {}, keys, journal, clock)
        following = asyncio.create_task(hub.run())
        await server.start()
        async with asyncio.timeout(10):
            while not hub.is_ready:
                await asyncio.sleep(0.01)
        gateway = Gateway(f"http://127.0.0.1:{server.port}", hub, server, tenants)
        gateway.key = gateway.new_key("acme")
        try:
            yield gateway
        finally:
            hub.close()
            await server.finish(5)
            await server.cut()
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
