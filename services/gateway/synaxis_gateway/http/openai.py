"""OpenAI's endpoints: `/v1/chat/completions`, `/v1/completions`, `/v1/embeddings`."""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web

from synaxis_common.bus import BusUnavailable
from synaxis_common.clock import Clock
from synaxis_common.contracts.routing import RouteRefusal
from synaxis_common.contracts.usage import AttemptOutcome
from synaxis_gateway import metrics
from synaxis_gateway.admission.admission import Admission, Admitted
from synaxis_gateway.admission.shape import Shape, shape_of
from synaxis_gateway.dispatch import call_report, continuation
from synaxis_gateway.dispatch.attempt import Begun, Whole
from synaxis_gateway.dispatch.call import Call
from synaxis_gateway.dispatch.continuation import CONTINUE_HEADER
from synaxis_gateway.dispatch.failover import Exhausted, Failover, PermitExpired, Refused
from synaxis_gateway.dispatch.reports import Reports
from synaxis_gateway.dispatch.stream import StreamCut, error_event
from synaxis_gateway.http import errors
from synaxis_gateway.http.aiohttp_exchange import AiohttpExchange
from synaxis_gateway.http.exchange import STALL_S, Answer, Exchange, Serve
from synaxis_gateway.http.middleware import CLIENT_GONE_STATUS
from synaxis_gateway.http.routes import Policy, Route
from synaxis_gateway.http.shedding import Load
from synaxis_gateway.settings import GatewaySettings
from synaxis_gateway.wire import header_lines, openai_request
from synaxis_gateway.wire.joined_stream import Joined, Transcript
from synaxis_gateway.wire.openai_request import BadRequest, Endpoint

BROKEN_OFF = "The provider broke off its answer; it is incomplete."
LAST_WORDS_S = 1.0
"""How long a client has to take the event that says that its stream ends here."""
DRAIN_S = 0.1
"""How long the end of a provider's stream is waited for, to keep the connection for the next request."""
ANSWER_MARGIN_S = 0.25
"""Kept back from the client's own timeout, so that it hears of ours first."""
_STREAM_LINES: Final = header_lines.join(
    {
        "Content-Type": "text/event-stream; charset=utf-8",
        "Cache-Control": "no-cache",
        "X-Accel-Buffering": "no",
    }
)
CLIENT_TIMEOUT_HEADER = "x-stainless-read-timeout"
"""In which OpenAI's clients say how long they wait, in seconds."""

HEDGE_HEADER = "x-synaxis-hedge"
"""`true`: a second provider is asked when the first has not begun to answer by its 95th percentile; `false`:
none is, whatever the tenant has set."""


