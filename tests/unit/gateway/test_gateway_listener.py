"""How many connections a gateway takes."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from synaxis_gateway.http.listener import claim_descriptors, room


@pytest.fixture
def hard() -> Iterator[int]:
    """As many descriptors as this process could have."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_there_is_room_for_half_as_many_connections_as_descriptors_and_some_are_kept_back(hard: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (1_024, hard))
    assert room() == 480


def test_a_gateway_takes_what_the_system_lets_it_have(hard: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    claim_descriptors()
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(hard, 65_536)
