"""Undoes a compression that we did not ask for, never to more than is taken."""

from __future__ import annotations

import zlib
from typing import Final, Protocol

from synaxis_gateway.upstream.errors import Unreadable

_BOTH: Final = zlib.MAX_WBITS | 32
"""zlib and gzip, told apart by their first bytes."""


class Decoder(Protocol):
    """Makes of what arrives what was meant."""

    def decode(self, data: bytes, at_most: int) -> bytes:
        """The next bytes. Raises Unreadable when they are damaged, or more than `at_most`."""
        ...


def decoder_for(encoding: str) -> Decoder | None:
    """The decoder of a `content-encoding`; None where there is nothing to undo. Raises Unreadable."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return None
    if encoding in ("gzip", "x-gzip", "deflate"):
        return _Inflating()
    raise Unreadable("is compressed in a way that is not known")


class _Inflating:
    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(_BOTH)
        self._is_first = True

    def decode(self, data: bytes, at_most: int) -> bytes:
        if self._is_first and data:
            self._is_first = False
            if data[0] & 0x0F != zlib.DEFLATED and data[:2] != b"\x1f\x8b"[: len(data)]:
                self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)  # some send deflate without its wrapping
        try:
            decoded = self._inflate.decompress(data, at_most + 1)
        except zlib.error as error:
            raise Unreadable("is compressed and damaged") from error
        if len(decoded) > at_most:
            raise Unreadable("sent more than is taken")
        return decoded
