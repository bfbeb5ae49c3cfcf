"""The users of `deploy/nats/users.conf`: what works for each, and what is refused; and why it must be."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from nats.aio.client import Client
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from pydantic import SecretStr
from tests.support.events import about_provider, change, gateway_at, take, world_at
from tests.support.registry import ADMIN_KEY, MODEL, Rig, eventually, report
from tests.support.restricted_nats import FOLDER, USERS, RestrictedNatsServer, nats_binary, restricted_nats

from synaxis_common import subjects
from synaxis_common.bus import Bus
from synaxis_common.clock import SystemClock
from synaxis_common.contracts.jobs import ClaimReply, JobClaim
from synaxis_common.contracts.routing import RoutePlan
from synaxis_common.health import Health
from synaxis_common.service import Runtime
from synaxis_common.settings import ServiceSettings
from synaxis_common.tasks import TaskSupervisor
from synaxis_registry.app import serving
from synaxis_registry.settings import RegistrySettings

SUBSCRIBER, PREFIX = "subscriber", "SYNAXIS.API"
WIDE = """
      {
        user: wide
        password: $WIDE_PASSWORD
        permissions: {
          publish: ["$JS.API.CONSUMER.>", "$JS.ACK.>"]
          subscribe: ["_INBOX.>", "synaxis.events.v1.>"]
        }
      }
"""
"""A user as one might give to a subscriber without thinking of the traps."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RestrictedNatsServer]:
    with restricted_nats(tmp_path / "nats", WIDE) as running:
        yield running


class Recording(Client):
    """A connection that keeps what the server refused."""

    def __init__(self) -> None:
        super().__init__()
        self.denied: list[str] = []

    async def note(self, error: Exception) -> None:
        """Keep an error."""
        self.denied.append(str(error).lower())

    async def is_denied(self, what: str, since: int) -> bool:
        """Whether the server has said no; what comes before the answer to a ping has come."""
        await self.flush()
        for _ in range(10):
            if any(f"permissions violation for {what}" in told for told in self.denied[since:]):
                return True
            await asyncio.sleep(0.01)
        return False


@asynccontextmanager
async def client_of(
    server: RestrictedNatsServer, user: str, prefix: str | None = None
) -> AsyncIterator[Recording]:
    """A connection of `user`."""
    client = Recording()
    await client.connect(
        server.url_of(user),
        inbox_prefix=prefix or f"_INBOX_{user}",
        error_cb=client.note,
        allow_reconnect=False,
    )
    try:
        yield client
    finally:
        await client.close()


async def is_refused(client: Recording, subject: str, *, reply: str = "", body: bytes = b"{}") -> bool:
    """Whether the server refuses a message on `subject`."""
    since = len(client.denied)
    await client.publish(subject, body, reply=reply)
    return await client.is_denied("publish", since)


async def cannot_hear(client: Recording, subject: str) -> bool:
    """Whether the server refuses a subscription."""
    since = len(client.denied)
    await client.subscribe(subject)
    return await client.is_denied("subscription", since)


async def has(heard: list[bytes], count: int) -> bool:
    return len(heard) == count


async def bus_of(stack: AsyncExitStack, server: RestrictedNatsServer, user: str) -> Bus:
    """The bus of a service, as its settings make it."""
    settings = ServiceSettings(nats_url=SecretStr(server.url_of(user)), nats_inbox_prefix=f"_INBOX_{user}")
    bus = Bus(settings, user)
    await bus.connect()
    stack.push_async_callback(bus.close)
    return bus


async def make_durable(operator: Client) -> None:
    """What an operator does for a third party."""
    await operator.jetstream().add_consumer(
        subjects.STREAM_EVENTS,
        ConsumerConfig(
            durable_name=SUBSCRIBER,
            deliver_policy=DeliverPolicy.ALL,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=10,
        ),
    )


@asynccontextmanager
async def filled(server: RestrictedNatsServer, database_url: str) -> AsyncIterator[None]:
    """The registry has published three events, and an operator has made the durable."""
    url, prefix = server.url_of("registry"), "_INBOX_registry"
    async with (
        world_at(url, database_url, inbox_prefix=prefix) as world,
        client_of(server, "operator") as operator,
    ):
        await make_durable(operator)
        await world.flip("alpha", "m.1")
        await world.flip("alpha", "m.1")
        await world.commit("alpha", [about_provider("alpha")])
        drainer = await world.drainer()
        await world.database.run(drainer.drain)
        yield


