"""How long a child that ended waits for its next start."""

from __future__ import annotations

from synaxis_cli.children import FIRST_DELAY_S, HEALTHY_AFTER_S, MAX_DELAY_S, Backoff


def test_a_child_that_crashes_at_once_waits_twice_as_long_each_time_up_to_a_bound() -> None:
    backoff = Backoff()
    assert [backoff.after(0.1) for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, MAX_DELAY_S, MAX_DELAY_S]


def test_a_child_that_lived_for_a_while_is_started_soon_again() -> None:
    backoff = Backoff()
    for _ in range(5):
        backoff.after(0.1)
    assert backoff.after(HEALTHY_AFTER_S) == FIRST_DELAY_S
    assert backoff.after(0.1) == 2 * FIRST_DELAY_S
