"""When a registry is asked: once for all who wait, and before anybody has to."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from synaxis_common import ids
from synaxis_common.bus import Bus
from synaxis_common.clock import SystemClock
from synaxis_common.contracts.leases import LeaseAsk, Permit
from synaxis_common.contracts.routing import RoutePlan, RouteRefusal
from synaxis_gateway.admission.admission import Admission, Admitted
from synaxis_gateway.admission.returns import Returns
from synaxis_gateway.admission.shape import Shape
from synaxis_gateway.routing import Registry
from synaxis_gateway.wire.openai_request import Measures

CLOCK = SystemClock()
NO_BUS = cast(Bus, None)
SHAPE = Shape("hash", "test-model", Measures("chat"), None)


class Generous(Registry):
    """Grants what it is asked for, after a while."""

    def __init__(self) -> None:
        super().__init__(NO_BUS, CLOCK, 1.0)
        self.asks: list[LeaseAsk] = []
        self.under_way = 0
        self.most_under_way = 0

    async def route(self, shape: Shape, lease: LeaseAsk) -> tuple[RoutePlan | RouteRefusal, bool]:
        self.asks.append(lease)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        await asyncio.sleep(0.02)
        self.under_way -= 1
        permit = Permit(lease_id=lease.lease_id, permits=lease.permits, expires_in_s=2.0)
        plan = RoutePlan(
            request_id=ids.uuid7(),
            tenant_id="acme",
            key_id="key-1",
            global_model_id="test-model",
            candidates=(),
            permit=permit,
        )
        return plan, False


@pytest.fixture
def registry() -> Generous:
    return Generous()


@pytest.fixture
def admission(registry: Generous) -> Admission:
    return Admission(registry, CLOCK, Returns(NO_BUS, CLOCK), "gateway-1", 60.0)


async def admit(admission: Admission) -> Admitted:
    decision = admission.at_hand(SHAPE) or await admission.by_asking(SHAPE)
    assert isinstance(decision, Admitted)
    return decision


async def test_requests_that_find_no_permit_join_the_question_that_is_under_way_already(
    admission: Admission, registry: Generous
) -> None:
    for _ in range(10):
        await asyncio.gather(*(admit(admission) for _ in range(20)))
    assert registry.most_under_way == 1
    await admission.close()


async def test_a_plan_that_has_run_out_with_its_lease_is_asked_for_once(
    admission: Admission, registry: Generous
) -> None:
    await admit(admission)
    admission.missed_hints()
    await admit(admission)
    assert [ask.permits for ask in registry.asks] == [1, 1]
    await admission.close()
