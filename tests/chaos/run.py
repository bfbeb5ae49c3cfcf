"""One run from beginning to end."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.chaos import books, checker
from tests.chaos.auditor import read_journal
from tests.chaos.checker import Evidence, Finding
from tests.chaos.load import Load
from tests.chaos.nemesis import Nemesis, Step
from tests.chaos.system import prepared
from tests.chaos.world import tenants

REST_WITHIN_S = 60.0


async def run(
    seconds: float,
    seed: int,
    plan_of: Callable[[random.Random], list[Step]],
    say: Callable[[str], None],
    environment: Mapping[str, str] | None = None,
    keep: Path | None = None,
) -> tuple[Evidence, list[Finding]]:
    """Load the system for `seconds`, hurt it, wait until it has come to rest, and check. `keep`: where the
    log goes afterwards."""
    everybody = tenants(seconds)
    with tempfile.TemporaryDirectory(prefix="synaxis-chaos-") as name:
        folder = Path(name)
        async with prepared(everybody, seed, folder, environment or {}) as world:
            info = world.system.info
            say(f"ready: {info['url']}")
            load = Load(info["url"], everybody, world.keys, seed)
            nemesis = Nemesis(world.system.process.pid, random.Random(seed), say)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(load.run(seconds))
                tasks.create_task(nemesis.run(plan_of(random.Random(seed))))
            say("the load is over; waiting until all has come to rest")
            where = books.Where(info["database_url"], info["nats_url"])
            expected = [one.request_id for one in load.seen if one.is_complete and one.request_id is not None]
            found = await books.settled(where, expected, REST_WITHIN_S)
            say("at rest" if found.is_at_rest else f"not at rest after {REST_WITHIN_S:.0f} s")
            await books.find_secrets(found, where, world.secrets, (world.folder, folder))
            books.count_errors(found, world.system.log)
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / "log").write_bytes(world.system.log.read_bytes())
                (keep / "journal.jsonl").write_bytes(world.journal.read_bytes())
            say("stopping")
            evidence = Evidence(
                tenants=everybody,
                key_ids=world.key_ids,
                billed=read_journal(world.journal),
                seen=load.seen,
                books=found,
                wounds=nemesis.wounds,
                seconds=seconds,
            )
            return evidence, checker.check(evidence)
