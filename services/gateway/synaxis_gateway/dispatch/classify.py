"""What a provider's answer means, and what follows from it. Pure; the table of the design's "Failover".

`wire/error_said.py` takes an error apart, `conditions.py` finds what it is about, and here is what follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum, StrEnum, auto
from typing import Final

from synaxis_common.contracts.usage import AttemptOutcome
from synaxis_gateway.dispatch import conditions, retry_after
from synaxis_gateway.dispatch.conditions import Condition
from synaxis_gateway.upstream.errors import NoConnection, Reset, Unreadable, UpstreamError
from synaxis_gateway.wire import error_said
from synaxis_gateway.wire.error_said import ErrorSaid
from synaxis_gateway.wire.openai_answer import EmbeddedError

ACCOUNT_REST_S: Final = 8.0
"""How long a provider rests that does not accept our key or our credit. One live request tries it then, which
costs nothing but its refusal; so it is back within 10 s of being paid."""
OVERLOAD_REST_S: Final = 5.0
"""After a 529: the provider itself is full, which a second does not change."""


class Follows(Enum):
    """What happens next."""

    NEXT = auto()
    """Another candidate is tried."""
    NEXT_IF_LARGER = auto()
    """A candidate with a larger context is tried; without one the client gets this answer."""
    NEXT_ELSE_ANSWER = auto()
    """Another candidate may take what this one does not; without one the client gets this answer."""
    ANSWER = auto()
    """The client gets this answer: it is about its own request."""


class Blame(StrEnum):
    """Whose fault it is."""

    REQUEST = "request"
    KEY = "key"
    """Our account there."""
    CANDIDATE = "candidate"
    """This model at this provider."""
    PROVIDER = "provider"
    OVERLOAD = "overload"
    """Nobody's: too much at once."""
    UNKNOWN = "unknown"


class Evidence(Enum):
    """What it says for the circuits."""

    NONE = auto()
    CANDIDATE = auto()
    PROVIDER = auto()
    """Of the candidate, and also that all of the provider's models may be gone."""
    TRIPS_PROVIDER = auto()
    """Nothing at this provider can work until somebody does something about it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one attempt that failed comes to."""

    outcome: AttemptOutcome
    follows: Follows
    reason: str
    """In our words, for logs and reports: nothing of what the provider wrote."""
    retry_after_s: float | None = None
    """What the provider said itself."""
    may_be_billed: bool = False
    """Whether the provider may charge for it although we have no answer."""
    reached: bool = True
    """Whether the provider got the request, so that the attempt was load for it."""
    blames: Blame = Blame.UNKNOWN
    evidence: Evidence = Evidence.NONE
    cool_down_s: float | None = None
    """How long whoever is to blame is left alone at least; None: as evidence has it, longer each time."""
    condition: Condition = Condition.UNKNOWN


_CANDIDATE: Final = (Blame.CANDIDATE, Evidence.CANDIDATE, None)
_REQUEST: Final = (Blame.REQUEST, Evidence.NONE, None)


def _row(
    outcome: AttemptOutcome,
    follows: Follows,
    reason: str,
    consequence: tuple[Blame, Evidence, float | None],
) -> Verdict:
    blames, evidence, cool_down_s = consequence
    return Verdict(outcome, follows, reason, blames=blames, evidence=evidence, cool_down_s=cool_down_s)


