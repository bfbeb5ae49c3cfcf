"""The embedded servers: what they keep, what they survive, and whom they let in."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import nats
import pytest

from synaxis_cli.children import KeptServer
from synaxis_cli.embedded.nats import NatsServer
from synaxis_cli.embedded.postgres import PostgresServer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory that every user may pass."""
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)
    return tmp_path


@pytest.fixture
def postgres(folder: Path) -> Iterator[PostgresServer]:
    server = PostgresServer(folder / "postgres")
    yield server
    server.kill()


@pytest.fixture
def nats_server(folder: Path) -> Iterator[NatsServer]:
    server = NatsServer(folder / "nats")
    yield server
    server.kill()


async def ask(server: PostgresServer, sql: str) -> object:
    connection = await asyncpg.connect(server.url(), timeout=5)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def test_postgres_keeps_what_is_committed_over_a_crash_and_comes_back_on_its_port(
    postgres: PostgresServer,
) -> None:
    postgres.start()
    url = postgres.url()
    await ask(postgres, "CREATE TABLE kept AS SELECT 42 AS answer")
    postgres.kill()
    postgres.start()
    assert postgres.url() == url
    assert await ask(postgres, "SELECT answer FROM kept") == 42
    postgres.stop()
    assert not postgres.is_running


async def test_postgres_is_private_durable_and_listens_only_on_this_machine(postgres: PostgresServer) -> None:
    postgres.start()
    password = re.compile("synaxis:[^@]+@")
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(password.sub("synaxis:guessed@", postgres.url()), timeout=5)
    assert await ask(postgres, "SHOW listen_addresses") == "127.0.0.1"
    assert await ask(postgres, "SHOW fsync") == "on"
    assert stat.S_IMODE(postgres.directory.stat().st_mode) == 0o700
    owner = postgres.directory.stat().st_uid
    assert owner != 0, "Postgres does not run as root"


async def test_a_pid_file_of_a_crash_that_names_somebody_else_now_is_no_obstacle(
    postgres: PostgresServer,
) -> None:
    postgres.start()
    postgres.kill()
    file = postgres.directory / "data" / "postmaster.pid"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([str(os.getppid()), *lines[1:]]) + "\n")
    postgres.start()
    assert await ask(postgres, "SELECT 1") == 1


async def test_servers_see_nothing_of_the_environment_that_may_hold_keys(
    postgres: PostgresServer, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVIDIA_API_KEY", "nvapi-not-for-servers")
    monkeypatch.setenv("PGPORT", "1")
    for server in (postgres, nats_server):
        server.start()
        shown = Path(f"/proc/{server.pid}/environ").read_bytes()
        assert b"NVIDIA_API_KEY" not in shown, server.name
        assert b"PGPORT" not in shown, server.name


async def test_nats_keeps_its_streams_over_a_crash_and_comes_back_on_its_ports(
    nats_server: NatsServer,
) -> None:
    nats_server.start()
    urls = (nats_server.url, nats_server.monitoring_url)
    client = await nats.connect(nats_server.url)
    await client.jetstream().add_stream(name="KEPT", subjects=["kept"])
    await client.jetstream().publish("kept", b"1")
    await client.close()
    nats_server.kill()
    nats_server.start()
    assert (nats_server.url, nats_server.monitoring_url) == urls
    client = await nats.connect(nats_server.url)
    assert (await client.jetstream().stream_info("KEPT")).state.messages == 1
    await client.close()


async def test_a_port_that_was_lost_meanwhile_is_given_up_for_another(
    folder: Path, nats_server: NatsServer
) -> None:
    nats_server.start()
    second = NatsServer(folder / "second", nats_server.port)
    kept = KeptServer(second, print)
    await kept.start()
    try:
        assert second.port not in (nats_server.port, -1)
        client = await nats.connect(second.url)
        await client.close()
    finally:
        await kept.stop()
    assert not second.is_running
