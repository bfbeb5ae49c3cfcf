"""Time comes from here, so that tests can decide what time it is."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import partial
from typing import Protocol


class Clock(Protocol):
    """What everything that needs the time asks for."""

    def now(self) -> datetime:
        """The present, time zone aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back and goes on while the machine is suspended."""
        ...


class SystemClock:
    """The machine's own clocks."""

    # CLOCK_MONOTONIC stands still while a machine is suspended, so a lease would outlive its promise.
    # A request asks a dozen times: hence without a frame of its own.
    monotonic = staticmethod(
        partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
    )

    def now(self) -> datetime:
        return datetime.now(UTC)
