"""The nats-server with the users of `deploy/nats`, as it is deployed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from synaxis_cli.embedded import nats, process
from synaxis_cli.embedded.nats import NatsServer

FOLDER = Path(__file__).parents[2] / "deploy" / "nats"
USERS = ("registry", "gateway", "sync", "discovery", "operator", "subscriber")


class RestrictedNatsServer(NatsServer):
    """Started with a configuration file; where it listens and stores is ours, the users are the file's."""

    def __init__(self, directory: Path, users: str) -> None:
        super().__init__(directory)
        self._users = users

    def launch(self) -> None:
        """Start the process."""
        config = self._directory / "users.conf"
        config.write_text(self._users)
        command = [
            *(str(nats_binary()), "-c", str(config), "-a", "127.0.0.1", "-p", "-1", "-m", "-1"),
            *("-js", "-sd", str(self._directory), "--ports_file_dir", str(self._directory)),
        ]
        passwords = {f"{user.upper()}_PASSWORD": password_of(user) for user in (*USERS, "wide")}
        environment = {**process.machine_environment(), **passwords}
        with self._log.open("ab") as output:
            self._process = process.start(command, log=output, environment=environment)

    def url_of(self, user: str) -> str:
        """Where `user` connects."""
        return f"nats://{user}:{password_of(user)}@127.0.0.1:{self.port}"


def nats_binary() -> Path:
    """The server that the other tests run."""
    return nats._binary()


def password_of(user: str) -> str:
    """A password for tests; the quotes of a configuration are not needed for it."""
    return f"password-of-{user}-in-the-tests"


@contextmanager
def restricted_nats(directory: Path, extra_user: str = "") -> Iterator[RestrictedNatsServer]:
    """The server, perhaps with one more user in the account of the services."""
    users = (FOLDER / "users.conf").read_text()
    if extra_user:
        users = users.replace("    users: [\n", f"    users: [\n{extra_user}\n", 1)
    server = RestrictedNatsServer(directory, users)
    server.start()
    try:
        yield server
    finally:
        server.kill()