_Outcome = AttemptOutcome
_ROWS: Final[Mapping[Condition, Verdict]] = {
    Condition.REQUEST: _row(_Outcome.REQUEST_ERROR, Follows.ANSWER, "refused the request", _REQUEST),
    # A laxer provider is not looked for.
    Condition.CONTENT: _row(_Outcome.REQUEST_ERROR, Follows.ANSWER, "refused the content", _REQUEST),
    Condition.CONTEXT: _row(
        _Outcome.REQUEST_ERROR, Follows.NEXT_IF_LARGER, "more context than it takes", _REQUEST
    ),
    Condition.UNSUPPORTED: _row(
        _Outcome.REQUEST_ERROR, Follows.NEXT_ELSE_ANSWER, "does not support what is asked for", _REQUEST
    ),
    Condition.GENERATION: _row(
        _Outcome.REQUEST_ERROR, Follows.NEXT_ELSE_ANSWER, "could not answer in the form asked for", _REQUEST
    ),
    Condition.OVER_LIMIT: _row(
        _Outcome.RATE_LIMITED,
        Follows.NEXT,
        "the request is larger than our limit there",
        (Blame.OVERLOAD, Evidence.NONE, None),
    ),
    Condition.KEY: _row(
        _Outcome.UNAUTHORIZED,
        Follows.NEXT,
        "refused our key",
        (Blame.KEY, Evidence.TRIPS_PROVIDER, ACCOUNT_REST_S),
    ),
    # The trap: 400 and 429 that say our account at the provider has run out of money.
    Condition.CREDIT: _row(
        _Outcome.UNAUTHORIZED,
        Follows.NEXT,
        "our account there is out of credit",
        (Blame.KEY, Evidence.TRIPS_PROVIDER, ACCOUNT_REST_S),
    ),
    Condition.CREDIT_FOR_THIS: _row(
        _Outcome.UNAUTHORIZED,
        Follows.NEXT,
        "our account there has too little credit for this request",
        (Blame.KEY, Evidence.CANDIDATE, None),
    ),
    Condition.REGION: _row(
        _Outcome.UNAUTHORIZED,
        Follows.NEXT,
        "does not serve where we are",
        (Blame.PROVIDER, Evidence.PROVIDER, None),
    ),
    Condition.MODEL: _row(_Outcome.NOT_FOUND, Follows.NEXT, "does not have the model", _CANDIDATE),
    Condition.PATH: _row(
        _Outcome.MALFORMED,
        Follows.NEXT,
        "does not have this operation at its address",
        (Blame.PROVIDER, Evidence.CANDIDATE, None),
    ),
    Condition.RATE_LIMIT: _row(
        _Outcome.RATE_LIMITED, Follows.NEXT, "rate limited", (Blame.OVERLOAD, Evidence.CANDIDATE, None)
    ),
    Condition.OVERLOAD: _row(
        _Outcome.SERVER_ERROR, Follows.NEXT, "is overloaded", (Blame.OVERLOAD, Evidence.CANDIDATE, None)
    ),
    Condition.TRANSIENT: _row(_Outcome.SERVER_ERROR, Follows.NEXT, "asked to try again", _CANDIDATE),
    Condition.FAILURE: _row(_Outcome.SERVER_ERROR, Follows.NEXT, "failed", _CANDIDATE),
    Condition.UNREACHABLE: _row(
        _Outcome.SERVER_ERROR,
        Follows.NEXT,
        "cannot be reached behind its front",
        (Blame.PROVIDER, Evidence.PROVIDER, None),
    ),
    Condition.FRONT_DOOR: _row(
        _Outcome.MALFORMED,
        Follows.NEXT,
        "answered with a page, not JSON",
        (Blame.PROVIDER, Evidence.CANDIDATE, None),
    ),
    Condition.REDIRECT: _row(
        _Outcome.MALFORMED,
        Follows.NEXT,
        "redirects, which is never followed",
        (Blame.PROVIDER, Evidence.CANDIDATE, None),
    ),
    Condition.UNKNOWN: _row(
        _Outcome.MALFORMED,
        Follows.NEXT,
        "answered with a status that has no meaning here",
        (Blame.UNKNOWN, Evidence.CANDIDATE, None),
    ),
}
_WAITS: Final = frozenset(
    {Condition.RATE_LIMIT, Condition.OVERLOAD, Condition.TRANSIENT, Condition.FAILURE, Condition.UNREACHABLE}
)
"""Where a provider's word of when to come back counts."""


def status(code: int, headers: Mapping[str, str], body: bytes, now: datetime) -> Verdict:
    """What an answer with a status other than 200 means. `headers` have lower-case names."""
    verdict = _verdict(code, headers, error_said.read(body), now)
    if code == 408:
        verdict = replace(verdict, outcome=AttemptOutcome.TIMEOUT)
    if code >= 500 and verdict.follows is not Follows.NEXT:
        # About the request, though by its status the provider's own failure: nothing that a client is shown.
        verdict = replace(verdict, outcome=AttemptOutcome.SERVER_ERROR, follows=Follows.NEXT)
    return verdict


