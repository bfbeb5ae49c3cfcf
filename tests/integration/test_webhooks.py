"""Webhooks: every event once to whoever wants it, signed, tried again, visible, replayable."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from aiohttp import web
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from pydantic import SecretStr
from standardwebhooks import Webhook as Verifier
from tests.support.registry import MODEL, Rig, eventually, running_registries

from synaxis_common.contracts.events import CloudEvent as AnEvent
from synaxis_common.examples import EXAMPLES
from synaxis_registry.core.webhooks import DeliveryStatus
from synaxis_registry.core.webhooks import Webhook as Hook
from synaxis_registry.outbox import event_subject
from synaxis_registry.store import webhooks as stored
from synaxis_registry.store.database import Database
from synaxis_registry.store.migrate import migrate

ROOT = "the one secret of the tests"
LEASE_S = 0.5
OVER: dict[str, Any] = {
    "status": DeliveryStatus.DELIVERED,
    "next_at": datetime(2026, 11, 23, tzinfo=UTC),
    "http_status": 200,
    "error": None,
}
SETTINGS: dict[str, Any] = {"webhook_secret": SecretStr(ROOT), "webhook_allow_private": True}


@dataclass
class Receiver:
    """Somebody's server. `statuses` are answered first, then 200."""

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    hangs: bool = False

    async def take(self, request: web.Request) -> web.Response:
        self.got.append((dict(request.headers), await request.read()))
        if self.hangs:
            await asyncio.Event().wait()
        return web.Response(status=self.statuses.pop(0) if self.statuses else 200, text="said no")

    def types(self) -> Counter[str]:
        return Counter(json.loads(body)["type"] for _, body in self.got)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/hook", receiver.take)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    yield receiver
    await runner.cleanup()


@pytest.fixture
async def rig(fresh_nats_url: str, fresh_database_url: str) -> AsyncIterator[Rig]:
    async with running_registries(fresh_nats_url, fresh_database_url, count=2, **SETTINGS) as running:
        yield running


async def ask(rig: Rig, verb: str, body: Any = None, **path: str) -> dict[str, Any]:
    reply = await rig.admin(verb, body, **path)
    assert reply.status in ("ok", "created"), reply
    assert isinstance(reply.body, dict)
    return dict(reply.body)


async def hooked(rig: Rig, receiver: Receiver, **filters: Any) -> dict[str, Any]:
    return await ask(rig, "webhook.create", {"url": receiver.url, "allow_private": True, **filters})


async def serve(rig: Rig, *providers: str) -> None:
    """Two events each: discovered, available."""
    await rig.catalog(datetime.now(UTC), run=1)
    for provider_id in providers:
        await rig.put_provider(provider_id)
        await rig.observe(provider_id, (MODEL,))

    async def available() -> bool:
        found = await rig.available()
        return all(found.get(provider_id, "not there") is None for provider_id in providers)

    await eventually(available, "all are available")


async def deliveries(rig: Rig, hook: str) -> list[dict[str, Any]]:
    return list((await ask(rig, "webhook.deliveries", webhook=hook))["data"])


async def test_every_event_comes_once_signed_and_as_a_cloud_event(rig: Rig, receiver: Receiver) -> None:
    hook = await hooked(rig, receiver)
    assert hook["secret"].startswith("whsec_")
    await serve(rig, "alpha", "beta")

    async def all_came() -> bool:
        return receiver.types()["model.available"] == 2 and len(receiver.got) >= len(await rig.events())

    await eventually(all_came, "the events came")
    events = await rig.events()
    assert len(receiver.got) == len(events), "two registries deliver, each event once"
    for headers, body in receiver.got:
        Verifier(hook["secret"]).verify(body, headers)
        event = JSONFormat().read(CloudEvent, body)
        assert event.get_id() == headers["webhook-id"]
    assert "secret" not in await ask(rig, "webhook.get", webhook=hook["id"])
    rows = await rig.database.fetch("SELECT w::text AS row FROM webhook w")
    assert not any(hook["secret"].removeprefix("whsec_") in row["row"] or ROOT in row["row"] for row in rows)
    assert {row["status"] for row in await deliveries(rig, hook["id"])} == {"delivered"}


