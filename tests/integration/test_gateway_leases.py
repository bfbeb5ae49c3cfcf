"""Requests admitted from leases: without asking, within them, and given back when they end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest
from prometheus_client import REGISTRY
from tests.support.gateway import Rig, candidate, granted, plan, post, running_gateway
from tests.support.upstream import Behaviour, FakeProvider

from synaxis_common.contracts.leases import EndpointName, PlansStale, ProviderLease, SlotGrant
from synaxis_common.contracts.routing import RateLimitView, RefusalCode, RouteRefusal, RouteRequest
from synaxis_common.contracts.usage import CallReport
from synaxis_gateway.dispatch.attempt import Attempts
from synaxis_gateway.dispatch.call import Call
from synaxis_gateway.http import openai as openai_handlers

ASK: dict[str, Any] = {"model": "test-model", "messages": [{"role": "user", "content": "hi"}]}
CENT = Decimal("0.01")


@pytest.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    async with FakeProvider("cheap") as running:
        yield running


@pytest.fixture
async def other() -> AsyncIterator[FakeProvider]:
    async with FakeProvider("dear") as running:
        yield running


@pytest.fixture
async def rig(nats_url: str, provider: FakeProvider) -> AsyncIterator[Rig]:
    async with running_gateway(nats_url, candidate(provider)) as running:
        yield running


def refuse(request: RouteRequest, code: RefusalCode = RefusalCode.RATE_LIMIT_EXCEEDED) -> RouteRefusal:
    return RouteRefusal(request_id=request.request_id, code=code, message="enough", retry_after_s=7)


def asked(rig: Rig) -> int:
    return len(rig.route_requests)


async def reports(rig: Rig, number: int) -> list[CallReport]:
    await rig.report(number)
    return rig.reports


async def test_requests_of_one_shape_are_planned_once_for_a_tenant_without_limits(rig: Rig) -> None:
    for _ in range(5):
        assert (await post(rig, ASK))[0] == 200
    assert asked(rig) == 1


async def test_another_shape_is_planned_for_itself(rig: Rig) -> None:
    await post(rig, ASK)
    await post(rig, {**ASK, "tools": [{"type": "function", "function": {"name": "f"}}]})
    await post(rig, {**ASK, "max_tokens": 5_000})
    assert asked(rig) == 3


async def test_a_lease_admits_as_many_requests_as_it_has_permits(rig: Rig, provider: FakeProvider) -> None:
    rig.decide = lambda request: (
        refuse(request)
        if asked(rig) > 1
        else plan(request, candidate(provider), permit=granted(request, permits=3))
    )
    for _ in range(3):
        assert (await post(rig, ASK))[0] == 200
    status, headers, answer = await post(rig, ASK)
    assert (status, answer["error"]["code"], headers["Retry-After"]) == (429, "rate_limit_exceeded", "7")
    assert len(provider.calls) == 3


async def test_a_report_says_what_was_drawn_and_the_return_what_was_not(
    rig: Rig, provider: FakeProvider
) -> None:
    rig.decide = lambda request: plan(
        request, candidate(provider), permit=granted(request, permits=3, usd_each=CENT, tokens_each=40)
    )
    await post(rig, ASK)
    (report,) = await reports(rig, 1)
    lease = rig.route_requests[0].lease
    assert lease is not None
    (draw,) = report.draws
    assert (draw.lease_id, draw.permits, draw.tokens, draw.usd) == (lease.lease_id, 1, 40, CENT)
    assert report.lease_id == lease.lease_id
    assert report.gateway_id == lease.gateway_id
    returned = await rig.lease_return()
    assert returned.lease_id == lease.lease_id
    assert (returned.unused_permits, returned.unused_tokens, returned.unused_usd) == (2, 80, 2 * CENT)


async def test_a_tenant_far_over_its_limit_does_not_keep_the_registry_busy(rig: Rig) -> None:
    rig.decide = refuse
    statuses = {(await post(rig, ASK))[0] for _ in range(5)}
    assert statuses == {429}
    assert asked(rig) < 5


async def test_many_at_once_share_a_question_and_none_is_admitted_twice(
    rig: Rig, provider: FakeProvider
) -> None:
    left = 20

    def limited(request: RouteRequest) -> Any:
        nonlocal left
        assert request.lease is not None
        permits = min(request.lease.permits, left)
        if not permits:
            return refuse(request)
        left -= permits
        lasting = granted(request, permits=permits, expires_in_s=30.0)
        return plan(request, candidate(provider), permit=lasting)

    rig.decide = limited
    answers = await asyncio.gather(*(post(rig, ASK) for _ in range(40)))
    statuses = [status for status, _, _ in answers]
    assert (statuses.count(200), statuses.count(429)) == (20, 20)
    assert asked(rig) < 40
    draws = [draw for report in await reports(rig, 20) for draw in report.draws]
    assert sum(draw.permits for draw in draws) == 20


async def test_a_busy_tenant_does_not_wait_for_the_bus(rig: Rig, provider: FakeProvider) -> None:
    rig.decide = lambda request: plan(request, candidate(provider), permit=granted(request))

    def waited() -> float:
        return REGISTRY.get_sample_value("synaxis_gateway_admissions_total", {"how": "asked"}) or 0.0

    for _ in range(20):
        await post(rig, ASK)
    before = waited()
    for _ in range(200):
        assert (await post(rig, ASK))[0] == 200
    assert waited() - before <= 10, "of 200 requests"


async def test_the_registry_is_told_when_an_answer_never_came(nats_url: str, provider: FakeProvider) -> None:
    async with running_gateway(nats_url, candidate(provider), registry=False, route_timeout_s=0.5) as rig:
        status, headers, answer = await post(rig, ASK)
        assert (status, answer["error"]["code"]) == (503, "no_provider_available")
        assert "Retry-After" in headers
        assert (await rig.lease_return()).everything


async def test_a_revoked_key_is_refused_as_soon_as_the_gateway_is_told(rig: Rig) -> None:
    assert (await post(rig, ASK))[0] == 200
    rig.decide = lambda request: refuse(request, RefusalCode.INVALID_API_KEY)
    await rig.tell(PlansStale(tenants=("acme",)))
    assert (await post(rig, ASK))[0] == 401


async def test_leases_of_a_tenant_whose_limits_changed_are_given_back(
    rig: Rig, provider: FakeProvider
) -> None:
    rig.decide = lambda request: plan(request, candidate(provider), permit=granted(request, permits=9))
    await post(rig, ASK)
    await rig.tell(PlansStale(tenants=("acme",)))
    assert (await rig.lease_return(timeout=1.0)).unused_permits == 8


async def test_a_candidate_that_went_away_is_out_of_every_held_plan(
    rig: Rig, provider: FakeProvider, other: FakeProvider
) -> None:
    rig.serve(candidate(provider), candidate(other))
    await post(rig, ASK)
    gone = EndpointName(provider_id="cheap", provider_model_id="cheap/model")
    await rig.tell(PlansStale(endpoints=(gone,)))
    _, headers, _ = await post(rig, ASK)
    assert headers["x-synaxis-provider"] == "dear"
    assert len(provider.calls) == 1


async def test_what_is_left_counts_what_the_gateway_holds(rig: Rig, provider: FakeProvider) -> None:
    view = RateLimitView(limit_requests=60, remaining_requests=50, reset_requests_s=60.0)
    rig.decide = lambda request: (
        refuse(request)
        if asked(rig) > 1
        else plan(request, candidate(provider), permit=granted(request, permits=5), rate_limits=view)
    )
    left = [(await post(rig, ASK))[1]["x-ratelimit-remaining-requests"] for _ in range(3)]
    assert left == ["54", "53", "52"]


async def test_a_further_attempt_after_one_that_may_be_billed_is_covered_first(
    rig: Rig, provider: FakeProvider, other: FakeProvider
) -> None:
    provider.behaviour = Behaviour(hang=True)
    rig.decide = lambda request: plan(
        request,
        candidate(provider, max_output=100),
        candidate(other, max_output=100),
        permit=granted(request, usd_each=Decimal("0.00005")),
    )
    assert (await post(rig, ASK))[0] == 200
    assert [request.lease.permits for request in rig.route_requests if request.lease] == [1, 0]
    topped_up = rig.route_requests[1].lease
    assert topped_up is not None
    assert topped_up.usd > 0
    (report,) = await reports(rig, 1)
    assert [draw.permits for draw in report.draws] == [1, 0]
    assert report.draws[1].usd == topped_up.usd


async def test_a_failover_that_the_budget_does_not_cover_is_not_made(
    rig: Rig, provider: FakeProvider, other: FakeProvider
) -> None:
    provider.behaviour = Behaviour(hang=True)

    def decide(request: RouteRequest) -> Any:
        assert request.lease is not None
        if request.lease.usd:
            return refuse(request, RefusalCode.INSUFFICIENT_QUOTA)
        permit = granted(request, usd_each=Decimal("0.00005"))
        return plan(
            request, candidate(provider, max_output=100), candidate(other, max_output=100), permit=permit
        )

    rig.decide = decide
    assert (await post(rig, ASK))[0] == 504
    assert not other.calls


async def test_a_providers_own_limit_spares_it_and_the_next_one_answers(
    rig: Rig, provider: FakeProvider, other: FakeProvider
) -> None:
    rig.serve(candidate(provider, is_rate_limited=True), candidate(other))
    rig.provider_leases = lambda ask: ProviderLease(lease_id=ask.lease_id, retry_after_s=30)
    _, headers, _ = await post(rig, ASK)
    assert headers["x-synaxis-provider"] == "dear"
    assert (rig.provider_asks[0].provider_id, rig.provider_asks[0].provider_model_id) == (
        "cheap",
        "cheap/model",
    )
    await post(rig, ASK)
    assert not provider.calls
    assert len(rig.provider_asks) == 1, "it is left alone for as long as the registry said"


async def test_when_every_provider_is_at_its_limit_the_client_is_told_to_wait(
    rig: Rig, provider: FakeProvider
) -> None:
    rig.serve(candidate(provider, is_rate_limited=True))
    rig.provider_leases = lambda ask: ProviderLease(lease_id=ask.lease_id, retry_after_s=30)
    status, headers, answer = await post(rig, ASK)
    assert (status, answer["error"]["code"]) == (429, "rate_limit_exceeded")
    assert 1 <= int(headers["Retry-After"]) <= 30


async def test_no_more_requests_are_under_way_than_there_are_slots(rig: Rig, provider: FakeProvider) -> None:
    def decide(request: RouteRequest) -> Any:
        assert request.lease is not None
        needed = request.lease.slots.get("t/acme/*", 1)
        if needed > 2:
            return refuse(request)
        slots = (SlotGrant(scope="t/acme/*", slots=2),)
        return plan(request, candidate(provider), permit=granted(request, permits=9, slots=slots))

    rig.decide = decide
    provider.behaviour = Behaviour(delay_s=0.3)
    answers = await asyncio.gather(*(post(rig, ASK) for _ in range(5)))
    statuses = [status for status, _, _ in answers]
    assert (statuses.count(200), statuses.count(429)) == (2, 3)
    await asyncio.sleep(0.15)
    provider.behaviour = Behaviour()
    assert (await post(rig, ASK))[0] == 200, "they have left"


async def test_tenants_without_limits_are_served_on_while_no_registry_answers(
    nats_url: str, provider: FakeProvider
) -> None:
    async with running_gateway(nats_url, candidate(provider), route_timeout_s=0.5) as rig:
        await post(rig, ASK)
        await rig.silence()
        await rig.tell(PlansStale(everything=True))
        for _ in range(3):
            assert (await post(rig, ASK))[0] == 200


async def test_a_gateway_that_stops_gives_its_leases_back(nats_url: str, provider: FakeProvider) -> None:
    async with running_gateway(nats_url) as rig:
        rig.decide = lambda request: plan(request, candidate(provider), permit=granted(request, permits=9))
        await post(rig, ASK)
        rig.stop()
        assert (await rig.lease_return(timeout=3.0)).unused_permits == 8


async def test_a_gateway_says_that_it_is_there(rig: Rig) -> None:
    async with asyncio.timeout(5), rig.news:
        await rig.news.wait_for(lambda: bool(rig.alive))
    assert rig.alive[0].gateway_id


async def test_what_is_too_late_when_the_connection_is_there_is_admitted_anew_before_it_is_sent(
    rig: Rig, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.decide = lambda request: plan(request, candidate(provider), permit=granted(request))
    await post(rig, ASK)
    asked_before = asked(rig)
    stopped = [True]

    class Stopped(Call):
        """A call of a process that is stopped, once, between its admission and its first byte."""

        @property
        def may_begin(self) -> bool:
            return not stopped.pop() if stopped else super().may_begin

    monkeypatch.setattr(openai_handlers, "Call", Stopped)
    real_make = Attempts.make

    async def make(self: Any, call: Any, one: Any, ask: Any, may_begin: Any, *, is_last: bool) -> Any:
        late = bool(stopped)
        return await real_make(self, call, one, ask, lambda: not late and may_begin(), is_last=is_last)

    monkeypatch.setattr(Attempts, "make", make)
    status, headers, _ = await post(rig, ASK)
    assert (status, headers["x-synaxis-attempts"]) == (200, "1")
    assert len(provider.calls) == 2, "only what was in time was sent"
    assert asked(rig) > asked_before
    report = (await reports(rig, 2))[1]
    assert len(report.attempts) == 1


@pytest.mark.parametrize(("is_rate_limited", "heard"), [(True, 1), (False, 2)])
async def test_what_a_kept_connection_swallowed_is_sent_again_only_where_attempts_are_not_counted(
    rig: Rig, provider: FakeProvider, is_rate_limited: bool, heard: int
) -> None:
    rig.serve(candidate(provider, is_rate_limited=is_rate_limited))
    assert (await post(rig, ASK))[0] == 200
    provider.behaviour = Behaviour(drop=True)
    assert (await post(rig, ASK))[0] == 502
    assert len(provider.calls) == 1 + heard
