"""What polls, keys and live answers change: which provider models take requests from now on."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from synaxis_common.contracts.events import Cause
from synaxis_common.contracts.observation import (
    DiscoveryTarget,
    ObservedModel,
    PollOutcome,
    ProviderObservation,
)
from synaxis_registry.core.changes import ProviderUpdate
from synaxis_registry.core.effective import effective_facts, with_said_prices
from synaxis_registry.core.judgement import NO_RESULT, Rows, serves_catalog, settle
from synaxis_registry.core.records import ProviderModelRecord, ProviderRecord, Resolve, UnavailableReason
from synaxis_registry.core.trust import provider_state

BACK_OFF_SHARE: Final = 0.1
BACK_OFF_LEAST: Final = timedelta(seconds=5)
BACK_OFF_KEY_LEAST: Final = timedelta(seconds=30)
BACK_OFF_LONGEST: Final = timedelta(hours=1)
"""How long a provider that is down is left alone between polls: a tenth of how long it has been down, so that
it is back soon after a short outage, and up to the hourly job's interval. A key is not mended in seconds."""

RATE_LIMITED_PAUSE: Final = timedelta(minutes=5)
"""When to ask again if a poll that was waited for was answered with 429. Source: our choice."""

RETIRE_AFTER: Final = timedelta(days=7)
"""How long a model that models.dev does not know must be missing from its provider's list to be retired."""

NOT_FOUND_MEMORY: Final = timedelta(hours=1)
"""A live 404 is confirmed by another one within this time only."""

FORGIVE_AFTER: Final = timedelta(hours=24)
"""After this time a model that live requests did not find is tried again."""

_FAILURES: Final = {
    PollOutcome.UNREACHABLE: UnavailableReason.UNREACHABLE,
    PollOutcome.UNAUTHORIZED: UnavailableReason.UNAUTHORIZED,
    PollOutcome.NOT_A_MODEL_LIST: UnavailableReason.NOT_A_MODEL_LIST,
}


def provider_switched(
    before: ProviderRecord | None, after: ProviderRecord, rows: Rows, now: datetime, cause: Cause
) -> ProviderUpdate:
    """A provider's row has changed (its key came or went, an operator spoke): what follows for its models."""
    return settle(before, after, rows, {}, now, cause)


def observe(
    record: ProviderRecord,
    rows: Rows,
    observation: ProviderObservation,
    now: datetime,
    confirm_after: timedelta,
    resolve: Resolve,
) -> ProviderUpdate:
    """Apply one poll. `rows`: all rows of the provider. The record's `next_poll_at` says when to ask again.

    A list is believed at once for what is in it. What is missing from it, and a poll that failed, is only
    suspect until a poll begun at least `confirm_after` later says the same. An empty list, or one without
    most of what was listed, counts as a failed poll until then. A poll that was rate-limited says nothing.
    A poll that began no later than the last applied one changes nothing, nor does one of a provider that is
    off or not to be polled.
    """
    stale = record.last_poll_at is not None and observation.observed_at <= record.last_poll_at
    if stale or not record.discover or not provider_state(record).is_on:
        return NO_RESULT
    polled = replace(
        record,
        last_poll_at=observation.observed_at,
        last_poll_outcome=observation.outcome,
        last_poll_error=observation.error,
        last_poll_latency_s=observation.latency_s,
    )
    poll = _Poll(polled, rows, observation, now, confirm_after, resolve)
    after, changed = poll.applied()
    cause = Cause(kind="poll", id=str(observation.poll_id), detail=observation.outcome)
    return settle(record, after, rows, changed, now, cause)


Applied = tuple[ProviderRecord, dict[str, ProviderModelRecord]]


