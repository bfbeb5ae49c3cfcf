"""Webhooks: signatures that the official package accepts, secrets that follow from one, pauses that grow."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from standardwebhooks import Webhook as Receiver
from standardwebhooks.webhooks import WebhookVerificationError

from synaxis_registry.core.webhooks import (
    JITTER,
    OLD_SECRET_FOR,
    RETRY_AFTER_S,
    Webhook,
    next_attempt,
    secret_of,
    signed,
)

ROOT = "the one secret of the tests"
BODY = b'{"type":"model.available","data":{"provider_id":"\xc3\xa4"}}'
HOOK = Webhook("hook", "https://receiver.example/hook")


def test_a_receiver_accepts_what_was_signed_with_its_secret_and_nothing_else() -> None:
    secret = secret_of(ROOT, "hook", 1)
    headers = signed([secret], "message", datetime.now(UTC), BODY)
    assert Receiver(secret).verify(BODY, headers)["type"] == "model.available"
    with pytest.raises(WebhookVerificationError):
        Receiver(secret).verify(BODY.replace(b"available", b"gone"), headers)
    with pytest.raises(WebhookVerificationError):
        Receiver(secret_of(ROOT, "another", 1)).verify(BODY, headers)


def test_every_webhook_has_a_secret_of_its_own_which_every_registry_finds_again() -> None:
    found = {secret_of(root, hook, n) for root in (ROOT, "x") for hook in ("a", "b") for n in (1, 2)}
    assert len(found) == 8
    assert secret_of(ROOT, "a", 1) in found
    assert all(secret.startswith("whsec_") for secret in found)


def test_for_a_day_both_secrets_are_accepted() -> None:
    now = datetime.now(UTC)
    changed = replace(HOOK, version=2, rotated_at=now)
    for later, versions in ((timedelta(0), (2, 1)), (OLD_SECRET_FOR, (2,))):
        assert changed.versions(now + later) == versions
    headers = signed([secret_of(ROOT, "hook", n) for n in changed.versions(now)], "message", now, BODY)
    for version in (1, 2):
        Receiver(secret_of(ROOT, "hook", version)).verify(BODY, headers)
    assert HOOK.versions(now) == (1,)


def test_attempts_go_on_for_a_day_with_growing_pauses() -> None:
    now = begin = datetime.now(UTC)
    pauses = []
    for attempt in range(1, 100):
        again = next_attempt(attempt, now, chance=0.0)
        if again is None:
            break
        pauses.append((again - now).total_seconds())
        now = again
    assert pauses == list(RETRY_AFTER_S) == sorted(RETRY_AFTER_S)
    assert timedelta(hours=23) < now - begin <= timedelta(days=1)
    latest = next_attempt(1, begin, chance=1.0)
    assert latest is not None
    assert (latest - begin).total_seconds() == pytest.approx(RETRY_AFTER_S[0] * (1 + JITTER))
