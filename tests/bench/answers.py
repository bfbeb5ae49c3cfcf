"""Reads HTTP answers at as little cost as it can: where one ends, and its status."""

from __future__ import annotations

import re

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED_END = b"0\r\n\r\n"


class NotHttp(Exception):
    """What came is no answer that this reader knows."""


class Reader:
    """Of one connection, on which one answer comes after another. It is chunked or has a length."""

    def __init__(self) -> None:
        self.status = 0
        self.has_body = False
        """Whether any of the body has come."""
        self._head = b""
        self._missing: int | None = None
        """Bytes of the body to come; None: it is chunked."""
        self._tail = b""

    def begin(self) -> None:
        """Another answer is to come."""
        self.status, self.has_body, self._head, self._tail = 0, False, b"", b""

    def feed(self, data: bytes) -> bool:
        """Take what has come; answers whether the answer is complete. Raises NotHttp."""
        if not self.status:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return False
            head, data = self._head[:end], self._head[end + 4 :]
            if not head.startswith(b"HTTP/1.1 "):
                raise NotHttp(head[:80])
            self.status = int(head[9:12])
            length = _LENGTH.search(head)
            self._missing = None if length is None else int(length[1])
        self.has_body = self.has_body or bool(data)
        if self._missing is not None:
            self._missing -= len(data)
            return self._missing <= 0
        # An event ends with a line feed and never with this, so a body cannot be taken to end too soon.
        self._tail = (self._tail + data)[-5:] if len(data) < 5 else data[-5:]
        return self._tail == _CHUNKED_END
