"""Runs in TensorZero's own environment: starts its HTTP gateway, and says at which port that listens.

The gateway is Rust with threads of its own; this interpreter starts it, and sleeps. The function is the one
that TensorZero's own patch of OpenAI's client starts a gateway with; its name says that it is no promise,
which is why the version is pinned.
"""

from __future__ import annotations

import signal
import sys

from tensorzero import _start_http_gateway  # type: ignore[import-not-found]

if __name__ == "__main__":
    gateway = _start_http_gateway(
        config_file=sys.argv[1], clickhouse_url=None, postgres_url=None, valkey_url=None, async_setup=False
    )
    print(f"listening at {gateway.base_url}/chat/completions", flush=True)
    signal.pause()
