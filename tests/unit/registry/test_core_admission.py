"""What the answer to a booking means to the client: which limit, for how long, and what is left."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from tests.unit.registry.core_world import KEY_HASH, NOW, TENANT, ask, catalog, endpoint, usd

from synaxis_common.contracts.leases import LEASE_TTL_S, LeaseAsk
from synaxis_common.contracts.routing import RateLimitView, RefusalCode, RouteRefusal
from synaxis_registry.core.admission import Grant, LimitUse, permit, rate_limit_view, refusal
from synaxis_registry.core.catalog import Limit
from synaxis_registry.core.plan import Routed, route

FREE = LimitUse(
    scope=f"t/{TENANT}/*",
    verdict=None,
    retry_after_s=None,
    reset_s=None,
    allowed_rpm=None,
    used_requests=0,
    allowed_tpm=None,
    used_tokens=0,
    allowed_concurrency=None,
    slots=None,
    monthly_budget_usd=None,
    spent_usd=Decimal(0),
    reserved_usd=Decimal(0),
)
LEASE = LeaseAsk(lease_id=UUID(int=7), gateway_id="g1", permits=8)


def use(**changes: Any) -> LimitUse:
    return replace(FREE, **changes)


def routed() -> Routed:
    limit = Limit(TENANT, "*", allowed_rpm=10, monthly_budget_usd=usd(1))
    found = route(catalog(endpoint("a"), limits=[limit]), ask(key_hash=KEY_HASH), NOW)
    assert isinstance(found, Routed)
    return found


def refused(*uses: LimitUse) -> RouteRefusal:
    found = refusal(routed(), Grant(uses))
    assert found is not None
    return found


def test_without_a_verdict_nothing_is_refused() -> None:
    assert refusal(routed(), Grant((use(allowed_rpm=10),), permits=1)) is None


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"verdict": "rpm", "allowed_rpm": 10}, "10 requests a minute for all models"),
        (
            {"verdict": "tpm", "allowed_tpm": 9, "scope": "t/acme/lab/m"},
            "9 tokens a minute for the model 'lab/m'",
        ),
        ({"verdict": "rpm", "allowed_rpm": 10, "scope": "k/key-1"}, "10 requests a minute for this key"),
        ({"verdict": "concurrency", "allowed_concurrency": 3}, "3 requests at once for all models"),
    ],
)
def test_a_refusal_says_which_limit_is_reached(changes: dict[str, Any], told: str) -> None:
    found = refused(use(retry_after_s=7, **changes))
    assert (found.code, found.retry_after_s) == (RefusalCode.RATE_LIMIT_EXCEEDED, 7.0)
    assert f"The limit of {told} is reached." in found.message


def test_a_budget_that_is_used_up_says_what_is_spent_and_reserved_and_not_to_wait() -> None:
    spent = use(verdict="budget", monthly_budget_usd=usd("5"), spent_usd=usd("4.1"), reserved_usd=usd("0.9"))
    found = refused(use(verdict="rpm", allowed_rpm=1, retry_after_s=60), spent)
    assert (found.code, found.retry_after_s) == (RefusalCode.INSUFFICIENT_QUOTA, None)
    assert "of 5 USD 4.1 are spent and 0.9 reserved" in found.message


def test_of_several_limits_the_one_that_takes_longest_is_told() -> None:
    found = refused(
        use(verdict="rpm", allowed_rpm=5, retry_after_s=3),
        use(verdict="rpm", allowed_rpm=6, retry_after_s=30, scope="k/key-1"),
        use(verdict="tpm", allowed_tpm=7, retry_after_s=20, scope="t/acme/m"),
    )
    assert (found.retry_after_s, "6 requests a minute for this key" in found.message) == (30.0, True)


def test_what_can_never_be_admitted_is_worth_a_whole_window() -> None:
    assert refused(use(verdict="tpm", allowed_tpm=7)).retry_after_s == 60.0


def test_a_lease_that_is_over_is_no_fault_of_the_client() -> None:
    found = refused(use(verdict="gone", allowed_rpm=5))
    assert found.code is RefusalCode.UNAVAILABLE
    assert found.retry_after_s is not None
    assert found.retry_after_s <= 2


def test_the_numbers_left_are_those_of_the_tightest_limit_after_the_booking() -> None:
    grant = Grant(
        (
            use(allowed_rpm=100, used_requests=20, allowed_tpm=1_000, used_tokens=100, reset_s=12),
            use(allowed_rpm=60, used_requests=10, reset_s=70, scope="k/key-1"),
        ),
        permits=8,
        tokens=800,
    )
    assert rate_limit_view(grant) == RateLimitView(
        limit_requests=60,
        remaining_requests=42,
        reset_requests_s=70.0,
        limit_tokens=1_000,
        remaining_tokens=100,
        reset_tokens_s=61 + LEASE_TTL_S,
    )


def test_limits_that_nothing_is_used_of_are_free_already() -> None:
    assert rate_limit_view(Grant((use(allowed_rpm=5),))).reset_requests_s == 0.0


def test_a_permit_tells_what_was_granted_and_what_a_request_takes_of_it() -> None:
    found = routed()
    booking = found.booking
    slots = use(allowed_concurrency=9, slots=4)
    grant = Grant((slots, use(scope="k/key-1")), permits=3, tokens=3 * booking.tokens, usd=3 * booking.usd)
    granted = permit(LEASE, booking, grant)
    assert (granted.lease_id, granted.permits, granted.expires_in_s) == (UUID(int=7), 3, LEASE_TTL_S)
    assert (granted.usd_each, granted.tokens_each) == (booking.usd, booking.tokens)
    assert (granted.reserved_usd, granted.tokens) == (3 * granted.usd_each, 3 * granted.tokens_each)
    assert [(one.scope, one.slots) for one in granted.slots] == [("t/acme/*", 4)]
