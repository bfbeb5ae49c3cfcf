"""Verbs on webhooks and their deliveries."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

import asyncpg

from synaxis_common import ids
from synaxis_common.contracts.admin import AdminReply, WebhookCreate, WebhookPatch, WebhookReplay
from synaxis_common.egress import ForbiddenAddress, check_resolved
from synaxis_common.wanted import NoSuchEvent
from synaxis_registry.core.webhooks import DeliveryStatus, Webhook, secret_of
from synaxis_registry.handlers.admin.paging import after, limit_of, no_cursor, paged
from synaxis_registry.handlers.admin.verb import (
    Ask,
    Surroundings,
    conflict,
    created,
    invalid,
    not_found,
    ok,
)
from synaxis_registry.store import webhooks as stored
from synaxis_registry.store.database import Connection
from synaxis_registry.store.webhooks import Shown

MAX_DIGITS = 18
"""Of a delivery's id: what a bigint holds in any case."""
STATUSES = tuple(DeliveryStatus)


async def create(around: Surroundings, ask: Ask) -> AdminReply:
    """Register an address; the answer shows its secret this once."""
    body = ask.body
    assert isinstance(body, WebhookCreate)
    webhook = Webhook(
        id=str(ids.uuid7()),
        url=body.url,
        events=body.events,
        providers=body.providers,
        models=body.models,
        allow_private=body.allow_private,
    )
    await _check(around, webhook)
    await around.database.run(partial(stored.save, webhook=webhook))
    shown = await _found(around, webhook.id)
    return created({**_row(shown), "secret": _secret(around, webhook)})


async def list_all(around: Surroundings, ask: Ask) -> AdminReply:
    """All webhooks."""
    limit = limit_of(ask)
    (last,) = after(ask, 1)
    found = await around.database.run(lambda connection: stored.page(connection, last, limit + 1))
    return paged([_row(one) for one in found], limit, "id")


async def get(around: Surroundings, ask: Ask) -> AdminReply:
    """One webhook."""
    return ok(_row(await _found(around, ask.path["webhook"])))


async def patch(around: Surroundings, ask: Ask) -> AdminReply:
    """Change where it is, what it takes, or whether it is on."""
    body = ask.body
    assert isinstance(body, WebhookPatch)
    said = {name: getattr(body, name) for name in body.model_fields_set if getattr(body, name) is not None}
    if said.get("enabled"):
        said["off_reason"] = None
    elif said.get("enabled") is False:
        said["off_reason"] = "an operator said so"
    webhook_id = ask.path["webhook"]
    await _check(around, replace((await _found(around, webhook_id)).webhook, **said))

    async def change(connection: Connection) -> bool:
        webhook = await stored.locked(connection, webhook_id)
        if webhook is not None:
            await stored.save(connection, replace(webhook, **said))
        return webhook is not None

    if not await around.database.run(change):
        raise _unknown(webhook_id)
    return ok(_row(await _found(around, webhook_id)))


async def delete(around: Surroundings, ask: Ask) -> AdminReply:
    """Remove a webhook, and what was still to be delivered."""
    webhook_id = ask.path["webhook"]
    if not await around.database.run(partial(stored.delete, webhook_id=webhook_id)):
        raise _unknown(webhook_id)
    return ok({"deleted": webhook_id})


async def rotate(around: Surroundings, ask: Ask) -> AdminReply:
    """A new secret, shown this once; for a day deliveries are signed with the former one too."""
    webhook_id = ask.path["webhook"]

    async def change(connection: Connection) -> Webhook | None:
        webhook = await stored.locked(connection, webhook_id)
        if webhook is None:
            return None
        changed = replace(webhook, version=webhook.version + 1, rotated_at=around.clock.now())
        await stored.save(connection, changed)
        return changed

    webhook = await around.database.run(change)
    if webhook is None:
        raise _unknown(webhook_id)
    return ok({"id": webhook_id, "secret": _secret(around, webhook)})


