"""Reports in batches: each counted once, whatever else is in its batch and whatever fails in the middle."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import asyncpg
import pytest
from prometheus_client import REGISTRY
from pydantic import SecretStr
from tests.support.registry import MODEL, Rig, eventually, report, running_registries

from synaxis_common import consumer, ids, subjects
from synaxis_common.bus import Bus
from synaxis_common.consumer import BatchConsumer, BatchHandler, ConsumerSpec, Delivery, Poison, TryLater
from synaxis_common.contracts.leases import LeaseAsk
from synaxis_common.contracts.routing import RoutePlan
from synaxis_common.contracts.usage import AttemptOutcome, CallReport, join_reports, split_reports
from synaxis_common.settings import ServiceSettings

COST = Decimal("0.0002")
"""Of a report with a thousand tokens in and 500 out."""

SPEC = ConsumerSpec(subjects.STREAM_USAGE, "batches", max_ack_pending=1024, batch=64, ack_wait_s=30)

Start = Callable[[BatchHandler], Awaitable["asyncio.Task[None]"]]


class Batches:
    """A handler that remembers: what came together, and what was handled."""

    def __init__(self) -> None:
        self.tried: list[list[bytes]] = []
        self.handled: list[bytes] = []

    async def take(self, deliveries: Sequence[Delivery]) -> None:
        """Handle a batch, unless something in it is bad."""
        batch = [delivery.data for delivery in deliveries]
        self.tried.append(batch)
        if b"bad" in batch:
            raise ValueError("bad")
        self.handled += batch


@pytest.fixture
async def bus(fresh_nats_url: str) -> AsyncIterator[Bus]:
    bus = Bus(ServiceSettings(nats_url=SecretStr(fresh_nats_url)), "batches")
    await bus.connect()
    yield bus
    await bus.close()


@pytest.fixture
def set_aside() -> list[bytes]:
    """What was handed to the dead letters."""
    return []


@pytest.fixture
async def start(bus: Bus, set_aside: list[bytes]) -> AsyncIterator[Start]:
    """Start a consumer, to be stopped at the end of the test."""
    tasks: list[asyncio.Task[None]] = []

    async def dead_letter(delivery: Delivery, reason: str) -> None:
        set_aside.append(delivery.data)

    async def started(handler: BatchHandler) -> asyncio.Task[None]:
        tasks.append(asyncio.create_task(BatchConsumer(bus, SPEC, handler, dead_letter, split_reports).run()))
        return tasks[-1]

    yield started
    for task in tasks:
        await stop(task)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A consumer that waits until all of its messages have come, however slow the machine is."""
    monkeypatch.setattr(consumer, "FETCH_TIMEOUT_S", 2.0)


async def stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def put(bus: Bus, *messages: bytes) -> None:
    """Store messages, in this order."""
    for message in messages:
        await bus.store(subjects.USAGE, message, str(ids.uuid7()))


async def pending(bus: Bus) -> int:
    """Messages that were delivered and neither acknowledged nor given back, and those yet to be delivered."""
    info = await bus.jetstream.consumer_info(subjects.STREAM_USAGE, SPEC.durable)
    return (info.num_ack_pending or 0) + (info.num_pending or 0)


@pytest.mark.usefixtures("patient")
async def test_what_waits_is_handled_together(bus: Bus, start: Start) -> None:
    batches = Batches()
    messages = [b"%d" % number for number in range(SPEC.batch)]
    await put(bus, *messages)
    await start(batches.take)

    async def all_handled() -> bool:
        return batches.handled == messages and await pending(bus) == 0

    await eventually(all_handled, "all messages are handled and acknowledged")
    assert len(batches.tried) == 1


@pytest.mark.usefixtures("patient")
async def test_a_bad_message_is_found_in_its_batch_and_set_aside_alone(
    bus: Bus, start: Start, set_aside: list[bytes]
) -> None:
    batches = Batches()
    good = [b"%d" % number for number in range(SPEC.batch - 1)]
    await put(bus, *good[:21], b"bad", *good[21:])
    await start(batches.take)

    async def all_handled() -> bool:
        return len(batches.handled) == len(good)

    await eventually(all_handled, "the good ones are handled")
    assert sorted(batches.handled) == sorted(good)
    together = [batch for batch in batches.tried if batch != [b"bad"]]
    assert len(together) <= 12, "halved, not tried one by one"

    async def is_set_aside() -> bool:
        return set_aside == [b"bad"] and await pending(bus) == 0

    await eventually(is_set_aside, "the bad one is set aside after some attempts", within_s=60)
    assert sorted(batches.handled) == sorted(good), "nothing was handled again"