async def test_a_subscriber_reads_events_and_the_bucket(
    server: RestrictedNatsServer, fresh_database_url: str
) -> None:
    async with filled(server, fresh_database_url), client_of(server, SUBSCRIBER) as client:
        jetstream = client.jetstream(prefix=PREFIX)
        events = await jetstream.pull_subscribe_bind(durable=SUBSCRIBER, stream=subjects.STREAM_EVENTS)
        found: list[str] = []
        while len(found) < 3:
            for message in await events.fetch(1, timeout=5):
                found.append(json.loads(message.data)["type"])
                await message.ack()
        assert found == ["model.available", "model.unavailable", "provider.disabled"]
        bucket = await jetstream.key_value(subjects.BUCKET_AVAILABILITY)
        value = json.loads((await bucket.get(subjects.availability_key("alpha", "m.1"))).value or b"")
        assert (value["is_available"], value["stream_sequence"]) == (False, 2)
        async with client_of(server, "operator") as operator:
            info = await operator.jetstream().consumer_info(subjects.STREAM_EVENTS, SUBSCRIBER)
            assert (info.num_pending, info.num_ack_pending) == (0, 0)


@pytest.mark.parametrize(
    "subject",
    [
        subjects.ROUTE,
        subjects.USAGE,
        subjects.admin("tenant.create"),
        subjects.model_event("available", "p", "m"),
        subjects.catalog_provider("p"),
        subjects.observation("p"),
        subjects.PLANS_STALE,
        subjects.LEASE_RETURN,
        f"$KV.{subjects.BUCKET_AVAILABILITY}.p.m",
        "$JS.API.CONSUMER.CREATE.SYNAXIS_EVENTS",
        "$JS.API.CONSUMER.CREATE.SYNAXIS_EVENTS.mine",
        "$JS.API.CONSUMER.DURABLE.CREATE.SYNAXIS_EVENTS.mine",
        "$JS.API.CONSUMER.DELETE.SYNAXIS_EVENTS.subscriber",
        "$JS.API.CONSUMER.MSG.NEXT.SYNAXIS_USAGE.registry-usage",
        "$JS.API.CONSUMER.MSG.NEXT.SYNAXIS_EVENTS.another",
        "$JS.ACK.SYNAXIS_USAGE.registry-usage.1.1.1.1.1",
        "$JS.API.STREAM.MSG.GET.SYNAXIS_USAGE",
        "$JS.API.STREAM.MSG.GET.SYNAXIS_EVENTS",
        "$JS.API.DIRECT.GET.SYNAXIS_USAGE",
        "$JS.API.STREAM.DELETE.SYNAXIS_EVENTS",
        "$JS.API.STREAM.PURGE.SYNAXIS_EVENTS",
        "$JS.API.STREAM.PURGE.KV_synaxis-availability",
        "$JS.API.STREAM.CREATE.MINE",
        "$JS.API.STREAM.LIST",
        "$JS.API.STREAM.MSG.DELETE.SYNAXIS_EVENTS",
        "SYNAXIS.API.CONSUMER.CREATE.SYNAXIS_EVENTS.mine",
        "SYNAXIS.API.STREAM.MSG.GET.SYNAXIS_USAGE",
        "SYNAXIS.API.STREAM.PURGE.SYNAXIS_EVENTS",
        "$SYS.REQ.SERVER.PING",
        "_INBOX_gateway.x",
    ],
)
async def test_a_subscriber_may_say_nothing_else(server: RestrictedNatsServer, subject: str) -> None:
    async with client_of(server, SUBSCRIBER) as client:
        assert await is_refused(client, subject)


@pytest.mark.parametrize(
    "subject",
    [">", "_INBOX.>", "_INBOX_gateway.>", "synaxis.>", "synaxis.events.v1.>", "$SYS.>", "$JS.>", "*"],
)
async def test_a_subscriber_hears_nothing_else(server: RestrictedNatsServer, subject: str) -> None:
    async with client_of(server, SUBSCRIBER) as client:
        assert await cannot_hear(client, subject)


