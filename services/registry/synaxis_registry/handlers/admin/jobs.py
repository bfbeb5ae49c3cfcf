"""Verbs on scheduled jobs."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import get_args

from synaxis_common import subjects
from synaxis_common.bus import BusUnavailable
from synaxis_common.contracts.admin import AdminReply, AdminStatus, page
from synaxis_common.contracts.jobs import JobName, JobWake
from synaxis_common.logging import get_logger
from synaxis_registry.handlers.admin.paging import after, cursor_after, fitting, limit_of, no_cursor
from synaxis_registry.handlers.admin.verb import Ask, Surroundings, not_found, ok
from synaxis_registry.store import jobs

log = get_logger(__name__)

NAMES: tuple[str, ...] = get_args(JobName)


async def list_all(around: Surroundings, _ask: Ask) -> AdminReply:
    """The jobs and their last runs."""
    last = await around.database.run(jobs.last_runs)
    return ok(
        page(
            [
                {"name": name, "last_run": last[name].model_dump(mode="json") if name in last else None}
                for name in NAMES
            ],
            None,
        )
    )


async def run(around: Surroundings, ask: Ask) -> AdminReply:
    """Run a job now: a row is made, and the workers are told to ask for it."""
    job = _known(ask)
    requested = await around.database.run(lambda connection: jobs.request_run(connection, job))
    try:
        await around.bus.publish(subjects.job_wake(job), JobWake.model_validate({"job": job}))
    except BusUnavailable as error:
        log.warning("workers_not_woken", job=job, error=str(error))
    return AdminReply(status=AdminStatus.ACCEPTED, body=requested.model_dump(mode="json"))


async def runs(around: Surroundings, ask: Ask) -> AdminReply:
    """A job's runs, newest first."""
    job, limit, before = _known(ask), limit_of(ask), _before(ask)
    while True:
        found, more = await around.database.run(partial(jobs.list_runs, job=job, limit=limit, cursor=before))
        rows = [one.model_dump(mode="json") for one in found]
        fits = fitting(rows, limit)
        if fits == len(rows):
            return ok(page(rows, None if more is None else cursor_after(more)))
        limit = fits  # asked again, since only the store knows what comes after a run


def _before(ask: Ask) -> str | None:
    (moment,) = after(ask, 1)
    if not moment:
        return None
    try:
        datetime.fromisoformat(moment)
    except ValueError as error:
        raise no_cursor() from error
    return moment


def _known(ask: Ask) -> str:
    if ask.path["job"] not in NAMES:
        raise not_found(f"no job '{ask.path['job']}'; there are {', '.join(NAMES)}")
    return ask.path["job"]
