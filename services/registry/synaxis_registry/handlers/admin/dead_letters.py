"""Verbs on messages that could not be handled and were set aside."""

from __future__ import annotations

import base64
import codecs
from functools import partial
from typing import Any

import asyncpg
from prometheus_client import Gauge

from synaxis_common.bus import BusUnavailable
from synaxis_common.contracts.admin import AdminReply, AdminStatus
from synaxis_registry.handlers.admin.paging import after, limit_of, no_cursor, paged
from synaxis_registry.handlers.admin.verb import Ask, Refused, Surroundings, invalid, not_found, ok
from synaxis_registry.store import admin
from synaxis_registry.store.database import Connection

SHOWN_BYTES = 4096
"""Of a payload: enough to see what is wrong with it, and a hundred of them fit a message of the bus."""
MAX_DIGITS = 18
"""Of an id: what a bigint holds in any case."""

DEAD_LETTERS = Gauge(
    "synaxis_dead_letters", "Messages that were set aside and wait for an operator", ["stream"]
)


async def measure(connection: Connection) -> None:
    """Have the gauge show how many there are."""
    found = await admin.count_dead_letters(connection)
    DEAD_LETTERS.clear()
    for stream, count in found.items():
        DEAD_LETTERS.labels(stream).set(count)


async def list_all(around: Surroundings, ask: Ask) -> AdminReply:
    """Those of a stream or of all, newest first."""
    limit, stream = limit_of(ask), ask.query.get("stream")
    (last,) = after(ask, 1)
    if last and not _is_id(last):
        raise no_cursor()
    before = int(last) if last else None
    rows = await around.database.run(lambda c: admin.dead_letters(c, stream, before, limit + 1, SHOWN_BYTES))
    return paged([_shown(row) for row in rows], limit, "id")


async def replay(around: Surroundings, ask: Ask) -> AdminReply:
    """Send one to its subject again, and forget it.

    In this order: after a crash in between it is sent twice at worst, under the same message id, and whoever
    handles it knows what was done already. What is still wrong with it sets it aside again, under a new id.
    """
    letter_id = _asked_id(ask)
    letter = await around.database.run(lambda c: admin.dead_letter(c, letter_id))
    if letter is None:
        raise _unknown(letter_id)
    try:
        sequence = await around.bus.store(letter["subject"], letter["payload"], _message_id(letter))
    except BusUnavailable as error:
        raise Refused(
            AdminStatus.UNAVAILABLE, "the bus does not take the message at the moment; it is still here"
        ) from error
    await around.database.run(partial(_forget, letter_id))
    return ok({"replayed": letter_id, "subject": letter["subject"], "sequence": sequence})


async def delete(around: Surroundings, ask: Ask) -> AdminReply:
    """Throw one away."""
    letter_id = _asked_id(ask)
    if not await around.database.run(partial(_forget, letter_id)):
        raise _unknown(letter_id)
    return ok({"deleted": letter_id})


async def _forget(letter_id: int, connection: Connection) -> bool:
    is_gone = await admin.delete_dead_letter(connection, letter_id)
    await measure(connection)
    return is_gone


def _shown(row: asyncpg.Record) -> dict[str, Any]:
    payload, encoding = _readable(row["payload"])
    return {
        "id": row["id"],
        "stream": row["stream"],
        "subject": row["subject"],
        "sequence": row["sequence"],
        "reason": row["reason"],
        "at": row["at"].isoformat(),
        "size": row["size"],
        "encoding": encoding,
        "payload": payload,
    }


def _readable(beginning: bytes) -> tuple[str, str]:
    """The beginning of a payload as text, or, where it is none, in base64."""
    try:
        # A character that was cut in two at the end is left out.
        return codecs.getincrementaldecoder("utf-8")().decode(beginning), "utf-8"
    except UnicodeDecodeError:
        return base64.b64encode(beginning).decode(), "base64"


def _message_id(letter: asyncpg.Record) -> str:
    """Of the replay of this letter, and of no other: a database that is set up anew counts from 1 again."""
    return f"dead-letter/{letter['id']}/{letter['stream']}/{letter['sequence']}/{letter['at'].timestamp()}"


def _asked_id(ask: Ask) -> int:
    if not _is_id(ask.path["id"]):
        raise invalid("the id of a dead letter is a number", "id")
    return int(ask.path["id"])


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS


def _unknown(letter_id: int) -> Refused:
    return not_found(f"no dead letter {letter_id}")
