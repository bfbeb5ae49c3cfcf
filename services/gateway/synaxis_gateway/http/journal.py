"""What is kept of every request: a line of log and a few counts, at the price of a few microseconds.

Lines are gathered for `GATHER_S` and written together, in pieces that a pipe takes whole, so that the lines
of several processes on one pipe do not mix. They look like any other line of the log.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Mapping
from typing import Final

import msgspec
from prometheus_client import Counter

from synaxis_common.clock import Clock
from synaxis_common.logging import scrub
from synaxis_gateway import metrics
from synaxis_gateway.tallies import Spread, Tally

GATHER_S: Final = 0.05
PIECE_BYTES: Final = 4096
"""POSIX's PIPE_BUF on Linux: so much goes into a pipe in one piece."""
QUIET: Final = frozenset({"/healthz", "/readyz", "/metrics"})
"""Asked for by machines every few seconds; their lines are for debugging only."""
MOST_BEGINNINGS: Final = 4096
"""Of lines, some 400 bytes each: one for each tenant, key, model and provider lately in use."""

LINES_LOST: Final = Counter("synaxis_gateway_log_lines_lost_total", "Lines of requests that nobody took")


class Journal:
    """Notes requests that have been answered."""

    def __init__(self, clock: Clock, descriptor: int | None = None) -> None:
        self._clock = clock
        self._descriptor = sys.stderr.fileno() if descriptor is None else descriptor
        self._lines: list[bytes] = []
        self._counts: dict[tuple[str, int], tuple[Tally, Spread]] = {}
        self._beginnings: dict[tuple[str | int | None, ...], bytes] = {}
        self._some = asyncio.Event()
        self._least_level = logging.getLogger(__name__).getEffectiveLevel()

    def note(
        self,
        method: str,
        endpoint: str,
        status: int,
        seconds: float,
        request_id: str,
        notes: Mapping[str, str | int | None],
    ) -> None:
        """A request to `endpoint` was answered after `seconds`. `notes` are ids and counts, never content."""
        counts = self._counts.get((endpoint, status))
        if counts is None:
            counts = metrics.REQUESTS.of(endpoint, str(status)), metrics.LATENCY.of(endpoint)
            self._counts[endpoint, status] = counts
        counts[0].count += 1
        counts[1].observe(seconds)
        level = logging.DEBUG if endpoint in QUIET else logging.INFO
        if level < self._least_level:
            return
        # Two facts a request are its own; the rest repeats, and is kept as it was written.
        key = (method, endpoint, status, *notes, *notes.values())
        beginning = self._beginnings.get(key)
        if beginning is None:
            beginning = self._beginning(method, endpoint, status, level, notes)
            if len(self._beginnings) >= MOST_BEGINNINGS:
                self._beginnings.clear()
            self._beginnings[key] = beginning
        self._lines.append(
            b'%b,"latency_s":%.4f,"request_id":"%b","timestamp":%b}\n'
            % (beginning, seconds, request_id.encode(), msgspec.json.encode(self._clock.now()))
        )
        if len(self._lines) == 1:
            self._some.set()

    @staticmethod
    def _beginning(
        method: str, endpoint: str, status: int, level: int, notes: Mapping[str, str | int | None]
    ) -> bytes:
        fields = {
            "event": "request",
            "method": method,
            "endpoint": endpoint,
            "status": status,
            **{name: _clean(value) for name, value in notes.items()},
            "logger": __name__,
            "level": "info" if level == logging.INFO else "debug",
            "service": "gateway",
        }
        return msgspec.json.encode(fields)[:-1]

    async def run(self) -> None:
        """Write lines until cancelled."""
        while True:
            await self._some.wait()
            await asyncio.sleep(GATHER_S)
            self.flush()

    def flush(self) -> None:
        """Write what there is."""
        self._some.clear()
        lines, self._lines = self._lines, []
        piece = b""
        for line in lines:
            if piece and len(piece) + len(line) > PIECE_BYTES:
                self._write(piece)
                piece = b""
            piece += line
        if piece:
            self._write(piece)

    def _write(self, piece: bytes) -> None:
        try:
            while piece:
                piece = piece[os.write(self._descriptor, piece) :]
        except OSError:
            LINES_LOST.inc(piece.count(b"\n"))  # nobody reads the log any more: that must not stop requests


def _clean(value: str | int | None) -> str | int | None:
    return scrub(value, 1000) if isinstance(value, str) else value
