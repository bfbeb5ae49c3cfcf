"""`GET /v1/events`: what happens to models, as server-sent events.

With a tenant's key: the events of models and providers, and of the tenant's own budgets. With the admin
key, under `/admin/v1/events`: all. `?event=`, `?provider=` and `?model=` choose, each may stand several
times or hold a list with commas; `event` is a type or the beginning of one, `provider` and `model` are
exact ids. An event that has no model (or no provider) is not among those of a model (or provider).

Each event has the place in the stream as `id`, its type as `event`, and the CloudEvent as `data`. A client
that sends its last id (`Last-Event-ID`, as browsers do, or `?last_event_id=`) gets what it missed and then
what is new; one that sends none gets what is new. Where the stream no longer has what was missed, an event
of the type `gap` says so first. Every 15 s of silence a comment and the place reached so far are sent.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec
from aiohttp import web
from prometheus_client import Counter, Gauge

from synaxis_common.bus import BusUnavailable
from synaxis_common.logging import get_logger
from synaxis_common.wanted import NoSuchEvent, Wanted, wanted
from synaxis_gateway.events.hub import Hub
from synaxis_gateway.events.stream import EventStream, ReadingLost, StoredEvent
from synaxis_gateway.events.tenants import TenantOf
from synaxis_gateway.http import errors
from synaxis_gateway.http.middleware import KEY_HASH
from synaxis_gateway.http.routes import Policy, Route
from synaxis_gateway.http.shedding import Load

log = get_logger(__name__)

MAX_READERS: Final = 1_000
MAX_REPLAYS: Final = 8
"""Readers that are served from the stream itself at a time; others wait for their turn."""
HEARTBEAT_S: Final = 15.0
WRITE_TIMEOUT_S: Final = 10.0
"""How long a client may take to accept what is sent to it before it is cut off."""
RECHECK_S: Final = 60.0
"""How soon a reader whose key was revoked is cut off."""
TURN_S: Final = 20.0
"""How long a replay goes on before others that wait have their turn."""
CHUNK: Final = 64
"""Events written at a time."""
RETRY_MS: Final = 2_000
ADMIN: Final = "admin"
"""Under whose name the readers with the admin key are counted."""
LARGEST_ID: Final = 2**63 - 1
BEGINS_ANEW: Final = "the stream was lost and begins anew"

READERS = Gauge("synaxis_gateway_event_readers", "Clients that read events")
ENDED = Counter("synaxis_gateway_event_readers_ended_total", "Readers of events, by how they ended", ["how"])


class TooSlow(Exception):
    """The client does not take what is sent to it."""


class EventsHandlers:
    """Serves readers from the hub, and those who are far behind from the stream."""

    def __init__(
        self,
        stream: EventStream,
        hub: Hub,
        tenant_of: TenantOf,
        *,
        max_readers: int = MAX_READERS,
        heartbeat_s: float = HEARTBEAT_S,
        write_timeout_s: float = WRITE_TIMEOUT_S,
        recheck_s: float = RECHECK_S,
    ) -> None:
        self._stream, self._hub, self._tenant_of = stream, hub, tenant_of
        self._load = Load(max_readers)
        self._replays = asyncio.Semaphore(MAX_REPLAYS)
        self._heartbeat_s, self._write_timeout_s = heartbeat_s, write_timeout_s
        self._recheck_s = recheck_s

    def routes(self) -> list[Route]:
        """The endpoints."""
        about = "Availability events, as they happen (server-sent events)"
        return [
            Route("GET", "/v1/events", Policy.TENANT, self.of_tenant, about),
            Route("GET", "/admin/v1/events", Policy.ADMIN, self.of_all, f"{about}, of all tenants"),
        ]

    async def of_tenant(self, request: web.Request) -> web.StreamResponse:
        """`GET /v1/events`."""
        key_hash = request[KEY_HASH]
        tenant_id = await self._tenant(key_hash)

        async def check() -> None:
            try:
                await self._tenant_of(key_hash)
            except BusUnavailable:
                log.debug("key_not_checked")  # it was valid a minute ago

        return await self._serve(request, key_hash, tenant_id, check)

    async def of_all(self, request: web.Request) -> web.StreamResponse:
        """`GET /admin/v1/events`."""

        async def check() -> None:
            pass

        return await self._serve(request, ADMIN, None, check)

    async def _tenant(self, key_hash: str) -> str:
        try:
            return await self._tenant_of(key_hash)
        except BusUnavailable as error:
            raise errors.unavailable("No registry answers at the moment.") from error

    async def _serve(
        self,
        request: web.Request,
        counted_as: str,
        tenant_id: str | None,
        check: Callable[[], Awaitable[None]],
    ) -> web.StreamResponse:
        asked = _asked(request, tenant_id)
        position = _last_event_id(request)
        with self._load.entered(counted_as), READERS.track_inprogress():
            if not self._hub.is_ready or self._hub.is_closed:
                raise errors.unavailable("The gateway does not read events at the moment.")
            reader = _Reader(request, self._write_timeout_s)
            await reader.begin()
            return await self._read(reader, asked, position, check)

    async def _read(
        self, reader: _Reader, asked: Wanted, position: int | None, check: Callable[[], Awaitable[None]]
    ) -> web.StreamResponse:
        how = "gone"
        try:
            await self._follow(reader, asked, position, check)
            how = "closed"
            await reader.write(b"retry: %d\n\n" % random.randint(RETRY_MS // 2, RETRY_MS * 2))  # noqa: S311
        except TooSlow:
            how = "too_slow"
            reader.cut()
        except ReadingLost as error:
            how = "lost"
            log.info("events_replay_lost", reason=str(error))
        except errors.ApiError as error:
            how = "refused"
            log.info("events_reader_refused", code=error.code)
        finally:
            ENDED.labels(how).inc()
        return reader.response

    async def _follow(
        self, reader: _Reader, asked: Wanted, position: int | None, check: Callable[[], Awaitable[None]]
    ) -> None:
        """Send what is wanted until the hub closes."""
        hub, loop = self._hub, asyncio.get_running_loop()
        check_at = loop.time() + self._recheck_s
        if position is None:
            position = hub.position
            await reader.reached(position)
        else:
            position = await self._catch_up(reader, asked, position)
        lives = hub.lives
        while not hub.is_closed:
            news = hub.news()
            if hub.lives != lives:
                await reader.gap(position, hub.oldest, BEGINS_ANEW)
                lives, position = hub.lives, hub.oldest
            if position < hub.oldest:
                raise TooSlow
            if loop.time() >= check_at:
                await check()
                check_at = loop.time() + self._recheck_s
            found = hub.after(position, CHUNK)
            if found:
                position = found[-1].sequence
                await reader.send([event for event in found if asked.takes(event.subject)])
                continue
            try:
                async with asyncio.timeout(self._heartbeat_s):
                    await news.wait()
            except TimeoutError:
                await reader.reached(position)

    async def _catch_up(self, reader: _Reader, asked: Wanted, position: int) -> int:
        """Send what was missed, until the hub has the rest; answers the place reached. Raises ReadingLost."""
        hub = self._hub
        if hub.oldest <= position <= hub.position:
            return position
        bounds = await self._stream.bounds()
        if position > bounds.last or position < bounds.first - 1:
            why = BEGINS_ANEW if position > bounds.last else "the stream no longer has them"
            await reader.gap(position, bounds.first - 1, why)
            position = bounds.first - 1
        while position < hub.oldest and not hub.is_closed:
            async with self._replays:
                position = await self._replay(reader, asked, position)
        return position

    async def _replay(self, reader: _Reader, asked: Wanted, position: int) -> int:
        """Send what the stream has after `position`, for a while; answers the place reached."""
        hub, loop = self._hub, asyncio.get_running_loop()
        until, reached = loop.time() + TURN_S, hub.position
        async with self._stream.reading(position, asked.subjects()) as pieces:
            async for piece in pieces:
                for start in range(0, len(piece.events), CHUNK):
                    chunk = piece.events[start : start + CHUNK]
                    await reader.send([event for event in chunk if asked.takes(event.subject)])
                    position = chunk[-1].sequence
                if piece.is_all:
                    return max(position, reached)
                if position >= hub.oldest or hub.is_closed or loop.time() > until:
                    break
        return position


class _Reader:
    """One client, as the place where events are written to."""

    def __init__(self, request: web.Request, timeout_s: float) -> None:
        self._request, self._timeout_s = request, timeout_s
        self.response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream",
                "Cache-Control": "no-store",
                "X-Accel-Buffering": "no",
            }
        )

    async def begin(self) -> None:
        """Send the headers, and how soon to come back."""
        await self.response.prepare(self._request)
        await self.write(b"retry: %d\n\n" % RETRY_MS)

    async def reached(self, position: int) -> None:
        """Send a sign of life, with the place to resume from."""
        await self.write(b": alive\nid: %d\n\n" % position)

    async def gap(self, asked: int, position: int, why: str) -> None:
        """Say that events after `asked` cannot be had; it goes on after `position`."""
        data = msgspec.json.encode(
            {"last_event_id": str(asked), "continues_after": str(position), "why": why}
        )
        await self.write(b"id: %d\nevent: gap\ndata: %s\n\n" % (position, data))

    async def send(self, events: Sequence[StoredEvent]) -> None:
        """Send events."""
        if events:
            await self.write(b"".join(event.frame for event in events))

    async def write(self, data: bytes) -> None:
        """Send bytes. Raises TooSlow."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self.response.write(data)
        except TimeoutError as error:
            raise TooSlow from error

    def cut(self) -> None:
        """Close the connection without waiting for the client."""
        if self._request.transport is not None:
            self._request.transport.abort()


def _asked(request: web.Request, tenant_id: str | None) -> Wanted:
    query = request.query
    try:
        return wanted(
            query.getall("event", []), query.getall("provider", []), query.getall("model", []), tenant_id
        )
    except NoSuchEvent as error:
        raise errors.bad_request(str(error), "event") from error


def _last_event_id(request: web.Request) -> int | None:
    said = request.headers.get("Last-Event-ID", request.query.get("last_event_id", "")).strip()
    if not said:
        return None
    if not (said.isascii() and said.isdigit()) or int(said[:20]) > LARGEST_ID:
        raise errors.bad_request("Last-Event-ID must be the id of an event, a whole number.", "last_event_id")
    return int(said)
