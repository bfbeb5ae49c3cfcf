"""What a provider's answer means, and what follows from it. Pure; the table of the design's "Failover"."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto

from synaxis_common.contracts.usage import AttemptOutcome
from synaxis_gateway.dispatch import retry_after
from synaxis_gateway.upstream.errors import NoConnection, Reset, Unreadable, UpstreamError
from synaxis_gateway.wire.openai_answer import EmbeddedError


class Follows(Enum):
    """What happens next."""

    NEXT = auto()
    """Another candidate is tried."""
    NEXT_IF_LARGER = auto()
    """A candidate with a larger context is tried; without one the client gets this answer."""
    ANSWER = auto()
    """The client gets this answer: it is about its own request."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one attempt that failed comes to."""

    outcome: AttemptOutcome
    follows: Follows
    reason: str
    """In our words, for logs and reports: nothing of what the provider wrote."""
    retry_after_s: float | None = None
    may_be_billed: bool = False
    """Whether the provider may charge for it although we have no answer."""
    reached: bool = True
    """Whether the provider got the request, so that the attempt was load for it."""


_OUT_OF_MONEY = re.compile(
    rb"insufficient_quota|credit_balance|insufficient[ _](?:credit|balance|fund)|spend(?:ing)?[ _]limit"
    rb"|payment[ _]required|billing_hard_limit",
    re.IGNORECASE,
)
_CONTEXT_LENGTH = re.compile(
    rb"context_length_exceeded|context[ _]length|context[ _]window|prompt is too long|input is too long"
    rb"|input token count|maximum (?:prompt|input) length|too many (?:input )?tokens"
    rb"|reduce the length of the (?:messages|prompt|input)",
    re.IGNORECASE,
)
_MODERATION = re.compile(rb"moderation|content[ _](?:policy|filter)|flagged", re.IGNORECASE)

_SAME_FOR_ALL = frozenset({400, 413, 422})
_TRANSIENT = frozenset({408, 409, 425})
LOOKED_AT_BYTES = 16_384
"""How much of an error's body is searched for what it means."""


def status(code: int, headers: Mapping[str, str], body: bytes, now: datetime) -> Verdict:
    """What an answer with a status other than 200 means. `headers` have lower-case names."""
    body = body[:LOOKED_AT_BYTES]
    wait = retry_after.read(headers, now)
    if code == 402 or (code in (400, 403, 429) and _OUT_OF_MONEY.search(body)):
        # The trap: 400 and 429 that say our account at the provider has run out of money.
        return Verdict(AttemptOutcome.UNAUTHORIZED, Follows.NEXT, "our account there is out of credit")
    if code == 429:
        return Verdict(AttemptOutcome.RATE_LIMITED, Follows.NEXT, "rate limited", wait)
    if code in _SAME_FOR_ALL:
        if _CONTEXT_LENGTH.search(body):
            return Verdict(AttemptOutcome.REQUEST_ERROR, Follows.NEXT_IF_LARGER, "more context than it takes")
        return Verdict(AttemptOutcome.REQUEST_ERROR, Follows.ANSWER, "refused the request")
    if code == 403 and _MODERATION.search(body):
        # A laxer provider is not looked for.
        return Verdict(AttemptOutcome.REQUEST_ERROR, Follows.ANSWER, "refused the content")
    if code in (401, 403):
        return Verdict(AttemptOutcome.UNAUTHORIZED, Follows.NEXT, "refused our key")
    if code in (404, 410):
        return Verdict(AttemptOutcome.NOT_FOUND, Follows.NEXT, "does not have the model")
    if code in _TRANSIENT:
        return Verdict(
            AttemptOutcome.TIMEOUT if code == 408 else AttemptOutcome.SERVER_ERROR,
            Follows.NEXT,
            "asked to try again",
            wait,
        )
    if 500 <= code <= 599:
        return Verdict(AttemptOutcome.SERVER_ERROR, Follows.NEXT, "failed", wait)
    if 300 <= code <= 399:
        return Verdict(AttemptOutcome.MALFORMED, Follows.NEXT, "redirects, which is never followed")
    return Verdict(AttemptOutcome.MALFORMED, Follows.NEXT, "answered with a status that has no meaning here")


def embedded(error: EmbeddedError, headers: Mapping[str, str], now: datetime) -> Verdict:
    """What an error inside of an answer with status 200 means: another candidate, whatever it says."""
    if error.status is not None:
        verdict = status(error.status, headers, error.text.encode(errors="replace"), now)
        if verdict.follows is Follows.NEXT:
            return verdict
    elif _OUT_OF_MONEY.search(error.text.encode(errors="replace")):
        return Verdict(AttemptOutcome.UNAUTHORIZED, Follows.NEXT, "our account there is out of credit")
    return Verdict(AttemptOutcome.MALFORMED, Follows.NEXT, "answered 200 with an error inside")


def malformed(reason: str) -> Verdict:
    """What an answer means that is none."""
    return Verdict(AttemptOutcome.MALFORMED, Follows.NEXT, reason)


def failure(error: UpstreamError | TimeoutError) -> Verdict:
    """What it means that there was no answer at all."""
    match error:
        case NoConnection():
            return Verdict(AttemptOutcome.CONNECT_ERROR, Follows.NEXT, str(error), reached=False)
        case Reset():
            return Verdict(AttemptOutcome.CONNECT_ERROR, Follows.NEXT, "closed the connection", reached=True)
        case Unreadable():
            return Verdict(AttemptOutcome.MALFORMED, Follows.NEXT, str(error), may_be_billed=True)
        case _:
            return Verdict(AttemptOutcome.TIMEOUT, Follows.NEXT, "did not answer in time", may_be_billed=True)


NO_KEY = Verdict(
    AttemptOutcome.NO_KEY, Follows.NEXT, "the variable that should hold its key is not set", reached=False
)
