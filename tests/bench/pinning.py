"""Which process runs on which core, with what priority, and how much CPU and memory it takes. Needs Linux."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
NICE = 5
"""Of what stores and sums up, on the cores that the load generator needs, too."""
SHORT_SLICE_NS = 100_000
"""The shortest that Linux allows."""
SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
"""Number of the system call, which neither Python nor every libc has a function for."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Who runs where."""

    gateway: frozenset[int]
    others: frozenset[int]

    @classmethod
    def of_this_machine(cls) -> Cores:
        """The first core that we may use is the gateway's, the others are for everybody else."""
        if sys.platform != "linux":
            raise OSError("the benchmark pins processes to cores and reads /proc: it needs Linux")
        first, *others = sorted(os.sched_getaffinity(0))
        return cls(frozenset({first}), frozenset(others or [first]))


@contextmanager
def staying_off_the_gateways_core(cores: Cores) -> Iterator[None]:
    """Have this process, and all that it starts meanwhile, on the other cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores.others)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _threads(pid: int) -> list[int]:
    return [int(each.name) for each in (PROC / str(pid) / "task").iterdir()]


def _children(pid: int) -> list[int]:
    found = []
    for thread in _threads(pid):
        with suppress(FileNotFoundError, ProcessLookupError):
            found += [int(each) for each in (PROC / f"{pid}/task/{thread}/children").read_text().split()]
    return found


def family(pid: int) -> list[int]:
    """A process and all that descend from it, such as the backends of a Postgres."""
    found = [pid]
    for each in found:
        with suppress(FileNotFoundError, ProcessLookupError):
            found += _children(each)
    return found


def pin(pid: int, cores: frozenset[int]) -> None:
    """Have all threads of a process on these cores, and those that it starts later."""
    for thread in _threads(pid):
        os.sched_setaffinity(thread, cores)


def be_nice(pid: int) -> None:
    """Let a process and what descends from it wait for others."""
    for process in family(pid):
        with suppress(FileNotFoundError, ProcessLookupError):
            for thread in _threads(process):
                os.setpriority(os.PRIO_PROCESS, thread, NICE)
        # Where Linux groups by session, a nice value counts within it only, and this one between sessions.
        with suppress(OSError):
            (PROC / str(process) / "autogroup").write_text(str(NICE))


class _SchedAttr(ctypes.Structure):
    """`struct sched_attr` of sched_setattr(2), in its first version."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    )


def be_prompt() -> bool:
    """Have this process run as soon as it has something to do, in short slices, on a core that it shares.

    Linux 6.12 and later let whoever works in short slices interrupt whoever works in long ones, at the same
    share of the core; else what shares the core is only interrupted at the end of its slice of 3 ms, which
    would be measured as somebody's latency. Answers whether the kernel knows of it; earlier ones ignore it.
    """
    attributes = _SchedAttr(size=ctypes.sizeof(_SchedAttr), runtime=SHORT_SLICE_NS)
    number = SCHED_SETATTR.get(platform.machine())
    if number is None:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    return int(libc.syscall(number, 0, ctypes.byref(attributes), 0)) == 0


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat from the state on, which is the third of proc(5)."""
    return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far. Raises FileNotFoundError when it is gone."""
    user, system = _stat(pid)[11:13]
    return (int(user) + int(system)) / TICKS_PER_S


def cpu_of_family_s(pid: int) -> float:
    """CPU seconds of a process, of all that descend from it, and of its children that have ended."""
    ended = sum(map(int, _stat(pid)[13:15])) / TICKS_PER_S
    total = ended
    for each in family(pid):
        with suppress(FileNotFoundError, ProcessLookupError):
            total += cpu_s(each)
    return total


def rss_bytes(pid: int) -> int:
    """Memory that a process has now."""
    return int((PROC / str(pid) / "statm").read_text().split()[1]) * PAGE_BYTES


@dataclass(frozen=True, slots=True)
class Busy:
    """What some cores have done since the machine was started, in ticks."""

    total: int
    idle: int
    stolen: int
    """Given to other machines by the one that this one is a guest of."""

    @classmethod
    def now(cls, cores: Iterable[int]) -> Busy:
        """Read it."""
        names = {f"cpu{core}" for core in cores}
        rows = [line.split() for line in (PROC / "stat").read_text().splitlines()]
        ticks = [[int(each) for each in row[1:9]] for row in rows if row[0] in names]
        return cls(
            total=sum(map(sum, ticks)),
            idle=sum(row[3] + row[4] for row in ticks),
            stolen=sum(row[7] for row in ticks),
        )

    def share_since(self, before: Busy) -> tuple[float, float]:
        """How much of the time between was worked, and how much was stolen."""
        total = max(self.total - before.total, 1)
        return 1 - (self.idle - before.idle) / total, (self.stolen - before.stolen) / total
