"""Reads request bodies, never more of one than is allowed."""

from __future__ import annotations

import asyncio

from aiohttp import web

from synaxis_gateway.http.errors import ApiError


async def read(request: web.Request, limit: int, timeout: float) -> bytes:
    """The body. Raises an ApiError: 413 above `limit` bytes, 415 when compressed, 408 after `timeout` s."""
    if request.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        raise ApiError(
            415, "unsupported_content_encoding", "Send the body uncompressed, without Content-Encoding."
        )
    if request.content_length is not None and request.content_length > limit:
        raise _too_large(limit)
    pieces: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(timeout):
            async for piece in request.content.iter_any():
                size += len(piece)
                if size > limit:
                    raise _too_large(limit)
                pieces.append(piece)
    except TimeoutError as error:
        raise ApiError(408, "request_timeout", f"The body did not arrive within {timeout:g} s.") from error
    return b"".join(pieces)


def _too_large(limit: int) -> ApiError:
    return ApiError(413, "request_too_large", f"The body is larger than {limit} bytes.")
