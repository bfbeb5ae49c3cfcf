"""Call reports on disk until the bus has surely stored them, so that a killed gateway loses none.

A folder a gateway, held by a lock for as long as it lives; in it files that only grow, a line a report:
`<crc32 in hex> <report>`. What is written is in the kernel's hands, and so outlives the process; a power
failure may cost what came in the last `SYNC_EVERY_S`. A gateway that finds a folder whose lock is free
publishes what is in it. Queues on disk that are there on PyPI (persist-queue, litequeue) commit each entry
through SQLite or pickle; an append of one line is an order of magnitude cheaper.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from synaxis_common.logging import get_logger
from synaxis_gateway.tallies import Counts

log = get_logger(__name__)

SEGMENT_BYTES: Final = 4 * 1024 * 1024
SYNC_EVERY_S: Final = 0.05
LOCK_NAME: Final = "lock"
SUFFIX: Final = ".spool"

SPOOLED_BYTES: Final = Counts("synaxis_gateway_spooled_bytes", "Written to the spool").of()
SEGMENTS = Gauge("synaxis_gateway_spool_segments", "Files of the spool that hold reports")
WRITE_ERRORS = Counter("synaxis_gateway_spool_errors_total", "Reports that could not be written to the spool")
SYNC_SECONDS = Histogram("synaxis_gateway_spool_sync_seconds", "Time of one fsync of the spool")


@dataclass(slots=True, eq=False)
class Segment:
    """One file of the spool."""

    path: Path
    descriptor: int
    size: int = 0
    waiting: int = 0
    """Reports in it that may still have to be sent."""
    is_torn: bool = False
    """The last write was cut short: the next record begins on a line of its own."""


class Spool:
    """The reports of this gateway. `append` writes at once; nothing here waits but `sync`."""

    def __init__(self, directory: Path, instance: str) -> None:
        self._directory = directory
        self._own = directory / instance
        self._number = 0
        self._active: Segment | None = None
        self._dirty: set[int] = set()
        self._finished: deque[Path] = deque()
        """Closed files, all of whose reports are stored."""
        self._problem: str | None = None
        self._own.mkdir(parents=True)
        self._lock = _lock(self._own)
        if self._lock is None:
            raise OSError(f"{self._own} is held by another process")

    def problem(self) -> str | None:
        """Why reports are kept in memory only."""
        return self._problem

    def append(self, report: bytes) -> Segment | None:
        """Write a report. None: it could not be written, and is in memory only."""
        record = frame(report)
        try:
            segment = self._writable(len(record))
            if segment.is_torn:
                record = b"\n" + record
            written = os.write(segment.descriptor, record)
            SPOOLED_BYTES.count += written
            segment.size += written
            segment.is_torn = written < len(record)
            if segment.is_torn:
                raise OSError("the record was cut short")
        except OSError as error:
            WRITE_ERRORS.inc()
            if self._problem is None:
                log.error("spool_not_written", error=str(error))
            self._problem = f"the spool cannot be written: {error.strerror or error}"
            return None
        self._problem = None
        segment.waiting += 1
        self._dirty.add(segment.descriptor)
        return segment

    def stored(self, segment: Segment, reports: int = 1) -> None:
        """So many reports of a file need not be sent again. After the last it is emptied or removed."""
        segment.waiting -= reports
        if segment.waiting:
            return
        if segment is self._active:
            os.ftruncate(segment.descriptor, 0)
            segment.size = 0
            segment.is_torn = False
        else:
            self._finish(segment)

    async def sync(self) -> None:
        """Have what was written survive a power failure, for ever."""
        while True:
            await asyncio.sleep(SYNC_EVERY_S)
            if self._problem is not None:
                self._look_again()
            dirty, self._dirty = self._dirty, set()
            for descriptor in dirty:
                # A duplicate, since the file may be closed while it is synced.
                with SYNC_SECONDS.time():
                    await asyncio.to_thread(_sync, os.dup(descriptor))
            while self._finished:
                # Freeing some megabytes takes a disk up to ten milliseconds.
                await asyncio.to_thread(self._finished[0].unlink, missing_ok=True)
                self._finished.popleft()

    def abandoned(self) -> Iterator[Abandoned]:
        """The folders of gateways that are gone; each is this gateway's from now on."""
        for folder in sorted(self._directory.iterdir()):
            if folder == self._own or not folder.is_dir():
                continue
            lock = _lock(folder)
            if lock is not None:
                yield Abandoned(folder, lock)

    def close(self) -> None:
        """Leave. What the bus has not stored stays for whoever comes next."""
        self._dirty.clear()
        for path in self._finished:
            path.unlink(missing_ok=True)
        is_empty = True
        if self._active is not None:
            is_empty = not self._active.waiting
            os.close(self._active.descriptor)
        is_empty = is_empty and len(list(self._own.glob(f"*{SUFFIX}"))) <= 1
        if is_empty:
            shutil.rmtree(self._own, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _look_again(self) -> None:
        """Write an empty line, which is no record: nobody else may write while requests are refused."""
        try:
            segment = self._writable(1)
            segment.size += os.write(segment.descriptor, b"\n")
        except OSError:
            return  # it is as it was, and has been told
        segment.is_torn = False
        self._problem = None
        log.info("spool_written_again")

    def _finish(self, segment: Segment) -> None:
        """A file holds nothing any more that is needed; `sync` removes it."""
        self._dirty.discard(segment.descriptor)
        os.close(segment.descriptor)
        self._finished.append(segment.path)
        SEGMENTS.dec()

    def _writable(self, more: int) -> Segment:
        active = self._active
        if active is not None and active.size + more <= SEGMENT_BYTES:
            return active
        self._number += 1
        path = self._own / f"{self._number:08}{SUFFIX}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_EXCL, 0o600)
        if active is not None and not active.waiting:
            self._finish(active)
        SEGMENTS.inc()
        self._active = Segment(path, descriptor)
        return self._active


@dataclass(frozen=True, slots=True)
class Abandoned:
    """What a gateway that is gone has left behind."""

    folder: Path
    lock: int

    def reports(self) -> list[bytes]:
        """Its reports, the oldest first; a line that is torn or damaged is none."""
        found: list[bytes] = []
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            for line in path.read_bytes().splitlines():
                report = unframe(line)
                if report is not None:
                    found.append(report)
                elif line:
                    log.warning("spool_record_damaged", file=path.name, bytes=len(line))
        return found

    def remove(self) -> None:
        """All of it is stored."""
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self.lock)

    def let_go(self) -> None:
        """Somebody else may have it."""
        os.close(self.lock)


def frame(report: bytes) -> bytes:
    """A report as a line. JSON has no line breaks of its own."""
    return b"%08x %s\n" % (zlib.crc32(report), report)


def unframe(line: bytes) -> bytes | None:
    """The report of a line; None where its checksum does not fit."""
    checksum, _, report = line.partition(b" ")
    return report if report and checksum == b"%08x" % zlib.crc32(report) else None


def _lock(folder: Path) -> int | None:
    """The lock of a folder. None: somebody lives there, or it has gone meanwhile."""
    try:
        descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    if not (folder / LOCK_NAME).exists():  # removed between opening and locking
        os.close(descriptor)
        return None
    return descriptor


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
