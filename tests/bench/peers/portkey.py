"""Portkey's gateway on Node.js, without its console; a request says in its head where it is to go."""

from __future__ import annotations

from pathlib import Path

from tests.bench.peers import versions
from tests.bench.peers.install import with_npm
from tests.bench.peers.peer import Launch, Peer
from tests.bench.upstream import MODEL

PACKAGE = "@portkey-ai/gateway"


async def _install(folder: Path) -> None:
    await with_npm(folder, {PACKAGE: versions.PORTKEY}, {"@hono/node-server": versions.HONO_NODE_SERVER})


def _launch(folder: Path, _upstream: str, port: int) -> Launch:
    server = folder / "node_modules" / PACKAGE / "build" / "start-server.js"
    return Launch(
        command=("node", str(server), f"--port={port}", "--headless"),
        completions=f"http://127.0.0.1:{port}/v1/chat/completions",
        environment={"NODE_ENV": "production"},
    )


def _headers(upstream: str) -> tuple[str, ...]:
    return ("x-portkey-provider: openai", f"x-portkey-custom-host: {upstream}")


PORTKEY = Peer("Portkey", versions.PORTKEY, MODEL, _install, _launch, headers=_headers)
