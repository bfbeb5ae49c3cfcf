"""Server-sent events, cut out of a stream of bytes without changing any of them."""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_EVENT_BYTES = 8 * 1024 * 1024
"""`response.completed` carries a whole answer; aiohttp's own line reader gives up at 512 KiB."""

_LINE_END = rb"(?:\r\n|\n|\r(?=[^\n]))"
_BLANK_LINE = re.compile(_LINE_END + _LINE_END)
_LINES = re.compile(rb"\r\n|\n|\r")
_LONGEST_BLANK_LINE = 4
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class EventTooLarge(Exception):
    """An event has more than MAX_EVENT_BYTES: somebody forgot to end it."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its bytes as they came, blank line included, and its data."""

    raw: bytes
    data: bytes | None
    """None for an event without data, such as a comment that keeps the connection alive."""
    name: str | None = None


def ended(event: Event) -> Event:
    """`event` with its blank line, which the last one of a stream may lack: what follows is another event."""
    if _BLANK_LINE.search(event.raw, max(0, len(event.raw) - _LONGEST_BLANK_LINE)):
        return event
    missing = b"\n" if event.raw.endswith(b"\n") else b"\n\n"
    return Event(event.raw + missing, event.data, event.name)


def event_at(block: bytes, begin: int) -> tuple[Event, int] | None:
    """The event that begins there, and where the next one does; None: its end is not in `block`."""
    found = _BLANK_LINE.search(block, begin)
    return None if found is None else (_event(block[begin : found.end()]), found.end())


class EventSplitter:
    """Feed it bytes as they arrive, however they are cut; it answers the events that are complete.

    Whoever looks at the bytes themselves calls `join` in place of `feed`, and `keep` with what is left.
    """

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._rest = bytearray()
        """The beginning of an event."""
        self._max = max_event_bytes

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes. Raises EventTooLarge."""
        block, begin = self.join(data), 0
        events: list[Event] = []
        while found := event_at(block, begin):
            event, begin = found
            events.append(event)
        self.keep(block[begin:])
        return events

    def join(self, data: bytes) -> bytes:
        """`data` behind what was kept; while no event in it is complete that stays kept, and this is empty.

        With nothing kept it is `data` itself. Raises EventTooLarge.
        """
        rest = self._rest
        if not rest:
            return data
        searched = max(0, len(rest) - _LONGEST_BLANK_LINE)
        rest += data
        if rest.find(b"\n\n", searched) < 0 and not _BLANK_LINE.search(rest, searched):
            if len(rest) > self._max:
                raise EventTooLarge
            return b""
        block = bytes(rest)
        rest.clear()
        return block

    def keep(self, rest: bytes) -> None:
        """Keep what is left of a block behind its last event. Raises EventTooLarge."""
        self._rest += rest
        if len(self._rest) > self._max:
            raise EventTooLarge

    def finish(self) -> list[Event]:
        """What the stream ended with: an event whose blank line never came, or nothing."""
        rest, self._rest = bytes(self._rest), bytearray()
        return [_event(rest)] if rest.strip() else []


def _event(raw: bytes) -> Event:
    data: list[bytes] = []
    name: str | None = None
    for line in _LINES.split(raw.removeprefix(_BYTE_ORDER_MARK)):
        field, colon, value = line.partition(b":")
        if not field:
            continue
        value = value.removeprefix(b" ") if colon else b""
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value.decode(errors="replace")
    return Event(raw, b"\n".join(data) if data else None, name)
