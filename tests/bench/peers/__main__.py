"""`make bench-peers`: the same load through Synaxis and through other gateways, one after another.

Exit status: 0 all were measured; 1 a measurement failed; 3 a peer could not be installed.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import structlog
from tests.bench import machine, results
from tests.bench.figures import Figures, flat, medians
from tests.bench.length import LONG, SHORT, Length
from tests.bench.peers.install import FOLDER, NotInstalled, installed
from tests.bench.peers.litellm import LITELLM
from tests.bench.peers.measure import measure
from tests.bench.peers.peer import Peer
from tests.bench.peers.portkey import PORTKEY
from tests.bench.peers.subject import Subject, ours, theirs
from tests.bench.peers.table import OURS, lines
from tests.bench.peers.tensorzero import TENSORZERO
from tests.bench.results import Result

PEERS: dict[str, Peer] = {peer.name.lower(): peer for peer in (LITELLM, PORTKEY, TENSORZERO)}
SUBJECT_WITHIN_S = 600.0
"""For a start and all loads of one gateway: each of these is bounded, and this bounds their sum."""
A_MEASUREMENT_FAILED, A_PEER_IS_MISSING = 1, 3


@dataclass
class Comparison:
    """What was found, by the title of a gateway."""

    found: dict[str, list[Figures]] = field(default_factory=dict)
    not_installed: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def figures(self) -> dict[str, Figures]:
        """The medians of all rounds."""
        return {title: medians(rounds) for title, rounds in self.found.items()}

    @property
    def missing(self) -> dict[str, str]:
        """Why gateways were not measured."""
        return self.not_installed | self.failed

    @property
    def status(self) -> int:
        """The exit status."""
        if self.failed:
            return A_MEASUREMENT_FAILED
        return A_PEER_IS_MISSING if self.not_installed else 0


async def compare(peers: Sequence[Peer], length: Length, root: Path = FOLDER) -> Comparison:
    """Install all, then measure ours and theirs in turn, so that a round is of the same minutes."""
    comparison = Comparison()
    folders: dict[str, Path] = {}
    for peer in peers:
        _say(f"... {peer.title} is installed into {root}")
        try:
            folders[peer.title] = await installed(peer, root)
        except NotInstalled as error:
            comparison.not_installed[peer.title] = f"it could not be installed: {error}"
    for number in range(length.repetitions):
        _say(f"... round {number + 1} of {length.repetitions}")
        await _measured(comparison, OURS, ours(), length)
        for peer in peers:
            if peer.title in folders:
                await _measured(comparison, peer.title, theirs(peer, folders[peer.title]), length)
    return comparison


async def _measured(
    comparison: Comparison, title: str, subject: AbstractAsyncContextManager[Subject], length: Length
) -> None:
    """One gateway; that it fails is told, and the others are measured all the same."""
    try:
        async with asyncio.timeout(SUBJECT_WITHIN_S), subject as ready:
            figures = flat(await measure(ready, length))
    except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001 - told, and the others still run
        traceback.print_exc()
        comparison.failed[title] = f"{type(error).__name__}: {error}".splitlines()[0]
    else:
        comparison.found.setdefault(title, []).append(figures)
        _say(f"... {title}: {figures['clients_32.requests_per_s']} requests/s of 32 clients")


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


async def _until_terminated(peers: Sequence[Peer], length: Length) -> Comparison:
    """A polite signal ends what has been started, too, as Ctrl-C does."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await compare(peers, length)


def main() -> int:
    """Answers the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.peers", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--long", action="store_true", help="longer loads, three times, and their medians")
    parser.add_argument("--only", default=",".join(PEERS), help="peers to measure, with commas between them")
    parser.add_argument(
        "--json", type=Path, default=None, help="file to write; default: bench-results/peers-<time>.json"
    )
    said = parser.parse_args()
    names = [name for name in said.only.split(",") if name]
    if unknown := set(names) - PEERS.keys():
        parser.error(f"no such peer: {', '.join(sorted(unknown))}; there are {', '.join(PEERS)}")
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),  # standard output is for the table
    )
    peers = [PEERS[name] for name in names]
    comparison = asyncio.run(_until_terminated(peers, LONG if said.long else SHORT))
    path = said.json or results.default_path().with_name(f"peers-{results.default_path().name}")
    _written(comparison, peers, path)
    return comparison.status


def _written(comparison: Comparison, peers: Sequence[Peer], path: Path) -> None:
    """To standard output and into a file."""
    result = Result(
        machine.description() | {peer.name.lower(): peer.version for peer in peers},
        {
            f"{title.split()[0].lower()}.{name}": value
            for title, figures in comparison.figures().items()
            for name, value in figures.items()
        },
        {title.split()[0].lower(): why for title, why in comparison.missing.items()},
    )
    print("\n".join(results.table(list(result.machine.items()))) + "\n")
    print("\n".join(lines(comparison.figures(), comparison.missing, [OURS, *(each.title for each in peers)])))
    result.write(path)
    print(f"\nwritten to {path}")


if __name__ == "__main__":
    sys.exit(main())
