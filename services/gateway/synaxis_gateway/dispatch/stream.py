"""A provider's stream on its way to the client: held back until it says something, then passed on."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import msgspec

from synaxis_common.clock import Clock
from synaxis_common.contracts.usage import AttemptOutcome
from synaxis_gateway.dispatch import classify
from synaxis_gateway.dispatch.call import Attempt
from synaxis_gateway.dispatch.classify import Verdict
from synaxis_gateway.upstream.answer import UpstreamAnswer
from synaxis_gateway.upstream.errors import UpstreamError
from synaxis_gateway.wire import usage
from synaxis_gateway.wire.openai_stream import DONE, Meaning, Reading, StreamReader
from synaxis_gateway.wire.sse import Event, EventSplitter, EventTooLarge, ended
from synaxis_gateway.wire.usage import Multiples, UsageReading

HELD_BYTES = 1024 * 1024
"""More than this without content is no beginning of an answer."""
AFTER_FINISH_S = 5.0
"""How long the usage and `[DONE]` are waited for once the answer is finished."""


class StreamCut(Exception):
    """After content had gone to the client the stream ended without its proper end; says why."""


class UpstreamStream:
    """One stream from one provider."""

    def __init__(
        self, answer: UpstreamAnswer, attempt: Attempt, clock: Clock, needs: Multiples, *, drop_usage: bool
    ) -> None:
        self.answer = answer
        self._needs = needs
        self._attempt = attempt
        self._clock = clock
        self._drop_usage = drop_usage
        self._splitter = EventSplitter()
        self._reader = StreamReader()
        self._ended = False
        self.is_over = False
        """The piece that `pieces` gave last is the last one."""
        self._pending: list[Event] = []
        """Events that arrived in one piece with the first content, not looked at yet."""
        self._held: list[bytes] = []

    def usage(self) -> UsageReading | None:
        """What the provider said it used."""
        return usage.read(self._reader.usage, self._attempt.candidate.context_window, self._needs)

    async def wait_for_content(self) -> Verdict | None:
        """Read up to the first real content. A verdict: there is none, and the client knows of nothing.

        Raises UpstreamError.
        """
        held_bytes = 0
        while not self._ended:
            try:
                events = await self._more_events()
            except EventTooLarge:
                return classify.malformed("sent an event that does not end")
            for position, event in enumerate(events):
                reading = self._reader.read(event)
                self._attempt.content_bytes = self._reader.content_bytes
                if reading.meaning is Meaning.CONTENT or self._is_proper_end(reading):
                    self._attempt.first_token = self._clock.monotonic()
                    self._pending = events[position + 1 :]
                    self._hold(reading)
                    return None
                verdict = self._objection(reading)
                if verdict is not None:
                    return verdict
                self._hold(reading)
                held_bytes += len(event.raw)
            if held_bytes > HELD_BYTES:
                return classify.malformed("sent no content")
        return classify.malformed("ended without content")

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The stream for the client, what was held back first, up to its proper end.

        Raises StreamCut when that end does not come, and TimeoutError from the read under way.
        """
        events, self._pending = self._pending, []
        held, self._held = self._held, []
        quiet_s = 0.0
        while True:
            out = held
            held = []
            before = self._reader.content_bytes, self._reader.is_complete
            for event in events:
                reading = self._reader.read(event)
                self._attempt.content_bytes = self._reader.content_bytes
                if reading.meaning is Meaning.DONE and self._reader.is_complete:
                    self.is_over = True
                    yield b"".join([*out, event.raw])
                    return
                cut = self._reason_to_cut(reading)
                if cut is not None:
                    if out:
                        yield b"".join(out)
                    raise StreamCut(cut)
                if not self._is_dropped(reading):
                    out.append(event.raw)
            if out:
                yield b"".join(out)
            if self._ended:
                break
            if (self._reader.content_bytes, self._reader.is_complete) != before:
                quiet_s = 0.0
            begun = self._clock.monotonic()
            allowed_s = self._attempt.candidate.timeouts.between_tokens_s
            if self._reader.is_complete:
                allowed_s = min(allowed_s, AFTER_FINISH_S)
            events = await self._read_on(allowed_s - quiet_s)
            # Only time spent waiting for the provider counts: the client may be slow too.
            quiet_s += self._clock.monotonic() - begun
        if not self._reader.is_complete:
            raise StreamCut("ended without a finish reason")
        self.is_over = True
        yield DONE

    async def drain(self, timeout: float) -> None:
        """After the end: read the rest, which is nothing, so that the connection can be kept."""
        try:
            while not self.answer.at_eof:
                if not await self.answer.read_some(timeout):
                    return
        except (UpstreamError, TimeoutError):
            return  # the answer is complete; the connection is closed instead of kept

    async def _read_on(self, timeout: float) -> list[Event]:
        """The next events. A failure after every choice is finished is only a lack of manners."""
        try:
            return await self._more_events(timeout)
        except (UpstreamError, EventTooLarge, TimeoutError) as error:
            if self._reader.is_complete:
                self._ended = True
                return []
            if isinstance(error, UpstreamError):
                raise StreamCut(str(error)) from error
            silent = isinstance(error, TimeoutError)
            raise StreamCut("fell silent" if silent else "sent an event that does not end") from error

    async def _more_events(self, timeout: float | None = None) -> list[Event]:
        data = await self.answer.read_some(timeout)
        if data:
            return self._splitter.feed(data)
        self._ended = True
        return [ended(event) for event in self._splitter.finish()]

    def _hold(self, reading: Reading) -> None:
        if not self._is_dropped(reading):
            self._held.append(reading.event.raw)

    def _is_dropped(self, reading: Reading) -> bool:
        return self._drop_usage and reading.meaning is Meaning.USAGE

    def _is_proper_end(self, reading: Reading) -> bool:
        """An answer without content that says why it has none is an answer."""
        return reading.meaning in (Meaning.LIFECYCLE, Meaning.USAGE) and self._reader.is_complete

    def _objection(self, reading: Reading) -> Verdict | None:
        match reading.meaning:
            case Meaning.ERROR if reading.error is not None:
                return classify.embedded(reading.error, self.answer.headers, self._clock.now())
            case Meaning.GARBAGE:
                return classify.malformed("sent an event that is not JSON")
            case Meaning.DONE:
                return classify.malformed("ended without content")
            case _:
                return None

    def _reason_to_cut(self, reading: Reading) -> str | None:
        match reading.meaning:
            case Meaning.ERROR:
                return "sent an error in the midst of its answer"
            case Meaning.GARBAGE:
                return "sent an event that is not JSON"
            case Meaning.DONE:
                return "ended without a finish reason"
            case _:
                return None


def error_event(message: str, outcome: AttemptOutcome) -> bytes:
    """How a stream ends that cannot go on: an event in the client's protocol, and no `[DONE]`."""
    error = {"message": message, "type": "upstream_error", "param": None, "code": outcome.value}
    return b"data: " + msgspec.json.encode({"error": error}) + b"\n\n"