class _Poll:
    """One observation of one provider, being applied."""

    def __init__(
        self,
        record: ProviderRecord,
        rows: Rows,
        observation: ProviderObservation,
        now: datetime,
        confirm_after: timedelta,
        resolve: Resolve,
    ) -> None:
        self._record = record
        self._rows = rows
        self._observation = observation
        self._at = observation.observed_at
        self._now = now
        self._confirm_after = confirm_after
        self._resolve = resolve

    def applied(self) -> Applied:
        """The provider and the rows that the poll touched, before they are judged."""
        outcome = self._observation.outcome
        if outcome is PollOutcome.RATE_LIMITED:
            return self._unheard(), {}
        if outcome is PollOutcome.OK:
            return self._listed()
        if outcome is PollOutcome.NOT_A_MODEL_LIST and self._record.last_good_at is None:
            return self._without_list(), {}
        return self._failed(_FAILURES[outcome]), {}

    def _is_confirmed(self, since: datetime | None) -> bool:
        return since is not None and self._at - since >= self._confirm_after

    def _suspect(self) -> ProviderRecord:
        """The provider after a failed poll that another one has to confirm."""
        return replace(
            self._record,
            failures=self._record.failures + 1,
            suspect_since=self._record.suspect_since or self._at,
            next_poll_at=self._now + self._confirm_after,
        )

    def _failed(self, reason: UnavailableReason) -> ProviderRecord:
        suspect = self._suspect()
        if not self._is_confirmed(suspect.suspect_since):
            return suspect
        down_for = self._now - (suspect.suspect_since or self._now)
        is_key = reason is UnavailableReason.UNAUTHORIZED
        least = BACK_OFF_KEY_LEAST if is_key else BACK_OFF_LEAST
        pause = min(max(BACK_OFF_SHARE * down_for, least), BACK_OFF_LONGEST)
        return replace(suspect, down_reason=reason, next_poll_at=self._now + pause)

    def _without_list(self) -> ProviderRecord:
        """It answers, but never with a list: a second such poll shows that it has none."""
        if not self._record.has_no_list and not self._is_confirmed(self._record.suspect_since):
            return self._suspect()
        return replace(
            self._record,
            has_no_list=True,
            failures=0,
            suspect_since=None,
            down_reason=None,
            next_poll_at=None,
        )

    def _unheard(self) -> ProviderRecord:
        record = self._record
        is_awaited = record.suspect_since is not None or (
            record.last_good_at is None and not serves_catalog(record)
        )
        return replace(record, next_poll_at=self._now + RATE_LIMITED_PAUSE if is_awaited else None)

    def _listed(self) -> Applied:
        models = {model.provider_model_id: model for model in self._observation.models}
        changed: dict[str, ProviderModelRecord] = {}
        listed = [row for row in self._rows.values() if row.listed]
        newly_missing = 0
        for row in listed:
            if row.provider_model_id in models:
                if row.missing_since is not None:
                    changed[row.provider_model_id] = replace(row, missing_since=None)
            elif self._is_confirmed(row.missing_since):
                changed[row.provider_model_id] = replace(row, listed=False)
            else:
                newly_missing += 1
                if row.missing_since is None:
                    changed[row.provider_model_id] = self._missed(row)
        lost_most = newly_missing * 2 > len(listed)
        says_nothing = not models and not listed and not self._is_confirmed(self._record.suspect_since)
        if lost_most or says_nothing:
            return self._suspect(), changed
        for row in self._rows.values():
            model = models.get(row.provider_model_id)
            current = changed.get(row.provider_model_id, row)
            new = self._absent(current) if model is None else self._seen(current, model)
            if new != row:
                changed[row.provider_model_id] = new
        for key, model in models.items():
            if key not in self._rows:
                changed[key] = self._discovered(model)
        record = replace(
            self._record,
            last_good_at=self._at,
            suspect_since=None,
            failures=0,
            down_reason=None,
            has_no_list=False,
            next_poll_at=self._now + self._confirm_after if newly_missing else None,
        )
        return record, changed

    def _missed(self, row: ProviderModelRecord) -> ProviderModelRecord:
        last_seen = self._record.last_good_at or row.last_seen_at
        return replace(row, missing_since=self._at, last_seen_at=max(last_seen, row.last_seen_at))

    def _absent(self, row: ProviderModelRecord) -> ProviderModelRecord:
        """A row that a believed list does not have."""
        if row.listed:
            return row
        if row.listed is None:
            return replace(row, listed=False, missing_since=self._at)
        is_over = (
            not row.in_catalog
            and row.retired_at is None
            and row.missing_since is not None
            and self._at - row.missing_since >= RETIRE_AFTER
        )
        return replace(row, retired_at=self._now) if is_over else row

    def _seen(self, row: ProviderModelRecord, model: ObservedModel) -> ProviderModelRecord:
        """A row that a believed list has."""
        seen = replace(
            row,
            observed_facts=model.facts,
            observed_prices=model.prices,
            quantization=model.quantization or row.quantization,
            listed=True,
            missing_since=None,
            not_found_at=None,
            not_found_live=False,
            retired_at=None,
        )
        if seen.observed_facts != row.observed_facts and row.pinned_model_id is None:
            seen = resolved(seen, self._resolve)
        return with_said_prices(seen)

    def _discovered(self, model: ObservedModel) -> ProviderModelRecord:
        row = ProviderModelRecord(
            provider_id=self._record.provider_id,
            provider_model_id=model.provider_model_id,
            global_model_id="",
            resolved_by="",
            resolution_confidence=0.0,
            first_seen_at=self._at,
            last_seen_at=self._at,
            observed_facts=model.facts,
            observed_prices=model.prices,
            quantization=model.quantization,
            listed=True,
        )
        return with_said_prices(resolved(row, self._resolve))