async def test_filters_are_those_of_the_event_stream(rig: Rig, receiver: Receiver) -> None:
    await hooked(rig, receiver, events=["model.available"], providers=["beta"])
    await serve(rig, "alpha", "beta")

    async def came() -> bool:
        return bool(receiver.got)

    await eventually(came, "an event came")
    await asyncio.sleep(0.3)
    ((_, body),) = receiver.got
    event = json.loads(body)
    assert (event["type"], event["data"]["provider_id"]) == ("model.available", "beta")


async def test_what_was_not_taken_is_tried_again_and_seen(rig: Rig, receiver: Receiver) -> None:
    receiver.statuses = [500, 302]
    hook = await hooked(rig, receiver, events=["model.available"])
    await serve(rig, "alpha")

    async def has_failed_once() -> bool:
        found = await deliveries(rig, hook["id"])
        return bool(found) and found[0]["last_status"] == 500

    await eventually(has_failed_once, "the first attempt has failed")
    (seen,) = await deliveries(rig, hook["id"])
    assert (seen["status"], seen["attempts"]) == ("pending", 1)
    assert "said no" in seen["last_error"]
    again_in = datetime.fromisoformat(seen["next_attempt_at"]) - datetime.now(UTC)
    assert timedelta(0) < again_in <= timedelta(seconds=6)
    for attempts, status in ((2, "pending"), (3, "delivered")):
        await rig.database.execute("UPDATE webhook_delivery SET next_at = now()")

        async def is_so(attempts: int = attempts, status: str = status) -> bool:
            (row,) = await deliveries(rig, hook["id"])
            return (row["attempts"], row["status"]) == (attempts, status)

        await eventually(is_so, f"attempt {attempts} was made")
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1, "it can be told from a new one"


async def test_after_a_day_it_is_given_up_and_an_operator_replays_it(rig: Rig, receiver: Receiver) -> None:
    receiver.statuses = [500, 500]
    hook = await hooked(rig, receiver, events=["model.available"])
    await serve(rig, "alpha")

    async def status() -> str:
        found = await deliveries(rig, hook["id"])
        return found[0]["status"] if found and found[0]["attempts"] else ""

    async def is_pending() -> bool:
        return await status() == "pending" and len(receiver.got) == 1

    await eventually(is_pending, "the first attempt has failed")
    await rig.database.execute("UPDATE webhook_delivery SET next_at = now(), attempts = 10")

    async def is_given_up() -> bool:
        return await status() == "failed"

    await eventually(is_given_up, "it is given up")
    assert (await ask(rig, "webhook.get", webhook=hook["id"]))["failed"] == 1
    (row,) = await deliveries(rig, hook["id"])
    await ask(rig, "webhook.replay-one", webhook=hook["id"], delivery=str(row["id"]))

    async def is_delivered() -> bool:
        return await status() == "delivered"

    await eventually(is_delivered, "it is delivered after all")
    since = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    assert (await ask(rig, "webhook.replay", {"since": since}, webhook=hook["id"]))["replayed"] == 1

    async def came_again() -> bool:
        return len(receiver.got) == 4

    await eventually(came_again, "it came once more")


async def test_a_receiver_that_is_gone_is_left_alone_until_an_operator_says_otherwise(
    rig: Rig, receiver: Receiver
) -> None:
    receiver.statuses = [410]
    hook = await hooked(rig, receiver, events=["model"])
    await serve(rig, "alpha")

    async def is_off() -> bool:
        return (await ask(rig, "webhook.get", webhook=hook["id"]))["enabled"] is False

    await eventually(is_off, "it is switched off")
    assert "410" in (await ask(rig, "webhook.get", webhook=hook["id"]))["off_reason"]
    shown = await ask(rig, "webhook.patch", {"enabled": True}, webhook=hook["id"])
    assert (shown["enabled"], shown["off_reason"]) == (True, None)


