"""The table of a comparison: a row for a figure, and for each peer its figure and Synaxis' beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.bench.figures import Figure, Figures, shown
from tests.bench.peers.measure import CLIENTS
from tests.bench.results import table

OURS = "Synaxis"
_OF_CLIENTS = {
    "requests_per_s": "requests/s",
    "cpu_us": "CPU a request, µs",
    "books_cpu_us": "its books' CPU a request, µs",
    "p50_ms": "p50, ms",
    "p95_ms": "p95, ms",
    "p99_ms": "p99, ms",
    "added_p50_ms": "added p50, ms",
    "added_p95_ms": "added p95, ms",
    "added_p99_ms": "added p99, ms",
    "gateway_share": "share of its core",
}
_OF_STREAMS = {
    "first_token.added_p50_ms": "first token, added p50, ms",
    "first_token.added_p99_ms": "first token, added p99, ms",
    "first_to_last_chunk.p50_ms": "first to last chunk, p50, ms",
    "first_to_last_chunk.p99_ms": "first to last chunk, p99, ms",
    "first_to_last_chunk.direct_p50_ms": "the same directly, p50, ms",
    "last_chunk.added_p50_ms": "last chunk, added p50, ms",
}
_NOT_COMPARED = ("books_cpu_us", "gateway_share", "direct_p50_ms")
"""Figures to understand the others by."""


def ratio(ours: Figure, theirs: Figure) -> str:
    """Synaxis : peer. Empty where a quotient says nothing: of words, and beside what is not above zero."""
    if isinstance(ours, str) or isinstance(theirs, str) or ours <= 0 or theirs <= 0:
        return ""
    return f"{ours / theirs:.3g}" if ours < 100 * theirs else f"{ours / theirs:,.0f}"


def groups() -> dict[str, dict[str, str]]:
    """What stands in the table, under which title: names of figures, and what they are called."""
    found = {
        f"{clients} {'client' if clients == 1 else 'clients'}": {
            f"clients_{clients}.{name}": label for name, label in _OF_CLIENTS.items()
        }
        for clients in CLIENTS
    }
    found["a stream"] = {f"stream.{name}": label for name, label in _OF_STREAMS.items()}
    return found


def rows(found: Mapping[str, Figures], titles: Sequence[str]) -> list[tuple[str, ...]]:
    """Those of the titles that were measured, ours first, each peer's figure with the ratio."""
    measured = [title for title in titles if title in found]
    peers = [title for title in measured if title != OURS]
    ours = found.get(OURS, {})
    heading = ("", *((OURS,) if OURS in found else ()), *(cell for peer in peers for cell in (peer, "ratio")))
    lines: list[tuple[str, ...]] = [heading]
    for title, figures in groups().items():
        lines.append((title, *("" for _ in heading[1:])))
        for name, label in figures.items():
            cells = [f"  {label}"]
            if OURS in found:
                cells.append(_cell(ours, name))
            for peer in peers:
                is_compared = not name.endswith(_NOT_COMPARED)
                both = name in ours and name in found[peer] and is_compared
                cells += [
                    _cell(found[peer], name),
                    ratio(ours[name], found[peer][name]) if both else "",
                ]
            lines.append(tuple(cells))
    return lines


def _cell(figures: Figures, name: str) -> str:
    return shown(figures[name]) if name in figures else "-"


def refusals(figures: Figures) -> list[str]:
    """What was answered with anything but 200, of which a rate is worth nothing."""
    return [
        f"{name.partition('.')[0]}: {value} answers with {name.rpartition('.')[2]}"
        for name, value in figures.items()
        if ".statuses." in name and not name.endswith(".200") and value
    ]


def lines(found: Mapping[str, Figures], missing: Mapping[str, str], titles: Sequence[str]) -> list[str]:
    """All that is printed at the end."""
    told = table(rows(found, titles)) if found else []
    if OURS in found and len(found) > 1:
        told.append("ratio: Synaxis : peer")
    for title in titles:
        told += [f"{title}: {each}" for each in refusals(found.get(title, {}))]
        if title in missing:
            told.append(
                f"{title}: {'a round failed' if title in found else 'not measured'}: {missing[title]}"
            )
    return told
