"""Appends to a stream that only registries write: in order, in one piece, and never behind another's back.

Every message says which sequence must be the stream's last (`Nats-Expected-Last-Sequence`). Messages can so
be on their way together and are still stored in order, or not at all from the first that fails. A publish
that was given up but is still in the client's buffer, and a registry that was stopped and goes on with what
it had read long ago, find the stream longer than they expect and are refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import nats.errors
from nats.js import JetStreamContext
from nats.js.api import PubAck
from nats.js.errors import APIError, NotFoundError

from synaxis_common.bus import BusUnavailable

WRONG_LAST = (10071, 10164)
"""The server's codes for a stream that is longer than expected: `JSStreamWrongLastSequence(Constant)ErrF`."""
AWAY = (nats.errors.Error, TimeoutError)


@dataclass(eq=False)
class Overtaken(Exception):
    """Somebody else has written meanwhile: read anew what is there, then try again."""

    stream: str
    stored: dict[int, int] = field(default_factory=dict)
    """By position: what the stream had before, by its message id, with its sequence there."""

    def __str__(self) -> str:
        return f"somebody else has written to {self.stream}"


@dataclass(frozen=True, slots=True)
class Head:
    """Where a stream stands."""

    created: datetime
    first: int
    last: int
    messages: int


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to append."""

    subject: str
    payload: bytes
    headers: dict[str, str] = field(default_factory=dict)


async def head(jetstream: JetStreamContext, stream: str) -> Head:
    """Where `stream` stands now. Raises BusUnavailable, and NotFoundError where there is none."""
    try:
        info = await jetstream.stream_info(stream)
    except NotFoundError:
        raise
    except AWAY as error:
        raise BusUnavailable(f"{stream}: {type(error).__name__}") from error
    created = (info.created or datetime.fromtimestamp(0, UTC)).astimezone(UTC)
    return Head(created, info.state.first_seq, info.state.last_seq, info.state.messages)


async def append(
    jetstream: JetStreamContext, stream: str, last: int, messages: Sequence[Outgoing]
) -> list[int]:
    """Store `messages` after the sequence `last`; answers their sequences.

    Raises Overtaken, or BusUnavailable when no acknowledgement came; a first part may be stored then.
    """
    publishing = [
        asyncio.create_task(
            jetstream.publish(
                message.subject,
                message.payload,
                stream=stream,
                headers={**message.headers, "Nats-Expected-Last-Sequence": str(last + position)},
            )
        )
        for position, message in enumerate(messages)
    ]
    answers = await asyncio.gather(*publishing, return_exceptions=True)
    acknowledged = [answer for answer in answers if isinstance(answer, PubAck)]
    if len(acknowledged) == len(answers) and all(
        answer.seq == last + position + 1 for position, answer in enumerate(acknowledged)
    ):
        return [answer.seq for answer in acknowledged]
    problems = [answer for answer in answers if isinstance(answer, BaseException)]
    refusals = [each for each in problems if isinstance(each, APIError) and each.err_code in WRONG_LAST]
    for problem in problems:
        if problem not in refusals and not isinstance(problem, AWAY):
            raise problem
    if problems and not refusals:
        raise BusUnavailable(f"{stream}: {type(problems[0]).__name__}") from problems[0]
    raise Overtaken(
        stream,
        {
            position: answer.seq
            for position, answer in enumerate(answers)
            if isinstance(answer, PubAck) and answer.duplicate
        },
    )