async def test_a_bad_part_of_a_message_is_set_aside_alone_and_what_it_came_with_is_handled(
    bus: Bus, start: Start, set_aside: list[bytes]
) -> None:
    batches = Batches()
    good = [b"%d" % number for number in range(32)]
    await put(
        bus, b"\n".join(good[:7]), b"\n".join([*good[7:19], b"bad", *good[19:24]]), b"\n".join(good[24:])
    )
    await start(batches.take)

    async def is_set_aside() -> bool:
        return set_aside == [b"bad"] and await pending(bus) == 0

    await eventually(is_set_aside, "the bad one is set aside after some attempts", within_s=60)
    assert set(batches.handled) == set(good)
    others = [*good[:7], *good[24:]]
    assert sorted(one for one in batches.handled if one in others) == sorted(others), "others came once"


async def test_poison_in_a_message_is_set_aside_at_once(
    bus: Bus, start: Start, set_aside: list[bytes]
) -> None:
    handled: list[bytes] = []

    async def refuse(deliveries: Sequence[Delivery]) -> None:
        if any(delivery.data.startswith(b"bad") for delivery in deliveries):
            raise Poison("bad")
        handled.extend(delivery.data for delivery in deliveries)

    await put(bus, b"1\nbad 1\n2\nbad 2", b"3")
    await start(refuse)

    async def is_done() -> bool:
        return len(handled) == 3 and await pending(bus) == 0

    await eventually(is_done, "both messages are acknowledged")
    assert (sorted(handled), sorted(set_aside)) == ([b"1", b"2", b"3"], [b"bad 1", b"bad 2"])


async def test_a_batch_that_has_to_wait_comes_again_as_a_whole(bus: Bus, start: Start) -> None:
    batches = Batches()
    away = 2

    async def sometimes(deliveries: Sequence[Delivery]) -> None:
        nonlocal away
        if away:
            away -= 1
            raise TryLater("away")
        await batches.take(deliveries)

    messages = [b"%d" % number for number in range(20)]
    await put(bus, *messages)
    await start(sometimes)

    async def all_handled() -> bool:
        return sorted(batches.handled) == sorted(messages) and await pending(bus) == 0

    await eventually(all_handled, "all messages are handled once")


async def test_a_consumer_that_stops_gives_its_batch_back_at_once(bus: Bus, start: Start) -> None:
    holding = asyncio.Event()

    async def hold(deliveries: Sequence[Delivery]) -> None:
        holding.set()
        await asyncio.Event().wait()

    messages = [b"%d" % number for number in range(20)]
    await put(bus, *messages)
    first = await start(hold)
    await holding.wait()
    await stop(first)
    begun = time.monotonic()
    batches = Batches()
    await start(batches.take)

    async def all_handled() -> bool:
        return sorted(batches.handled) == sorted(messages)

    await eventually(all_handled, "another consumer has them")
    assert time.monotonic() - begun < SPEC.ack_wait_s / 3


@pytest.fixture
async def rig(fresh_nats_url: str, fresh_database_url: str) -> AsyncIterator[Rig]:
    """Two registries, and a provider that serves one model."""
    async with running_registries(fresh_nats_url, fresh_database_url, count=2) as running:
        await running.catalog(datetime.now(UTC), run=1, prices={"alpha": "0.10"})
        await running.put_provider("alpha")
        await running.observe("alpha", (MODEL,))

        async def available() -> bool:
            return await running.available() == {"alpha": None}

        await eventually(available, "the provider is available")
        yield running


async def leased(rig: Rig, key_hash: str, permits: int, **needs: int) -> RoutePlan:
    lease = LeaseAsk(lease_id=ids.uuid7(), gateway_id="g1", permits=permits)
    plan = await rig.route(key_hash, MODEL, request_id=None, lease=lease, **needs)
    assert isinstance(plan, RoutePlan), plan
    return plan


def calls(plan: RoutePlan, count: int) -> list[CallReport]:
    """Reports of requests by one plan, each of which costs `COST`."""
    return [report(plan, request_id=ids.uuid7(), input=1_000, output=500) for _ in range(count)]


async def send(rig: Rig, messages: Sequence[CallReport]) -> None:
    """Store reports, many at a time."""
    await asyncio.gather(*(rig.store(subjects.USAGE, message) for message in messages))


async def ledger_ids(rig: Rig) -> set[UUID]:
    return {row[0] for row in await rig.database.fetch("SELECT request_id FROM usage_ledger")}


