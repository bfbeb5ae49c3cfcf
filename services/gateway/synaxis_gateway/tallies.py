"""Counts of the hot path: plain numbers, put into Prometheus' form when they are asked for.

The counters of `prometheus_client` take a lock and check their labels each time; seven of them cost a request
as much as the parser. All of ours are counted by the event loop's one thread.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector


class Tally:
    """One number; whoever counts adds to `count`."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class Counts(Collector):
    """A counter by labels."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str] = ()) -> None:
        self._name, self._documentation, self._labels = name, documentation, labels
        self._tallies: dict[tuple[str, ...], Tally] = {} if labels else {(): Tally()}
        REGISTRY.register(self)

    def of(self, *labels: str) -> Tally:
        """The number of those labels."""
        known = self._tallies.get(labels)
        if known is None:
            known = self._tallies[labels] = Tally()
        return known

    def collect(self) -> Iterable[Metric]:
        """For a scrape."""
        family = CounterMetricFamily(self._name, self._documentation, labels=self._labels)
        for labels, tally in list(self._tallies.items()):
            family.add_metric(labels, tally.count)
        yield family


class Level(Tally, Collector):
    """A number that goes up and down."""

    __slots__ = ("_documentation", "_name")

    def __init__(self, name: str, documentation: str) -> None:
        super().__init__()
        self._name, self._documentation = name, documentation
        REGISTRY.register(self)

    def collect(self) -> Iterable[Metric]:
        """For a scrape."""
        yield GaugeMetricFamily(self._name, self._documentation, value=self.count)


class Spread:
    """How often each bucket was met."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """One more value."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value


class Spreads(Collector):
    """A histogram by labels."""

    def __init__(
        self, name: str, documentation: str, bounds: Sequence[float], labels: Sequence[str] = ()
    ) -> None:
        self._name, self._documentation, self._labels, self._bounds = name, documentation, labels, bounds
        self._spreads: dict[tuple[str, ...], Spread] = {}
        REGISTRY.register(self)

    def of(self, *labels: str) -> Spread:
        """The values of those labels."""
        spread = self._spreads.get(labels)
        if spread is None:
            spread = self._spreads[labels] = Spread(self._bounds)
        return spread

    def observe(self, value: float, *labels: str) -> None:
        """One more value."""
        self.of(*labels).observe(value)

    def collect(self) -> Iterable[Metric]:
        """For a scrape."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        for labels, spread in list(self._spreads.items()):
            buckets, total = [], 0
            for bound, count in zip((*self._bounds, float("inf")), spread.counts, strict=True):
                total += count
                buckets.append((str(bound) if bound < float("inf") else "+Inf", total))
            family.add_metric(labels, buckets, spread.sum)
        yield family
