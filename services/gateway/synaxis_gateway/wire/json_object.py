"""A JSON object whose values stay the bytes they were, so that what is not understood passes unchanged."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

_KEY = re.compile(rb'\s*"(?:[^"\\]|\\.)*"\s*:\s*', re.DOTALL)
_END = re.compile(rb"\s*\}\s*")
_BETWEEN = re.compile(rb"\s*,")

_RAW_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


class NotAnObject(Exception):
    """The bytes are not one JSON object that means the same to every reader."""


class JsonObject:
    """A JSON object: `values` by name for reading, and the bytes of each for sending on."""

    __slots__ = ("_compact", "_raw", "values")

    def __init__(
        self, values: dict[str, Any], raw: Mapping[str, bytes | msgspec.Raw], compact: bytes | None = None
    ) -> None:
        """`compact`: all of it, where that is nothing but the members, without white space between them."""
        self.values = values
        self._raw = raw
        self._compact = compact

    @classmethod
    def parse(cls, body: bytes) -> JsonObject:
        """Raises NotAnObject, with a message for the client, for anything but a sound object."""
        if not body.strip():
            raise NotAnObject("The request body is empty; send a JSON object.")
        try:
            raw = _RAW_OBJECT.decode(body)  # views of `body`, which may be large
            # Reading everything once finds what raw values hide: 1e999, lone surrogates, too much depth.
            values = msgspec.json.decode(body)
        except RecursionError as error:
            raise NotAnObject("The request body is nested too deeply.") from error
        except msgspec.ValidationError as error:
            if "Expected `object`" in str(error):
                raise NotAnObject("The request body must be a JSON object.") from error
            raise NotAnObject(f"The request body holds a value out of range: {error}.") from error
        except (msgspec.DecodeError, ValueError) as error:
            _check_utf8(body)
            raise NotAnObject(f"The request body is not valid JSON: {error}.") from error
        is_compact = _is_compact(body, raw)
        if not (is_compact or _names_are_unique(body, raw)):
            raise NotAnObject("The request body has a field twice; which one counts would be a guess.")
        return cls(values, raw, body if is_compact else None)

    def raw(self, name: str) -> bytes:
        """The bytes of a value as they came; empty where there is none."""
        return bytes(self._raw.get(name, b""))

    def to_bytes(self, *, without: frozenset[str] = frozenset(), **replaced: bytes) -> bytes:
        """The object again: `replaced` fields anew, those `without` left out, the others byte for byte."""
        if self._compact is not None and without.isdisjoint(self._raw):
            return self._spliced(self._compact, replaced)
        members = {name: value for name, value in self._raw.items() if name not in without} | replaced
        return b"{%b}" % b",".join(
            b"%b:%b" % (msgspec.json.encode(name), value) for name, value in members.items()
        )

    def _spliced(self, body: bytes, replaced: dict[str, bytes]) -> bytes:
        """`body` with the values of some members exchanged, and new members behind the last."""
        pieces: list[bytes] = []
        kept_from = at = 1  # behind the brace
        left = len(replaced)
        for name, value in self._raw.items():
            at += len(name) + 3  # quotes and colon: no name of a compact object takes more than its length
            if name in replaced:
                pieces += (body[kept_from:at], replaced[name])
                kept_from = at + len(value)
                left -= 1
                if not left:
                    break
            at += len(value) + 1  # the comma
        pieces.append(body[kept_from:-1])
        if left:
            for name, new in replaced.items():
                if name not in self._raw:
                    pieces.append(b",%b:%b" % (msgspec.json.encode(name), new))
        return b"{%b}" % b"".join(pieces)


def _check_utf8(body: bytes) -> None:
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise NotAnObject(f"The request body is not valid UTF-8 (byte {error.start}).") from error


def _is_compact(body: bytes, raw: Mapping[str, bytes | msgspec.Raw]) -> bool:
    """Whether the members of `raw` fill `body`, which is valid, to the last byte: as most clients write it.

    A name takes its own length at least, and each member two quotes, a colon and a comma or brace. So where
    the sum is the length of the body there is no room for a second member of the same name, nor for names
    that are written in more bytes than they have characters.
    """
    return 1 + sum(map(len, raw)) + sum(map(len, raw.values())) + 4 * len(raw) == len(body)


def _names_are_unique(body: bytes, raw: Mapping[str, bytes | msgspec.Raw]) -> bool:
    """Whether walking `body`, which is valid, meets just the members of `raw`.

    A JSON parser keeps one of two members of the same name: the walk then meets another value than
    the one that was kept, or has members left at the end.
    """
    position = body.index(b"{") + 1
    first = True
    for value in raw.values():
        if not first:
            comma = _BETWEEN.match(body, position)
            if comma is None:
                return False
            position = comma.end()
        key = _KEY.match(body, position)
        if key is None or not body.startswith(bytes(value), key.end()):
            return False
        position = key.end() + len(value)
        first = False
    return _END.fullmatch(body, position) is not None
