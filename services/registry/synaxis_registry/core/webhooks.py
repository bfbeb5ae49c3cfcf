"""Webhooks: which events one wants, how a delivery is signed, when it is tried again.

Signatures are those of Standard Webhooks (https://www.standardwebhooks.com, specification 1.0): HMAC-SHA256
over `<id>.<timestamp>.<body>`. No secret is stored: each follows from the one that registries are given.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from standardwebhooks import Webhook as Signer

from synaxis_common.wanted import Wanted, wanted

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - how the specification has secrets begin
OLD_SECRET_FOR: Final = timedelta(days=1)
"""How long deliveries are signed with the former secret too, so that receivers can change over."""

RETRY_AFTER_S: Final = (5, 30, 120, 300, 900, 3_600, 7_200, 14_400, 28_800, 28_800)
"""Seconds from one attempt to the next, 23.4 hours in all. Source: our choice; Standard Webhooks asks for
back-off over a day or so."""
JITTER: Final = 0.2
"""Share by which a pause may be longer."""

GONE: Final = 410
"""Standard Webhooks: the receiver wants no more of it, and the webhook is switched off."""


class DeliveryStatus(StrEnum):
    """What has become of a delivery."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"
    """Given up after a day."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """An address that gets events. Empty filters take any; those of a kind are alternatives."""

    id: str
    url: str
    events: tuple[str, ...] = ()
    """Types such as `model.available`, or beginnings of some, such as `model`."""
    providers: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    allow_private: bool = False
    enabled: bool = True
    off_reason: str | None = None
    version: int = 1
    """Of its secret."""
    rotated_at: datetime | None = None

    def wanted(self) -> Wanted:
        """What it takes. Raises NoSuchEvent."""
        return wanted(self.events, self.providers, self.models, None)

    def versions(self, now: datetime) -> tuple[int, ...]:
        """Of the secrets to sign with, the newest first."""
        is_changing = self.rotated_at is not None and now - self.rotated_at < OLD_SECRET_FOR
        return (self.version, self.version - 1) if is_changing else (self.version,)


def secret_of(root: str, webhook_id: str, version: int) -> str:
    """A webhook's secret, as its receiver is shown it."""
    derived = hmac.new(root.encode(), f"webhook/{webhook_id}/{version}".encode(), hashlib.sha256)
    return SECRET_PREFIX + base64.b64encode(derived.digest()).decode()


def signed(secrets: Sequence[str], message_id: str, at: datetime, body: bytes) -> dict[str, str]:
    """The headers that show a receiver who sends this. `at` is in UTC."""
    signatures = (Signer(secret).sign(message_id, at, body.decode()) for secret in secrets)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


def next_attempt(attempts: int, now: datetime, chance: float) -> datetime | None:
    """When to try again after so many attempts; None: not any more. `chance` is from 0 to 1."""
    if attempts > len(RETRY_AFTER_S):
        return None
    return now + timedelta(seconds=RETRY_AFTER_S[max(attempts, 1) - 1] * (1 + JITTER * chance))
