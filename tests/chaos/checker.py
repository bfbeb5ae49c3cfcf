"""Holds what the upstream billed, what the clients saw and what the books say against each other. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from tests.chaos.auditor import Billed
from tests.chaos.books import Books, Line
from tests.chaos.load import Seen
from tests.chaos.nemesis import Wound
from tests.chaos.world import PROVIDER_LIMITS, Limit, Tenant

WINDOW_S = 60.0
REPORT_TIME_S = 0.3
"""Between the end of a provider's answer and the report of it: who is killed then has not reported."""
GOING_S = 0.1
"""A provider may notice so much later than we that a connection has ended."""
USE_AFTER_S = 45.0
"""A run of so long has used its limits."""
LEAST_USE = 0.5
"""Of a limit in its best window: what admits much less than is allowed keeps no promise either."""
NOTHING = Decimal(0)
EXPECTED_STATUSES = {200, 429, 502, 503, 504}


@dataclass(frozen=True)
class Finding:
    """A promise, and whether it was kept."""

    promise: str
    is_kept: bool
    detail: str


@dataclass(frozen=True)
class Evidence:
    """All that is known of a run. `key_ids` are by tenant."""

    tenants: tuple[Tenant, ...]
    key_ids: Mapping[str, list[str]]
    billed: Sequence[Billed]
    seen: Sequence[Seen]
    books: Books
    wounds: Sequence[Wound]
    seconds: float

    def requests(self) -> dict[str, list[Billed]]:
        """Attempts by request id."""
        found: dict[str, list[Billed]] = defaultdict(list)
        for one in self.billed:
            found[one.request_id].append(one)
        return found

    def kills(self, service: str) -> list[Wound]:
        """Who was killed."""
        return [wound for wound in self.wounds if wound.service == service and wound.kind == "kill"]


@dataclass(frozen=True)
class Scope:
    """What a limit is on, and which requests count there."""

    name: str
    limit: Limit
    counts: Callable[[Billed], bool]
    by_attempt: bool = False
    """A provider's own limit is on attempts, a tenant's on requests."""


def scopes(evidence: Evidence) -> list[Scope]:
    """All scopes that bound anything."""
    found: list[Scope] = []
    for tenant in evidence.tenants:
        for model, limit in tenant.limits.items():
            found.append(Scope(f"t/{tenant.name}/{model}", limit, _of_tenant(tenant.name, model)))
        for key, limit in enumerate(tenant.key_limits):
            if limit != Limit():
                key_id = evidence.key_ids[tenant.name][key]
                found.append(Scope(f"k/{key_id}", limit, _of_key(tenant.name, key)))
    for (provider, model), rpm in PROVIDER_LIMITS.items():
        found.append(
            Scope(f"e/{provider}/{model}", Limit(rpm=rpm), _of_endpoint(provider, model), by_attempt=True)
        )
    return found


def _of_tenant(tenant: str, model: str) -> Callable[[Billed], bool]:
    return lambda one: one.tenant == tenant and model in ("*", one.model)


def _of_key(tenant: str, key: int) -> Callable[[Billed], bool]:
    return lambda one: one.tenant == tenant and one.key == key


def _of_endpoint(provider: str, model: str) -> Callable[[Billed], bool]:
    return lambda one: (one.provider, one.model) == (provider, model)


def check(evidence: Evidence) -> list[Finding]:
    """Everything that is promised."""
    return [
        *_rates(evidence),
        *_budgets(evidence),
        *_ledger(evidence),
        *_costs(evidence),
        *_rest(evidence),
        *_clients(evidence),
    ]


def worst_window(events: Iterable[tuple[float, int]], length_s: float = WINDOW_S) -> tuple[int, float]:
    """The largest sum in any window of `length_s`, and when it begins. `events` are (time, weight)."""
    ordered = sorted(events)
    worst, begins, total, first = 0, -math.inf, 0, 0
    for time, weight in ordered:
        total += weight
        while time - ordered[first][0] >= length_s:
            total -= ordered[first][1]
            first += 1
        if total > worst:
            worst, begins = total, ordered[first][0]
    return worst, begins


