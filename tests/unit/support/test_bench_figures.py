"""What the benchmark makes of its measurements: percentiles, medians, tables, comparisons."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.bench import compare, figures, results
from tests.bench.figures import Bar
from tests.bench.results import NotAResult, Result
from tests.bench.stage import limited_by


def test_percentiles_are_in_milliseconds_and_taken_of_what_was_measured() -> None:
    seconds = [number / 1_000 for number in range(100, -1, -1)]
    assert figures.percentiles(seconds) == {"p50": 50.0, "p95": 95.0, "p99": 99.0, "max": 100.0}
    assert figures.percentiles([0.25]) == {"p50": 250.0, "p95": 250.0, "p99": 250.0, "max": 250.0}
    assert figures.percentiles([]) == {}


def test_what_is_added_is_the_difference_of_percentiles_and_says_its_unit() -> None:
    through, direct = {"p50": 1.5, "p95": 3.0, "p99": 9.0, "max": 20.0}, {"p50": 1.0, "p95": 2.5, "p99": 9.5}
    assert figures.added(through, direct) == {"added_p50_ms": 0.5, "added_p95_ms": 0.5, "added_p99_ms": -0.5}


def test_figures_within_figures_get_dots_in_their_names() -> None:
    assert figures.flat({"rate": 5, "statuses": {"200": 7, "503": 1}, "limited_by": "nobody"}) == {
        "rate": 5,
        "statuses.200": 7,
        "statuses.503": 1,
        "limited_by": "nobody",
    }
    with pytest.raises(TypeError, match=r"ledger\.lag_s is NoneType"):
        figures.flat({"ledger": {"lag_s": None}})


def test_of_repeated_rounds_the_median_is_told_and_what_only_one_saw_is_kept() -> None:
    rounds: list[figures.Figures] = [
        {"a_ms": 3.0, "limited_by": "the gateway"},
        {"a_ms": 1.0, "limited_by": "the gateway", "statuses.503": 4},
        {"a_ms": 2.0, "limited_by": "nobody"},
    ]
    assert figures.medians(rounds) == {"a_ms": 2.0, "limited_by": "the gateway", "statuses.503": 4}


def test_a_bar_is_reached_at_its_value_only_where_it_says_at_least() -> None:
    assert Bar("at least", 12_000).is_met_by(12_000)
    assert not Bar("less than", 2).is_met_by(2)
    assert Bar("less than", 2).is_met_by(-0.1)


def test_the_units_of_all_bars_say_which_way_is_better() -> None:
    for name, bar in figures.BARS.items():
        assert figures.better(name) == ("more" if bar.sign == "at least" else "less"), name


def test_a_section_tells_the_bar_beside_its_figure() -> None:
    lines = results.of_section("throughput", {"requests_per_s": 12_345.0, "gateway_share": 0.981})
    assert [line.split() for line in lines] == [
        ["throughput"],
        ["requests_per_s", "12,345", "at", "least", "12,000", "reached"],
        ["gateway_share", "0.981"],
    ]
    missed = results.of_section("throughput", {"at_50.added_p50_ms": 0.4})
    assert missed[1].endswith("less than 0.4  NOT reached")


def test_columns_are_aligned() -> None:
    assert results.table([("a", "1"), ("long", "1,000")]) == ["a         1", "long  1,000"]


def test_only_a_change_beyond_a_tenth_is_called_better_or_worse() -> None:
    assert compare.change("x.requests_per_s", 1_000.0, 1_099.0) == ("1.10", "")
    assert compare.change("x.requests_per_s", 1_000.0, 1_200.0) == ("1.20", "better")
    assert compare.change("x.requests_per_s", 1_000.0, 800.0) == ("0.80", "WORSE")
    assert compare.change("x.gateway_cpu_us", 100.0, 80.0) == ("0.80", "better")
    assert compare.change("x.added_p50_ms", 0.2, 0.4) == ("2.00", "WORSE")


def test_what_is_neither_good_nor_bad_is_not_judged() -> None:
    assert compare.change("x.statuses.200", 100, 300) == ("3.00", "")
    assert compare.change("x.limited_by", "nobody", "the gateway") == ("", "changed")


def test_no_ratio_is_made_of_zero_or_of_less() -> None:
    assert compare.change("x.added_p50_ms", 0.0, 0.3) == ("", "WORSE")
    assert compare.change("x.added_p50_ms", -0.1, 0.3) == ("", "")
    assert compare.change("x.added_p50_ms", -0.1, -0.3) == ("", "")


def test_figures_of_one_result_only_are_in_the_comparison() -> None:
    assert compare.rows({"a_ms": 1.0, "b_ms": 2.0}, {"b_ms": 2.0, "c_ms": 3.0}) == [
        compare.HEADINGS,
        ("a_ms", "1", "", "", "gone"),
        ("b_ms", "2", "2", "1.00", ""),
        ("c_ms", "", "3", "", "new"),
    ]


def test_results_of_different_machines_say_so() -> None:
    one = {"cpu": "A", "cores": "2", "kernel": "L", "python": "3.11.7", "commit": "1"}
    assert compare.differences(one, {**one, "commit": "2"}) == []
    assert compare.differences(one, {**one, "cores": "8"}) == ["cores: 2 and 8"]


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    result = Result({"cpu": "A"}, {"throughput.requests_per_s": 800.5}, {"streams": "TimeoutError: "})
    path = tmp_path / "new" / "result.json"
    result.write(path)
    assert Result.read(path) == result
    path.write_text("[]")
    with pytest.raises(NotAResult, match=r"result\.json"):
        Result.read(path)


@pytest.mark.parametrize(
    ("gateway", "its_core", "others", "said"),
    [
        (0.97, 1.0, 1.0, "the gateway"),
        (0.6, 1.0, 1.0, "strangers on the gateway's core"),
        (0.6, 0.7, 0.98, "the other cores"),
        (0.6, 0.7, 0.5, "nobody"),
    ],
)
def test_a_result_says_which_core_had_no_more_to_give(
    gateway: float, its_core: float, others: float, said: str
) -> None:
    assert limited_by(gateway, its_core, others) == said
