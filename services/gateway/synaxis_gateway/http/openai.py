"""OpenAI's endpoints: `/v1/chat/completions`, `/v1/completions`, `/v1/embeddings`."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from urllib.parse import quote

from aiohttp import web

from synaxis_common.bus import BusUnavailable
from synaxis_common.clock import Clock
from synaxis_common.contracts.routing import RouteRefusal
from synaxis_common.contracts.usage import AttemptOutcome
from synaxis_common.money import plain
from synaxis_common.pricing import cost
from synaxis_gateway import metrics
from synaxis_gateway.admission.admission import Admission, Admitted
from synaxis_gateway.dispatch import continuation
from synaxis_gateway.dispatch.attempt import Begun, Whole
from synaxis_gateway.dispatch.call import Call
from synaxis_gateway.dispatch.continuation import CONTINUE_HEADER
from synaxis_gateway.dispatch.failover import Exhausted, Failover, PermitExpired, Refused
from synaxis_gateway.dispatch.reports import Reports
from synaxis_gateway.dispatch.stream import StreamCut, error_event
from synaxis_gateway.http import body, errors
from synaxis_gateway.http.middleware import CLIENT_GONE_STATUS, KEY_HASH, LOG_FIELDS, REQUEST_ID
from synaxis_gateway.http.routes import Policy, Route
from synaxis_gateway.http.shedding import Load
from synaxis_gateway.settings import GatewaySettings
from synaxis_gateway.wire import openai_request
from synaxis_gateway.wire.joined_stream import Joined, Transcript
from synaxis_gateway.wire.openai_request import BadRequest, Endpoint, OpenAIRequest

CLIENT_STALL_S = 60.0
"""A client that takes nothing for so long is gone, whatever its connection says."""
DRAIN_S = 0.1
"""How long the end of a provider's stream is waited for, to keep the connection for the next request."""
ANSWER_MARGIN_S = 0.25
"""Kept back from the client's own timeout, so that it hears of ours first."""
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
        self._settings = settings
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

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """`POST /v1/chat/completions`."""
        return await self._serve(request, "chat")

    async def completions(self, request: web.Request) -> web.StreamResponse:
        """`POST /v1/completions`."""
        return await self._serve(request, "completions")

    async def embeddings(self, request: web.Request) -> web.StreamResponse:
        """`POST /v1/embeddings`."""
        return await self._serve(request, "embeddings")

    async def _serve(self, request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
        with self._load.entered(request[KEY_HASH]):
            return await self._take(request, endpoint)

    async def _take(self, request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
        started, started_at = self._clock.monotonic(), self._clock.now()
        if self._reports.is_full:
            raise errors.unavailable("Call reports cannot be stored at the moment.")
        data = await body.read(request, self._settings.max_body_bytes, self._settings.body_timeout_s)
        try:
            ask = openai_request.parse(data, endpoint)
        except BadRequest as error:
            raise errors.bad_request(error.message, error.param) from error
        request[LOG_FIELDS].update(model_asked=ask.model, stream=ask.stream)
        call: Call | None = None
        while True:
            try:
                admitted = await self._admit(request, ask)
            except errors.ApiError as error:
                if call is not None:
                    self._conclude(request, call, error.status)
                raise
            if call is not None:
                admitted.draws += call.admitted.draws  # of a lease that is over: the report accounts for them
            call = Call(
                request_id=request[REQUEST_ID],
                ask=ask,
                admitted=admitted,
                gateway_id=self._gateway_id,
                clock=self._clock,
                started=started,
                started_at=started_at,
                deadline=started + self._patience_s(request),
                is_hedged=_wants(request, HEDGE_HEADER, by_default=admitted.plan.hedge),
                is_continued=_wants(request, CONTINUE_HEADER, by_default=False),
                attempts=[] if call is None else call.attempts,
            )
            try:
                return await self._answer(request, call)
            except PermitExpired:
                self._admission.leave(admitted, unused=True)

    async def _answer(self, request: web.Request, call: Call) -> web.StreamResponse:
        """Have the request answered, and report it. Raises PermitExpired: nothing has been done yet."""
        try:
            response = await self._dispatch(request, call)
        except PermitExpired:
            raise
        except errors.ApiError as error:
            self._conclude(request, call, error.status)
            raise
        except asyncio.CancelledError:
            call.break_off(*self._why_cancelled())
            self._conclude(request, call, CLIENT_GONE_STATUS)
            raise
        except Exception:
            self._conclude(request, call, 500)
            raise
        self._conclude(request, call, response.status)
        return response

    async def _admit(self, request: web.Request, ask: OpenAIRequest) -> Admitted:
        try:
            answer = await self._admission.admit(ask, request[KEY_HASH])
        except BusUnavailable as error:
            raise errors.unavailable("No registry answers at the moment.") from error
        if isinstance(answer, RouteRefusal):
            raise errors.refusal(answer)
        if answer.account is not None and self._reports.may_be_lost:
            self._admission.leave(answer, unused=True)
            raise errors.unavailable("What this request uses could not be accounted for at the moment.")
        self._load.belongs(request[KEY_HASH], answer.plan.tenant_id)
        return answer

    async def _dispatch(self, request: web.Request, call: Call) -> web.StreamResponse:
        result = await self._failover.run(call)
        match result:
            case Whole():
                return web.Response(
                    body=result.body, headers={"Content-Type": "application/json", **_headers(call)}
                )
            case Begun():
                return await self._stream(request, call, result)
            case Refused():
                response = errors.refused_by_provider(result)
                response.headers.update(_headers(call))
                return response
            case Exhausted():
                error = errors.exhausted(call.attempts, result)
                error.headers = {**error.headers, "x-synaxis-attempts": str(call.tried)}
                raise error

    async def _stream(self, request: web.Request, call: Call, begun: Begun) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream; charset=utf-8",
                "Cache-Control": "no-cache",
                "X-Accel-Buffering": "no",
                **_headers(call),
            }
        )
        try:
            is_whole = await self._pass_on(request, response, call, begun)
        except (ConnectionError, _ClientStalled):
            call.break_off(AttemptOutcome.CLIENT_GONE, "the client is gone")
            response.force_close()
        except asyncio.CancelledError:
            outcome, reason = self._why_cancelled()
            call.break_off(outcome, reason)
            if outcome is AttemptOutcome.ABANDONED:
                self._conclude(request, call, response.status)
                await _end_with_error(response, outcome)
            raise
        else:
            if not is_whole:
                self._conclude(request, call, response.status)
                await _end_with_error(response, AttemptOutcome.STREAM_CUT)
        return response

    async def _pass_on(
        self, request: web.Request, response: web.StreamResponse, call: Call, begun: Begun
    ) -> bool:
        """Send the answer, continued by others where it breaks off and the client wants that.

        False: it stays incomplete.
        """
        transcript = Transcript() if call.is_continued and continuation.objection(call.ask) is None else None
        joined: Joined | None = None
        while True:
            try:
                await self._send(request, response, call, begun, transcript, joined)
                await response.write_eof()
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
        request: web.Request,
        response: web.StreamResponse,
        call: Call,
        begun: Begun,
        transcript: Transcript | None,
        joined: Joined | None,
    ) -> None:
        """Send one provider's stream. Raises StreamCut, TimeoutError."""
        async with asyncio.timeout(begun.total_s), aclosing(begun.stream.pieces()) as pieces:
            if not response.prepared:
                await response.prepare(request)
            async for received in pieces:
                piece = received
                if joined is not None:
                    piece = joined.take(received)
                elif transcript is not None:
                    transcript.take(received)
                if begun.stream.is_over:
                    # Before the client has the last byte: a complete answer is never unknown.
                    call.succeed(call.attempts[-1], begun.stream.usage())
                    self._conclude(request, call, response.status)
                if not piece:
                    continue
                try:
                    async with asyncio.timeout(CLIENT_STALL_S):
                        await response.write(piece)
                except TimeoutError as error:
                    raise _ClientStalled from error

    def _why_cancelled(self) -> tuple[AttemptOutcome, str]:
        if self.abandoning:
            return AttemptOutcome.ABANDONED, "the gateway is stopping"
        return AttemptOutcome.CLIENT_GONE, "the client is gone"

    def _patience_s(self, request: web.Request) -> float:
        """How long the client waits: what it says, but not more than we allow."""
        allowed = self._settings.request_deadline_s
        said = request.headers.get(CLIENT_TIMEOUT_HEADER, "")[:20]
        try:
            wanted = float(said)
        except ValueError:
            return allowed
        return min(wanted - ANSWER_MARGIN_S, allowed) if wanted >= 2 * ANSWER_MARGIN_S else allowed

    def _conclude(self, request: web.Request, call: Call, status: int) -> None:
        """Report, once, and give back what was not used. Never waits: the request's task may be cancelled."""
        if call.is_concluded:
            return
        call.is_concluded = True
        self._admission.leave(call.admitted, unused=not call.reached_a_provider)
        report = call.report(status)
        self._reports.submit(report.request_id, report.to_bytes())
        if call.ask.stream and call.first_token_s is not None:
            metrics.FIRST_TOKEN.observe(call.first_token_s)
        last = call.attempts[-1] if call.attempts else None
        request[LOG_FIELDS].update(
            tenant=call.plan.tenant_id,
            key_id=call.plan.key_id,
            model=call.plan.global_model_id,
            provider=None if last is None else last.candidate.provider_id,
            outcome=None if last is None or last.outcome is None else last.outcome.value,
            attempts=call.tried,
        )