async def settled(rig: Rig, expected: Sequence[CallReport], reserved: Decimal = Decimal(0)) -> None:
    """Wait until just these reports are in the ledger, then see that all sums agree to the last cent."""
    wanted = {one.request_id for one in expected}

    async def recorded() -> bool:
        return await ledger_ids(rig) == wanted

    await eventually(recorded, f"{len(wanted)} reports are in the ledger", within_s=40)
    for scope in ("t/acme/*", f"t/acme/{expected[0].global_model_id}", f"k/{expected[0].key_id}"):
        row = await rig.database.fetchrow("SELECT spent, unconfirmed FROM budget WHERE scope = $1", scope)
        assert row is not None
        assert (row["spent"], row["unconfirmed"]) == (COST * len(wanted), 0), scope
    assert await rig.database.fetchval("SELECT reserved FROM budget WHERE scope = 't/acme/*'") == reserved
    for table in ("usage_hour", "usage_day"):
        row = await rig.database.fetchrow(f"SELECT sum(requests) n, sum(cost_usd) usd FROM {table}")
        assert row is not None
        assert (row["n"], row["usd"]) == (len(wanted), COST * len(wanted)), table


async def test_bad_reports_do_not_keep_the_good_ones_of_their_batch_out_of_the_ledger(rig: Rig) -> None:
    key_hash = await rig.new_limited_key("acme", "*", {"monthly_budget_usd": "10"})
    plan = await leased(rig, key_hash, 40)
    assert plan.permit is not None
    assert plan.permit.permits == 40
    good = calls(plan, 40)
    absurd = calls(plan, 1)[0].model_copy(update={"http_status": 2**40})
    await asyncio.gather(
        send(rig, good[:20]),
        rig.bus.store(subjects.USAGE, b'{"half of a', str(ids.uuid7())),
        rig.store(subjects.USAGE, absurd),
        send(rig, good[20:]),
    )
    await settled(rig, good)

    async def set_aside() -> bool:
        return bool(await rig.database.fetchval("SELECT count(*) FROM dead_letter") == 2)

    await eventually(set_aside, "the two others are set aside after some attempts", within_s=60)


async def test_bad_reports_within_a_message_are_set_aside_alone_and_can_be_replayed(rig: Rig) -> None:
    key_hash = await rig.new_limited_key("acme", "*", {"monthly_budget_usd": "10"})
    good = calls(await leased(rig, key_hash, 40), 40)
    lines = [one.to_bytes() for one in good]
    half, absurd = b'{"half of a', good[0].model_copy(update={"http_status": 2**40}).to_bytes()
    message = join_reports([*lines[:11], half, *lines[11:30], absurd, *lines[30:]])
    await rig.bus.store(subjects.USAGE, message, str(ids.uuid7()))
    await settled(rig, good)

    async def letters() -> bool:
        rows = await rig.database.fetch("SELECT payload FROM dead_letter")
        return sorted(row["payload"] for row in rows) == sorted([half, absurd])

    await eventually(letters, "the two others are set aside, each with its own bytes", within_s=60)


async def test_reports_that_come_again_in_any_batch_count_once(rig: Rig) -> None:
    key_hash = await rig.new_limited_key("acme", "*", {"monthly_budget_usd": "10"})
    plan = await leased(rig, key_hash, 30)
    messages = calls(plan, 30)
    await send(rig, [*messages, *messages[:20]])
    await send(rig, list(reversed(messages)))
    await settled(rig, messages)
    seen = await rig.database.fetchval("SELECT count(*) FROM dead_letter")
    assert seen == 0


@contextlib.asynccontextmanager
async def holding_budgets(database_url: str) -> AsyncIterator[None]:
    """While nobody can finish recording reports."""
    connection = await asyncpg.connect(database_url)
    try:
        async with connection.transaction():
            await connection.execute("SELECT FROM budget FOR UPDATE")
            yield
    finally:
        await connection.close()


async def test_connections_that_die_in_the_middle_of_batches_lose_and_double_nothing(
    rig: Rig, fresh_database_url: str
) -> None:
    key_hash = await rig.new_limited_key("acme", "*", {"monthly_budget_usd": "10"})
    plans = [await leased(rig, key_hash, 100) for _ in range(4)]
    messages = [one for plan in plans for one in calls(plan, 100)]
    killed = 0

    async def kill() -> None:
        nonlocal killed
        while True:
            killed += await rig.database.fetchval(
                "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE query LIKE '%record_calls%' AND state <> 'idle' AND pid <> pg_backend_pid()"
            )
            await asyncio.sleep(0.001)

    async def has_killed() -> bool:
        return killed > 0

    killer = asyncio.create_task(kill())
    async with holding_budgets(fresh_database_url):
        await send(rig, messages[:50])
        await eventually(has_killed, "a connection has died in the middle of a batch")
    for begin in range(50, len(messages), 50):
        await send(rig, messages[begin : begin + 50])
    await asyncio.sleep(1)
    await stop(killer)
    await settled(rig, messages)
    assert await rig.database.fetchval("SELECT count(*) FROM dead_letter") == 0
    assert await rig.database.fetchval("SELECT count(*) FROM lease WHERE usd > 0 OR charged > 0") == 0


