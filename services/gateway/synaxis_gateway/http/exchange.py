"""One request of a client and its answer, whoever speaks HTTP: the lean door, or aiohttp's server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import msgspec

JSON_TYPE: Final = "application/json"
STALL_S: Final = 60.0
"""A client that takes nothing of its answer for so long is gone, whatever its connection says."""


class Answer(msgspec.Struct, eq=False):
    """An answer in one piece."""

    status: int
    body: bytes
    header_lines: str = ""
    content_type: str = JSON_TYPE


class Exchange(Protocol):
    """What a handler of the hot path sees of a request, and does about its answer."""

    @property
    def request_id(self) -> str:
        """Ours, never the client's: the ledger's primary key must not be somebody else's choice."""
        ...

    @property
    def key_hash(self) -> str:
        """The tenant key that it came with, hashed."""
        ...

    @property
    def notes(self) -> dict[str, str | int | None]:
        """What is added to the line of log: ids and counts, never content."""
        ...

    @property
    def is_begun(self) -> bool:
        """Whether the head of a streamed answer has gone out."""
        ...

    def header(self, name: str) -> str | None:
        """A header of the request, by its name in lower case."""
        ...

    async def body(self, limit: int, timeout: float) -> bytes:
        """The body. Raises an ApiError: 413 above `limit` bytes, 415 compressed, 408 after `timeout` s."""
        ...

    @property
    def push(self) -> Callable[[bytes], bool] | None:
        """Sends a piece at once; answers whether it is well to send more before `write` has been waited for.
        None: not here."""
        ...

    async def begin(self, header_lines: str) -> None:
        """Send the head of an answer that comes piece by piece. Raises ConnectionError."""
        ...

    async def write(self, piece: bytes, timeout: float) -> None:
        """Send a piece. Raises ConnectionError: the client is gone; TimeoutError: it takes nothing."""
        ...

    async def end(self) -> None:
        """The answer is complete. Raises ConnectionError."""
        ...

    def cut(self) -> None:
        """Have the connection closed after this exchange: its answer is incomplete, or nobody reads it."""
        ...


Serve = Callable[[Exchange], Awaitable[Answer | None]]
"""Has an exchange answered. None: the answer has gone out piece by piece. Raises ApiError."""
