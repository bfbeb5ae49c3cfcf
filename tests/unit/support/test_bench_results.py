"""Benchmarks: what is made of the figures."""

from __future__ import annotations

from pathlib import Path

from tests.bench.__main__ import median_of
from tests.bench.compare import rows
from tests.bench.load import percentiles
from tests.bench.results import Bar, flatten, read, table, write


def test_percentiles_are_in_milliseconds() -> None:
    assert percentiles([n / 1000 for n in range(1, 102)]) == {
        "p50": 51.0,
        "p95": 96.0,
        "p99": 100.0,
        "max": 101.0,
    }
    assert percentiles([]) == {}


def test_a_figure_is_shown_beside_its_bar() -> None:
    shown = table({"paced": {"events_per_s": 34_202, "added_p99_ms": 5.5, "streams": 1000}})
    met, missed, plain = (line.split() for line in (shown.splitlines()[1], *shown.splitlines()[::2]))
    assert met == ["paced.added_p99_ms", "5.5", "≤", "10", "✓"]
    assert missed == ["paced.events_per_s", "34202", "≥", "50000", "✗"]
    assert plain == ["paced.streams", "1000"]
    assert Bar(10).is_met(10)
    assert not Bar(10, at_least=True).is_met(9.9)


def test_two_runs_are_compared_by_what_both_have(tmp_path: Path) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    write(old, {}, {"a": {"cpu_us": 100.0, "requests_per_s": 10, "gone": 1, "same_ms": 1.0, "statuses": "x"}})
    write(new, {}, {"a": {"cpu_us": 50.0, "requests_per_s": 5, "same_ms": 1.05, "statuses": "y"}})
    assert rows(read(old), read(new)) == [
        ("a.cpu_us", 100.0, 50.0, 0.5, "better"),
        ("a.requests_per_s", 10.0, 5.0, 0.5, "worse"),
        ("a.same_ms", 1.0, 1.05, 1.05, ""),
    ]


def test_of_several_rounds_the_medians_count() -> None:
    rounds = [{"a": {"ms": ms, "statuses": f"{ms}"}} for ms in (3.0, 1.0, 2.0)]
    assert median_of(rounds) == {"a.ms": 2.0, "a.statuses": "2.0"}
    assert flatten({"a": {"b": {"c": 1}}}) == {"a.b.c": 1}