def embedded(error: EmbeddedError, headers: Mapping[str, str], now: datetime) -> Verdict:
    """What an error inside of an answer with status 200 means: another candidate, whatever it says."""
    said = error.said or error_said.of(error.text)
    verdict = _verdict(error.status, headers, said, now)
    if verdict.condition is Condition.UNKNOWN or verdict.condition is Condition.REQUEST:
        return replace(
            verdict,
            outcome=AttemptOutcome.MALFORMED,
            follows=Follows.NEXT,
            reason="answered 200 with an error inside",
        )
    return replace(verdict, follows=Follows.NEXT)


def malformed(reason: str) -> Verdict:
    """What an answer means that is none."""
    return _row(AttemptOutcome.MALFORMED, Follows.NEXT, reason, _CANDIDATE)


def cut(reason: str) -> Verdict:
    """What it means that a stream broke off after content had gone to the client."""
    return replace(
        _row(AttemptOutcome.STREAM_CUT, Follows.NEXT, reason, _CANDIDATE),
        may_be_billed=True,
        condition=Condition.FAILURE,
    )


def failure(error: UpstreamError | TimeoutError) -> Verdict:
    """What it means that there was no answer at all."""
    match error:
        case NoConnection():
            return replace(_ABSENT, reason=str(error), reached=False)
        case Reset():
            return _ABSENT
        case Unreadable():
            return replace(malformed(str(error)), may_be_billed=True)
        case _:
            return replace(
                _row(AttemptOutcome.TIMEOUT, Follows.NEXT, "did not answer in time", _CANDIDATE),
                may_be_billed=True,
                condition=Condition.FAILURE,
            )


_ABSENT: Final = replace(
    _row(
        AttemptOutcome.CONNECT_ERROR,
        Follows.NEXT,
        "closed the connection",
        (Blame.PROVIDER, Evidence.PROVIDER, None),
    ),
    condition=Condition.UNREACHABLE,
)

NO_KEY: Final = Verdict(
    AttemptOutcome.NO_KEY,
    Follows.NEXT,
    "the variable that should hold its key is not set",
    reached=False,
    blames=Blame.KEY,
    evidence=Evidence.TRIPS_PROVIDER,
    cool_down_s=ACCOUNT_REST_S,
    condition=Condition.KEY,
)


def _verdict(code: int | None, headers: Mapping[str, str], said: ErrorSaid, now: datetime) -> Verdict:
    condition, is_certain = conditions.find(code, said)
    verdict = replace(_ROWS[condition], condition=condition)
    if condition in _WAITS:
        wait = _wait_s(headers, said, now)
        if wait is not None:
            # Who says when to come back has no fault, but is busy.
            evidence = Evidence.NONE if condition is Condition.RATE_LIMIT else verdict.evidence
            blames = Blame.OVERLOAD if code in (429, 503) else verdict.blames
            verdict = replace(verdict, retry_after_s=wait, cool_down_s=wait, evidence=evidence, blames=blames)
        elif code == 529:
            verdict = replace(verdict, cool_down_s=OVERLOAD_REST_S)
    if not is_certain and verdict.evidence is Evidence.TRIPS_PROVIDER:
        verdict = replace(verdict, evidence=Evidence.PROVIDER, cool_down_s=None)
    if code is not None and 400 <= code < 500 and condition is Condition.FRONT_DOOR and code != 403:
        # A front that refuses a size or a header refuses this request; it says nothing about the next one.
        verdict = replace(verdict, evidence=Evidence.NONE)
    return verdict


def _wait_s(headers: Mapping[str, str], said: ErrorSaid, now: datetime) -> float | None:
    """The headers' word, else the body's: its fields, the headers it repeats, its words."""
    wait = retry_after.read(headers, now)
    if wait is None and said.headers:
        wait = retry_after.read(said.headers, now)
    if wait is None and said.wait_s is not None:
        wait = min(said.wait_s, retry_after.MAX_RETRY_AFTER_S)
    return retry_after.in_words(said.text) if wait is None else wait
