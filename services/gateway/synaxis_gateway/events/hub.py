"""The newest events, read once for all readers of this gateway.

Readers keep no queue: each has a place in the shared `Hub`, which holds the last few thousand events. Who is
too slow falls out of it and is cut off; who comes back from further behind reads from the stream itself.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from synaxis_common.logging import get_logger
from synaxis_common.wanted import ALL_SUBJECTS
from synaxis_gateway.events.stream import Bounds, EventStream, Piece, ReadingLost, StoredEvent

log = get_logger(__name__)

KEPT: Final = 8_192
"""Events held in memory, about 8 MB: more than change at once when a large provider goes away."""
READ_AT_START: Final = 1_024
"""So many of the newest events are read first: clients that reconnect to a new gateway find them here."""
AGAIN_AFTER_S: Final = 0.5


class Hub:
    """Follows the stream from one task (`run`), and wakes whoever waits for news."""

    def __init__(self, stream: EventStream, kept: int = KEPT) -> None:
        self._stream = stream
        self._events: deque[StoredEvent] = deque(maxlen=kept)
        self._bounds: Bounds | None = None
        self._news = asyncio.Event()
        self.position = 0
        """The place of the newest event that was read."""
        self.lives = 0
        """Counts the streams: it grows when the stream was lost and made anew."""
        self.is_closed = False

    @property
    def is_ready(self) -> bool:
        """Whether it has read what was there when it began."""
        return self._bounds is not None and self.position >= self._bounds.last

    @property
    def oldest(self) -> int:
        """Who has read up to here, or further, misses nothing by going on here."""
        return self._events[0].sequence - 1 if self._events else self.position

    def after(self, position: int, limit: int) -> list[StoredEvent]:
        """The oldest `limit` events after a place that is not before `oldest`."""
        found: list[StoredEvent] = []
        for event in reversed(self._events):
            if event.sequence <= position:
                break
            found.append(event)
        return found[: -limit - 1 : -1]

    def news(self) -> asyncio.Event:
        """Set when there is more than now, or when the hub closes."""
        return self._news

    def close(self) -> None:
        """Have all readers end."""
        self.is_closed = True
        self._wake()

    async def run(self) -> None:
        """Follow the stream until cancelled."""
        while True:
            try:
                await self._follow()
            except ReadingLost as error:
                log.info("events_reading_lost", reason=str(error), position=self.position)
                await asyncio.sleep(AGAIN_AFTER_S)

    async def _follow(self) -> None:
        self._begin(await self._stream.bounds())
        async with self._stream.reading(self.position, ALL_SUBJECTS) as pieces:
            async for piece in pieces:
                self._take(piece)

    def _begin(self, bounds: Bounds) -> None:
        known, self._bounds = self._bounds, bounds
        if known is not None and known.created == bounds.created and self.position <= bounds.last:
            return
        self.lives += 1
        self._events.clear()
        self.position = max(bounds.first - 1, bounds.last - READ_AT_START, 0)
        if known is not None:
            log.warning("events_stream_is_another", last=bounds.last)
            self.position = max(bounds.first - 1, 0)
        self._wake()

    def _take(self, piece: Piece) -> None:
        if not piece.events:
            return
        self._events.extend(piece.events)
        self.position = piece.events[-1].sequence
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
