"""One attempt at one candidate: send, read as far as the point of no return, judge."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from synaxis_common.contracts.routing import Candidate
from synaxis_common.proxies import DIRECT, Proxies
from synaxis_gateway.dispatch import classify
from synaxis_gateway.dispatch.call import Attempt, Call
from synaxis_gateway.dispatch.classify import Follows, Verdict
from synaxis_gateway.dispatch.destination import Destination, Destinations
from synaxis_gateway.dispatch.stream import UpstreamStream
from synaxis_gateway.upstream.answer import UpstreamAnswer
from synaxis_gateway.upstream.client import UpstreamClient, UpstreamRequest
from synaxis_gateway.upstream.errors import TooLate, UpstreamError
from synaxis_gateway.wire import openai_answer, usage
from synaxis_gateway.wire.openai_request import OpenAIRequest

REDACTED = b"[redacted]"
MAX_ERROR_BYTES = 256 * 1024
"""Largest error body that is read; the client gets all of it where it is about its own request."""
SHARE_OF_TIME = 0.5
"""Of what is left until the deadline, for an attempt that has another one behind it."""


class Whole(msgspec.Struct, frozen=True):
    """A complete answer."""

    body: bytes


@dataclass(frozen=True, slots=True)
class Begun:
    """A stream whose first content has come. Whoever holds it closes its answer."""

    stream: UpstreamStream
    total_s: float
    """How long it may go on from now."""


@dataclass(frozen=True, slots=True)
class Failed:
    """No answer from this candidate."""

    verdict: Verdict
    status: int | None = None
    body: bytes = b""
    """What the client gets when the verdict is that it is about its own request."""


Result = Whole | Begun | Failed


class Attempts:
    """Makes attempts. `environment` holds the keys, which go nowhere but to their provider."""

    def __init__(
        self,
        client: UpstreamClient,
        environment: Mapping[str, str] = os.environ,
        proxies: Proxies = DIRECT,
    ) -> None:
        self._client = client
        self._destinations = Destinations(environment, proxies)

    async def make(
        self,
        call: Call,
        candidate: Candidate,
        ask: OpenAIRequest,
        may_begin: Callable[[], bool],
        *,
        is_last: bool,
    ) -> Result:
        """Have `candidate` answer `ask`; how it ended is noted in the call.

        Cancelled: the provider is let go at once.

        Raises TooLate when `may_begin` says no just before the request would go out; nothing is noted then.
        """
        destination = self._destinations.of(candidate)
        attempt = call.begin(destination, ask)
        if destination.has_no_key:
            call.fail(attempt, classify.NO_KEY)
            return Failed(classify.NO_KEY)
        answer: UpstreamAnswer | None = None
        result: Result | None = None
        try:
            answer = await self._client.open(
                UpstreamRequest(
                    endpoint=destination.endpoint(ask.endpoint, stream=ask.stream),
                    body=ask.upstream_body(destination.provider_model_id),
                    request_id=call.request_id,
                    connect_timeout_s=destination.connect_s,
                    answer_within_s=patience_s(call, destination, is_last=is_last),
                    may_repeat=not (destination.is_rate_limited or call.admitted.keeps_budget),
                    may_begin=may_begin,
                )
            )
            attempt.http_status = answer.status
            if answer.status != 200:
                result = await self._refused(call, answer, destination.key)
            elif answer.content_type in ("text/html", "application/xhtml+xml"):
                result = Failed(classify.malformed("answered with a page, not JSON"), answer.status)
            elif ask.stream:
                result = await self._begun(call, attempt, answer)
            else:
                result = _whole(call, attempt, answer, await answer.read_all())
        except TooLate:
            call.attempts.remove(attempt)
            raise
        except (UpstreamError, TimeoutError) as error:
            result = Failed(classify.failure(error), attempt.http_status)
        finally:
            if answer is not None and not isinstance(result, Begun):
                answer.close()
        if isinstance(result, Failed):
            call.fail(attempt, result.verdict)
        return result

    async def _begun(self, call: Call, attempt: Attempt, answer: UpstreamAnswer) -> Begun | Failed:
        ask = attempt.ask
        stream = UpstreamStream(answer, attempt, call.clock, ask.measures, drop_usage=not ask.usage_asked)
        verdict = await stream.wait_for_content()
        if verdict is not None:
            return Failed(verdict, answer.status)
        return Begun(stream, _total_s(call, attempt.candidate, since=attempt.started))

    async def _refused(self, call: Call, answer: UpstreamAnswer, key: str | None) -> Failed:
        body = await answer.read_prefix(MAX_ERROR_BYTES)
        if key is not None:
            # Some repeat what they were sent; our key is not for the client's eyes.
            body = body.replace(key.encode(), REDACTED)
        verdict = classify.status(answer.status, answer.headers, body, call.clock.now())
        return Failed(verdict, answer.status, body if verdict.follows is not Follows.NEXT else b"")


def _whole(call: Call, attempt: Attempt, answer: UpstreamAnswer, body: bytes) -> Whole | Failed:
    found = openai_answer.read(body, attempt.ask.endpoint)
    match found:
        case openai_answer.WholeAnswer():
            attempt.content_bytes = found.content_bytes
            call.succeed(
                attempt, usage.read(found.usage, attempt.destination.context_window, attempt.ask.measures)
            )
            return Whole(body)
        case openai_answer.EmbeddedError():
            return Failed(classify.embedded(found, answer.headers, call.clock.now()), answer.status)
        case openai_answer.NoAnswer():
            return Failed(classify.malformed(f"answered with {found.reason}"), answer.status)


def patience_s(call: Call, destination: Destination, *, is_last: bool) -> float:
    """How long an attempt may take up to the point of no return, in seconds.

    One with another candidate behind it leaves half of the time to that one.
    """
    left = max(call.deadline - call.clock.monotonic(), 0.0)
    return min(destination.timeout_s, left if is_last else left * SHARE_OF_TIME)


def _total_s(call: Call, candidate: Candidate, *, since: float) -> float:
    end = min(since + candidate.timeouts.total_s, call.deadline)
    return max(end - call.clock.monotonic(), 0.0)