def most_at_once(intervals: Iterable[tuple[float, float]]) -> int:
    """How many overlap at most. One that ends when another begins does not."""
    steps = sorted((time, change) for begin, end in intervals for time, change in ((begin, 1), (end, -1)))
    most = now = 0
    for _, change in steps:
        now += change
        most = max(most, now)
    return most


def _rates(evidence: Evidence) -> Iterable[Finding]:
    for scope in scopes(evidence):
        counted = [one for one in evidence.billed if scope.counts(one)]
        first: dict[str, Billed] = {}
        for one in sorted(counted, key=lambda one: one.came):
            first.setdefault(str(one.serial) if scope.by_attempt else one.request_id, one)
        if scope.limit.rpm is not None:
            worst, begins = worst_window((one.came, 1) for one in first.values())
            yield _within(
                f"requests a minute of {scope.name}", worst, scope.limit.rpm, begins, scope, evidence
            )
        if scope.limit.tpm is not None:
            worst, begins = worst_window((one.came, one.tokens) for one in counted)
            yield _within(f"tokens a minute of {scope.name}", worst, scope.limit.tpm, begins, scope, evidence)
        if scope.limit.concurrency is not None:
            most = most_at_once(
                (one.came, max(one.came, (one.ended or one.came) - GOING_S)) for one in counted
            )
            allowed = scope.limit.concurrency
            yield Finding(f"requests at once of {scope.name}", most <= allowed, f"{most} of {allowed}")


def _within(
    promise: str, worst: int, allowed: int, begins: float, scope: Scope, evidence: Evidence
) -> Finding:
    detail = f"{worst} of {allowed} in the fullest 60 s"
    if worst > allowed:
        near = [str(wound) for wound in evidence.wounds if begins <= wound.ended <= begins + WINDOW_S]
        return Finding(promise, False, f"{detail}, in which there were: {'; '.join(near) or 'no wounds'}")
    is_bound_only_so = scope.limit.budget is None and not scope.by_attempt
    if evidence.seconds >= USE_AFTER_S and is_bound_only_so and worst < allowed * LEAST_USE:
        return Finding(promise, False, f"{detail}: far less than is allowed")
    return Finding(promise, True, detail)


def _budgets(evidence: Evidence) -> Iterable[Finding]:
    requests, books = evidence.requests(), evidence.books
    for scope in scopes(evidence):
        if scope.limit.budget is None:
            continue
        allowed = scope.limit.budget
        mine = {key: each for key, each in requests.items() if scope.counts(each[0])}
        truth = sum((one.cost for each in mine.values() for one in each), NOTHING)
        lines = {key: books.ledger[key] for key in mine if key in books.ledger}
        overrun = sum((_overrun(line) for line in lines.values()), NOTHING)
        estimates = sum(
            (max(NOTHING, _cost(mine[key]) - (line.cost or NOTHING)) for key, line in lines.items()), NOTHING
        )
        lost = sum((_cost(each) for key, each in mine.items() if key not in books.ledger), NOTHING)
        found = books.budgets.get(scope.name)
        if found is None:
            yield Finding(f"budget of {scope.name}", False, "the registry has no record of it")
            continue
        named = (
            f"{_usd(truth)} billed, {_usd(found.spent)} spent, {_usd(found.reserved)} reserved, "
            f"{_usd(found.unconfirmed)} unconfirmed of {_usd(allowed)}; overruns {_usd(overrun)}, "
            f"estimated too low by {_usd(estimates)}"
        )
        yield Finding(
            f"budget of {scope.name}: spent + reserved within it",
            found.spent + found.reserved <= allowed + overrun,
            named,
        )
        yield Finding(
            f"budget of {scope.name}: true cost within it",
            truth <= allowed + overrun + estimates,
            f"{_usd(truth)} of {_usd(allowed)}",
        )
        yield Finding(
            f"budget of {scope.name}: spent is what the ledger says, and what is unconfirmed",
            found.spent == _cost_of_lines(lines.values()) + found.unconfirmed,
            f"{found.spent} = {_cost_of_lines(lines.values())} + {found.unconfirmed}",
        )
        yield Finding(
            f"budget of {scope.name}: what was never reported is charged",
            lost <= found.unconfirmed,
            f"{_usd(lost)} billed without a report, {_usd(found.unconfirmed)} unconfirmed",
        )
        used = truth + found.unconfirmed  # what a killed gateway held nobody could use
        yield Finding(
            f"budget of {scope.name}: used",
            evidence.seconds < USE_AFTER_S or used >= allowed * Decimal(str(LEAST_USE)),
            f"{_usd(used)} of {_usd(allowed)}",
        )


