"""An embedded Postgres."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import ClassVar

from synaxis_cli.embedded import process
from synaxis_cli.embedded.place import Place, place_for
from synaxis_cli.embedded.process import EmbeddedServer, ServerFailed
from synaxis_cli.ports import free_port

READY_TIMEOUT_S = 30.0
INIT_TIMEOUT_S = 60.0
USER = "synaxis"
ANY_PORT = 0


class PostgresServer(EmbeddedServer):
    """A Postgres on 127.0.0.1 that keeps its data in `directory`. It is given a free port once.

    `durable`: what is committed survives a power failure. Without it tests are faster.
    """

    name: ClassVar[str] = "Postgres"
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT
    """Ends connections and writes everything; SIGTERM would wait for clients to go."""

    def __init__(self, directory: Path, port: int = ANY_PORT, *, durable: bool = True) -> None:
        super().__init__()
        self._directory, self._port, self._durable = directory.absolute(), port, durable
        self._place_found: Place | None = None

    @property
    def port(self) -> int:
        """Where it listens; before the first start perhaps `ANY_PORT`."""
        return self._port

    @property
    def directory(self) -> Path:
        """Where its data is; elsewhere than asked for if it could not get there. After `prepare`."""
        return self._place.directory

    def url(self, database: str = "postgres") -> str:
        """What SYNAXIS_DATABASE_URL is set to; holds the password."""
        password = self._password_file.read_text().strip()
        return f"postgresql://{USER}:{password}@127.0.0.1:{self._port}/{database}"

    @property
    def _place(self) -> Place:
        if self._place_found is None:
            raise RuntimeError("prepare() comes first")
        return self._place_found

    @property
    def _data(self) -> Path:
        return self._place.directory / "data"

    @property
    def _password_file(self) -> Path:
        return self._place.directory / "password"

    @property
    def _log(self) -> Path:
        return self._place.directory / "postgres.log"

    def prepare(self) -> None:
        """Find a place, and make the data directory if there is none. Raises ServerFailed."""
        try:
            self._place_found = place_for(self._directory)
            if not (self._data / "PG_VERSION").exists():
                self._initialise()
        except OSError as error:
            raise ServerFailed(f"no place for Postgres: {error}") from error

    def launch(self) -> None:
        """Start the process."""
        self._forget_stale_pid()
        if self._port == ANY_PORT:
            self._port = free_port()
        safe = "on" if self._durable else "off"
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self._port),
            "unix_socket_directories": "",
            "max_connections": "100",
            "fsync": safe,
            "synchronous_commit": safe,
            "full_page_writes": safe,
        }
        command = [str(self._place.binaries / "postgres"), "-D", str(self._data)]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        with self._log.open("ab") as output:
            self._process = process.start(
                command, log=output, user=self._place.user, directory=self._place.directory
            )

    def await_ready(self) -> None:
        """Wait until it says in its pid file that it takes connections. Raises ServerFailed."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline and self.is_running:
            lines = self._pid_file_lines()
            # The eighth line says what the server is doing; the first whose file it is.
            if len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready":
                return
            time.sleep(0.02)
        self.kill()
        raise ServerFailed(f"Postgres did not start: {process.end_of(self._log)}")

    def forget_port(self) -> None:
        """Take another port at the next launch."""
        self._port = ANY_PORT

    def _initialise(self) -> None:
        shutil.rmtree(self._data, ignore_errors=True)  # of an initdb that was interrupted
        self._password_file.unlink(missing_ok=True)
        descriptor = os.open(self._password_file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(24) + "\n")
        user = self._place.user
        if user is not None:
            os.chown(self._password_file, user.uid, user.gid)
        command = [
            *(str(self._place.binaries / "initdb"), "-D", str(self._data), "-U", USER, "--no-instructions"),
            *("--encoding=UTF8", "--locale=C", "--auth=scram-sha-256", f"--pwfile={self._password_file}"),
        ]
        try:
            result = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=process.machine_environment(),
                preexec_fn=process.dies_with_parent(user),
                cwd=self._place.directory,
                timeout=INIT_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ServerFailed(f"initdb did not end within {INIT_TIMEOUT_S:.0f} s") from error
        if result.returncode:
            raise ServerFailed(f"initdb failed: {result.stdout.decode(errors='replace')[-500:].strip()}")

    def _pid_file_lines(self) -> list[str]:
        try:
            return (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []

    def _forget_stale_pid(self) -> None:
        """After a crash the pid in Postgres' file may be another program's, and Postgres would not start."""
        lines = self._pid_file_lines()
        processes = Path("/proc")
        if not lines or not lines[0].isdigit() or not (processes / "self").exists():
            return
        try:
            command = (processes / lines[0] / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            command = b""
        if os.fsencode(self._data) not in command:
            (self._data / "postmaster.pid").unlink(missing_ok=True)
