"""Gives a gateway a wall clock that jumps: by the seconds that stand in the file FAULTS_CLOCK_FILE names.

Only the gateway of the fault matrix' fleet has this folder on its path. Monotonic clocks are left alone, and
the database keeps its own time, as they do when an operator or NTP sets a machine's clock.
"""

from __future__ import annotations

import os
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path


def _jump(file: Path) -> None:
    from synaxis_common.clock import SystemClock

    true_time, true_now = time.time, datetime.now

    def shift_s() -> float:
        return float(file.read_text() or 0)

    def now(self: SystemClock) -> datetime:
        return true_now(UTC) + timedelta(seconds=shift_s())

    time.time = lambda: true_time() + shift_s()
    SystemClock.now = now  # type: ignore[method-assign]  # that is what this module is for


if "FAULTS_CLOCK_FILE" in os.environ and "synaxis_gateway" in sys.orig_argv:
    _jump(Path(os.environ["FAULTS_CLOCK_FILE"]))