def _ledger(evidence: Evidence) -> Iterable[Finding]:
    requests, ledger = evidence.requests(), evidence.books.ledger
    billed = {key for key, each in requests.items() if any(one.is_billed for one in each)}
    answered = {one.request_id for one in evidence.seen if one.is_complete and one.request_id is not None}
    yield _none_of(
        "every request whose client has its answer is in the ledger", answered - ledger.keys(), len(answered)
    )
    missing = billed - ledger.keys()
    kills = evidence.kills("gateway")
    unexplained = {key for key in missing if not any(_under_way(requests[key], kill) for kill in kills)}
    yield _none_of(
        "every billed request is in the ledger, but those that a killed gateway had under way",
        unexplained,
        len(billed),
        f" ({len(missing - unexplained)} were under way in a killed gateway)",
    )
    ghosts = {
        key for key, line in ledger.items() if key not in requests and (line.reached_a_provider or line.cost)
    }
    yield _none_of("nothing is in the ledger that no provider saw", ghosts, len(ledger))
    whose = {
        key
        for key, line in ledger.items()
        if key in requests and not _is_of(line, requests[key][0], evidence.key_ids)
    }
    yield _none_of("every line names its tenant, key and model", whose, len(ledger))
    wrong_keys = {one.request_id for one in evidence.billed if not one.key_was_right}
    yield _none_of("every provider got its own key", wrong_keys, len(requests))


def _costs(evidence: Evidence) -> Iterable[Finding]:
    requests, ledger = evidence.requests(), evidence.books.ledger
    known = {key: line for key, line in ledger.items() if key in requests}
    exact = {key: line for key, line in known.items() if not line.is_estimated}
    wrong = {
        f"{key}: {line.cost} instead of {_cost(requests[key])}"
        for key, line in exact.items()
        if line.cost != _cost(requests[key])
        or line.prompt != sum(one.prompt for one in requests[key])
        or line.completion != sum(one.completion for one in requests[key])
    }
    yield _none_of("what is not estimated is right, token by token and cent by cent", wrong, len(exact))
    answered = {one.request_id for one in evidence.seen if one.is_complete}
    needless = {
        key
        for key, line in known.items()
        if line.is_estimated
        and key in answered
        and all(one.usage_said and one.is_complete for one in requests[key] if one.is_billed)
    }
    yield _none_of("nothing is estimated that a provider has told", needless, len(known))
    estimated = {key: line for key, line in known.items() if line.is_estimated}
    too_low = [
        _cost(requests[key]) - (line.cost or NOTHING)
        for key, line in estimated.items()
        if _cost(requests[key]) > (line.cost or NOTHING)
    ]
    yield Finding(
        "estimates (for information)",
        True,
        f"{len(estimated)} lines; {len(too_low)} too low, by {_usd(sum(too_low, NOTHING))} in all",
    )


