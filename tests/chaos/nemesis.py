"""Kills and stops processes at random, by a seed; who is killed is started again by `synaxis up`."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

MODULES = {name: f"synaxis_{name}" for name in ("gateway", "registry", "sync", "discovery")}
PROGRAMS = {"nats": "nats-server", "postgres": "postgres"}
CALM_AT_END_S = 18.0
"""A long run's last seconds are left alone: a dead gateway's reservations are charged after 15 s."""


@dataclass(frozen=True)
class Wound:
    """Something that was done to a process."""

    service: str
    kind: str
    """`kill` or `stop`."""
    pid: int
    begun: float
    """Monotonic seconds."""
    ended: float
    """When it was let go on; of a kill, the moment itself."""

    def __str__(self) -> str:
        lasted = f" for {self.ended - self.begun:.1f} s" if self.kind == "stop" else ""
        return f"{self.kind} {self.service} {self.pid}{lasted}"


@dataclass(frozen=True)
class Step:
    """Something to do, at so many seconds after the load has begun."""

    at_s: float
    service: str
    kind: str
    for_s: float = 0.0


def short_plan(dice: random.Random) -> list[Step]:
    """One kill and one stop each of a gateway and a registry, one after another."""
    steps = [("gateway", "kill"), ("gateway", "stop"), ("registry", "kill"), ("registry", "stop")]
    dice.shuffle(steps)
    return [
        Step(5.0 + 7.5 * number + dice.uniform(0.0, 2.0), service, kind, dice.uniform(3.0, 5.0))
        for number, (service, kind) in enumerate(steps)
    ]


def long_plan(dice: random.Random, seconds: float) -> list[Step]:
    """Everything, servers too, and once a stop that makes a gateway be taken for dead."""
    steps: list[Step] = []
    at_s = 5.0
    kinds = [
        ("gateway", "kill"),
        ("gateway", "stop"),
        ("registry", "kill"),
        ("registry", "stop"),
        ("nats", "kill"),
        ("postgres", "kill"),
    ]
    rest: list[tuple[str, str]] = []
    slept_long = False
    while at_s < seconds - CALM_AT_END_S:
        if not rest:
            rest = dice.sample(kinds, len(kinds))
        service, kind = rest.pop()
        for_s = dice.uniform(3.0, 6.0)
        if service == "gateway" and kind == "stop" and not slept_long and seconds >= 90:
            slept_long, for_s = True, 20.0
        steps.append(Step(at_s, service, kind, for_s))
        at_s += (for_s if kind == "stop" else 0.0) + dice.uniform(2.0, 7.0)
    return steps


@dataclass
class Nemesis:
    """Does what a plan says to the children of `up_pid`."""

    up_pid: int
    dice: random.Random
    say: Callable[[str], None]
    wounds: list[Wound] = field(default_factory=list)

    async def run(self, plan: list[Step]) -> None:
        """Follow the plan; afterwards nobody is stopped any more."""
        begun = time.monotonic()
        for step in plan:
            await asyncio.sleep(max(0.0, begun + step.at_s - time.monotonic()))
            pids = processes_of(self.up_pid, step.service)
            if not pids:
                self.say(f"no {step.service} is running that could be hurt")
                continue
            self.wounds.append(await self._hurt(step, self.dice.choice(sorted(pids))))

    async def _hurt(self, step: Step, pid: int) -> Wound:
        at = time.monotonic()
        self.say(f"{step.kind} {step.service} {pid}")
        if step.kind == "kill":
            os.kill(pid, signal.SIGKILL)
            return Wound(step.service, step.kind, pid, at, at)
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(step.for_s)
        finally:
            os.kill(pid, signal.SIGCONT)
            self.say(f"let {step.service} {pid} go on")
        return Wound(step.service, step.kind, pid, at, time.monotonic())


def processes_of(parent: int, service: str) -> list[int]:
    """The children of a process that are the named service."""
    return [pid for pid in children_of(parent) if _is(pid, service)]


def children_of(parent: int) -> list[int]:
    """By pid, dead ones left out."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            state, ppid = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(ppid) == parent and state not in "ZX":
            found.append(int(folder.name))
    return found


def _is(pid: int, service: str) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return False
    if service in MODULES:
        return MODULES[service].encode() in words
    return Path(os.fsdecode(words[0])).name == PROGRAMS[service]
