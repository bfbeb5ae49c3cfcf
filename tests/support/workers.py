"""The surroundings of a worker: a real bus, and a registry that says what a test tells it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from nats.aio.client import Client
from nats.aio.msg import Msg
from pydantic import SecretStr

from synaxis_common import subjects
from synaxis_common.bus import Bus
from synaxis_common.clock import Clock, SystemClock
from synaxis_common.contracts.base import Message
from synaxis_common.contracts.catalog import CatalogComplete, CatalogMetadata, CatalogProvider
from synaxis_common.contracts.jobs import (
    ClaimReply,
    JobClaim,
    JobDenied,
    JobFinish,
    JobGrant,
    JobHeartbeat,
    LeaseReply,
)
from synaxis_common.contracts.observation import (
    DiscoveryTarget,
    PollRequested,
    ProviderObservation,
    TargetsReply,
    TargetsRequest,
)
from synaxis_common.health import Health
from synaxis_common.service import Runtime
from synaxis_common.settings import ServiceSettings
from synaxis_common.tasks import TaskSupervisor


def grant(checkpoint: dict[str, str] | None = None, **fields: Any) -> JobGrant:
    """A run for whoever asked."""
    said = {"run_id": uuid4(), "fence": 1, "trigger": "schedule", "checkpoint": checkpoint or {}, **fields}
    return JobGrant.model_validate(said)


def nothing_to_do(_claim: JobClaim) -> JobGrant | JobDenied:
    """Deny until the next slot."""
    return JobDenied()


@dataclass
class StubRegistry:
    """Answers workers as it is told, and remembers what they said."""

    client: Client
    decide: Callable[[JobClaim], JobGrant | JobDenied] = nothing_to_do
    holds_lease: Callable[[JobHeartbeat], bool] = lambda _beat: True
    targets: list[DiscoveryTarget] = field(default_factory=list)
    page_size: int = 100
    key_variables: tuple[str, ...] = ()
    claims: list[JobClaim] = field(default_factory=list)
    heartbeats: list[JobHeartbeat] = field(default_factory=list)
    ends: list[JobFinish] = field(default_factory=list)
    targets_requests: list[TargetsRequest] = field(default_factory=list)
    catalog: list[tuple[str, CatalogProvider | CatalogMetadata | CatalogComplete]] = field(
        default_factory=list
    )
    observations: list[ProviderObservation] = field(default_factory=list)
    news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def until(self, check: Callable[[], bool], timeout: float = 10.0) -> None:
        """Wait until `check` holds; it is looked at after each message."""
        async with asyncio.timeout(timeout), self.news:
            await self.news.wait_for(check)

    async def end(self, number: int = 1, timeout: float = 20.0) -> JobFinish:
        """The `number`-th end of a run, waiting for it."""
        await self.until(lambda: len(self.ends) >= number, timeout)
        return self.ends[number - 1]

    async def wake(self, job: str) -> None:
        """Hint that there is something to do."""
        await self.client.publish(subjects.job_wake(job), b"")

    async def ask_poll(self, target: DiscoveryTarget) -> None:
        """Ask for one poll now."""
        message = PollRequested(target=target, reason="test")
        await self.client.publish(subjects.DISCOVERY_POLL, message.to_bytes())

    def observation(self, provider_id: str) -> ProviderObservation:
        """The last observation of a provider."""
        return [one for one in self.observations if one.provider_id == provider_id][-1]

    def grant_once(self, checkpoint: dict[str, str] | None = None) -> UUID:
        """Grant the next claim, and no other."""
        waiting = [grant(checkpoint)]
        self.decide = lambda _claim: waiting.pop() if waiting else JobDenied()
        return waiting[0].run_id

    async def listen(self) -> None:
        """Begin to answer."""
        for subject, answer in {
            subjects.JOB_CLAIM: self._claim,
            subjects.JOB_HEARTBEAT: self._heartbeat,
            subjects.JOB_FINISH: self._finish,
            subjects.DISCOVERY_TARGETS: self._targets,
            f"{subjects.CATALOG}.>": self._catalog,
            f"{subjects.OBSERVATION}.>": self._observation,
        }.items():
            await self.client.subscribe(subject, cb=self._noted(answer))
        await self.client.flush()

    def _noted(self, answer: Callable[[Msg], Message | None]) -> Callable[[Msg], Any]:
        async def callback(message: Msg) -> None:
            reply = answer(message)
            if reply is not None:
                await message.respond(reply.to_bytes())
            async with self.news:
                self.news.notify_all()

        return callback

    def _claim(self, message: Msg) -> Message:
        self.claims.append(JobClaim.model_validate_json(message.data))
        return ClaimReply(answer=self.decide(self.claims[-1]))

    def _heartbeat(self, message: Msg) -> Message:
        self.heartbeats.append(JobHeartbeat.model_validate_json(message.data))
        return LeaseReply(held=self.holds_lease(self.heartbeats[-1]))

    def _finish(self, message: Msg) -> Message:
        self.ends.append(JobFinish.model_validate_json(message.data))
        return LeaseReply(held=True)

    def _targets(self, message: Msg) -> Message:
        request = TargetsRequest.model_validate_json(message.data)
        self.targets_requests.append(request)
        found = [one for one in self.targets if request.after is None or one.provider_id > request.after]
        page, rest = found[: self.page_size], found[self.page_size :]
        return TargetsReply(
            targets=tuple(page),
            key_variables=self.key_variables if request.after is None else (),
            next_after=page[-1].provider_id if rest else None,
        )

    def _catalog(self, message: Msg) -> None:
        said: CatalogProvider | CatalogMetadata | CatalogComplete
        if message.subject == subjects.CATALOG_COMPLETE:
            said = CatalogComplete.model_validate_json(message.data)
        elif message.subject.startswith(subjects.CATALOG_MODELS):
            said = CatalogMetadata.model_validate_json(message.data)
        else:
            said = CatalogProvider.model_validate_json(message.data)
        self.catalog.append((message.subject, said))

    def _observation(self, message: Msg) -> None:
        observation = ProviderObservation.model_validate_json(message.data)
        assert message.subject == subjects.observation(observation.provider_id)
        self.observations.append(observation)


@asynccontextmanager
async def worker_world(
    nats_url: str, clock: Clock | None = None, *, answering: bool = True
) -> AsyncIterator[tuple[Runtime, StubRegistry]]:
    """What a worker's application is given, and the registry that it talks to, `answering` or not yet."""
    settings = ServiceSettings(nats_url=SecretStr(nats_url))
    registry_bus, bus = Bus(settings, "registry-of-the-test"), Bus(settings, "worker-of-the-test")
    await registry_bus.connect()
    await bus.connect()
    registry = StubRegistry(registry_bus.client)
    if answering:
        await registry.listen()
    runtime = Runtime(bus=bus, tasks=TaskSupervisor(), health=Health(), clock=clock or SystemClock())
    try:
        yield runtime, registry
    finally:
        await runtime.tasks.stop()
        await bus.close()
        await registry_bus.close()
