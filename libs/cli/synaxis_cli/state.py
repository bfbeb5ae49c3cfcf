"""What `synaxis up` keeps between runs: secrets that it made, and ports that it was given."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import TracebackType
from typing import Self

DEFAULT_DIRECTORY = Path(".synaxis")


class DirectoryUnusable(Exception):
    """The data directory cannot be used; says why."""


class AlreadyRunning(DirectoryUnusable):
    """Another `synaxis up` works on the same data directory."""


@dataclass(frozen=True, slots=True)
class Kept:
    """The content of `state.json`."""

    admin_key: str
    key_pepper: str
    tenant_key: str | None = None
    nats_port: int | None = None
    postgres_port: int | None = None
    demo_ports: tuple[int, ...] = ()
    url: str | None = None
    """Where the gateways were reached last, for the other commands."""


class DataDirectory:
    """A private directory, held by one `synaxis up` at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._lock: int | None = None

    def __enter__(self) -> Self:
        """Make it and take it. Raises DirectoryUnusable."""
        try:
            if not self.path.exists():
                self.path.mkdir(parents=True)
                # As root, Postgres' own user passes through; every directory and file inside is closed.
                self.path.chmod(0o711 if os.geteuid() == 0 else 0o700)
            self._lock = os.open(self.path / "lock", os.O_CREAT | os.O_RDWR, 0o600)
        except OSError as error:
            raise DirectoryUnusable(
                f"{self.path} cannot be used: {error.strerror}; set SYNAXIS_DATA_DIR to another directory"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise AlreadyRunning(f"another `synaxis up` is running on {self.path}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            os.close(self._lock)

    def read(self) -> Kept:
        """What was kept. Raises FileNotFoundError, and DirectoryUnusable where it cannot be read."""
        try:
            found = json.loads(self._file.read_text())
            known = {field.name: found[field.name] for field in fields(Kept) if field.name in found}
            known["demo_ports"] = tuple(known.get("demo_ports", ()))
            return Kept(**known)
        except (ValueError, TypeError) as error:
            raise DirectoryUnusable(
                f"{self._file} is damaged: mend it, or remove {self.path} to begin anew"
            ) from error

    def read_or_make(self) -> Kept:
        """What was kept, or, the first time, new secrets. Raises DirectoryUnusable."""
        try:
            return self.read()
        except FileNotFoundError:
            made = Kept(
                admin_key=f"sk-syn-admin-{secrets.token_urlsafe(32)}", key_pepper=secrets.token_urlsafe(32)
            )
            self._write(made)
            return made

    def update(self, **changes: str | int | tuple[int, ...] | None) -> Kept:
        """Change some of what is kept."""
        kept = replace(self.read(), **changes)  # type: ignore[arg-type]  # names and types are the caller's
        self._write(kept)
        return kept

    def _write(self, kept: Kept) -> None:
        """Keep it, readable by nobody else, whole or not at all."""
        partial = self._file.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        descriptor = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(asdict(kept), file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(self._file)

    @property
    def _file(self) -> Path:
        return self.path / "state.json"
