"""How old a message is, whatever its sender's clock says."""

from __future__ import annotations

import pytest

from synaxis_registry.core.message_age import JUMP_S, MAX_SENDERS, WINDOW_S, MessageAges


@pytest.mark.parametrize("skew_s", [0.0, 3_600.0, -3_600.0, 30.0, -30.0])
def test_a_late_message_is_told_from_a_clock_that_is_wrong(skew_s: float) -> None:
    ages = MessageAges()
    assert ages.age_s("g", 1_000.0 + skew_s, 1_000.01) == 0
    assert ages.age_s("g", 1_001.0 + skew_s, 1_001.01) == pytest.approx(0, abs=1e-6)
    assert ages.age_s("g", 1_002.0 + skew_s, 1_009.01) == pytest.approx(7)
    assert ages.age_s("g", 1_010.0 + skew_s, 1_010.01) == pytest.approx(0, abs=1e-6)


def test_a_clock_that_is_set_back_a_little_is_believed_after_a_while() -> None:
    ages = MessageAges()
    now, seen = 1_000.0, []
    ages.age_s("g", now, now)
    for _ in range(int(3 * WINDOW_S)):
        now += 1.0
        seen.append(ages.age_s("g", now - 20.0, now))
    assert seen[0] == pytest.approx(20)
    assert seen[-1] == pytest.approx(0)


@pytest.mark.parametrize("jump_s", [600.0, -600.0, -JUMP_S - 1])
def test_a_clock_that_jumps_is_believed_at_once(jump_s: float) -> None:
    ages = MessageAges()
    ages.age_s("g", 1_000.0, 1_000.0)
    assert ages.age_s("g", 1_001.0 + jump_s, 1_001.0) == 0
    assert ages.age_s("g", 1_002.0 + jump_s, 1_005.0) == pytest.approx(3)


def test_senders_are_told_apart_and_the_longest_silent_forgotten() -> None:
    ages = MessageAges()
    ages.age_s("wrong", 0.0, 1_000.0)
    assert ages.age_s("right", 1_000.0, 1_000.0) == 0
    for number in range(MAX_SENDERS):
        ages.age_s(f"g{number}", 1_000.0, 1_000.0)
    assert ages.age_s("wrong", -5.0, 1_000.0) == 0, "it is new again"
