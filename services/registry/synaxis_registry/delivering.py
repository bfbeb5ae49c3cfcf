"""Delivers events to webhooks: any registry takes what is due, and a delivery is made until it is taken."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from functools import partial
from typing import Final

import aiohttp
from prometheus_client import Counter as Metric
from prometheus_client import Gauge, Histogram

from synaxis_common.clock import Clock
from synaxis_common.egress import ForbiddenAddress, check_url, client_session
from synaxis_common.logging import get_logger
from synaxis_registry.core.webhooks import (
    GONE,
    DeliveryStatus,
    Webhook,
    next_attempt,
    secret_of,
    signed,
)
from synaxis_registry.store import webhooks as stored
from synaxis_registry.store.database import Database, DatabaseUnavailable
from synaxis_registry.store.webhooks import Claimed

log = get_logger(__name__)

TIMEOUT_S: Final = 15.0
"""How long a receiver may take. Source: Standard Webhooks says 15 to 30 s."""
LEASE_S: Final = 60.0
"""After which a delivery that nothing was heard of is made by another registry."""
AT_ONCE: Final = 4
"""Deliveries to one webhook at a time from each registry."""
POLL_S: Final = 1.0
ANSWER_BYTES: Final = 500
"""Of a refusal, for operators to read."""

DELIVERIES = Metric("synaxis_webhook_deliveries_total", "Attempts to deliver events", ["outcome"])
WAITING = Gauge("synaxis_webhook_deliveries_waiting", "Deliveries that are still to be made")
SECONDS = Histogram("synaxis_webhook_delivery_seconds", "How long receivers take")


class Delivering:
    """Makes the deliveries that are due. `root`: the secret from which those of the webhooks follow."""

    def __init__(self, database: Database, clock: Clock, root: str, *, allow_private: bool) -> None:
        self._database, self._clock, self._root = database, clock, root
        self._allow_private = allow_private
        self._busy: Counter[str] = Counter()
        self.wake = asyncio.Event()

    async def run(self) -> None:
        """Deliver until cancelled. What is under way then is made again, by whoever comes next."""
        async with (
            client_session(allow_private=False) as public,
            client_session(allow_private=True) as private,
            asyncio.TaskGroup() as group,
        ):
            while True:
                self.wake.clear()
                try:
                    claimed = await self._claim()
                except DatabaseUnavailable as error:
                    log.warning("webhooks_wait", error=str(error))
                    claimed = []
                for one in claimed:
                    self._busy[one.webhook.id] += 1
                    may_be_private = self._allow_private and one.webhook.allow_private
                    group.create_task(self._deliver(one, private if may_be_private else public))
                if not claimed:
                    try:
                        async with asyncio.timeout(POLL_S):
                            await self.wake.wait()
                    except TimeoutError:
                        continue

    async def _claim(self) -> list[Claimed]:
        full = [webhook_id for webhook_id, count in self._busy.items() if count >= AT_ONCE]
        WAITING.set(await self._database.call(stored.waiting))
        return await self._database.run(lambda connection: stored.claim(connection, full, AT_ONCE, LEASE_S))

    async def _deliver(self, claimed: Claimed, session: aiohttp.ClientSession) -> None:
        webhook = claimed.webhook
        try:
            with SECONDS.time():
                http_status, error = await self._post(claimed, session)
            await self._note(claimed, http_status, error)
        except DatabaseUnavailable as unavailable:
            log.warning("webhook_delivery_not_noted", webhook=webhook.id, error=str(unavailable))
        finally:
            self._busy[webhook.id] -= 1
            if not self._busy[webhook.id]:
                del self._busy[webhook.id]
            self.wake.set()

    async def _post(self, claimed: Claimed, session: aiohttp.ClientSession) -> tuple[int | None, str | None]:
        """The receiver's status, and what is wrong with it; None: nothing."""
        webhook, now = claimed.webhook, self._clock.now()
        secrets = [secret_of(self._root, webhook.id, version) for version in webhook.versions(now)]
        headers = {
            "Content-Type": "application/cloudevents+json",
            "User-Agent": "Synaxis-Webhook",
            **signed(secrets, str(claimed.event_id), now, claimed.body),
        }
        try:
            check_url(webhook.url, allow_private=self._allow_private and webhook.allow_private)
            async with (
                asyncio.timeout(TIMEOUT_S),
                session.post(
                    webhook.url, data=claimed.body, headers=headers, allow_redirects=False
                ) as answer,
            ):
                if 200 <= answer.status < 300:
                    return answer.status, None
                said = (await answer.content.read(ANSWER_BYTES)).decode(errors="replace")
                return answer.status, f"answered {answer.status}: {said}".replace("\x00", "")
        except ForbiddenAddress as error:
            return None, str(error)
        except TimeoutError:
            return None, f"did not answer within {TIMEOUT_S:.0f} s"
        except (aiohttp.ClientError, OSError) as error:
            return None, f"cannot be reached: {type(error).__name__}"

    async def _note(self, claimed: Claimed, http_status: int | None, error: str | None) -> None:
        webhook, now = claimed.webhook, self._clock.now()
        again_at = None if error is None else next_attempt(claimed.attempts, now, random.random())  # noqa: S311
        if error is None:
            status = DeliveryStatus.DELIVERED
        elif again_at is None or http_status == GONE:
            status = DeliveryStatus.FAILED
        else:
            status = DeliveryStatus.PENDING
        DELIVERIES.labels("delivered" if error is None else status.value).inc()
        if error is not None:
            log.warning(
                "webhook_not_delivered",
                webhook=webhook.id,
                event_id=str(claimed.event_id),
                attempt=claimed.attempts,
                status=http_status,
                again_at=None if again_at is None else again_at.isoformat(),
            )
        await self._database.run(
            partial(
                stored.settle,
                claimed=claimed,
                status=status,
                next_at=again_at or now,
                http_status=http_status,
                error=error,
            )
        )
        if http_status == GONE:
            await self._switch_off(webhook)

    async def _switch_off(self, webhook: Webhook) -> None:
        reason = "its receiver answered 410 Gone"
        if await self._database.run(partial(stored.switch_off, webhook_id=webhook.id, reason=reason)):
            log.warning("webhook_switched_off", webhook=webhook.id, reason=reason)
