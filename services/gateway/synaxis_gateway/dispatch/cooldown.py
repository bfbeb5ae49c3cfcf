"""Candidates that failed here lately go to the end of the line for a while; none is ever left out.

A half-open circuit for each candidate and each provider, on what this gateway has seen and what others tell.
Who fails several times in a row, or every other time, rests, longer each time and never for the same time as
in another gateway; then one live request tries it, while the others go on without it.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from prometheus_client import Counter

from synaxis_common.contracts.health import Blamed, Seen, Sighting
from synaxis_common.contracts.routing import Candidate
from synaxis_common.contracts.usage import AttemptOutcome
from synaxis_common.logging import get_logger
from synaxis_gateway.dispatch.classify import Evidence, Verdict
from synaxis_gateway.dispatch.rates import FailureRates

FIRST_S: Final = 1.0
LONGEST_S: Final = 8.0
"""A provider that is back must be used again within 10 s, so nobody rests longer on our own judgement."""
LEAST_SHARE: Final = 0.5
"""Of a rest, that is certain; the other half is chance, so that gateways do not come back all at once."""
TRIAL_S: Final = 2.0
"""How long one request tries a candidate before the next one may."""
TRIP_AFTER: Final = 3
"""Failures in a row, as all gateways see them, after which a candidate rests: one in a hundred is none."""
UNREACHABLE_AFTER: Final = 2
"""The same, when no connection could be had."""
PROVIDER_AFTER: Final = 3
"""Failures in a row, of any of its models, that say the whole provider is gone."""
MOST_BY_RATE: Final = 0.5
"""Share of a plan's candidates that may rest for failing often, rather than in a row: where all are bad, the
cheapest of them is as good as any. One that is alone never does."""
MAX_ENTRIES: Final = 20_000

PROVIDERS_STOPPED: Final = Counter(
    "synaxis_gateway_providers_stopped_total",
    "Times that a provider refused our key or account, and all of its models were put behind the others",
    ["provider", "condition"],
)

_log = get_logger(__name__)
_Key = TypeVar("_Key", str, tuple[str, str])
_ENOUGH: Final = frozenset({AttemptOutcome.TIMEOUT, AttemptOutcome.STREAM_CUT, AttemptOutcome.RATE_LIMITED})
_COUNTED: Final = frozenset({Evidence.CANDIDATE, Evidence.PROVIDER})
_BLAMED: Final = {
    Evidence.CANDIDATE: Blamed.CANDIDATE,
    Evidence.NONE: Blamed.CANDIDATE,
    Evidence.PROVIDER: Blamed.PROVIDER,
    Evidence.TRIPS_PROVIDER: Blamed.ACCOUNT,
}


@dataclass(frozen=True, slots=True)
class _Rest:
    """What is held against a candidate or a provider."""

    until: float = 0.0
    failures: int = 0
    """In a row."""
    rests: int = 0
    """How often it has rested without being well in between: the next failure is enough for another rest."""
    cuts: int = 0
    """Streams broken off since one was last complete: one that begins well proves nothing about its end."""
    is_on_trial: bool = False
    """One request tries it, and the rest is that of the others."""
    is_refusal: bool = False
    """It refuses us as such: our key, or our account."""
    is_by_rate: bool = False
    """It fails often, and not in a row."""


class Cooldowns:
    """What is held against each candidate. Times are monotonic seconds, given by the caller."""

    def __init__(
        self,
        tell: Callable[[Sighting], None] = lambda _: None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`tell` hears what other gateways should know. `chance` gives numbers from 0 to 1."""
        self._tell = tell
        self._chance = chance
        self._candidates: OrderedDict[tuple[str, str], _Rest] = OrderedDict()
        self._providers: OrderedDict[str, _Rest] = OrderedDict()
        self._rates = FailureRates()

    def order(self, candidates: Sequence[Candidate], now: float) -> list[Candidate]:
        """The candidates, those that rest behind the others, in order of when their rest ends.

        A candidate whose rest is over is tried by one request: for the others it rests a little longer.
        """
        if not self._candidates and not self._providers:
            return list(candidates)
        untils = [self._until(candidate) for candidate in candidates]
        pardoned = self._pardoned(candidates, untils, now)
        ready: list[Candidate] = []
        resting: list[tuple[float, int, Candidate]] = []
        for position, (candidate, until) in enumerate(zip(candidates, untils, strict=True)):
            if until <= now or position in pardoned:
                ready.append(candidate)
            else:
                resting.append((until, position, candidate))
        if ready and self._until(ready[0]) <= now and self._begin_trial(_key(ready[0]), now):
            self._tell(_sighting(ready[0], Seen.TRIED))
        return ready + [candidate for _, _, candidate in sorted(resting, key=lambda entry: entry[:2])]

    def succeeded(self, candidate: Candidate, now: float) -> None:
        """The candidate answers, or has begun to: all is forgotten but its cuts and rates."""
        key = _key(candidate)
        self._rates.answered(key, now)
        if (self._candidates or self._providers) and self._is_well(key):
            self._tell(_sighting(candidate, Seen.WELL))

    def completed(self, candidate: Candidate) -> None:
        """A stream of the candidate came to its proper end."""
        if self._is_whole(_key(candidate)):
            self._tell(_sighting(candidate, Seen.WHOLE))

    def failed(self, candidate: Candidate, verdict: Verdict, now: float) -> None:
        """The candidate failed: it rests as long as it asked for, or when that happens again and again.

        When it is the provider that fails, all of its models rest.
        """
        if verdict.evidence is Evidence.NONE and verdict.cool_down_s is None:
            return
        is_cut = verdict.outcome is AttemptOutcome.STREAM_CUT
        sighting = _sighting(
            candidate,
            Seen.CUT if is_cut else Seen.FAILED,
            blamed=_BLAMED[verdict.evidence],
            is_enough=verdict.outcome in _ENOUGH,
            cool_down_s=verdict.cool_down_s,
            reason=verdict.reason,
        )
        if verdict.evidence is Evidence.TRIPS_PROVIDER and not self._is_refused(candidate.provider_id):
            PROVIDERS_STOPPED.labels(candidate.provider_id, verdict.condition.value).inc()
            _log.error(
                "a provider refuses us, and gets no more than one trial at a time until it accepts one",
                provider=candidate.provider_id,
                reason=verdict.reason,
                trial_every_s=verdict.cool_down_s or LONGEST_S,
            )
        self._hold_against(sighting, now)
        self._tell(sighting)
        if verdict.evidence in _COUNTED and self._rates.failed(_key(candidate), now, is_cut=is_cut):
            often = _sighting(candidate, Seen.OFTEN, reason=verdict.reason)
            self._fails_often(_key(candidate), now)
            self._tell(often)

    def heard(self, sighting: Sighting, now: float) -> None:
        """Another gateway has seen something."""
        key = sighting.provider_id, sighting.provider_model_id
        match sighting.seen:
            case Seen.WELL:
                self._is_well(key)
            case Seen.WHOLE:
                self._is_whole(key)
            case Seen.TRIED:
                self._begin_trial(key, now)
            case Seen.OFTEN:
                self._fails_often(key, now)
            case Seen.FAILED | Seen.CUT:
                self._hold_against(sighting, now)

    def _is_well(self, key: tuple[str, str]) -> bool:
        """Forget what was held against a candidate and its provider; whether there was anything."""
        rest = self._candidates.get(key)
        if rest is not None and rest.is_by_rate and not rest.is_on_trial:
            rest = None  # who fails every other time answers every other time
        elif rest is not None:
            self._candidates.pop(key)
            if rest.cuts:
                self._candidates[key] = _Rest(cuts=rest.cuts)
        provider = self._providers.pop(key[0], None)
        if provider is not None and provider.is_refusal:
            _log.info("a provider accepts us again", provider=key[0])
        return provider is not None or (rest is not None and rest != _Rest(cuts=rest.cuts))

    def _is_whole(self, key: tuple[str, str]) -> bool:
        """Forget the streams that a candidate has cut; whether there were any."""
        rest = self._candidates.get(key)
        if rest is None or not rest.cuts:
            return False
        self._candidates.pop(key)
        return True

    def _is_refused(self, provider_id: str) -> bool:
        return self._providers.get(provider_id, _Rest()).is_refusal

    def _hold_against(self, sighting: Sighting, now: float) -> None:
        if sighting.blamed is Blamed.ACCOUNT:
            before = self._providers.get(sighting.provider_id, _Rest())
            until = now + (sighting.cool_down_s or LONGEST_S)
            stopped = replace(before, until=until, is_refusal=True, is_on_trial=False)
            _keep(self._providers, sighting.provider_id, stopped)
            return
        is_unreachable = sighting.blamed is Blamed.PROVIDER
        key = sighting.provider_id, sighting.provider_model_id
        after = 1 if sighting.is_enough else UNREACHABLE_AFTER if is_unreachable else TRIP_AFTER
        own = self._candidates.get(key, _Rest())
        is_cut = sighting.seen is Seen.CUT
        _keep(self._candidates, key, self._longer(own, now, sighting.cool_down_s, after, is_cut=is_cut))
        if is_unreachable:
            provider = self._providers.get(sighting.provider_id, _Rest())
            longer = self._longer(provider, now, None, PROVIDER_AFTER, is_cut=False)
            _keep(self._providers, sighting.provider_id, longer)

    def _fails_often(self, key: tuple[str, str], now: float) -> None:
        before = self._rates.rests(key, now)
        rest = self._candidates.get(key, _Rest())
        if rest.until > now:
            return
        until = now + self._rest_s(before)
        _keep(self._candidates, key, replace(rest, until=until, is_by_rate=True, is_on_trial=False))

    def _pardoned(self, candidates: Sequence[Candidate], untils: Sequence[float], now: float) -> set[int]:
        """The positions of those that rest by rate, and do not, because too many would."""
        by_rate = [
            (until, position)
            for position, (candidate, until) in enumerate(zip(candidates, untils, strict=True))
            if until > now and self._candidates.get(_key(candidate), _Rest()).is_by_rate
        ]
        too_many = len(by_rate) - int(MOST_BY_RATE * len(candidates))
        return {position for _, position in sorted(by_rate)[: max(too_many, 0)]}

    def _rest_s(self, before: int) -> float:
        """How long one rests who has rested so often before."""
        longest = min(FIRST_S * 2.0 ** min(before, 16), LONGEST_S)
        return longest * (LEAST_SHARE + (1.0 - LEAST_SHARE) * self._chance())

    def _longer(self, rest: _Rest, now: float, asked_s: float | None, after: int, *, is_cut: bool) -> _Rest:
        """`rest` after one more failure; the first rest begins with the failure number `after`."""
        if now < rest.until and not rest.is_on_trial:
            # Of a request that was under way when the rest began, or that had nobody else to ask.
            until = max(rest.until, now + (asked_s or 0.0))
            return replace(rest, until=until, is_by_rate=rest.is_by_rate and asked_s is None)
        failures, cuts = rest.failures + 1, rest.cuts + is_cut
        if asked_s is None and not rest.rests and failures < after:
            return replace(rest, failures=failures, cuts=cuts, is_on_trial=False)
        rest_s = self._rest_s(max(rest.rests, cuts - 1))
        return replace(
            rest,
            until=now + max(rest_s, asked_s or 0.0),
            failures=failures,
            rests=rest.rests + 1,
            cuts=cuts,
            is_on_trial=False,
            is_by_rate=False,
        )

    def _until(self, candidate: Candidate) -> float:
        own = self._candidates.get(_key(candidate))
        provider = self._providers.get(candidate.provider_id)
        return max(own.until if own else 0.0, provider.until if provider else 0.0)

    def _begin_trial(self, key: tuple[str, str], now: float) -> bool:
        """One request tries a candidate that has rested; whether it had."""
        own, provider = self._candidates.get(key), self._providers.get(key[0])
        is_trial = False
        if own is not None and own.until:
            self._candidates[key] = replace(own, until=now + TRIAL_S, is_on_trial=True)
            is_trial = True
        if provider is not None and provider.until:
            self._providers[key[0]] = replace(provider, until=now + TRIAL_S, is_on_trial=True)
            is_trial = True
        return is_trial


def _sighting(candidate: Candidate, seen: Seen, **more: Any) -> Sighting:
    return Sighting(
        provider_id=candidate.provider_id, provider_model_id=candidate.provider_model_id, seen=seen, **more
    )


def _keep(rests: OrderedDict[_Key, _Rest], key: _Key, rest: _Rest) -> None:
    rests[key] = rest
    rests.move_to_end(key)
    if len(rests) > MAX_ENTRIES:
        rests.popitem(last=False)


def _key(candidate: Candidate) -> tuple[str, str]:
    return candidate.provider_id, candidate.provider_model_id
