"""A real nats-server and a real Postgres for every test that asks for one."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import uvloop
from hypothesis import settings
from tests.support.servers import Servers, docker_servers, embedded_servers

settings.register_profile("synaxis", deadline=None)  # a busy machine is no failure
settings.load_profile("synaxis")

IN_TURN = (("e2e", "faults"), ("integration", "simulation"))
"""Folders of tests."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files that start whole systems, which take all cores, in turn with those that mostly wait.

    Several workers then have neither too much to do at once nor too little; short files come last.
    """
    files = list(dict.fromkeys(item.path for item in items))
    places: dict[Path, float] = {}
    for folders in IN_TURN:
        group = [path for path in files if path.parent.name in folders]
        places |= {path: (number + 0.5) / len(group) for number, path in enumerate(group)}
    items.sort(key=lambda item: places.get(item.path, 1.0))


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """asyncio's own loop; tests that are marked `both_loops` run on uvloop's, as services do, as well."""
    own = {"asyncio": asyncio.new_event_loop}
    return own if item.get_closest_marker("both_loops") is None else {**own, "uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """Docker containers where an engine answers, else the embedded servers; SYNAXIS_TEST_SERVERS decides."""
    wish = os.environ.get("SYNAXIS_TEST_SERVERS", "")
    with tempfile.TemporaryDirectory(prefix="synaxis-test-") as folder:
        Path(folder).chmod(0o755)
        found = docker_servers(may_pull=wish == "docker") if wish != "embedded" else None
        if found is None:
            if wish == "docker":
                pytest.fail("SYNAXIS_TEST_SERVERS=docker, but no Docker engine answers")
            found = embedded_servers(Path(folder))
        with found as running:
            yield running


@pytest.fixture
def fresh_nats_url(servers: Servers) -> Iterator[str]:
    """A nats-server of the test's own, with nothing in it."""
    with servers.nats() as url:
        yield url


@pytest.fixture(scope="module")
def nats_url(servers: Servers) -> Iterator[str]:
    """A nats-server that the tests of a module share."""
    with servers.nats() as url:
        yield url


@pytest.fixture
def fresh_database_url(servers: Servers) -> Iterator[str]:
    """A database of the test's own, with the registry's tables and nothing in them."""
    with servers.database() as url:
        yield url


@pytest.fixture
def empty_database_url(servers: Servers) -> Iterator[str]:
    """A database of the test's own without a table."""
    with servers.database(is_empty=True) as url:
        yield url
