"""Candidates that failed here lately go to the end of the line for a while; none is ever left out.

A half-open circuit for each candidate and each provider, on this gateway's own evidence: who fails rests,
longer each time and never for the same time as in another gateway; then one live request tries it, while the
others go on without it.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from prometheus_client import Counter

from synaxis_common.contracts.routing import Candidate
from synaxis_common.contracts.usage import AttemptOutcome
from synaxis_common.logging import get_logger
from synaxis_gateway.dispatch.classify import Evidence, Verdict

FIRST_S: Final = 1.0
LONGEST_S: Final = 8.0
"""A provider that is back must be used again within 10 s, so nobody rests longer on our own judgement."""
LEAST_SHARE: Final = 0.5
"""Of a rest, that is certain; the other half is chance, so that gateways do not come back all at once."""
TRIAL_S: Final = 2.0
"""How long one request tries a candidate before the next one may."""
PROVIDER_AFTER: Final = 3
"""Failures in a row, of any of its models, that say the whole provider is gone."""
MAX_ENTRIES: Final = 20_000

PROVIDERS_STOPPED: Final = Counter(
    "synaxis_gateway_providers_stopped_total",
    "Times that a provider refused our key or account, and all of its models were put behind the others",
    ["provider", "condition"],
)

_log = get_logger(__name__)
_Key = TypeVar("_Key", str, tuple[str, str])


@dataclass(frozen=True, slots=True)
class _Rest:
    """What is held against a candidate or a provider."""

    until: float = 0.0
    failures: int = 0
    """In a row."""
    cuts: int = 0
    """Streams broken off since one was last complete: one that begins well proves nothing about its end."""
    is_on_trial: bool = False
    """One request tries it, and the rest is that of the others."""
    is_refusal: bool = False
    """It refuses us as such: our key, or our account."""


class Cooldowns:
    """What this gateway has seen of each candidate. Times are monotonic seconds, given by the caller."""

    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        """`chance` gives numbers from 0 to 1."""
        self._chance = chance
        self._candidates: OrderedDict[tuple[str, str], _Rest] = OrderedDict()
        self._providers: OrderedDict[str, _Rest] = OrderedDict()

    def order(self, candidates: Sequence[Candidate], now: float) -> list[Candidate]:
        """The candidates, those that rest behind the others, in order of when their rest ends.

        A candidate whose rest is over is tried by one request: for the others it rests a little longer.
        """
        if not self._candidates and not self._providers:
            return list(candidates)
        ready: list[Candidate] = []
        resting: list[tuple[float, int, Candidate]] = []
        for position, candidate in enumerate(candidates):
            until = self._until(candidate)
            if until <= now:
                ready.append(candidate)
            else:
                resting.append((until, position, candidate))
        if ready:
            self._begin_trial(ready[0], now)
        return ready + [candidate for _, _, candidate in sorted(resting, key=lambda entry: entry[:2])]

    def succeeded(self, candidate: Candidate) -> None:
        """The candidate answers, or has begun to: all is forgotten but how its streams ended."""
        rest = self._candidates.pop(_key(candidate), None)
        if rest is not None and rest.cuts:
            self._candidates[_key(candidate)] = _Rest(cuts=rest.cuts)
        provider = self._providers.pop(candidate.provider_id, None)
        if provider is not None and provider.is_refusal:
            _log.info("a provider accepts us again", provider=candidate.provider_id)

    def completed(self, candidate: Candidate) -> None:
        """A stream of the candidate came to its proper end."""
        self._candidates.pop(_key(candidate), None)

    def failed(self, candidate: Candidate, verdict: Verdict, now: float) -> None:
        """The candidate failed: it rests as long as it asked for, and longer each time.

        When it is the provider that fails, all of its models rest.
        """
        evidence = verdict.evidence
        if evidence is Evidence.TRIPS_PROVIDER:
            self._stop(candidate.provider_id, verdict, now)
            return
        if evidence is Evidence.NONE and verdict.cool_down_s is None:
            return
        own = self._candidates.get(_key(candidate), _Rest())
        is_cut = verdict.outcome is AttemptOutcome.STREAM_CUT
        _keep(self._candidates, _key(candidate), self._longer(own, now, verdict.cool_down_s, is_cut=is_cut))
        if evidence is Evidence.PROVIDER:
            provider = self._providers.get(candidate.provider_id, _Rest())
            _keep(self._providers, candidate.provider_id, self._longer(provider, now, None, PROVIDER_AFTER))

    def _longer(
        self, rest: _Rest, now: float, asked_s: float | None, after: int = 1, *, is_cut: bool = False
    ) -> _Rest:
        """`rest` after one more failure; it begins with the failure number `after`."""
        if now < rest.until and not rest.is_on_trial:
            # Of a request that was under way when the rest began, or that had nobody else to ask.
            return replace(rest, until=max(rest.until, now + (asked_s or 0.0)))
        failures, cuts = rest.failures + (not is_cut), rest.cuts + is_cut
        in_a_row = max(failures, cuts)
        if in_a_row < after:
            return replace(rest, failures=failures, cuts=cuts, is_on_trial=False)
        longest = min(FIRST_S * 2.0 ** min(in_a_row - after, 16), LONGEST_S)
        rest_s = longest * (LEAST_SHARE + (1.0 - LEAST_SHARE) * self._chance())
        return replace(
            rest,
            until=now + max(rest_s, asked_s or 0.0),
            failures=failures,
            cuts=cuts,
            is_on_trial=False,
        )

    def _stop(self, provider_id: str, verdict: Verdict, now: float) -> None:
        """Nothing at the provider works until somebody does something about it: say so, once."""
        before = self._providers.get(provider_id, _Rest())
        rest_s = verdict.cool_down_s or LONGEST_S
        _keep(
            self._providers,
            provider_id,
            replace(before, until=now + rest_s, is_refusal=True, is_on_trial=False),
        )
        if not before.is_refusal:
            PROVIDERS_STOPPED.labels(provider_id, verdict.condition.value).inc()
            _log.error(
                "a provider refuses us, and gets no more than one trial at a time until it accepts one",
                provider=provider_id,
                reason=verdict.reason,
                trial_every_s=rest_s,
            )

    def _until(self, candidate: Candidate) -> float:
        own = self._candidates.get(_key(candidate))
        provider = self._providers.get(candidate.provider_id)
        return max(own.until if own else 0.0, provider.until if provider else 0.0)

    def _begin_trial(self, candidate: Candidate, now: float) -> None:
        own = self._candidates.get(_key(candidate))
        if own is not None and own.until:
            self._candidates[_key(candidate)] = replace(own, until=now + TRIAL_S, is_on_trial=True)
        provider = self._providers.get(candidate.provider_id)
        if provider is not None and provider.until:
            self._providers[candidate.provider_id] = replace(provider, until=now + TRIAL_S, is_on_trial=True)


def _keep(rests: OrderedDict[_Key, _Rest], key: _Key, rest: _Rest) -> None:
    rests[key] = rest
    rests.move_to_end(key)
    if len(rests) > MAX_ENTRIES:
        rests.popitem(last=False)


def _key(candidate: Candidate) -> tuple[str, str]:
    return candidate.provider_id, candidate.provider_model_id
