"""A clock that says when requests are due, to the microsecond. Needs Linux.

Loops of asyncio wait in whole milliseconds, which is more than what is to be measured.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from collections.abc import Callable

_CLOCK_MONOTONIC = 1
"""What time.perf_counter reads on Linux."""
_NONBLOCK = 0o4000
_NS = 1_000_000_000


class _Timespec(ctypes.Structure):
    _fields_ = (("s", ctypes.c_long), ("ns", ctypes.c_long))


class _Timer(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("first", _Timespec))


class Pace:
    """Calls `send` with the time at which each request was due, `rate` times a second, until it is closed."""

    def __init__(self, rate: float, send: Callable[[float], None]) -> None:
        self._interval_ns = round(_NS / rate)
        self._send = send
        self._sent = 0
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.timerfd_create(_CLOCK_MONOTONIC, _NONBLOCK)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "no timer")
        span = _Timespec(*divmod(self._interval_ns, _NS))
        self._begun = time.perf_counter()
        if libc.timerfd_settime(self._fd, 0, ctypes.byref(_Timer(span, span)), None):
            raise OSError(ctypes.get_errno(), "the timer cannot be set")
        asyncio.get_running_loop().add_reader(self._fd, self._tick)

    def _tick(self) -> None:
        try:
            due = int.from_bytes(os.read(self._fd, 8), "little")
        except BlockingIOError:  # woken for nothing
            return
        for number in range(self._sent + 1, self._sent + due + 1):
            self._send(self._begun + number * self._interval_ns / _NS)
        self._sent += due

    def close(self) -> None:
        """Nothing becomes due any more."""
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)
