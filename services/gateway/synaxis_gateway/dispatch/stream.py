"""A provider's stream on its way to the client: held back until it says something, then passed on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

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
from synaxis_gateway.wire.sse import EventSplitter, EventTooLarge, ended, event_at
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
        """The piece that `next_piece` gave last is the last one."""
        self._block = b""
        """What arrived; from `_begin` on it has not been looked at yet."""
        self._begin = 0
        self._out: list[bytes] = []
        """What goes to the client next."""
        self._held_bytes = 0
        self._cut: str | None = None
        """Why it is no answer any more, behind what goes to the client next."""
        self._quiet_s = 0.0
        """How long the provider has been waited for since it last said something."""

    def usage(self) -> UsageReading | None:
        """What the provider said it used."""
        return usage.read(self._reader.usage, self._attempt.candidate.context_window, self._needs)

    async def wait_for_content(self) -> Verdict | None:
        """Read up to the first real content. A verdict: there is none, and the client knows of nothing.

        Raises UpstreamError.
        """
        while not self._ended:
            try:
                self._arrived(await self.answer.read_some())
                verdict = self._hold()
            except EventTooLarge:
                return classify.malformed("sent an event that does not end")
            if verdict is not None:
                return verdict
            if self._reader.has_begun:
                self._attempt.first_token = self._clock.monotonic()
                self._attempt.content_bytes = self._reader.content_bytes
                return None
            if self._held_bytes > HELD_BYTES:
                return classify.malformed("sent no content")
        return classify.malformed("ended without content")

    async def next_piece(self) -> bytes:
        """What the client is sent next, what was held back first; empty behind the proper end.

        Raises StreamCut when that end does not come.
        """
        while not self.is_over:
            if self._cut is not None:
                raise StreamCut(self._cut)
            if self._block or self._out:
                self._pass_on()
            elif not self._ended:
                await self._read_on()
            elif self._reader.is_complete:
                self.is_over = True
                return DONE
            else:
                raise StreamCut("ended without a finish reason")
            if self._out:
                piece = self._out[0] if len(self._out) == 1 else b"".join(self._out)
                self._out.clear()
                return piece
        return b""

    async def flow(self, push: Callable[[bytes], bool]) -> bytes:
        """Push what comes as it comes, without waking a task for it: as long as nothing has to be decided.

        `push` answers whether it takes more. The rest is for `next_piece`; what is returned precedes that.
        """
        if self.is_over or self._cut is not None or self._ended or self._block or self._out:
            return b""
        answer = self.answer
        allowed_s = self._attempt.candidate.timeouts.between_tokens_s
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        news = partial(self._flow_on, push, allowed_s, done)
        self._quiet_s = 0.0
        answer.expect_within(allowed_s)
        answer.listen(news)
        try:
            if answer.has_news:
                news()  # of what came before there was a listener nobody would tell
            await done
        finally:
            answer.listen(None)
        piece = b"".join(self._out)
        self._out.clear()
        return piece

    def _flow_on(self, push: Callable[[bytes], bool], allowed_s: float, done: asyncio.Future[None]) -> None:
        """Push what has arrived; `done` when it cannot go on so."""
        answer, reader, goes_on = self.answer, self._reader, False
        try:
            data = answer.take_now()
            if data:
                before, piece = reader.content_bytes, b""
                try:
                    piece = self._looked_through(data)
                except EventTooLarge as error:
                    self._cut = _why_cut(error)
                if reader.is_complete or answer.is_over or self._cut is not None or self.is_over:
                    self._out.append(piece)
                else:
                    if reader.content_bytes != before:
                        answer.expect_within(allowed_s)  # else only comments came: that is silence, too
                    goes_on = push(piece) if piece else True
            elif not answer.is_over:  # an end, a failure or silence: `next_piece` meets the same
                self._quiet_s = allowed_s
        except Exception as error:  # noqa: BLE001 - it belongs to whoever waits, not to the connection
            if not done.done():
                done.set_exception(error)
            return
        if not goes_on and not done.done():
            done.set_result(None)

    def _looked_through(self, data: bytes) -> bytes:
        """What of `data` goes to the client: most often the very same bytes. Raises EventTooLarge."""
        reader, block = self._reader, self._splitter.join(data)
        at = reader.skim(block, 0)
        self._attempt.content_bytes = reader.content_bytes
        if at == len(block):
            return block
        out = self._out
        out.append(block[:at])
        self._block, self._begin = block, at
        self._pass_on()
        piece = b"".join(out)
        out.clear()
        return piece

    async def drain(self, timeout: float) -> None:
        """After the end: read the rest, which is nothing, so that the connection can be kept."""
        ends_at = self._clock.monotonic() + timeout
        try:
            while not self.answer.at_eof and (left_s := ends_at - self._clock.monotonic()) > 0:
                if not await self.answer.read_some(left_s):
                    return
        except (UpstreamError, TimeoutError):
            return  # the answer is complete; the connection is closed instead of kept

    async def _read_on(self) -> None:
        """Read and pass on. A failure after every choice is finished is only a lack of manners."""
        reader = self._reader
        before, was_complete = reader.content_bytes, reader.is_complete
        allowed_s = self._attempt.candidate.timeouts.between_tokens_s
        if was_complete:
            allowed_s = min(allowed_s, AFTER_FINISH_S)
        # Only time spent waiting for the provider counts: the client may be slow too.
        begun = self._clock.monotonic()
        try:
            self._arrived(await self.answer.read_some(max(allowed_s - self._quiet_s, 0.0)))
            self._pass_on()
        except (UpstreamError, EventTooLarge, TimeoutError) as error:
            if not reader.is_complete:
                self._cut = _why_cut(error)
            self._ended = True
        if reader.content_bytes != before or reader.is_complete != was_complete:
            self._quiet_s = 0.0
        else:
            self._quiet_s += self._clock.monotonic() - begun

    def _arrived(self, data: bytes) -> None:
        """There is more to look at; at the end an event that lacks nothing but its blank line."""
        self._begin = 0
        if data:
            self._block = self._splitter.join(data)
        else:
            self._ended = True
            self._block = b"".join([ended(event).raw for event in self._splitter.finish()])

    def _hold(self) -> Verdict | None:
        """Look at what arrived, and hold it, up to the first content; what is behind that waits."""
        reader, block, begin = self._reader, self._block, 0
        while not reader.has_begun:
            at = reader.skim(block, begin, to_content=True)
            if at > begin:
                self._out.append(block[begin:at])
                begin = at
                continue
            found = event_at(block, begin)
            if found is None:
                self._looked_at(begin)
                break
            event, begin = found
            reading = reader.read(event)
            verdict = self._objection(reading)
            if verdict is not None:
                return verdict
            if not self._is_dropped(reading):
                self._out.append(event.raw)
        self._begin = begin if self._block else 0
        self._held_bytes += begin
        return None

    def _pass_on(self) -> None:
        """Look at what arrived: it goes to the client up to the proper end, or to a reason to cut it."""
        reader, block, begin = self._reader, self._block, self._begin
        kept_from = begin
        while self._cut is None and not self.is_over:
            at = reader.skim(block, begin)
            if at == len(block) or (found := event_at(block, at)) is None:
                begin = at
                break
            event, after = found
            reading = reader.read(event)
            self.is_over = reading.meaning is Meaning.DONE and reader.is_complete
            self._cut = None if self.is_over else self._reason_to_cut(reading)
            begin = at if self._cut is not None else after
            if self._is_dropped(reading):
                if at > kept_from:
                    self._out.append(block[kept_from:at])
                kept_from = after
        if begin > kept_from:
            self._out.append(block[kept_from:begin])  # all of it is the very same bytes, not a copy
        self._attempt.content_bytes = reader.content_bytes
        self._looked_at(begin)

    def _looked_at(self, begin: int) -> None:
        """Keep of the block what is the beginning of an event. Raises EventTooLarge."""
        block, self._block, self._begin = self._block, b"", 0
        if begin < len(block):
            self._splitter.keep(block[begin:])

    def _is_dropped(self, reading: Reading) -> bool:
        return self._drop_usage and reading.meaning is Meaning.USAGE

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


def _why_cut(error: Exception) -> str:
    match error:
        case TimeoutError():
            return "fell silent"
        case EventTooLarge():
            return "sent an event that does not end"
        case _:
            return str(error)


def error_event(message: str, outcome: AttemptOutcome) -> bytes:
    """How a stream ends that cannot go on: an event in the client's protocol, and no `[DONE]`."""
    error = {"message": message, "type": "upstream_error", "param": None, "code": outcome.value}
    return b"data: " + msgspec.json.encode({"error": error}) + b"\n\n"