class _ClientStalled(Exception):
    """The client takes nothing more."""


async def _end_with_error(response: web.StreamResponse, outcome: AttemptOutcome) -> None:
    """Say in the stream that it ends here; whether the client still hears it is its own affair."""
    if not response.prepared:
        return
    message = (
        "The gateway is stopping; the answer is incomplete."
        if outcome is AttemptOutcome.ABANDONED
        else "The provider broke off its answer; it is incomplete."
    )
    try:
        async with asyncio.timeout(1.0):
            await response.write(error_event(message, outcome))
            await response.write_eof()
    except (ConnectionError, TimeoutError):
        response.force_close()


def _wants(request: web.Request, header: str, *, by_default: bool) -> bool:
    said = request.headers.get(header)
    return by_default if said is None else said.strip().lower() == "true"


def _headers(call: Call) -> dict[str, str]:
    """What an answer says of how it came about."""
    last = call.attempts[-1]
    headers = {
        "x-synaxis-provider": quote(last.candidate.provider_id, safe="/:.@+-_"),
        "x-synaxis-model": quote(last.candidate.global_model_id, safe="/:.@+-_"),
        "x-synaxis-attempts": str(call.tried),
        **errors.rate_limit_headers(call.admitted.rate_limits),
    }
    if last.reading is not None and last.outcome is AttemptOutcome.OK:
        amount = cost(last.candidate.prices, last.reading.usage)
        if amount is not None:
            headers["x-synaxis-cost-usd"] = plain(amount)
    return headers
