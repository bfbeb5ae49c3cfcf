"""The comparison with other gateways: what is pinned, what is told of each, and that children end."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.bench.figures import Figures
from tests.bench.length import SHORT
from tests.bench.load import post
from tests.bench.peers import __main__ as comparing
from tests.bench.peers import install, litellm, tensorzero, versions
from tests.bench.peers.__main__ import A_MEASUREMENT_FAILED, A_PEER_IS_MISSING, PEERS, Comparison
from tests.bench.peers.children import child
from tests.bench.peers.install import NotInstalled, installed, reason, with_npm
from tests.bench.peers.peer import Launch, Peer
from tests.bench.peers.subject import theirs, told_in
from tests.bench.peers.table import OURS, groups, lines, ratio, refusals, rows
from tests.bench.peers.versions import Compromised, requirement

from synaxis_cli.embedded.process import machine_environment

PINNED = re.compile(r"\d+(\.\d+){2}")
WITHIN_S = 10.0
linux = pytest.mark.skipif(sys.platform != "linux", reason="children are pinned and found as Linux does")


def test_every_version_is_exact_and_none_is_compromised() -> None:
    for pin in versions.PINS.split():
        assert PINNED.fullmatch(pin), pin
    assert versions.LITELLM not in versions.COMPROMISED["litellm"]
    assert {peer.version for peer in PEERS.values()} <= set(versions.PINS.split())


@pytest.mark.parametrize("version", ["1.82.7", "1.82.8", "1.107.0"])
def test_a_compromised_version_is_refused_before_anything_is_installed(version: str) -> None:
    with pytest.raises(Compromised):
        requirement("litellm", version, extra="proxy")


def test_a_requirement_is_of_one_version() -> None:
    assert requirement("litellm", "1.2.3", extra="proxy") == "litellm[proxy]==1.2.3"
    assert requirement("tensorzero", "2026.1.1") == "tensorzero==2026.1.1"


def test_more_headers_stand_in_the_head_of_a_request() -> None:
    request = post("http://h:1/v1", "k", b"{}", ["x-one: 1", "x-two: 2"])
    head, _, body = request.partition(b"\r\n\r\n")
    assert {b"x-one: 1", b"x-two: 2", b"Authorization: Bearer k", b"Content-Length: 2"} <= set(
        head.split(b"\r\n")
    )
    assert body == b"{}"


def test_peers_are_configured_with_the_upstream_and_nothing_to_store_in() -> None:
    told = str(litellm.configuration("http://up/v1"))
    assert "'api_base': 'http://up/v1'" in told
    assert "database" not in told
    toml = tensorzero.configuration("http://up/v1")
    assert 'api_base = "http://up/v1/"' in toml
    assert "observability.enabled = false" in toml


def test_where_a_peer_listens_is_found_in_what_it_says() -> None:
    assert told_in("INFO starting\n") is None
    assert told_in("INFO starting\nlistening at http://127.0.0.1:7/v1\n") == "http://127.0.0.1:7/v1"


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (
            "Collecting x\nERROR: No matching distribution found for x==1\n[notice] new pip",
            "ERROR: No matching",
        ),
        (
            "npm error code ENOTFOUND\nnpm error A complete log of this run can be found in: /x",
            "npm error code",
        ),
        ("Killed", "pip ended with 137"),
    ],
)
def test_the_reason_is_the_installers_last_word_about_an_error(said: str, why: str) -> None:
    assert reason(said, "pip ended with 137").startswith(why)


def test_a_ratio_is_ours_to_theirs_where_it_says_something() -> None:
    assert ratio(2_334.0, 136.0) == "17.2"
    assert ratio(0.5, 2.0) == "0.25"
    assert ratio(30_000.0, 20.0) == "1,500"
    assert [ratio(-0.1, 2.0), ratio(0.1, 0), ratio("the gateway", 1.0)] == ["", "", ""]


def figures_of(rate: float, **more: Any) -> Figures:
    return {"clients_32.requests_per_s": rate, "clients_32.gateway_share": 0.9, **more}


def test_the_table_has_each_peer_with_its_ratio_and_says_who_is_missing_and_why() -> None:
    found = {OURS: figures_of(2_000.0), "Quick 1": figures_of(4_000.0)}
    told = lines(found, {"Slow 2": "npm not found"}, [OURS, "Slow 2", "Quick 1"])
    assert told[0].split() == ["Synaxis", "Quick", "1", "ratio"]
    assert ["requests/s", "2,000", "4,000", "0.5"] in [line.split() for line in told]
    assert "Slow 2: not measured: npm not found" in told
    shares = [line for line in told if "share of its core" in line and "0.9" in line]
    assert shares[0].split()[-2:] == ["0.9", "0.9"], "a share is told and not compared"


def test_the_table_is_whole_without_any_peer_and_without_ours() -> None:
    assert len(rows({OURS: figures_of(1.0)}, [OURS])[0]) == 2
    assert len(rows({"Quick 1": figures_of(1.0)}, [OURS, "Quick 1"])[0]) == 3
    assert lines({}, {OURS: "it did not start"}, [OURS]) == ["Synaxis: not measured: it did not start"]
    assert set(groups()) == {"1 client", "32 clients", "64 clients", "a stream"}


def test_answers_that_are_not_200_are_told() -> None:
    found: Figures = {"clients_1.statuses.200": 7, "clients_64.statuses.500": 3, "clients_1.statuses.0": 0}
    assert refusals(found) == ["clients_64: 3 answers with 500"]


def test_the_exit_status_says_whether_a_peer_is_missing_or_a_measurement_failed() -> None:
    assert Comparison().status == 0
    assert Comparison(not_installed={"a": "no npm"}).status == A_PEER_IS_MISSING
    assert Comparison(not_installed={"a": "no npm"}, failed={"b": "x"}).status == A_MEASUREMENT_FAILED


async def test_without_npm_the_reason_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotInstalled, match="node and npm not found"):
        await with_npm(tmp_path, {}, {})


def launches_nothing(_folder: Path, _upstream: str, _port: int) -> Launch:
    raise AssertionError("it is not to be started")


async def test_what_is_installed_is_not_installed_again_until_a_pin_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = []

    async def note(folder: Path) -> None:
        assert not list(folder.iterdir()), "what another version left is gone"
        (folder / "file").touch()
        times.append(folder)

    peer = Peer("Some", "1", "m", note, launches_nothing)
    assert await installed(peer, tmp_path) == await installed(peer, tmp_path) == (tmp_path / "some").resolve()
    assert len(times) == 1
    monkeypatch.setattr(install, "PINS", "others")
    await installed(peer, tmp_path)
    assert len(times) == 2


@linux
async def test_an_installer_that_hangs_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(NotInstalled, match="sleep was not done within 0 s"):
        await install._step(tmp_path, ("sleep", "60"), within_s=0.1)


@linux
async def test_an_installer_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(NotInstalled, match="ERROR: no such thing"):
        await install._step(tmp_path, ("sh", "-c", "echo 'ERROR: no such thing'; exit 1"))


@linux
async def test_a_child_is_pinned_and_ends_with_all_its_children(tmp_path: Path) -> None:
    log = tmp_path / "log"
    core = min(os.sched_getaffinity(0))
    ignoring = "trap '' TERM; sleep 60 & echo $!; taskset -pc $$ || true; wait"
    stays = ("sh", "-c", ignoring)
    async with child(
        stays, log, machine_environment(), directory=tmp_path, cores=frozenset({core})
    ) as process:
        async with asyncio.timeout(WITHIN_S):
            while not log.read_text().strip():
                await asyncio.sleep(0.01)
        assert os.sched_getaffinity(process.pid) == {core}
        grandchild = int(log.read_text().split()[0])
        process.kill()
    assert process.returncode is not None
    async with asyncio.timeout(WITHIN_S):
        while (
            Path(f"/proc/{grandchild}/cmdline").exists() and Path(f"/proc/{grandchild}/cmdline").read_bytes()
        ):
            await asyncio.sleep(0.01)


@linux
async def test_a_peer_that_cannot_be_installed_or_started_does_not_keep_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fails(_folder: Path) -> None:
        raise NotInstalled("no network")

    async def works(_folder: Path) -> None:
        return

    def ends(_folder: Path, _upstream: str, _port: int) -> Launch:
        return Launch(("sh", "-c", "echo out of luck; exit 4"), None)

    peers = [Peer("Away", "1", "m", fails, ends), Peer("Broken", "2", "m", works, ends)]
    monkeypatch.setattr(comparing, "ours", lambda: theirs(peers[1], tmp_path))
    comparison = await comparing.compare(peers, SHORT, tmp_path)
    assert comparison.not_installed == {"Away 1": "it could not be installed: no network"}
    assert set(comparison.failed) == {OURS, "Broken 2"}
    assert comparison.failed["Broken 2"] == "NotStarted: it ended with 4: out of luck"
    assert comparison.status == A_MEASUREMENT_FAILED
