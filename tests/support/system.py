"""The whole system as a user runs it: `synaxis up --json` as a child process."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import openai
import pytest

from synaxis_cli.client import Answer

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 60.0
_MACHINE = ("PATH", "HOME", "LANG", "TMPDIR", "SSL_CERT_FILE")


@dataclass
class System:
    """A running system; `info` is the line that `synaxis up --json` printed."""

    info: dict[str, Any]
    process: asyncio.subprocess.Process
    log: Path

    @classmethod
    @asynccontextmanager
    async def started(
        cls, environment: Mapping[str, str] | None = None, *arguments: str, data_dir: Path | None = None
    ) -> AsyncIterator[System]:
        """Start it with nothing of this process's environment that could hold a key; stop it at the end."""
        folder = Path(tempfile.mkdtemp(prefix="synaxis-up-"))
        folder.chmod(0o755)
        log = folder / "log"
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "synaxis_cli.main", "up", "--json"),
                *("--data-dir", str(data_dir or folder / "data"), *arguments),
                env={
                    **{name: os.environ[name] for name in _MACHINE if name in os.environ},
                    "SYNAXIS_HTTP_PORT": "0",
                    "SYNAXIS_MODELS_DEV_URL": "http://127.0.0.1:9/api.json",
                    **(environment or {}),
                },
                stdout=asyncio.subprocess.PIPE,
                stderr=output,
            )
        try:
            assert process.stdout is not None
            async with asyncio.timeout(START_TIMEOUT_S):
                line = await process.stdout.readline()
            if not line:
                pytest.fail(f"synaxis up did not start:\n{log.read_text(errors='replace')[-4000:]}")
            yield cls(json.loads(line), process, log)
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
                try:
                    async with asyncio.timeout(STOP_TIMEOUT_S):
                        await process.wait()
                except TimeoutError:
                    process.kill()
                    await process.wait()
                    pytest.fail(f"synaxis up did not stop:\n{log.read_text(errors='replace')[-4000:]}")
            process._transport.close()  # type: ignore[attr-defined]  # else its pipe is closed by the collector
            shutil.rmtree(folder, ignore_errors=True)

    @property
    def url(self) -> str:
        """The gateways' root."""
        return str(self.info["url"])

    async def admin(self, method: str, path: str, body: Any = None) -> Answer:
        """Ask the admin API."""
        data = None if body is None else json.dumps(body).encode()
        return await self.http(method, f"/admin/v1{path}", data, "admin")

    async def http(
        self, method: str, path: str, body: bytes | None = None, key: str | None = "tenant"
    ) -> Answer:
        """Any request; `key` is `tenant`, `admin`, another key as it stands, or None."""
        known = {"tenant": self.info["tenant_key"], "admin": self.info["admin_key"]}
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if key is not None:
            headers["Authorization"] = f"Bearer {known.get(key, key)}"
        async with (
            aiohttp.ClientSession() as session,
            session.request(
                method, self.url + path, data=None if body is None else io.BytesIO(body), headers=headers
            ) as response,
        ):
            return Answer(response.status, await response.json(content_type=None))

    def openai(self, key: str | None = None) -> openai.AsyncOpenAI:
        """OpenAI's client, without retries of its own."""
        return openai.AsyncOpenAI(
            base_url=f"{self.url}/v1", api_key=key or self.info["tenant_key"], max_retries=0, timeout=20
        )

    async def query(self, sql: str) -> list[asyncpg.Record]:
        """Look into the database."""
        connection = await asyncpg.connect(self.info["database_url"])
        try:
            return await connection.fetch(sql)
        finally:
            await connection.close()