def resolved(row: ProviderModelRecord, resolve: Resolve) -> ProviderModelRecord:
    """`row` with its global model decided."""
    found = resolve(row.provider_id, row.provider_model_id, effective_facts(row))
    return replace(
        row,
        global_model_id=found.global_model_id,
        resolved_by=found.rule,
        resolution_confidence=found.confidence,
    )


def not_found(
    record: ProviderRecord, row: ProviderModelRecord, now: datetime, confirm_after: timedelta
) -> ProviderUpdate:
    """A live request for `row` was answered with 404: evidence against this model alone.

    A provider with a list is polled at once (but not more often than every `confirm_after`) and its list
    decides. Without a list a second 404, `confirm_after` to an hour after the first, makes the model
    unavailable for a day.
    """
    if not provider_state(record).is_on:
        return NO_RESULT
    if not serves_catalog(record):
        due = now if record.last_poll_at is None else max(now, record.last_poll_at + confirm_after)
        if record.next_poll_at is not None and record.next_poll_at <= due:
            return NO_RESULT
        return ProviderUpdate(record=replace(record, next_poll_at=due))
    if row.not_found_live:
        return NO_RESULT
    age = None if row.not_found_at is None else now - row.not_found_at
    if age is not None and age < confirm_after:
        return NO_RESULT
    if age is None or age > NOT_FOUND_MEMORY:
        changed = replace(row, not_found_at=now)
    else:
        changed = replace(row, not_found_at=now, not_found_live=True)
    cause = Cause(kind="feedback", detail="404 to live requests")
    key = row.provider_model_id
    return settle(record, record, {key: row}, {key: changed}, now, cause)


def forgive(record: ProviderRecord, rows: Rows, now: datetime) -> ProviderUpdate:
    """Give models that live requests did not find a day ago another chance."""
    changed = {
        key: replace(row, not_found_at=None, not_found_live=False)
        for key, row in rows.items()
        if row.not_found_live and row.not_found_at is not None and now - row.not_found_at >= FORGIVE_AFTER
    }
    if not changed:
        return NO_RESULT
    return settle(record, record, rows, changed, now, Cause(kind="feedback", detail="tried again"))


def discovery_target(record: ProviderRecord) -> DiscoveryTarget | None:
    """The provider as discovery needs to know it. None: no key would switch it on."""
    if record.base_url is None or not provider_state(replace(record, key_present=True)).is_on:
        return None
    return DiscoveryTarget(
        provider_id=record.provider_id,
        base_url=record.discovery_base_url or record.base_url,
        kind=record.discovery_kind,
        api_key_envs=record.api_key_envs,
        headers=dict(record.headers),
        poll=record.discover,
        allow_private=record.allow_private,
    )
