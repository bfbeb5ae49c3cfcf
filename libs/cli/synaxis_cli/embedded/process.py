"""Child processes that end with their parent, whatever the parent dies of, and servers made of them."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, ClassVar

_PR_SET_PDEATHSIG = 1
STOP_TIMEOUT_S = 10.0
_OF_THE_MACHINE = ("PATH", "LANG", "LD_LIBRARY_PATH", "TMPDIR", "TZ")


class ServerFailed(Exception):
    """A server did not start; says why, with the end of its log."""


@dataclass(frozen=True, slots=True)
class User:
    """Whom a child runs as."""

    uid: int
    gid: int


def machine_environment() -> dict[str, str]:
    """What a server needs of our environment, which may hold providers' keys, and PGOPTIONS and the like."""
    return {name: os.environ[name] for name in _OF_THE_MACHINE if name in os.environ}


def dies_with_parent(user: User | None = None) -> Callable[[], None]:
    """What a child does before it becomes its program: change to `user`, ask to be killed with its parent.

    In this order, since a change of user makes Linux forget the wish. What Linux watches is the thread that
    started the child, so call it on one that lives as long as the process. Elsewhere than on Linux it is only
    the supervisor's own clean-up that ends children.
    """
    parent = os.getpid()
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def prepare() -> None:
        if user is not None:
            os.setgroups([])
            os.setgid(user.gid)
            os.setuid(user.uid)
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)  # the parent was gone before the wish was made

    return prepare


def start(
    command: Sequence[str],
    *,
    log: IO[bytes] | int,
    environment: Mapping[str, str] | None = None,
    user: User | None = None,
    directory: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a server that ends with this process. Must be called on a thread that lives as long."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=machine_environment() if environment is None else environment,
        cwd=directory,
        start_new_session=True,  # a Ctrl-C in the terminal is the supervisor's to handle
        preexec_fn=dies_with_parent(user),
    )


class EmbeddedServer(ABC):
    """A server of our own: the same steps for each, so that one supervisor keeps them all."""

    name: ClassVar[str]
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def prepare(self) -> None:
        """Make what must be there before the first launch. May run on any thread. Raises ServerFailed."""

    @abstractmethod
    def launch(self) -> None:
        """Start the process, on a thread that lives as long as this process. Raises ServerFailed."""

    @abstractmethod
    def await_ready(self) -> None:
        """Wait until it takes connections. May run on any thread. Raises ServerFailed."""

    @abstractmethod
    def forget_port(self) -> None:
        """Take another port at the next launch, since the one it had is somebody else's now."""

    def start(self) -> None:
        """Start and wait until it takes connections; again: on the same port. Raises ServerFailed."""
        self.prepare()
        self.launch()
        self.await_ready()

    @property
    def pid(self) -> int | None:
        """Of the server that runs, or ran last."""
        return None if self._process is None else self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the server lives."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Ask it to stop, and end it when it doesn't."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(self.stop_signal)
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it without warning, as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def end_of(log: Path) -> str:
    """The last lines of a log, for an error message."""
    return log.read_text(errors="replace")[-500:].strip()
