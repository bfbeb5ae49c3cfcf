"""Scheduled work that must happen once: workers claim a slot from the registry, which holds the lease."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from synaxis_common.contracts.base import Message, Moment, Text

JobName = Literal["models-dev-sync", "provider-discovery"]


class RunStatus(StrEnum):
    """Where a run is."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class JobClaim(Message):
    """A worker asks for the slot `scheduled_at`, or for a run that an operator asked for."""

    job: JobName
    worker_id: Text
    scheduled_at: Moment
    lease_s: Annotated[float, Field(gt=0, le=3600)]


class JobGrant(Message):
    """Yes: the run is this worker's while it keeps up its lease."""

    kind: Literal["grant"] = "grant"
    run_id: UUID
    fence: int
    """Grows with every owner of the run; a write with an older one is refused."""
    trigger: Literal["schedule", "manual", "retry"]
    checkpoint: dict[str, str] = {}
    """What the registry has applied already: `provider/<id>` and `models` to content hashes,
    `etag/<document>` to entity tags."""


class JobDenied(Message):
    """No: done, in other hands, or not yet to be tried again."""

    kind: Literal["denied"] = "denied"
    retry_after_s: float | None = None
    """When asking again makes sense; None: at the next slot."""


class ClaimReply(Message):
    """The answer to a claim."""

    answer: Annotated[JobGrant | JobDenied, Field(discriminator="kind")]


class JobWake(Message):
    """Tells the workers of a job that there is something to ask for; says nothing else."""

    job: JobName


class JobHeartbeat(Message):
    """Keeps the lease of a run."""

    run_id: UUID
    fence: int
    lease_s: Annotated[float, Field(gt=0, le=3600)]


class JobFinish(Message):
    """Ends a run."""

    run_id: UUID
    fence: int
    status: Literal[RunStatus.SUCCEEDED, RunStatus.FAILED]
    counts: dict[str, int] = {}
    error: Text | None = None


class LeaseReply(Message):
    """Whether the run is still the worker's; if not, it must stop and write nothing more."""

    held: bool


class JobRun(Message):
    """A run as the admin API shows it."""

    run_id: UUID
    job: JobName
    status: RunStatus
    trigger: Literal["schedule", "manual", "retry"]
    attempt: int
    scheduled_at: Moment
    started_at: Moment | None
    finished_at: Moment | None
    counts: dict[str, int]
    error: Text | None
