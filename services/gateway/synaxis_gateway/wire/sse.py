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
    missing = b"\n" if event.raw.endswith((b"\n", b"\r")) else b"\n\n"
    return Event(event.raw + missing, event.data, event.name)


class EventSplitter:
    """Feed it bytes as they arrive, however they are cut; it answers the events that are complete."""

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._buffer = bytearray()
        self._searched = 0
        self._max = max_event_bytes

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes. Raises EventTooLarge."""
        self._buffer += data
        events: list[Event] = []
        begin = 0
        search = max(0, self._searched - _LONGEST_BLANK_LINE)
        while found := _BLANK_LINE.search(self._buffer, search):
            events.append(_event(bytes(self._buffer[begin : found.end()])))
            begin = search = found.end()
        if begin:
            del self._buffer[:begin]
        self._searched = len(self._buffer)
        if self._searched > self._max:
            raise EventTooLarge
        return events

    def finish(self) -> list[Event]:
        """What the stream ended with: an event whose blank line never came, or nothing."""
        rest, self._buffer, self._searched = bytes(self._buffer), bytearray(), 0
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
