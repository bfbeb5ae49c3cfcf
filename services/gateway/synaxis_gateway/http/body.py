"""Reads request bodies, never more of one than is allowed."""

from __future__ import annotations

import asyncio

from aiohttp import web

from synaxis_gateway.http.errors import ApiError


async def read(request: web.Request, limit: int, timeout: float) -> bytes:
    """The body. Raises an ApiError: 413 above `limit` bytes, 415 when compressed, 408 after `timeout` s."""
    check_encoding(request.headers.get("Content-Encoding"))
    if request.content_length is not None and request.content_length > limit:
        raise too_large(limit)
    pieces: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(timeout):
            async for piece in request.content.iter_any():
                size += len(piece)
                if size > limit:
                    raise too_large(limit)
                pieces.append(piece)
    except TimeoutError as error:
        raise too_slow(timeout) from error
    return b"".join(pieces)


def check_encoding(encoding: str | None) -> None:
    """Raise a 415 for a body that is compressed: it could unfold to any size."""
    if encoding is not None and encoding.strip().lower() not in ("", "identity"):
        raise ApiError(
            415, "unsupported_content_encoding", "Send the body uncompressed, without Content-Encoding."
        )


def too_large(limit: int) -> ApiError:
    """The body is larger than `limit` bytes."""
    return ApiError(413, "request_too_large", f"The body is larger than {limit} bytes.")


def too_slow(timeout: float) -> ApiError:
    """The body took longer than `timeout` seconds."""
    return ApiError(408, "request_timeout", f"The body did not arrive within {timeout:g} s.")
