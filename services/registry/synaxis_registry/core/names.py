"""Finds a model by its name as somebody typed it, or the names that are nearest to it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from heapq import nsmallest

from synaxis_common.slices import Steps, at_once
from synaxis_registry.core.shards import Postings, PostingsDraft, Shards

NEAREST = 5
"""How many names a 404 proposes."""

_NEAR_ENOUGH = 0.5
"""Below this similarity (difflib's ratio) a proposal would be noise."""

_COMPARED = 40
"""Only this many names, those that share most trigrams with what was typed, are compared in full."""

_COUNTED = 20_000
"""Trigrams are counted in at most so many ids, those of the rarest trigram aside: two milliseconds."""

_LONGEST_COMPARED = 100
"""More characters of a wrong name are not looked at."""

_SEPARATORS = re.compile(r"[\s._-]+")


def fold(name: str) -> str:
    """`name` without its case, and with every separator the same: `GPT 4.1` is `gpt-4-1`."""
    return _SEPARATORS.sub("-", name.casefold()).strip("-")


def _trigrams(folded: str) -> set[str]:
    padded = f"  {folded} "
    return {padded[i : i + 3] for i in range(len(padded) - 2)}


@dataclass(frozen=True, slots=True)
class NameIndex:
    """Names of global models: their ids and aliases."""

    by_alias: Postings[str, str] = Shards()
    by_folded: Postings[str, str] = Shards()
    """Ids and aliases, folded."""
    by_trigram: Postings[str, str] = Shards()
    """Ids that contain it."""

    @classmethod
    def build(cls, models: Mapping[str, Iterable[str]]) -> NameIndex:
        """Index `models`: ids with their aliases."""
        return at_once(cls().changing({}, models))

    def changing(
        self, before: Mapping[str, Iterable[str]], after: Mapping[str, Iterable[str]]
    ) -> Steps[NameIndex]:
        """The index with other models: those of `before`, as they are in it, become those of `after`."""
        by_alias, by_folded = PostingsDraft(self.by_alias), PostingsDraft(self.by_folded)
        by_trigram = PostingsDraft(self.by_trigram)
        for model_id in before.keys() - after.keys():
            for trigram in _trigrams(fold(model_id)):
                by_trigram.discard(trigram, model_id)
            yield
        for model_id, aliases in before.items():
            for alias in aliases:
                by_alias.discard(alias, model_id)
                by_folded.discard(fold(alias), model_id)
            by_folded.discard(fold(model_id), model_id)
            yield
        for model_id, aliases in after.items():
            for alias in aliases:
                by_alias.add(alias, model_id)
                by_folded.add(fold(alias), model_id)
            by_folded.add(fold(model_id), model_id)
            if model_id not in before:
                for trigram in _trigrams(fold(model_id)):
                    by_trigram.add(trigram, model_id)
            yield
        return NameIndex(
            by_alias=(yield from by_alias.freezing()),
            by_folded=(yield from by_folded.freezing()),
            by_trigram=(yield from by_trigram.freezing()),
        )

    def folded(self, typed: str) -> frozenset[str]:
        """The ids that `typed` names when case and separators don't count."""
        return self.by_folded.get(fold(typed), frozenset())

    def nearest(self, typed: str) -> tuple[str, ...]:
        """Ids that look like `typed`, most alike first; the cost is bounded whatever was typed."""
        folded = fold(typed[:_LONGEST_COMPARED])
        shared: Counter[str] = Counter()
        counted = 0
        # The rarest first: what thousands of ids contain tells little, and costs most.
        for ids in sorted(filter(None, map(self.by_trigram.get, _trigrams(folded))), key=len):
            counted += len(ids)
            if shared and counted > _COUNTED:
                break
            shared.update(ids)
        compared = nsmallest(_COMPARED, shared, key=lambda name: (-shared[name], name))
        matcher = SequenceMatcher(autojunk=False)
        matcher.set_seq2(folded)
        scored: list[tuple[float, str]] = []
        for name in compared:
            matcher.set_seq1(fold(name))
            ratio = matcher.ratio()
            if ratio >= _NEAR_ENOUGH:
                scored.append((-ratio, name))
        return tuple(name for _, name in sorted(scored)[:NEAREST])
