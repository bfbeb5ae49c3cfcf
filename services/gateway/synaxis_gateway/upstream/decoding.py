"""Undoes a compression that we did not ask for, never to more than is taken."""

from __future__ import annotations

import zlib
from typing import Final, Protocol

from synaxis_gateway.upstream.errors import Unreadable

MAX_MEMBERS: Final = 256
"""Of gzip in a row: each costs much, and may hold nothing."""
BARE_TRAILER_BYTES: Final = 4
"""Behind deflate without its wrapping some send the checksum that belongs to it; curl overlooks it, too."""
_BOTH: Final = zlib.MAX_WBITS | 32
"""zlib and gzip, told apart by their first bytes."""
_BARE: Final = -zlib.MAX_WBITS
"""deflate without its wrapping, as some send it."""
_GZIP_MAGIC: Final = b"\x1f\x8b"


class Decoder(Protocol):
    """Makes of what arrives what was meant."""

    def decode(self, data: bytes, at_most: int) -> bytes:
        """The next bytes. Raises Unreadable when they are damaged, or more than `at_most`."""
        ...

    def finish(self) -> None:
        """Nothing more comes. Raises Unreadable when something is missing."""
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
    """gzip, zlib or bare deflate, by what the first bytes say.

    Several gzip members in a row are one content (RFC 1952); anything else behind the end is refused, as curl
    does.
    """

    def __init__(self) -> None:
        self._inflate: zlib._Decompress | None = None
        """None: between two members, or before the first."""
        self._head = b""
        """The first byte of a member, as long as it is the only one."""
        self._members = 0
        self._is_gzip = False
        self._is_bare = False
        self._behind = 0
        """How many bytes came behind the end of bare deflate."""

    def decode(self, data: bytes, at_most: int) -> bytes:
        out = []
        while data:
            inflate = self._inflate
            if inflate is None:
                data, self._head = self._head + data, b""
                if self._members and self._is_bare:
                    self._leave_out(data)
                    break
                if len(data) < len(_GZIP_MAGIC):
                    self._head = data
                    break
                inflate = self._inflate = self._member(data)
            try:
                piece = inflate.decompress(data, at_most + 1)
            except zlib.error as error:
                raise Unreadable("is compressed and damaged") from error
            at_most -= len(piece)
            if at_most < 0:
                raise Unreadable("sent more than is taken")
            out.append(piece)
            data = inflate.unused_data
            if inflate.eof:
                self._inflate = None
        return b"".join(out)

    def finish(self) -> None:
        if self._inflate is not None or self._head:
            raise Unreadable("broke off what it compressed")

    def _member(self, data: bytes) -> zlib._Decompress:
        """What inflates the member that `data` begins with."""
        is_gzip = data.startswith(_GZIP_MAGIC)
        if self._members == 0:
            is_zlib = data[0] & 0x0F == zlib.DEFLATED and int.from_bytes(data[:2], "big") % 31 == 0
            self._is_gzip, self._is_bare = is_gzip, not (is_gzip or is_zlib)
        elif not (is_gzip and self._is_gzip) or self._members == MAX_MEMBERS:
            raise Unreadable("sent more behind the end of what it compressed")
        self._members += 1
        return zlib.decompressobj(_BARE if self._is_bare else _BOTH)

    def _leave_out(self, data: bytes) -> None:
        self._behind += len(data)
        if self._behind > BARE_TRAILER_BYTES:
            raise Unreadable("sent more behind the end of what it compressed")
