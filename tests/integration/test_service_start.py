"""A service that cannot start says why, in a line."""

from __future__ import annotations

import asyncio
import os
import socket
import sys


async def test_a_port_that_is_taken_is_told_of_without_a_traceback(nats_url: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        environment = {
            **os.environ,
            "SYNAXIS_NATS_URL": nats_url,
            "SYNAXIS_HEALTH_HOST": "127.0.0.1",
            "SYNAXIS_HEALTH_PORT": str(taken.getsockname()[1]),
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "synaxis_sync",
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(30):
            said, _ = await process.communicate()
    assert process.returncode == 71
    assert b"cannot_listen" in said
    assert b"Traceback" not in said
