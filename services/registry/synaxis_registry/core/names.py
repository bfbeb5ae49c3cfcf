"""Finds a model by its name as somebody typed it, or the names that are nearest to it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher

NEAREST = 5
"""How many names a 404 proposes."""

_NEAR_ENOUGH = 0.5
"""Below this similarity (difflib's ratio) a proposal would be noise."""

_COMPARED = 40
"""Only this many names, those that share most trigrams with what was typed, are compared in full."""

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

    ids: frozenset[str]
    by_alias: Mapping[str, frozenset[str]]
    by_folded: Mapping[str, frozenset[str]]
    """Ids and aliases, folded."""
    by_trigram: Mapping[str, tuple[str, ...]]
    """Ids that contain it."""

    @classmethod
    def build(cls, models: Mapping[str, Iterable[str]]) -> NameIndex:
        """Index `models`: ids with their aliases."""
        by_alias: dict[str, set[str]] = {}
        by_folded: dict[str, set[str]] = {}
        by_trigram: dict[str, list[str]] = {}
        for model_id in sorted(models):
            folded = fold(model_id)
            by_folded.setdefault(folded, set()).add(model_id)
            for trigram in _trigrams(folded):
                by_trigram.setdefault(trigram, []).append(model_id)
            for alias in models[model_id]:
                by_alias.setdefault(alias, set()).add(model_id)
                by_folded.setdefault(fold(alias), set()).add(model_id)
        return cls(
            ids=frozenset(models),
            by_alias={name: frozenset(found) for name, found in by_alias.items()},
            by_folded={name: frozenset(found) for name, found in by_folded.items()},
            by_trigram={trigram: tuple(found) for trigram, found in by_trigram.items()},
        )

    def folded(self, typed: str) -> frozenset[str]:
        """The ids that `typed` names when case and separators don't count."""
        return self.by_folded.get(fold(typed), frozenset())

    def nearest(self, typed: str) -> tuple[str, ...]:
        """Ids that look like `typed`, most alike first; the cost is bounded whatever was typed."""
        folded = fold(typed[:_LONGEST_COMPARED])
        shared: Counter[str] = Counter()
        for trigram in _trigrams(folded):
            shared.update(self.by_trigram.get(trigram, ()))
        compared = sorted(shared, key=lambda name: (-shared[name], name))[:_COMPARED]
        matcher = SequenceMatcher(autojunk=False)
        matcher.set_seq2(folded)
        scored: list[tuple[float, str]] = []
        for name in compared:
            matcher.set_seq1(fold(name))
            ratio = matcher.ratio()
            if ratio >= _NEAR_ENOUGH:
                scored.append((-ratio, name))
        return tuple(name for _, name in sorted(scored)[:NEAREST])
