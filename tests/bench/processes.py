"""The processes that a benchmark measures: their cost, memory and core. From `/proc`, so on Linux only."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
GATEWAY_CORE = 0
LOW_PRIORITY = 10
"""Niceness of what is neither gateway nor load: on two cores the ledger would starve the load generator."""


def cpu_s(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident_mb(pid: int) -> float:
    """Memory that a process has in RAM, in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def family(pid: int) -> list[int]:
    """A process and all that came of it."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            found += map(int, task.read_text().split())
    return found


@dataclass(frozen=True)
class Pids:
    """The processes of a system, by what they are."""

    gateway: tuple[int, ...]
    registry: tuple[int, ...]
    nats: tuple[int, ...]
    postgres: tuple[int, ...]
    others: tuple[int, ...]

    @classmethod
    def of(cls, told: Mapping[str, int | list[int]]) -> Pids:
        """From what `synaxis up --json` told."""

        def all_of(name: str) -> tuple[int, ...]:
            pids = told.get(name, [])
            return tuple(one for pid in ([pids] if isinstance(pids, int) else pids) for one in family(pid))

        return cls(
            gateway=all_of("gateway"),
            registry=all_of("registry"),
            nats=all_of("nats-server"),
            postgres=all_of("postgres"),
            others=all_of("sync") + all_of("discovery"),
        )

    def spend(self) -> dict[str, float]:
        """Processor seconds so far, by what they are."""
        named = {
            "gateway": self.gateway,
            "registry": self.registry,
            "nats": self.nats,
            "postgres": self.postgres,
        }
        return {name: sum(map(_cpu_or_nothing, pids)) for name, pids in named.items()}


def _cpu_or_nothing(pid: int) -> float:
    try:
        return cpu_s(pid)
    except FileNotFoundError:  # one of Postgres' workers has ended
        return 0.0


def other_cores() -> set[int]:
    """All cores but the gateway's; where there is only one, that one."""
    return (os.sched_getaffinity(0) | {GATEWAY_CORE}) - {GATEWAY_CORE} or {GATEWAY_CORE}


def place(pids: Iterable[int], cores: set[int], niceness: int = 0) -> None:
    """Have processes, with all their threads, run on `cores` only."""
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), cores)
        if niceness:
            os.setpriority(os.PRIO_PROCESS, pid, niceness)


def arrange(pids: Pids) -> None:
    """The gateway on a core of its own, everything else (and what this process starts) on the others."""
    others = other_cores()
    os.sched_setaffinity(0, others)
    place(pids.gateway, {GATEWAY_CORE})
    place(pids.nats, others)
    place((*pids.registry, *pids.postgres, *pids.others), others, LOW_PRIORITY)