async def test_one_that_hangs_holds_up_nobody_else(rig: Rig, receiver: Receiver) -> None:
    slow = Receiver(hangs=True)
    app = web.Application()
    app.router.add_post("/hook", slow.take)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    slow.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    try:
        await hooked(rig, slow)
        await hooked(rig, receiver)
        await serve(rig, "alpha", "beta")

        async def all_came() -> bool:
            return bool(slow.got) and receiver.types()["model.available"] == 2

        await eventually(all_came, "the other one has all", within_s=10)
    finally:
        await runner.cleanup()


async def test_a_new_secret_signs_and_for_a_day_the_old_one_does_too(rig: Rig, receiver: Receiver) -> None:
    hook = await hooked(rig, receiver, events=["model.available"])
    new = (await ask(rig, "webhook.rotate", webhook=hook["id"]))["secret"]
    assert new != hook["secret"]
    await serve(rig, "alpha")

    async def came() -> bool:
        return bool(receiver.got)

    await eventually(came, "an event came")
    headers, body = receiver.got[0]
    for secret in (new, hook["secret"]):
        Verifier(secret).verify(body, headers)


PUBLIC = "https://93.184.215.14/hook"
REFUSED: tuple[tuple[dict[str, Any], str], ...] = (
    ({"url": "http://127.0.0.1:9/hook"}, "url"),
    ({"url": "https://169.254.169.254/latest", "allow_private": True}, "url"),
    ({"url": "https://localhost/hook"}, "url"),
    ({"url": "https://no-such-host.invalid/hook"}, "url"),
    ({"url": "https://receiver.example/hook?token=secret"}, "url"),
    ({"url": "ftp://receiver.example/hook"}, "url"),
    ({"url": PUBLIC, "events": ["model.lost"]}, "events"),
    ({"url": PUBLIC, "evnts": []}, "evnts"),
)


async def test_what_cannot_be_is_refused_with_its_field(rig: Rig) -> None:
    for body, at_fault in REFUSED:
        reply = await rig.admin("webhook.create", body)
        assert (reply.status, reply.field) == ("invalid", at_fault), (body, reply)
    assert (await ask(rig, "webhook.list"))["data"] == []


async def test_without_a_secret_or_leave_there_are_no_such_webhooks(
    fresh_nats_url: str, fresh_database_url: str
) -> None:
    public = {"url": PUBLIC}
    async with running_registries(fresh_nats_url, fresh_database_url) as plain:
        reply = await plain.admin("webhook.create", public)
        assert (reply.status, "SYNAXIS_WEBHOOK_SECRET" in str(reply.error)) == ("conflict", True)
    secret = SecretStr(ROOT)
    async with running_registries(fresh_nats_url, fresh_database_url, webhook_secret=secret) as strict:
        assert (await strict.admin("webhook.create", public)).status == "created"
        reply = await strict.admin("webhook.create", {**public, "allow_private": True})
        assert (reply.status, reply.field) == ("invalid", "allow_private")


async def test_a_delivery_that_a_registry_takes_to_its_grave_is_made_by_another(
    fresh_database_url: str,
) -> None:
    database = Database(fresh_database_url, 4)
    await database.connect()
    await migrate(database)
    event = next(one for one in EXAMPLES if isinstance(one, AnEvent))

    async def claimed() -> list[stored.Claimed]:
        return await database.run(lambda connection: stored.claim(connection, [], 4, LEASE_S))

    async def is_pending() -> bool:
        rows = await database.run(lambda connection: stored.deliveries(connection, "hook", None, None, 9))
        return [row["status"] for row in rows] == ["pending"]

    try:
        await database.run(partial(stored.save, webhook=Hook("hook", PUBLIC)))
        for _ in range(2):
            await database.run(lambda connection: stored.enqueue(connection, [event], event_subject))
        (dead,) = await claimed()
        assert await claimed() == [], "it is in somebody's hands"
        await asyncio.sleep(LEASE_S)
        (living,) = await claimed()
        assert (dead.attempts, living.attempts) == (1, 2)
        await database.run(partial(stored.settle, **OVER, claimed=dead))
        assert await is_pending(), "what is heard too late says nothing of the attempt that goes on"
        await database.run(partial(stored.settle, **OVER, claimed=living))
        assert not await is_pending()
    finally:
        await database.close()
