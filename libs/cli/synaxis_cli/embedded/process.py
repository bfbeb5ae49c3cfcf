"""Child processes that end with their parent, whatever the parent dies of."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

_PR_SET_PDEATHSIG = 1
STOP_TIMEOUT_S = 10.0


def dies_with_parent(uid: int | None = None) -> Callable[[], None]:
    """What a child does before it becomes its program: change to `uid`, ask to be killed with its parent.

    In this order, since a change of user makes Linux forget the wish. Elsewhere than on Linux it is only the
    supervisor's own clean-up that ends children.
    """
    parent = os.getpid()
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def prepare() -> None:
        if uid is not None:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
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
    uid: int | None = None,
    directory: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a server that ends with this process. Must be called on a thread that lives as long."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=environment,
        cwd=directory,
        start_new_session=True,  # a Ctrl-C in the terminal is the supervisor's to handle
        preexec_fn=dies_with_parent(uid),
    )


def stop(process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGTERM) -> None:
    """Ask a server to stop, and end it when it doesn't."""
    if process.poll() is not None:
        return
    process.send_signal(number)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(STOP_TIMEOUT_S)
