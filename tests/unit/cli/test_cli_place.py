"""Where Postgres goes when the way to its data is closed."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from synaxis_cli.embedded import place


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A directory that nobody's permissions but its own close."""
    for directory in (tmp_path, *tmp_path.parents):
        if directory == Path(tempfile.gettempdir()):
            break
        directory.chmod(0o755)
    return tmp_path


def test_one_closed_directory_on_the_way_closes_all_below_it(world: Path) -> None:
    below = world / "a" / "b" / "c"
    below.mkdir(parents=True)
    assert place.is_open(below)
    (world / "a").chmod(0o700)
    assert not place.is_open(below)
    assert place.is_open(world / "a")


def test_the_place_elsewhere_is_the_same_again_until_the_data_directory_is_thrown_away(
    tmp_path: Path,
) -> None:
    wanted, home = tmp_path / "postgres", tmp_path / "home"
    wanted.mkdir()
    found = place.elsewhere(wanted, home)
    (found / "data").write_text("precious")
    assert place.elsewhere(wanted, home) == found
    assert (found / "data").read_text() == "precious"
    (wanted / place.MARK).unlink()
    assert place.elsewhere(wanted, home) == found
    assert not (found / "data").exists()


def test_two_data_directories_have_two_places(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    assert place.elsewhere(tmp_path / "one", tmp_path) != place.elsewhere(tmp_path / "two", tmp_path)


def test_the_binaries_are_copied_once(tmp_path: Path) -> None:
    installed, home = tmp_path / "pginstall", tmp_path / "home"
    (installed / "bin").mkdir(parents=True)
    (installed / "bin" / "postgres").write_text("first")
    copied = place.copied(installed, home)
    (installed / "bin" / "postgres").write_text("second")
    assert place.copied(installed, home) == copied
    assert (copied / "bin" / "postgres").read_text() == "first"
    assert [entry.name for entry in home.iterdir()] == [copied.name]
