"""How long something takes here, whoever else is busy on the machine."""

from __future__ import annotations

import time
from pathlib import Path

_SCHEDULE = Path("/proc/thread-self/schedstat")
"""Nanoseconds on a core, nanoseconds ready to run while others had it, and how often."""


class Stopwatch:
    """Begins when it is made. It stands still while this thread is ready to run and others have the core."""

    def __init__(self) -> None:
        self._begun, self._held_up = time.monotonic(), _held_up_s()

    def s(self) -> float:
        """Seconds so far; all of them where nobody counts what others had."""
        return time.monotonic() - self._begun - (_held_up_s() - self._held_up)


def _held_up_s() -> float:
    try:
        return int(_SCHEDULE.read_text().split()[1]) / 1e9
    except FileNotFoundError:
        return 0.0
