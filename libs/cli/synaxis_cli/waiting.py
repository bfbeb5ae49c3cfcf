"""Waiting for something that another process does, and saying what it was when it does not come."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import aiohttp

from synaxis_cli.client import AdminError

LOOK_INTERVAL_S = 0.1


class CannotStart(Exception):
    """What keeps the system from running, for the operator to read."""


async def until(what: str, holds: Callable[[], Awaitable[bool]], timeout: float) -> None:
    """Look until `holds`; an answer that does not come, or is an error, is "not yet". Raises CannotStart."""
    try:
        async with asyncio.timeout(timeout) as limit:
            while True:
                try:
                    with suppress(aiohttp.ClientError, AdminError, ConnectionError):
                        if await holds():
                            return
                except TimeoutError:
                    if limit.expired():
                        raise
                await asyncio.sleep(LOOK_INTERVAL_S)
    except TimeoutError as error:
        raise CannotStart(f"not within {timeout:.0f} s: {what}; the log above may say why") from error
