"""How well provider ids are recognised: against models.dev's hand-made links, against pairs that must stay
apart, and how fast.

    make bench-identity

Reads `../shared/data/models-dev` beside the checkout (`api.json`, `models.json`, `labels.json`). Ends with 1
when the data is missing, or when a result is below the bar.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from synaxis_registry.core.identity import (
    KnownModel,
    Offering,
    Resolution,
    Resolver,
    cluster,
    facts_from_entry,
    global_models_from_models_json,
)
from synaxis_registry.core.identity.reading import read

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data" / "models-dev"
HARD_PAIRS = Path(__file__).with_name("identity_hard_pairs.json")

LEAST_PRECISION = 0.995
LEAST_RECALL = 0.97
MOST_CATALOG_SECONDS = 2.0
MOST_SINGLE_SECONDS = 200e-6


@dataclass(frozen=True, slots=True)
class Label:
    """A hand-made link: this provider model is that key of `models.json`."""

    provider_id: str
    provider_model_id: str
    canonical: str


@dataclass(frozen=True, slots=True)
class World:
    """models.dev's catalog, and the labels."""

    known: list[KnownModel]
    offerings: list[Offering]
    labels: list[Label]


@dataclass(frozen=True, slots=True)
class Score:
    """Precision and recall over labels: another known model is an error of both, a new one of recall."""

    right: int
    wrong: tuple[tuple[Label, Resolution], ...]
    missed: tuple[tuple[Label, Resolution], ...]

    @property
    def precision(self) -> float:
        return self.right / max(1, self.right + len(self.wrong))

    @property
    def recall(self) -> float:
        return self.right / max(1, self.right + len(self.wrong) + len(self.missed))

    def __str__(self) -> str:
        total = self.right + len(self.wrong) + len(self.missed)
        return f"{total} labels: precision {self.precision:.4f}, recall {self.recall:.4f}"


def load(data: Path = DATA) -> World | None:
    """The world in `data`, or None where it is not."""
    files = [data / f"{name}.json" for name in ("api", "models", "labels")]
    if not all(file.is_file() for file in files):
        return None
    providers, models, labels = (json.loads(file.read_text(encoding="utf-8")) for file in files)
    offerings = [
        Offering(provider_id, model_id, facts_from_entry(entry))
        for provider_id, provider in providers.items()
        for model_id, entry in provider["models"].items()
    ]
    return World(
        global_models_from_models_json(models),
        offerings,
        [Label(one["provider"], one["provider_model_id"], one["canonical"]) for one in labels],
    )


def score(
    known: Sequence[KnownModel], found: dict[tuple[str, str], Resolution], labels: Iterable[Label]
) -> Score:
    """Compare resolutions with labels."""
    source = {model.id: model.source_id for model in known}
    right = 0
    wrong: list[tuple[Label, Resolution]] = []
    missed: list[tuple[Label, Resolution]] = []
    for label in labels:
        resolution = found[label.provider_id, label.provider_model_id]
        got = source.get(resolution.global_model_id)
        if got == label.canonical:
            right += 1
        else:
            (missed if got is None else wrong).append((label, resolution))
    return Score(right, tuple(wrong), tuple(missed))


def resolved(known: Iterable[KnownModel], offerings: Sequence[Offering]) -> dict[tuple[str, str], Resolution]:
    """The whole catalog, by provider and id."""
    found = cluster(known, offerings)
    return {(one.provider_id, one.provider_model_id): two for one, two in zip(offerings, found, strict=True)}


def wrong_pairs(known: Sequence[KnownModel], pairs: dict[str, list[list[str]]]) -> list[str]:
    """The hard pairs that come out wrong, with nothing known of either id but its letters."""
    found = []
    listed = [(kind, *pair) for kind in sorted(pairs) for pair in pairs[kind]]
    for kind, one, other, why in listed:
        for world, models in (("nothing known", ()), ("models.json known", known)):
            first, second = cluster(models, [Offering("one", one), Offering("other", other)])
            is_same = first.global_model_id == second.global_model_id
            if is_same != (kind == "same"):
                found.append(
                    f"{one} and {other} ({why}; {world}): {first.global_model_id}, {second.global_model_id}"
                )
    return found


def hard_pairs() -> dict[str, list[list[str]]]:
    pairs: dict[str, list[list[str]]] = json.loads(HARD_PAIRS.read_text(encoding="utf-8"))
    return pairs


def seconds_for_one(known: Sequence[KnownModel], offerings: Sequence[Offering]) -> tuple[float, float]:
    """Median and 99th percentile of resolving one id that the resolver has not seen before: processor time,
    so that what else the machine does is not counted."""
    resolver = Resolver(known)
    read.cache_clear()
    times = []
    for offering in offerings:
        start = time.thread_time()
        resolver.resolve(offering)
        times.append(time.thread_time() - start)
    ordered = sorted(times)
    return statistics.median(ordered), ordered[int(len(ordered) * 0.99)]


def _show(kind: str, errors: tuple[tuple[Label, Resolution], ...]) -> None:
    for label, resolution in errors:
        got = f"{resolution.global_model_id} ({resolution.rule}, {resolution.confidence:.2f})"
        print(f"  {kind}: {label.provider_id} {label.provider_model_id}: {label.canonical}, not {got}")
        print(f"         {'; '.join(resolution.evidence)}")


def main() -> int:
    world = load()
    if world is None:
        print(
            f"No models.dev data at {DATA}: this benchmark needs api.json, models.json and labels.json there."
        )
        return 1
    start = time.perf_counter()
    found = resolved(world.known, world.offerings)
    seconds = time.perf_counter() - start
    total = score(world.known, found, world.labels)
    providers = sorted({label.provider_id for label in world.labels})
    print(f"all        {total}")
    for name, half in (("half one", set(providers[::2])), ("half two", set(providers[1::2]))):
        print(
            f"{name}   {score(world.known, found, [one for one in world.labels if one.provider_id in half])}"
        )
    _show("wrong", total.wrong)
    _show("missed", total.missed)
    pairs = hard_pairs()
    failed = wrong_pairs(world.known, pairs)
    print(f"hard pairs {sum(map(len, pairs.values()))}, each in two worlds: {len(failed)} wrong")
    for text in failed:
        print(f"  {text}")
    median, worst = seconds_for_one(world.known, world.offerings)
    models = len({one.global_model_id for one in found.values()})
    print(f"speed      {len(world.offerings)} provider models to {models} models in {seconds:.2f} s")
    print(f"           one id: {median * 1e6:.0f} µs median, {worst * 1e6:.0f} µs p99")
    passed = (
        total.precision >= LEAST_PRECISION
        and total.recall >= LEAST_RECALL
        and not failed
        and seconds < MOST_CATALOG_SECONDS
        and median < MOST_SINGLE_SECONDS
    )
    print("passed" if passed else "below the bar")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