async def test_a_subscriber_cannot_have_events_delivered_to_a_subject_of_the_services(
    server: RestrictedNatsServer, fresh_database_url: str
) -> None:
    request = json.dumps({"batch": 1, "no_wait": True}).encode()
    async with filled(server, fresh_database_url), AsyncExitStack() as stack:
        registry = await bus_of(stack, server, "registry")
        heard: list[bytes] = []

        async def hear(message: Any) -> None:
            heard.append(message.data)

        await registry.client.subscribe(subjects.admin("tenant.create"), cb=hear)
        await registry.client.flush()
        usage = registry.jetstream.stream_info
        before = (await usage(subjects.STREAM_USAGE)).state.messages
        subject = f"CONSUMER.MSG.NEXT.{subjects.STREAM_EVENTS}.{SUBSCRIBER}"
        async with client_of(server, SUBSCRIBER) as client:
            for target in (subjects.USAGE, subjects.admin("tenant.create")):
                assert not await is_refused(client, f"{PREFIX}.{subject}", reply=target, body=request)
            await client.flush()
            await asyncio.sleep(0.3)
        assert heard == []
        assert (await usage(subjects.STREAM_USAGE)).state.messages == before
        # A user in the services' own account: the answer goes where no permission of his allows.
        async with client_of(server, "wide", "_INBOX") as wide:
            assert await is_refused(wide, subjects.admin("tenant.create"))
            reply = subjects.admin("tenant.create")
            assert not await is_refused(wide, f"$JS.API.{subject}", reply=reply, body=request)
            await eventually(lambda: has(heard, 1), "the trap is still there")


async def test_a_user_who_may_create_consumers_injects_messages_anywhere(
    server: RestrictedNatsServer, fresh_database_url: str
) -> None:
    async with (
        filled(server, fresh_database_url),
        client_of(server, "wide", "_INBOX") as wide,
        AsyncExitStack() as stack,
    ):
        registry = await bus_of(stack, server, "registry")
        heard: list[bytes] = []

        async def hear(message: Any) -> None:
            heard.append(message.data)

        verb = subjects.admin("tenant.create")
        await registry.client.subscribe(verb, cb=hear)
        await registry.client.flush()
        assert await is_refused(wide, verb)
        config = ConsumerConfig(deliver_subject=verb, ack_policy=AckPolicy.NONE)
        await wide.jetstream().add_consumer(subjects.STREAM_EVENTS, config)
        await eventually(lambda: has(heard, 3), "the trap is still there")


async def test_a_user_who_may_hear_all_inboxes_reads_the_answers_to_others(
    server: RestrictedNatsServer,
) -> None:
    async with client_of(server, "wide", "_INBOX") as wide, client_of(server, "operator") as operator:
        heard: list[bytes] = []

        async def hear(message: Any) -> None:
            heard.append(message.data)

        await wide.subscribe("_INBOX.>", cb=hear)
        await wide.flush()
        await operator.publish("$JS.API.INFO", b"", reply="_INBOX.somebodys")
        await eventually(lambda: has(heard, 1), "the trap is still there")
        heard.clear()
        await operator.jetstream().account_info()
        await asyncio.sleep(0.2)
        assert heard == [], "an inbox prefix of one's own keeps answers from others"


async def test_a_gateway_serves_events_with_its_own_user(
    server: RestrictedNatsServer, fresh_database_url: str
) -> None:
    url, prefix = server.url_of("registry"), "_INBOX_registry"
    async with (
        world_at(url, fresh_database_url, inbox_prefix=prefix) as world,
        gateway_at(server.url_of("gateway"), kept=2, inbox_prefix="_INBOX_gateway") as gateway,
    ):
        await world.run()
        await world.commit("alpha", [change("alpha", number) for number in range(5)])
        while gateway.hub.position < 5:
            await asyncio.sleep(0.02)
        async with gateway.reading(last_id=0) as frames:
            assert [frame.id for frame in await take(frames, 5)] == [1, 2, 3, 4, 5]


async def test_a_registry_may_send_again_what_was_set_aside(server: RestrictedNatsServer) -> None:
    async with client_of(server, "registry") as client:
        for subject in (subjects.USAGE, subjects.catalog_provider("p"), subjects.observation("p")):
            assert not await is_refused(client, subject), subject