def _rest(evidence: Evidence) -> Iterable[Finding]:
    books = evidence.books
    after = "never" if books.settled_after_s is None else f"after {books.settled_after_s:.1f} s"
    yield Finding("everything comes to rest", books.settled_after_s is not None, after)
    held = [f"{_usd(one.reserved)} in {name}" for name, one in books.budgets.items() if one.reserved]
    open_leases = [str(one) for one in books.reserved[:3]]
    yield Finding(
        "nothing is reserved at the end",
        not held and not open_leases,
        "; ".join([*held, *open_leases]) or "nothing",
    )
    killed = {f"-{wound.pid}-" for wound in evidence.kills("gateway")}
    strangers = [one for one in books.charges if not any(pid in one.gateway_id for pid in killed)]
    yield Finding(
        "only leases of killed gateways are charged unconfirmed",
        not strangers,
        f"{len(books.charges)} charged, {len(strangers)} of them of gateways that live"
        + "".join(f"; {one}" for one in strangers[:3]),
    )
    charged: dict[str, Decimal] = defaultdict(Decimal)
    for charge in books.charges:
        for name in charge.scopes:
            charged[name] += charge.usd
    unequal = [
        f"{name}: {charged[name]} charged, {one.unconfirmed} unconfirmed"
        for name, one in books.budgets.items()
        if charged[name] != one.unconfirmed
    ]
    yield Finding(
        "what leases were charged for is what their scopes have unconfirmed",
        not unequal,
        "; ".join(unequal) or f"in {len(charged)} scopes",
    )
    sums = evidence.books.sums
    yield Finding(
        "the sums by hour and day are the ledger's",
        len(set(sums.values())) == 1,
        "; ".join(f"{table} {found[0]} requests {_usd(found[3])}" for table, found in sums.items()),
    )
    yield Finding("there are no dead letters", not books.dead_letters, str(books.dead_letters))
    yield Finding(
        "no key is in any log, table or file",
        not books.secrets_found,
        "; ".join(books.secrets_found) or "none",
    )


def _clients(evidence: Evidence) -> Iterable[Finding]:
    statuses = {one.status for one in evidence.seen if one.status is not None}
    strange = statuses - EXPECTED_STATUSES
    yield Finding(
        "clients see only statuses that are meant",
        not strange,
        ", ".join(str(status) for status in sorted(strange)) or "200, 429, 502, 503, 504",
    )
    mute = [one for one in evidence.seen if _should_say_when(one) and not one.retry_after]
    yield Finding("who is refused for a while is told for how long", not mute, f"{len(mute)} were not")
    for tenant in evidence.tenants:
        if not tenant.limits and all(limit == Limit() for limit in tenant.key_limits):
            continue
        refused = sum(one.status == 429 for one in evidence.seen if one.tenant == tenant.name)
        yield Finding(
            f"{tenant.name} wanted more than it may, else nothing is proved",
            refused > 0,
            f"{refused} refused",
        )


def _should_say_when(one: Seen) -> bool:
    return one.code == "rate_limit_exceeded" or one.status == 503


def _under_way(attempts: Sequence[Billed], kill: Wound) -> bool:
    first = min(one.came for one in attempts)
    last = max(math.inf if one.ended is None else one.ended for one in attempts)
    return first <= kill.begun <= last + REPORT_TIME_S


def _is_of(line: Line, one: Billed, key_ids: Mapping[str, list[str]]) -> bool:
    return (line.tenant, line.key_id, line.model) == (one.tenant, key_ids[one.tenant][one.key], one.model)


def _overrun(line: Line) -> Decimal:
    return max(NOTHING, (line.cost or NOTHING) - line.reserved)


def _cost(attempts: Sequence[Billed]) -> Decimal:
    return sum((one.cost for one in attempts), NOTHING)


def _cost_of_lines(lines: Iterable[Line]) -> Decimal:
    return sum((line.cost or NOTHING for line in lines), NOTHING)


def _none_of(promise: str, exceptions: set[str], of: int, more: str = "") -> Finding:
    detail = f"{len(exceptions)} of {of} not" if exceptions else f"all of {of}"
    named = ", ".join(sorted(exceptions)[:3])
    return Finding(promise, not exceptions, f"{detail}{more}" + (f": {named}" if named else ""))


def _usd(amount: Decimal) -> str:
    return f"${amount:.6f}"
