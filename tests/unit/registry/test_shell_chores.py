"""When a registry may take a silent gateway for dead."""

from __future__ import annotations

from synaxis_common.contracts.leases import GATEWAY_TTL_S
from synaxis_registry.chores import LAPSE_EVERY_S, Hearing


def after(*looks: tuple[float, bool]) -> Hearing:
    """A registry that began at 0 and looked at these moments."""
    hearing = Hearing(since=0.0, looked_at=0.0)
    for at, is_fit in looks:
        hearing.look(at, is_fit=is_fit)
    return hearing


def steady(begin: float, end: float) -> list[tuple[float, bool]]:
    return [(begin + LAPSE_EVERY_S * n, True) for n in range(int((end - begin) / LAPSE_EVERY_S) + 1)]


def test_a_registry_that_has_just_begun_is_not_sure() -> None:
    assert not after(*steady(5, 10)).is_sure(10)
    assert not after(*steady(5, 15)).is_sure(GATEWAY_TTL_S)
    assert after(*steady(5, 20)).is_sure(20)


def test_a_registry_that_had_no_bus_waits_anew() -> None:
    hearing = after(*steady(5, 60), (65, False), *steady(70, 75))
    assert not hearing.is_sure(75)
    assert hearing.is_sure(65 + GATEWAY_TTL_S + 1)


def test_a_registry_that_was_stopped_and_goes_on_waits_anew() -> None:
    hearing = after(*steady(5, 60), (600, True))
    assert not hearing.is_sure(600)
    assert not hearing.is_sure(600 + GATEWAY_TTL_S)
    assert hearing.is_sure(600 + GATEWAY_TTL_S + 1)