class OpenAIHandlers:
    """Takes requests apart, has them routed and dispatched, and hands the answers over."""

    def __init__(
        self,
        settings: GatewaySettings,
        clock: Clock,
        admission: Admission,
        failover: Failover,
        reports: Reports,
        gateway_id: str,
    ) -> None:
        self._max_body_bytes = settings.max_body_bytes
        self._body_timeout_s = settings.body_timeout_s
        self._deadline_s = settings.request_deadline_s
        self._clock = clock
        self._admission = admission
        self._gateway_id = gateway_id
        self._load = Load(settings.max_in_flight)
        self._failover = failover
        self._reports = reports
        self.abandoning = False
        """Set when a stopping gateway has run out of patience with what is under way."""

    def routes(self) -> list[Route]:
        """The endpoints."""
        return [
            Route("POST", "/v1/chat/completions", Policy.TENANT, self.chat, "Create a chat completion"),
            Route("POST", "/v1/completions", Policy.TENANT, self.completions, "Create a completion"),
            Route("POST", "/v1/embeddings", Policy.TENANT, self.embeddings, "Create embeddings"),
        ]

    def hot(self) -> dict[str, Serve]:
        """The same endpoints for the lean door."""
        return {
            "/v1/chat/completions": lambda exchange: self.serve(exchange, "chat"),
            "/v1/completions": lambda exchange: self.serve(exchange, "completions"),
            "/v1/embeddings": lambda exchange: self.serve(exchange, "embeddings"),
        }

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """`POST /v1/chat/completions`."""
        return await self._through_aiohttp(request, "chat")

    async def completions(self, request: web.Request) -> web.StreamResponse:
        """`POST /v1/completions`."""
        return await self._through_aiohttp(request, "completions")

    async def embeddings(self, request: web.Request) -> web.StreamResponse:
        """`POST /v1/embeddings`."""
        return await self._through_aiohttp(request, "embeddings")

    async def serve(self, exchange: Exchange, endpoint: Endpoint) -> Answer | None:
        """Have a request answered, and report it. None: the answer has gone out piece by piece.

        Raises ApiError.
        """
        who = self._load.enter(exchange.key_hash)
        try:
            return await self._take(exchange, endpoint)
        finally:
            self._load.leave(who)

    async def _through_aiohttp(self, request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
        exchange = AiohttpExchange(request)
        answer = await self.serve(exchange, endpoint)
        if answer is not None:
            return errors.response(answer)
        if exchange.response is None:
            raise ConnectionResetError("the client was gone before its answer began")
        return exchange.response

    async def _take(self, exchange: Exchange, endpoint: Endpoint) -> Answer | None:
        started, started_at = self._clock.monotonic(), self._clock.now()
        if self._reports.is_full:
            raise errors.unavailable("Call reports cannot be stored at the moment.")
        data = await exchange.body(self._max_body_bytes, self._body_timeout_s)
        try:
            ask = openai_request.parse(data, endpoint)
        except BadRequest as error:
            raise errors.bad_request(error.message, error.param) from error
        exchange.notes["model_asked"] = ask.model
        exchange.notes["stream"] = ask.stream
        call: Call | None = None
        while True:
            try:
                shape = shape_of(ask, exchange.key_hash)
                decision = self._admission.at_hand(shape)
                if decision is None:
                    decision = await self._ask(shape)
                admitted = self._admitted(exchange, decision)
            except errors.ApiError as error:
                if call is not None:
                    self._conclude(exchange, call, error.status)
                raise
            is_hedged = _wants(exchange, HEDGE_HEADER, by_default=admitted.plan.hedge)
            if call is None:
                call = Call(
                    request_id=exchange.request_id,
                    ask=ask,
                    admitted=admitted,
                    gateway_id=self._gateway_id,
                    clock=self._clock,
                    started=started,
                    started_at=started_at,
                    deadline=started + self._patience_s(exchange),
                    is_hedged=is_hedged,
                    is_continued=_wants(exchange, CONTINUE_HEADER, by_default=False),
                )
            else:
                admitted.draws += call.admitted.draws  # of a lease that is over: the report accounts for them
                call.admitted, call.is_hedged = admitted, is_hedged
            try:
                return await self._answer(exchange, call)
            except PermitExpired:
                self._admission.leave(admitted, unused=True)

    async def _answer(self, exchange: Exchange, call: Call) -> Answer | None:
        """Have the request answered, and report it. Raises PermitExpired: nothing has been done yet."""
        try:
            result = await self._failover.run(call)
            if isinstance(result, Begun):
                answer = await self._stream(exchange, call, result)
            else:
                answer = _answer(call, result)
        except PermitExpired:
            raise
        except errors.ApiError as error:
            self._conclude(exchange, call, error.status)
            raise
        except asyncio.CancelledError:
            call.break_off(*self._why_cancelled())
            self._conclude(exchange, call, CLIENT_GONE_STATUS)
            raise
        except Exception:
            self._conclude(exchange, call, 500)
            raise
        self._conclude(exchange, call, 200 if answer is None else answer.status)
        return answer

    async def _ask(self, shape: Shape) -> Admitted | RouteRefusal:
        try:
            return await self._admission.by_asking(shape)
        except BusUnavailable as error:
            raise errors.unavailable("No registry answers at the moment.") from error

    def _admitted(self, exchange: Exchange, decision: Admitted | RouteRefusal) -> Admitted:
        """Raises an ApiError for whoever is not."""
        if isinstance(decision, RouteRefusal):
            raise errors.refusal(decision)
        if decision.account is not None and self._reports.may_be_lost:
            self._admission.leave(decision, unused=True)
            raise errors.unavailable("What this request uses could not be accounted for at the moment.")
        self._load.belongs(exchange.key_hash, decision.plan.tenant_id)
        return decision

    async def _stream(self, exchange: Exchange, call: Call, begun: Begun) -> Answer | None:
        try:
            is_whole = await self._pass_on(exchange, call, begun)
        except (ConnectionError, _ClientStalled):
            call.break_off(AttemptOutcome.CLIENT_GONE, "the client is gone")
            exchange.cut()
        except asyncio.CancelledError:
            outcome, reason = self._why_cancelled()
            call.break_off(outcome, reason)
            if outcome is AttemptOutcome.ABANDONED:
                self._conclude(exchange, call, 200)
                await _end_with_error(exchange, outcome)
            raise
        else:
            if not is_whole and not exchange.is_begun:
                return errors.ApiError(502, "upstream_error", BROKEN_OFF, "upstream_error").answer()
            if not is_whole:
                self._conclude(exchange, call, 200)
                await _end_with_error(exchange, AttemptOutcome.STREAM_CUT)
        return None

    async def _pass_on(self, exchange: Exchange, call: Call, begun: Begun) -> bool:
        """Send the answer, continued by others where it breaks off and the client wants that.

        False: it stays incomplete.
        """
        transcript = Transcript() if call.is_continued and continuation.objection(call.ask) is None else None
        joined: Joined | None = None
        while True:
            try:
                await self._send(exchange, call, begun, transcript, joined)
                await exchange.end()
                await begun.stream.drain(DRAIN_S)
            except (StreamCut, TimeoutError) as error:
                reason = str(error) if isinstance(error, StreamCut) else "took longer than a request may"
                call.break_off(AttemptOutcome.STREAM_CUT, reason)
                self._failover.broke_off(call, call.attempts[-1].candidate, reason)
            else:
                self._failover.completed(call.attempts[-1].candidate)
                return True
            finally:
                begun.stream.answer.close()
            further = None if transcript is None else await self._failover.go_on(call, transcript)
            if further is None:
                return False
            begun, joined = further

    async def _send(
        self,
        exchange: Exchange,
        call: Call,
        begun: Begun,
        transcript: Transcript | None,
        joined: Joined | None,
    ) -> None:
        """Send one provider's stream. Raises StreamCut, TimeoutError."""
        async with asyncio.timeout(begun.total_s):
            if not exchange.is_begun:
                await exchange.begin(_STREAM_LINES + _header_lines(call))
            stream = begun.stream
            push = exchange.push if joined is None and transcript is None else None
            received = await stream.next_piece()
            while received:
                piece = received
                if joined is not None:
                    piece = joined.take(received)
                elif transcript is not None:
                    transcript.take(received)
                if stream.is_over:
                    # Before the client has the last byte: a complete answer is never unknown.
                    call.succeed(call.attempts[-1], stream.usage())
                    self._conclude(exchange, call, 200)
                if piece:
                    try:
                        await exchange.write(piece, STALL_S)
                    except TimeoutError as error:
                        raise _ClientStalled from error
                received = b"" if push is None else await stream.flow(push)
                received = received or await stream.next_piece()

    def _why_cancelled(self) -> tuple[AttemptOutcome, str]:
        if self.abandoning:
            return AttemptOutcome.ABANDONED, "the gateway is stopping"
        return AttemptOutcome.CLIENT_GONE, "the client is gone"

    def _patience_s(self, exchange: Exchange) -> float:
        """How long the client waits: what it says, but not more than we allow."""
        allowed = self._deadline_s
        said = exchange.header(CLIENT_TIMEOUT_HEADER)
        if said is None:
            return allowed
        try:
            wanted = float(said[:20])
        except ValueError:
            return allowed
        return min(wanted - ANSWER_MARGIN_S, allowed) if wanted >= 2 * ANSWER_MARGIN_S else allowed

    def _conclude(self, exchange: Exchange, call: Call, status: int) -> None:
        """Report, once, and give back what was not used. Never waits: the request's task may be cancelled."""
        if call.is_concluded:
            return
        call.is_concluded = True
        self._admission.leave(call.admitted, unused=not call.reached_a_provider)
        self._reports.submit(call.request_id, call_report.written(call, status))
        last = call.attempts[-1] if call.attempts else None
        if last is not None and call.ask.stream and (first_token_s := call.first_token_s) is not None:
            metrics.FIRST_TOKEN.observe(first_token_s)
        plan = call.plan
        exchange.notes.update(
            tenant=plan.tenant_id,
            key_id=plan.key_id,
            model=plan.global_model_id,
            provider=None if last is None else last.destination.provider_id,
            outcome=None if last is None or last.outcome is None else last.outcome.value,
            attempts=call.tried,
        )


class _ClientStalled(Exception):
    """The client takes nothing more."""


async def _end_with_error(exchange: Exchange, outcome: AttemptOutcome) -> None:
    """Say in the stream that it ends here; whether the client still hears it is its own affair."""
    if not exchange.is_begun:
        return
    message = (
        "The gateway is stopping; the answer is incomplete."
        if outcome is AttemptOutcome.ABANDONED
        else BROKEN_OFF
    )
    try:
        await exchange.write(error_event(message, outcome), LAST_WORDS_S)
        async with asyncio.timeout(LAST_WORDS_S):
            await exchange.end()
    except (ConnectionError, TimeoutError):
        exchange.cut()


def _answer(call: Call, result: Whole | Refused | Exhausted) -> Answer:
    """The answer in one piece. Raises an ApiError when nobody answered."""
    match result:
        case Whole():
            return Answer(200, result.body, _header_lines(call))
        case Refused():
            answer = errors.refused_by_provider(result)
            answer.header_lines += _header_lines(call)
            return answer
        case Exhausted():
            error = errors.exhausted(call.attempts, result)
            error.headers = {**error.headers, "x-synaxis-attempts": str(call.tried)}
            raise error


def _wants(exchange: Exchange, header: str, *, by_default: bool) -> bool:
    said = exchange.header(header)
    return by_default if said is None else said.strip().lower() == "true"


def _header_lines(call: Call) -> str:
    """What an answer says of how it came about."""
    admitted, last = call.admitted, call.attempts[-1]
    limits = errors.rate_limit_lines(admitted.plan.rate_limits, admitted.permits_left, admitted.tokens_left)
    lines = f"{last.destination.header_lines}x-synaxis-attempts: {call.tried}\r\n{limits}"
    if last.reading is not None and last.is_ok:
        amount = last.destination.tariff.cost(last.reading)
        if amount is not None:
            return f"{lines}x-synaxis-cost-usd: {amount}\r\n"
    return lines