async def test_what_is_dearer_than_its_reservation_is_recorded_as_an_overrun(rig: Rig) -> None:
    def overruns() -> tuple[float, float]:
        return (
            REGISTRY.get_sample_value("synaxis_overruns_total") or 0.0,
            REGISTRY.get_sample_value("synaxis_overrun_usd_total") or 0.0,
        )

    key_hash = await rig.new_limited_key("acme", "*", {"monthly_budget_usd": "10"})
    plan = await leased(rig, key_hash, 1, input_tokens=100, max_output_tokens=10)
    assert plan.permit is not None
    reserved = plan.permit.usd_each
    assert 0 < reserved < COST
    count, usd = overruns()
    messages = calls(plan, 1)
    await send(rig, messages)
    await settled(rig, messages)
    row = await rig.database.fetchrow("SELECT reserved_usd, cost_usd FROM usage_ledger")
    assert row is not None
    assert (row["reserved_usd"], row["cost_usd"]) == (reserved, COST)

    async def is_told() -> bool:
        return overruns()[0] > count

    await eventually(is_told, "the overrun is told")
    counted, told = overruns()
    assert counted == count + 1
    assert told - usd == pytest.approx(float(COST - reserved))


async def test_batches_of_two_registries_about_the_same_endpoints_do_not_deadlock(rig: Rig) -> None:
    key_hash = await rig.new_limited_key("acme", "*", {"monthly_budget_usd": "10"})
    plans = [await leased(rig, key_hash, 60) for _ in range(5)]
    failed = {"usage": None, "outcome": AttemptOutcome.SERVER_ERROR}
    messages = []
    for number, one in enumerate(one for plan in plans for one in calls(plan, 60)):
        elsewhere = one.attempts[0].model_copy(update={"provider_id": f"p{number % 4}", **failed})
        messages.append(one.model_copy(update={"attempts": (elsewhere, *one.attempts)}))
    await send(rig, messages)
    await settled(rig, messages)
    assert await deadlocks(rig.database) == 0
    expected = {"alpha": 300, **dict.fromkeys(("p0", "p1", "p2", "p3"), 75)}

    async def all_count() -> bool:
        rows = await rig.database.fetch(
            "SELECT provider_id, (state #>> '{recent,requests}')::integer n FROM endpoint_health"
        )
        return {row["provider_id"]: row["n"] for row in rows} == expected

    await eventually(all_count, "no attempt has been lost for the statistics")
    assert await deadlocks(rig.database) == 0


async def test_a_month_of_the_ledger_takes_in_what_came_before_it_was_made(
    rig: Rig, fresh_database_url: str
) -> None:
    key_hash = await rig.new_limited_key("acme", "*", {"monthly_budget_usd": "10"})
    messages = calls(await leased(rig, key_hash, 1), 1)
    in_three_months = await rig.database.fetchval(
        "SELECT first_id_of((date_trunc('month', clock_timestamp() AT TIME ZONE 'UTC') + '3 months')::date)"
    )
    early = messages[0].model_copy(update={"request_id": UUID(int=UUID(str(in_three_months)).int + 1)})
    await send(rig, [early])
    await settled(rig, [early])
    assert await rig.database.fetchval("SELECT count(*) FROM usage_ledger_other") == 1

    await asyncio.gather(*(make_partitions(fresh_database_url, 3) for _ in range(4)))
    assert await rig.database.fetchval("SELECT count(*) FROM usage_ledger_other") == 0
    await send(rig, [early])
    await send(rig, calls(await leased(rig, key_hash, 1), 1))

    async def both() -> bool:
        return len(await ledger_ids(rig)) == 2

    await eventually(both, "the early one counts once, and the ledger goes on")


async def make_partitions(database_url: str, months: int) -> None:
    connection = await asyncpg.connect(database_url)
    await connection.execute("SELECT make_ledger_partitions($1)", months)
    await connection.close()


async def deadlocks(database: asyncpg.Connection[asyncpg.Record]) -> int:
    found: int = await database.fetchval(
        "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    )
    return found
