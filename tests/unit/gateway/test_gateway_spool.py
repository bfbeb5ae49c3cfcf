"""The spool: what was appended outlives the process, and is handed on once it is stored."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synaxis_gateway import spool as spool_module
from synaxis_gateway.spool import Spool, frame, unframe

HOLDER = """
import sys, time
from pathlib import Path
from synaxis_gateway.spool import Spool
spool = Spool(Path(sys.argv[1]), "holder")
for number in range(int(sys.argv[2])):
    spool.append(b'{"number": %d}' % number)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path, "own")


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.spool"))


def adopted(spool: Spool) -> list[bytes]:
    found = []
    for left in spool.abandoned():
        found += left.reports()
        left.remove()
    return found


def gone(folder: Path, *reports: bytes, name: str = "gone") -> None:
    """A gateway that appended `reports` and is no more."""
    other = Spool(folder, name)
    for report in reports:
        other.append(report)
    other.close()


@given(st.binary(min_size=1).filter(lambda report: b"\n" not in report and b"\r" not in report))
def test_a_framed_report_is_read_as_it_was(report: bytes) -> None:
    assert unframe(frame(report).removesuffix(b"\n")) == report


@given(st.binary(min_size=1, max_size=200), st.integers(min_value=1, max_value=20))
def test_a_torn_record_is_none(report: bytes, missing: int) -> None:
    whole = frame(report).removesuffix(b"\n")
    assert unframe(whole[: max(0, len(whole) - missing)]) is None


def test_an_appended_report_is_in_the_file_at_once(spool: Spool, tmp_path: Path) -> None:
    spool.append(b'{"a": 1}')
    (file,) = files(tmp_path)
    assert file.read_bytes() == frame(b'{"a": 1}')


def test_a_file_whose_reports_are_all_stored_is_emptied(spool: Spool, tmp_path: Path) -> None:
    segments = [spool.append(b"{}") for _ in range(3)]
    for segment in segments:
        assert segment is not None
        spool.stored(segment)
    (file,) = files(tmp_path)
    assert file.stat().st_size == 0


def test_reports_of_one_file_are_read_one_by_one(spool: Spool, tmp_path: Path) -> None:
    other = Spool(tmp_path, "gone")
    segment, *others = (other.append(report) for report in (b"1", b"2", b"3"))
    assert others == [segment, segment]
    other.close()
    assert adopted(spool) == [b"1", b"2", b"3"]


def test_a_report_that_was_cut_short_is_left_out_and_the_next_are_not(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Spool(tmp_path, "gone")
    assert other.append(b"1") is not None
    real_write, room = os.write, len(frame(b"2")) - 3

    def nearly_full(descriptor: int, data: bytes) -> int:
        return real_write(descriptor, data[:room])

    monkeypatch.setattr(os, "write", nearly_full)
    assert other.append(b"2") is None
    monkeypatch.setattr(os, "write", real_write)
    assert other.problem() is not None
    assert other.append(b"3") is not None
    assert other.append(b"4") is not None
    assert other.problem() is None
    other.close()
    assert adopted(spool) == [b"1", b"3", b"4"]


async def test_a_full_file_is_followed_by_another_and_removed_when_its_reports_are_stored_in_any_order(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_module, "SEGMENT_BYTES", 100)
    segments = [spool.append(b"x" * 60) for _ in range(3)]
    assert len(files(tmp_path)) == 3
    for segment in (segments[1], segments[0]):
        assert segment is not None
        spool.stored(segment)
    syncing = asyncio.create_task(spool.sync())
    async with asyncio.timeout(10):
        while len(files(tmp_path)) > 1:
            await asyncio.sleep(0.01)
    syncing.cancel()
    assert [file.name for file in files(tmp_path)] == ["00000003.spool"]


def test_a_spool_that_is_closed_removes_what_is_stored(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "brief")
    segments = [spool.append(b"x" * (spool_module.SEGMENT_BYTES - 100)) for _ in range(2)]
    for segment in segments:
        assert segment is not None
        spool.stored(segment)
    spool.close()
    assert list(tmp_path.iterdir()) == []


def test_what_a_gateway_left_is_found_in_order_and_removed(spool: Spool, tmp_path: Path) -> None:
    gone(tmp_path, b"1", b"2", b"3")
    assert adopted(spool) == [b"1", b"2", b"3"]
    assert [folder.name for folder in tmp_path.iterdir()] == ["own"]


def test_a_gateway_that_left_nothing_leaves_no_folder(tmp_path: Path) -> None:
    Spool(tmp_path, "brief").close()
    assert list(tmp_path.iterdir()) == []


def test_what_is_damaged_is_passed_over_and_the_rest_is_found(spool: Spool, tmp_path: Path) -> None:
    gone(tmp_path, b"1", b"2", b"3")
    (file,) = [path for path in files(tmp_path) if path.parent.name == "gone"]
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[0] + b"damaged\n" + lines[2] + frame(b"4")[:-3])
    assert adopted(spool) == [b"1", b"3"]


def test_two_that_look_at_once_do_not_both_get_what_was_left(spool: Spool, tmp_path: Path) -> None:
    gone(tmp_path, b"1")
    other = Spool(tmp_path, "other")
    (mine,) = list(spool.abandoned())
    assert list(other.abandoned()) == []
    mine.let_go()
    assert adopted(other) == [b"1"]


def test_a_living_gateway_keeps_its_folder_and_a_killed_one_loses_no_report(
    spool: Spool, tmp_path: Path
) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path), "500"], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    with holder.stdout:
        assert holder.stdout.readline() == "ready\n"
        assert adopted(spool) == []
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert adopted(spool) == [b'{"number": %d}' % number for number in range(500)]


def test_a_full_disk_is_told_of_and_when_there_is_room_again_it_goes_on(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_write = os.write

    def full(descriptor: int, data: bytes) -> int:
        return real_write(descriptor, data[:5])

    def none_left(_descriptor: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    spool.append(b"1")
    for failing in (full, none_left):
        monkeypatch.setattr(os, "write", failing)
        assert spool.append(b"lost") is None
        assert spool.problem() is not None
    monkeypatch.setattr(os, "write", real_write)
    assert spool.append(b"2") is not None
    assert spool.problem() is None
    spool.close()
    assert adopted(Spool(tmp_path, "next")) == [b"1", b"2"]
