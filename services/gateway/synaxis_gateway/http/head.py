"""What the head of a request says, and how the next head on its connection is known to say the same.

A client sends the same head with every request, but for the digits of `Content-Length`. A head that equals a
parsed one byte for byte, but for them, is taken as parsed: the parser could not understand it otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

MOST_DIGITS: Final = 10
"""Of a length whose head is remembered."""
MOST_REMEMBERED: Final = 4096
"""Bytes of a head that is remembered, as long as its connection lives. OpenAI's clients send some 700."""

_KEPT: Final = {
    name.encode(): name
    for name in (
        "authorization",
        "content-encoding",
        "content-length",
        "expect",
        "transfer-encoding",
        "x-api-key",
        "x-stainless-read-timeout",
        "x-synaxis-hedge",
        "x-synaxis-continue",
    )
}
"""Headers that anybody here asks for; the others are read and forgotten."""
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})
_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,%d})\r\n" % MOST_DIGITS, re.IGNORECASE)

Line = tuple[bytes, bytes]
"""Name and value of a header as they came."""


class Head:
    """What is understood of a head."""

    __slots__ = ("count", "headers", "is_plain", "keep_alive", "key_hash", "keys", "length")

    def __init__(self, lines: Sequence[Line], *, keep_alive: bool) -> None:
        authorizations: list[str] = []
        plain: list[str] = []
        lengths: list[bytes] = []
        self.count = len(lines)
        self.headers: dict[str, str] = {}
        """Without those that may be different where all else is the same, or may come more than once."""
        has_coding = False
        for raw_name, value in lines:
            name = _KEPT.get(raw_name.lower())
            if name is None:
                continue
            if name == "authorization":
                authorizations.append(value.decode("utf-8", "surrogateescape"))
            elif name == "x-api-key":
                plain.append(value.decode("utf-8", "surrogateescape"))
            elif name == "content-length":
                lengths.append(value)
            elif name == "transfer-encoding":
                has_coding = True
            else:
                self.headers.setdefault(name, value.decode("latin-1"))
        self.keys = tuple(authorizations), tuple(plain)
        """The values of `Authorization` and of `x-api-key`."""
        self.key_hash = ""
        """Of the one key that they are, once that is known."""
        self.keep_alive = keep_alive
        self.length = int(lengths[0]) if lengths and lengths[0].isdigit() else None
        """Of the body, where it is said."""
        self.is_plain = keep_alive and len(lengths) == 1 and not has_coding and "expect" not in self.headers
        """Whether nothing but its length says how its body comes and what comes after."""


def framing(lines: Sequence[Line]) -> bytes:
    """The headers that say how long the body is."""
    return b"".join(b"%b: %b\r\n" % line for line in lines if line[0].lower() in _FRAMING)


class KnownHead:
    """A head that may come again."""

    __slots__ = ("after", "before", "head", "start")

    def __init__(self, head: Head, before: bytes, after: bytes) -> None:
        self.head = head
        self.before = before
        self.after = after
        """What the parser took on either side of the digits of the length, to the end of the head."""
        self.start = len(before)

    @classmethod
    def of(cls, data: bytes, head: Head) -> KnownHead | None:
        """Remember the head with which `data` begins, and of which `head` was understood.

        None: it is none of those that may be known again by all but their digits.
        """
        if not head.is_plain:
            return None
        end = data.find(b"\r\n\r\n", 0, MOST_REMEMBERED) + 4
        found = _LENGTH.search(data, 0, end)
        if found is None or data.count(b"\n", 0, end) != head.count + 2:
            return None
        return cls(head, data[: found.start(1)], data[found.end(1) : end])

    def end_of_digits(self, data: bytes) -> int:
        """Where the digits end if `data` begins with the same head, whatever the digits are; else 0."""
        start = self.start
        end = data.find(b"\r", start, start + MOST_DIGITS + 1)
        if (
            end > start
            and data.startswith(self.before)
            and data.startswith(self.after, end)
            and data[start:end].isdigit()  # of bytes, it knows ASCII's only
        ):
            return end
        return 0
