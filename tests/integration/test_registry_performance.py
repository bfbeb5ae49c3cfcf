"""What live requests show of providers: kept, shared by registries, shown to clients, acted upon."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from tests.support.registry import MODEL, Rig, eventually, report, running_registries

from synaxis_common import ids, subjects
from synaxis_common.contracts.routing import EndpointView, ModelsPage, ModelsRequest, RoutePlan
from synaxis_common.contracts.usage import AttemptOutcome, AttemptReport
from synaxis_registry.core.catalog import MIN_SAMPLES
from synaxis_registry.core.feedback import AT_LEAST
from synaxis_registry.core.health import NEWS_FOR
from synaxis_registry.store import ledger
from synaxis_registry.store.database import Database
from synaxis_registry.store.migrate import migrate

NOW = datetime(2026, 11, 23, 12, 30, 15, tzinfo=UTC)


@pytest.fixture
async def rig(fresh_nats_url: str, fresh_database_url: str) -> AsyncIterator[Rig]:
    async with running_registries(fresh_nats_url, fresh_database_url, count=2) as running:
        await running.catalog(datetime.now(UTC), run=1)
        for provider_id in ("alpha", "beta"):
            await running.put_provider(provider_id)
            await running.observe(provider_id, (MODEL,))

        async def available() -> bool:
            return await running.available() == {"alpha": None, "beta": None}

        await eventually(available, "both providers are available")
        yield running


@pytest.fixture
async def database(fresh_database_url: str) -> AsyncIterator[Database]:
    database = Database(fresh_database_url, 4)
    await database.connect()
    await migrate(database)
    yield database
    await database.close()


async def planned(rig: Rig, key_hash: str) -> RoutePlan:
    answer = await rig.route(key_hash, input_tokens=100)
    assert isinstance(answer, RoutePlan), answer
    return answer


async def first(rig: Rig, key_hash: str) -> str:
    return (await planned(rig, key_hash)).candidates[0].provider_id


async def send(rig: Rig, plan: RoutePlan, outcome: AttemptOutcome, count: int, **more: object) -> None:
    """Report `count` requests whose attempt at the first candidate of `plan` ended so."""
    for _ in range(count):
        said = report(plan, outcome=outcome, request_id=ids.uuid7(), input=10, output=20)
        await rig.store(subjects.USAGE, said.model_copy(update=more), str(said.request_id))


async def let_time_pass(rig: Rig) -> None:
    """What has happened so far was over a minute ago."""
    await rig.database.execute(
        """UPDATE endpoint_health SET state = state - 'open_until';
           UPDATE provider_outcome SET since = since - interval '90 s';
           UPDATE provider SET record = jsonb_set(
               record, '{suspension,until}',
               to_jsonb((record #>> '{suspension,until}')::timestamptz - interval '75 s')
           ) WHERE provider_id = 'alpha'"""
    )


async def suspension(rig: Rig) -> dict[str, object] | None:
    shown = (await rig.admin("provider.get", provider="alpha")).body
    assert isinstance(shown, dict)
    assert shown["is_on"] is True
    found = shown["suspension"]
    assert found is None or isinstance(found, dict)
    return None if found is None else dict(found)


async def endpoints(rig: Rig, key_hash: str) -> dict[str, EndpointView]:
    asked = ModelsRequest(key_hash=key_hash, model=MODEL)
    page = await rig.bus.request(subjects.MODELS, asked, ModelsPage, 5.0)
    return {one.provider_id: one for one in page.models[0].endpoints}


async def test_what_was_measured_is_shown_by_every_registry_and_outlives_them(
    rig: Rig, fresh_nats_url: str, fresh_database_url: str
) -> None:
    key = await rig.new_key("acme")
    await send(rig, await planned(rig, key), AttemptOutcome.OK, MIN_SAMPLES)

    async def all_show_it() -> bool:
        shown = [(await endpoints(rig, key))["alpha"] for _ in range(8)]
        return all(one.recent is not None and one.recent.requests == MIN_SAMPLES for one in shown)

    await eventually(all_show_it, "every registry shows it")
    recent = (await endpoints(rig, key))["alpha"].recent
    assert recent is not None
    assert recent.ttft_s is not None
    assert recent.total_s is not None
    assert recent.tokens_per_s is not None
    assert (recent.ttft_s.p50, recent.total_s.p99, recent.tokens_per_s.p95) == (0.05, 0.1, 200.0)
    assert recent.error_rate == 0.0
    assert (await endpoints(rig, key))["beta"].recent is None
    async with running_registries(fresh_nats_url, fresh_database_url) as another:
        shown = [(await endpoints(another, key))["alpha"].recent for _ in range(8)]
        assert shown == [recent] * 8


async def test_reports_that_have_waited_for_long_say_nothing_of_now(rig: Rig) -> None:
    key = await rig.new_key("acme")
    plan = await planned(rig, key)
    long_ago = datetime.now(UTC) - NEWS_FOR - timedelta(seconds=10)
    await send(rig, plan, AttemptOutcome.SERVER_ERROR, AT_LEAST, started_at=long_ago)

    async def recorded() -> bool:
        return bool(await rig.database.fetchval("SELECT count(*) FROM usage_ledger") == AT_LEAST)

    await eventually(recorded, "they are in the ledger")
    assert await rig.database.fetchval("SELECT count(*) FROM endpoint_window") == 0
    assert await rig.database.fetchval("SELECT count(*) FROM provider_outcome") == 0


async def test_a_provider_that_fails_most_requests_is_suspended_and_proves_itself_again(rig: Rig) -> None:
    key = await rig.new_key("acme")
    plan = await planned(rig, key)
    assert plan.candidates[0].provider_id == "alpha", "it is the cheaper one"
    await send(rig, plan, AttemptOutcome.SERVER_ERROR, AT_LEAST)

    async def stands_last() -> bool:
        return {await first(rig, key) for _ in range(8)} == {"beta"}

    async def is_told() -> bool:
        return "provider.disabled.alpha" in await rig.events()

    await eventually(is_told, "an event says so")
    await eventually(stands_last, "every registry puts it last")
    found = await suspension(rig)
    assert found is not None
    assert (found["requests"], found["failures"]) == (AT_LEAST, AT_LEAST)
    assert (await rig.events()).count("provider.disabled.alpha") == 1, "two registries judge, one speaks"
    await let_time_pass(rig)

    async def on_probation() -> bool:
        return await first(rig, key) == "alpha"

    await eventually(on_probation, "it is used again")
    await send(rig, plan, AttemptOutcome.OK, 10)

    async def recovered() -> bool:
        return (await rig.events()).count("provider.recovered.alpha") == 1

    await eventually(recovered, "it has proven itself")
    assert await suspension(rig) is None


# The windows in the store


def attempts(count: int, seconds: float = 0.5) -> list[AttemptReport]:
    one = AttemptReport(
        provider_id="p",
        provider_model_id="m",
        outcome=AttemptOutcome.OK,
        latency_s=seconds,
        time_to_first_token_s=seconds / 2,
    )
    return [one] * count


async def shown(database: Database) -> dict[str, dict[str, object]]:
    text = await database.call(lambda connection: connection.fetchval("SELECT state FROM endpoint_health"))
    found: dict[str, dict[str, object]] = json.loads(text)
    return found


async def test_registries_that_write_at_once_lose_nothing(database: Database) -> None:
    async def batch(number: int) -> None:
        await database.run(
            lambda connection: ledger.note_health(connection, attempts(5, 0.1 * (number % 7 + 1)), NOW)
        )

    await asyncio.gather(*(batch(number) for number in range(40)))
    assert (await shown(database))["recent"]["requests"] == 200
    counted = await database.call(
        lambda connection: ledger.outcomes(connection, "p", NOW - timedelta(minutes=1))
    )
    assert [(one.requests, one.failures) for one in counted] == [(200, 0)]


async def test_what_is_old_leaves_the_windows_though_nobody_reports(database: Database) -> None:
    await database.run(lambda connection: ledger.note_health(connection, attempts(30), NOW))

    async def settled(later: timedelta) -> int:
        return await database.run(lambda connection: ledger.settle_health(connection, NOW + later))

    assert await settled(timedelta(seconds=20)) == 0, "it is too soon"
    for later, recent, day in (
        (timedelta(minutes=1), 30, 30),
        (timedelta(minutes=7), 0, 30),
        (timedelta(hours=26), 0, 0),
    ):
        assert await settled(later) == 1
        state = await shown(database)
        assert (state["recent"]["requests"], state["day"]["requests"]) == (recent, day), later
    assert await settled(timedelta(days=9)) == 0, "there is nothing left to settle"
