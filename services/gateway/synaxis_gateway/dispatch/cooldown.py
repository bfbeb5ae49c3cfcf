"""Candidates that failed here lately go to the end of the line for a while; none is ever left out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from synaxis_common.contracts.routing import Candidate
from synaxis_common.contracts.usage import AttemptOutcome
from synaxis_gateway.dispatch.classify import Verdict

FIRST_S = 1.0
LONGEST_S = 8.0
"""A provider that is back must be used again within 10 s, so nobody waits longer on our own judgement."""
TRIAL_S = 2.0
"""How long one request tries a candidate before the next one may."""
MAX_ENTRIES = 20_000

_BLAMELESS = frozenset(
    {AttemptOutcome.REQUEST_ERROR, AttemptOutcome.CLIENT_GONE, AttemptOutcome.ABANDONED, AttemptOutcome.OK}
)

_Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Rest:
    until: float
    failures: int


class Cooldowns:
    """What this gateway has seen of each candidate. Times are monotonic seconds, given by the caller."""

    def __init__(self) -> None:
        self._rests: OrderedDict[_Key, _Rest] = OrderedDict()

    def order(self, candidates: Sequence[Candidate], now: float) -> list[Candidate]:
        """The candidates, those that rest behind the others, in order of when their rest ends.

        A candidate whose rest is over is tried by one request: for the others it rests a little longer.
        """
        if not self._rests:
            return list(candidates)
        ready: list[Candidate] = []
        resting: list[tuple[float, int, Candidate]] = []
        for position, candidate in enumerate(candidates):
            rest = self._rests.get(_key(candidate))
            if rest is None or rest.until <= now:
                ready.append(candidate)
            else:
                resting.append((rest.until, position, candidate))
        if ready and (tried := self._rests.get(_key(ready[0]))) is not None:
            self._rests[_key(ready[0])] = _Rest(now + TRIAL_S, tried.failures)
        return ready + [candidate for _, _, candidate in sorted(resting, key=lambda entry: entry[:2])]

    def succeeded(self, candidate: Candidate) -> None:
        """The candidate answered: all is forgotten."""
        self._rests.pop(_key(candidate), None)

    def failed(self, candidate: Candidate, verdict: Verdict, now: float) -> None:
        """The candidate failed: it rests as long as it asked for, else longer each time."""
        if verdict.outcome in _BLAMELESS:
            return
        key = _key(candidate)
        before = self._rests.get(key)
        failures = min((before.failures if before else 0) + 1, 30)
        rest_s = verdict.retry_after_s
        if rest_s is None:
            rest_s = min(FIRST_S * 2.0 ** (failures - 1), LONGEST_S)
        self._rests[key] = _Rest(now + rest_s, failures)
        self._rests.move_to_end(key)
        if len(self._rests) > MAX_ENTRIES:
            self._rests.popitem(last=False)


def _key(candidate: Candidate) -> _Key:
    return candidate.provider_id, candidate.provider_model_id
