"""What `synaxis up` keeps between runs: secrets that it made, and ports that it was given."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

DEFAULT_DIRECTORY = Path(".synaxis")


class AlreadyRunning(Exception):
    """Another `synaxis up` works on the same data directory."""


@dataclass(frozen=True, slots=True)
class Kept:
    """The content of `state.json`."""

    admin_key: str
    key_pepper: str
    tenant_key: str | None = None
    nats_port: int = -1
    postgres_port: int = 0


class DataDirectory:
    """A private directory, held by one `synaxis up` at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._lock: int | None = None

    def __enter__(self) -> Self:
        self.path.mkdir(parents=True, exist_ok=True)
        self.path.chmod(0o711 if os.geteuid() == 0 else 0o700)  # as root, Postgres' own user passes through
        self._lock = os.open(self.path / "lock", os.O_CREAT | os.O_RDWR, 0o600)
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
        """What was kept, or, the first time, new secrets."""
        try:
            kept = Kept(**json.loads(self._file.read_text()))
        except FileNotFoundError:
            kept = Kept(
                admin_key=f"sk-syn-admin-{secrets.token_urlsafe(32)}", key_pepper=secrets.token_urlsafe(32)
            )
            self.write(kept)
        return kept

    def write(self, kept: Kept) -> None:
        """Keep it, readable by nobody else, whole or not at all."""
        partial = self._file.with_suffix(".partial")
        descriptor = os.open(partial, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(asdict(kept), file)
        partial.rename(self._file)

    def update(self, **changes: str | int | None) -> Kept:
        """Change some of what is kept."""
        kept = replace(self.read(), **changes)  # type: ignore[arg-type]  # names and types are the caller's
        self.write(kept)
        return kept

    @property
    def _file(self) -> Path:
        return self.path / "state.json"