async def deliveries(around: Surroundings, ask: Ask) -> AdminReply:
    """What has become of its deliveries, the newest first."""
    webhook_id, limit, status = ask.path["webhook"], limit_of(ask), ask.query.get("status")
    if status is not None and status not in STATUSES:
        raise invalid(f"status must be one of {', '.join(STATUSES)}", "status")
    (last,) = after(ask, 1)
    if last and not _is_number(last):
        raise no_cursor()
    await _found(around, webhook_id)
    before = int(last) if last else None
    rows = await around.database.run(
        lambda connection: stored.deliveries(connection, webhook_id, before, status, limit + 1)
    )
    return paged([_delivery(row) for row in rows], limit, "id")


async def replay_one(around: Surroundings, ask: Ask) -> AdminReply:
    """Deliver one event once more, at once, whatever became of it."""
    webhook_id, delivery = ask.path["webhook"], ask.path["delivery"]
    if not _is_number(delivery):
        raise invalid("the id of a delivery is a number", "delivery")
    if not await around.database.run(lambda connection: stored.replay(connection, webhook_id, int(delivery))):
        raise not_found(f"no delivery {delivery} of the webhook '{webhook_id}'")
    return ok({"replayed": 1})


async def replay_since(around: Surroundings, ask: Ask) -> AdminReply:
    """Deliver everything since a moment once more. Deliveries are kept for a week."""
    body = ask.body
    assert isinstance(body, WebhookReplay)
    webhook_id, since = ask.path["webhook"], body.since
    await _found(around, webhook_id)
    count = await around.database.run(lambda connection: stored.replay_since(connection, webhook_id, since))
    return ok({"replayed": count})


async def _found(around: Surroundings, webhook_id: str) -> Shown:
    found = await around.database.run(partial(stored.one, webhook_id=webhook_id))
    if found is None:
        raise _unknown(webhook_id)
    return found


async def _check(around: Surroundings, webhook: Webhook) -> None:
    """Raise Refused for a webhook that cannot be."""
    if around.settings.webhook_secret is None:
        raise conflict("registries have no SYNAXIS_WEBHOOK_SECRET, so nothing could be signed", "url")
    if webhook.allow_private and not around.settings.webhook_allow_private:
        raise invalid("private addresses need SYNAXIS_WEBHOOK_ALLOW_PRIVATE=true", "allow_private")
    try:
        webhook.wanted()
    except NoSuchEvent as error:
        raise invalid(str(error), "events") from error
    try:
        await check_resolved(webhook.url, allow_private=webhook.allow_private)
    except ForbiddenAddress as error:
        raise invalid(str(error), "url") from error


def _secret(around: Surroundings, webhook: Webhook) -> str:
    root = around.settings.webhook_secret
    if root is None:
        raise conflict("registries have no SYNAXIS_WEBHOOK_SECRET, so nothing could be signed", "url")
    return secret_of(root.get_secret_value(), webhook.id, webhook.version)


def _row(shown: Shown) -> dict[str, Any]:
    webhook = shown.webhook
    return {
        "id": webhook.id,
        "url": webhook.url,
        "events": list(webhook.events),
        "providers": list(webhook.providers),
        "models": list(webhook.models),
        "allow_private": webhook.allow_private,
        "enabled": webhook.enabled,
        "off_reason": webhook.off_reason,
        "created_at": shown.created_at.isoformat(),
        "rotated_at": _iso(webhook.rotated_at),
        "pending": shown.pending,
        "failed": shown.failed,
    }


def _delivery(row: asyncpg.Record) -> dict[str, Any]:
    is_pending = row["status"] == DeliveryStatus.PENDING
    return {
        "id": row["id"],
        "event_id": str(row["event_id"]),
        "type": row["type"],
        "status": row["status"],
        "attempts": row["attempts"],
        "created_at": row["created_at"].isoformat(),
        "last_attempt_at": _iso(row["last_attempt_at"]),
        "next_attempt_at": _iso(row["next_at"]) if is_pending else None,
        "last_status": row["last_status"],
        "last_error": row["last_error"],
    }


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS


def _unknown(webhook_id: str) -> Exception:
    return not_found(f"no webhook '{webhook_id}'")