async def test_no_service_may_do_what_is_anothers(server: RestrictedNatsServer) -> None:
    refused = {
        "gateway": [subjects.model_event("available", "p", "m"), subjects.catalog_provider("p")],
        "sync": [subjects.USAGE, subjects.ROUTE, subjects.admin("x"), subjects.observation("p")],
        "discovery": [subjects.USAGE, subjects.ROUTE, subjects.admin("x"), subjects.catalog_provider("p")],
        "registry": [subjects.ROUTE, subjects.SIGHTINGS, "$JS.API.STREAM.DELETE.SYNAXIS_EVENTS"],
    }
    for user, own in refused.items():
        async with client_of(server, user) as client:
            for subject in [*own, "$JS.API.STREAM.PURGE.SYNAXIS_USAGE", "$SYS.REQ.SERVER.PING", "anything"]:
                assert await is_refused(client, subject), (user, subject)
            for subject in (">", "_INBOX.>", "$SYS.>", subjects.USAGE):
                assert await cannot_hear(client, subject), (user, subject)


@asynccontextmanager
async def registry_of(server: RestrictedNatsServer, database_url: str) -> AsyncIterator[None]:
    """A registry with its own user."""
    settings = RegistrySettings(
        nats_url=SecretStr(server.url_of("registry")),
        nats_inbox_prefix="_INBOX_registry",
        database_url=SecretStr(database_url),
        admin_key=SecretStr(ADMIN_KEY),
        discovery_confirm_after=timedelta(seconds=0.2),
        allow_private_providers=True,
    )
    async with AsyncExitStack() as stack:
        bus = await bus_of(stack, server, "registry")
        await stack.enter_async_context(
            serving(Runtime(bus, TaskSupervisor(), Health(), SystemClock()), settings)
        )
        yield


async def test_the_services_do_their_work_with_their_own_users(
    server: RestrictedNatsServer, fresh_database_url: str
) -> None:
    async with registry_of(server, fresh_database_url), AsyncExitStack() as stack:
        buses = {user: await bus_of(stack, server, user) for user in ("gateway", "sync", "discovery")}
        database = await asyncpg.connect(fresh_database_url)
        stack.push_async_callback(database.close)
        gateway, sync, discovery = (Rig(bus, database) for bus in buses.values())
        now = datetime.now(UTC)
        claim = JobClaim(job="models-dev-sync", worker_id="w", scheduled_at=now, lease_s=60)
        assert await sync.bus.request(subjects.JOB_CLAIM, claim, ClaimReply, timeout=10)
        await sync.catalog(now, run=1, prices={"alpha": "0.10"})
        await gateway.put_provider("alpha")
        assert [one.provider_id for one in (await discovery.targets()).targets] == ["alpha"]
        await discovery.observe("alpha", (MODEL,))

        async def is_available() -> bool:
            return await gateway.available() == {"alpha": None}

        await eventually(is_available, "what discovery has seen is applied")
        key_hash = await gateway.new_key("acme")
        plan = await gateway.route(key_hash)
        assert isinstance(plan, RoutePlan)
        await gateway.store(subjects.USAGE, report(plan, input=1, output=1))

        async def is_recorded() -> bool:
            return bool(await database.fetchval("SELECT count(*) FROM usage_ledger"))

        await eventually(is_recorded, "the call is in the ledger")
        operator = await stack.enter_async_context(client_of(server, "operator"))

        async def is_told() -> bool:
            return (await operator.jetstream().stream_info(subjects.STREAM_EVENTS)).state.messages > 0

        await eventually(is_told, "the event is in the stream")


@pytest.mark.parametrize("says", [{}, {"user": "gateway", "pass": "guess"}, {"user": "nobody", "pass": "x"}])
async def test_nobody_gets_in_without_a_password(server: RestrictedNatsServer, says: dict[str, str]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        await reader.readline()
        hello = {"verbose": False, "pedantic": False, "lang": "x", "version": "1", "protocol": 1, **says}
        writer.write(f"CONNECT {json.dumps(hello)}\r\nPING\r\n".encode())
        async with asyncio.timeout(5):
            assert b"Authorization Violation" in await reader.readline()
    finally:
        writer.close()
        await writer.wait_closed()


def test_the_server_takes_its_configuration() -> None:
    environment = {f"{user.upper()}_PASSWORD": "a-password" for user in USERS}
    checked = subprocess.run(
        [str(nats_binary()), "-t", "-c", str(FOLDER / "server.conf")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
