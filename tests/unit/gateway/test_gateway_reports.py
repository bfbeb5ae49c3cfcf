"""Call reports reach the bus, however long it is away; plans are asked for twice at most."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from synaxis_common import ids
from synaxis_common.bus import Bus, BusUnavailable
from synaxis_common.clock import SystemClock
from synaxis_common.contracts.leases import LeaseAsk
from synaxis_common.contracts.routing import RefusalCode, RouteRefusal, RouteReply, RouteRequest
from synaxis_common.contracts.usage import (
    BATCH_BYTES,
    BATCH_REPORTS,
    CallReport,
    RequestOutcome,
    split_reports,
)
from synaxis_common.settings import ServiceSettings
from synaxis_gateway.admission.shape import shape_of
from synaxis_gateway.dispatch.reports import KEPT_S, Reports
from synaxis_gateway.routing import ASK_AGAIN_AFTER_S, Registry
from synaxis_gateway.spool import Spool, unframe
from synaxis_gateway.wire import openai_request

SHAPE = shape_of(
    openai_request.parse(b'{"model":"m","messages":[{"role":"user","content":"hi"}]}', "chat"), "hash"
)


class HandClock(SystemClock):
    """A clock that is put forward by hand."""

    seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds


def ask() -> LeaseAsk:
    return LeaseAsk(lease_id=ids.uuid7(), gateway_id="g")


class FlakyBus(Bus):
    """A bus that fails as often as it is told to."""

    def __init__(self, failures: int = 0, silent: int = 0) -> None:
        super().__init__(ServiceSettings(), "test")
        self.failures = failures
        self.silent = silent
        self.stored: list[str] = []
        self.tried: list[str] = []
        self.reports: list[UUID] = []
        """Stored, in the order in which they came."""
        self.messages: list[bytes] = []
        """What was tried, stored or not."""
        self.asked: list[RouteRequest] = []

    @property
    def is_connected(self) -> bool:
        return True

    async def store(self, subject: str, payload: bytes, message_id: str, timeout: float = 5.0) -> int:
        self.tried.append(message_id)
        self.messages.append(payload)
        if self.failures:
            self.failures -= 1
            raise BusUnavailable(subject)
        self.stored.append(message_id)
        self.reports += [CallReport.model_validate_json(one).request_id for one in split_reports(payload)]
        return len(self.stored)

    async def request_bytes(self, subject, payload, reply, timeout, headers=None):  # type: ignore[no-untyped-def]
        request = RouteRequest.model_validate_json(payload)
        self.asked.append(request)
        if self.failures:
            self.failures -= 1
            raise BusUnavailable(subject)
        if self.silent:
            self.silent -= 1
            await asyncio.sleep(timeout)
            raise BusUnavailable(subject)
        refusal = RouteRefusal(request_id=request.request_id, code=RefusalCode.MODEL_NOT_FOUND, message="no")
        return RouteReply(answer=refusal)


def submit(reports: Reports, request_id: UUID) -> None:
    reports.submit(str(request_id), report(request_id))


def report(request_id: UUID, asked: str = "m") -> bytes:
    return CallReport(
        request_id=request_id,
        tenant_id="t",
        key_id="k",
        global_model_id="m",
        model_asked=asked,
        started_at=datetime(2026, 11, 23, tzinfo=UTC),
        outcome=RequestOutcome.OK,
        http_status=200,
        latency_s=1.0,
    ).to_bytes()


@asynccontextmanager
async def publishing(reports: Reports) -> AsyncIterator[Reports]:
    task = asyncio.create_task(reports.run())
    try:
        yield reports
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_what_comes_together_shares_a_message_within_its_bounds_and_keeps_its_order() -> None:
    bus = FlakyBus()
    reports = Reports(bus, SystemClock(), capacity=1000, spool=None)
    sent = [ids.uuid7() for _ in range(300)]
    async with publishing(reports):
        for request_id in sent:
            submit(reports, request_id)
        assert await reports.flush(2.0) == 0
    assert bus.reports == sent
    assert [len(split_reports(message)) for message in bus.messages] == [128, 128, 44]
    assert len(set(bus.stored)) == 3
    assert not {UUID(message_id) for message_id in bus.stored} & set(sent)


async def test_a_message_that_is_full_does_not_wait_for_company() -> None:
    bus = FlakyBus()
    async with publishing(Reports(bus, SystemClock(), 1_000, None)) as reports:
        submit(reports, ids.uuid7())
        await asyncio.sleep(0.001)  # now it is waited for more
        for _ in range(BATCH_REPORTS):
            submit(reports, ids.uuid7())
        for _ in range(20):
            await asyncio.sleep(0)
        assert [len(split_reports(message)) for message in bus.messages] == [BATCH_REPORTS]
        assert await reports.flush(5) == 0
    assert [len(split_reports(message)) for message in bus.messages] == [BATCH_REPORTS, 1]


async def test_reports_that_are_long_are_in_more_messages() -> None:
    bus = FlakyBus()
    reports = Reports(bus, SystemClock(), capacity=1000, spool=None)
    async with publishing(reports):
        for _ in range(30):
            request_id = ids.uuid7()
            reports.submit(str(request_id), report(request_id, asked="m" * 20_000))
        assert await reports.flush(2.0) == 0
    assert len(bus.reports) == 30
    assert len(bus.messages) == 3
    assert all(len(message) <= BATCH_BYTES for message in bus.messages)


async def test_a_report_that_is_alone_is_a_message_as_it_is_under_the_id_of_its_request() -> None:
    bus = FlakyBus()
    reports = Reports(bus, SystemClock(), capacity=10, spool=None)
    request_id = ids.uuid7()
    async with publishing(reports):
        submit(reports, request_id)
        assert await reports.flush(2.0) == 0
    assert (bus.stored, bus.messages) == ([str(request_id)], [report(request_id)])


async def test_a_batch_that_was_not_stored_is_sent_again_as_it_was_whatever_has_come_since() -> None:
    bus = FlakyBus(failures=2)
    reports = Reports(bus, SystemClock(), capacity=10, spool=None)
    async with publishing(reports):
        early = [ids.uuid7() for _ in range(3)]
        for request_id in early:
            submit(reports, request_id)
        while not bus.tried:
            await asyncio.sleep(0.001)
        late = ids.uuid7()
        submit(reports, late)
        assert await reports.flush(5.0) == 0
    by_id: dict[str, set[bytes]] = {}
    for message_id, message in zip(bus.tried, bus.messages, strict=True):
        by_id.setdefault(message_id, set()).add(message)
    assert len(by_id) == 2
    assert all(len(messages) == 1 for messages in by_id.values())
    assert sorted(bus.reports) == sorted([*early, late])


async def test_what_a_gateway_that_is_gone_has_left_is_sent_in_batches(tmp_path: Path) -> None:
    gone, left = Spool(tmp_path, "gone"), [ids.uuid7() for _ in range(200)]
    for request_id in left:
        gone.append(report(request_id))
    gone.close()
    bus, spool = FlakyBus(failures=1), Spool(tmp_path, "g")
    adopting = asyncio.create_task(Reports(bus, SystemClock(), capacity=10, spool=spool).adopt())
    await eventually_stored(bus, 2)
    while (tmp_path / "gone").exists():
        await asyncio.sleep(0.005)
    adopting.cancel()
    await asyncio.wait({adopting})
    assert bus.reports == left
    assert bus.tried[0] == bus.tried[1]
    spool.close()


async def test_a_report_that_was_not_stored_is_sent_again_with_the_same_id() -> None:
    bus = FlakyBus(failures=3)
    reports = Reports(bus, SystemClock(), capacity=10, spool=None)
    request_id = ids.uuid7()
    async with publishing(reports):
        submit(reports, request_id)
        assert await reports.flush(5.0) == 0
    assert bus.tried == [str(request_id)] * 4
    assert bus.stored == [str(request_id)]


async def test_what_could_not_be_stored_before_the_end_is_counted() -> None:
    reports = Reports(FlakyBus(failures=1000), SystemClock(), capacity=10, spool=None)
    async with publishing(reports):
        submit(reports, ids.uuid7())
        assert await reports.flush(0.1) == 1


async def test_a_full_queue_keeps_the_gateway_from_being_ready_but_refuses_no_report() -> None:
    reports = Reports(FlakyBus(), SystemClock(), capacity=1, spool=None)
    assert reports.problem() is None
    for _ in range(2):
        submit(reports, ids.uuid7())
    assert reports.problem() is not None
    async with publishing(reports):
        assert await reports.flush(2.0) == 0
    assert reports.problem() is None


async def test_what_the_bus_may_have_lost_is_sent_again_for_a_minute(tmp_path: Path) -> None:
    bus, clock, spool = FlakyBus(), HandClock(), Spool(tmp_path, "g")
    reports = Reports(bus, clock, capacity=10, spool=spool)
    early, late = ids.uuid7(), ids.uuid7()
    async with publishing(reports):
        submit(reports, early)
        await eventually_stored(bus, 1)
        clock.seconds += KEPT_S - 1
        submit(reports, late)
        await eventually_stored(bus, 2)
        await reports.send_again()
        await eventually_stored(bus, 4)
        assert bus.stored[2:] == [str(early), str(late)]
        clock.seconds += KEPT_S + 1
        await reports.send_again()
        assert await reports.flush(2.0) == 0
    assert len(bus.stored) == 4
    spool.close()
    assert not list(tmp_path.iterdir()), "a gateway that stops leaves nothing that is stored"


async def test_a_killed_gateway_leaves_what_the_bus_may_yet_lose(tmp_path: Path) -> None:
    bus, spool = FlakyBus(), Spool(tmp_path, "g")
    async with publishing(Reports(bus, SystemClock(), capacity=10, spool=spool)) as reports:
        submit(reports, ids.uuid7())
        await eventually_stored(bus, 1)
    (file,) = (tmp_path / "g").glob("*.spool")
    assert unframe(file.read_bytes().strip()) is not None
    spool.close()


async def eventually_stored(bus: FlakyBus, count: int) -> None:
    async with asyncio.timeout(2):
        while len(bus.stored) < count:
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("bus", "asked"),
    [(FlakyBus(silent=1), 2), (FlakyBus(failures=1), 2), (FlakyBus(silent=3), 4)],
    ids=["silent", "absent", "silent again and again"],
)
async def test_a_registry_that_does_not_answer_is_followed_by_another_with_the_same_question(
    bus: FlakyBus, asked: int
) -> None:
    registry = Registry(bus, SystemClock(), timeout_s=5.0)
    async with asyncio.timeout(sum(ASK_AGAIN_AFTER_S) + 1):
        answer, is_repeated = await registry.route(SHAPE, ask())
    assert isinstance(answer, RouteRefusal)
    assert is_repeated
    assert len(bus.asked) == asked
    assert all(question == bus.asked[0] for question in bus.asked), "one lease id, so that it is booked once"


async def test_when_no_registry_answers_the_bus_is_said_to_be_unavailable_and_soon_where_none_listens() -> (
    None
):
    nobody = Registry(FlakyBus(failures=9), SystemClock(), timeout_s=60.0)
    with pytest.raises(BusUnavailable):
        async with asyncio.timeout(2 * ASK_AGAIN_AFTER_S[0] + 1):
            await nobody.route(SHAPE, ask())
    silent = Registry(FlakyBus(silent=9), SystemClock(), timeout_s=1.5)
    with pytest.raises(BusUnavailable):
        async with asyncio.timeout(4):
            await silent.route(SHAPE, ask())
