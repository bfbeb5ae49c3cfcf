"""What `synaxis up` keeps in its data directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from synaxis_cli.state import AlreadyRunning, DataDirectory, DirectoryUnusable


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_secrets_are_made_once_and_closed_to_others(tmp_path: Path) -> None:
    with DataDirectory(tmp_path / "data") as directory:
        first = directory.read_or_make()
        directory.update(tenant_key="sk-syn-1", demo_ports=(7001, 7002))
    with DataDirectory(tmp_path / "data") as directory:
        again = directory.read_or_make()
    assert (again.admin_key, again.key_pepper) == (first.admin_key, first.key_pepper)
    assert (again.tenant_key, again.demo_ports) == ("sk-syn-1", (7001, 7002))
    assert len({first.admin_key, first.key_pepper}) == 2
    assert mode(tmp_path / "data" / "state.json") == 0o600
    assert mode(tmp_path / "data") & 0o066 == 0


def test_two_systems_never_share_a_directory(tmp_path: Path) -> None:
    with (
        DataDirectory(tmp_path / "data"),
        pytest.raises(AlreadyRunning, match="another `synaxis up`"),
        DataDirectory(tmp_path / "data"),
    ):
        pytest.fail("it was taken twice")
    with DataDirectory(tmp_path / "data") as directory:
        assert directory.read_or_make().admin_key


def test_a_directory_that_was_there_keeps_its_permissions(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with DataDirectory(tmp_path):
        assert mode(tmp_path) == 0o755


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"admin_key": "x"}', '{"demo_ports": 7}'])
def test_a_damaged_file_is_reported_and_not_replaced(tmp_path: Path, content: str) -> None:
    (tmp_path / "state.json").write_text(content)
    with DataDirectory(tmp_path) as directory, pytest.raises(DirectoryUnusable, match="damaged"):
        directory.read_or_make()
    assert (tmp_path / "state.json").read_text() == content


def test_what_a_later_version_kept_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"admin_key": "a", "key_pepper": "p", "moon_phase": 3}')
    with DataDirectory(tmp_path) as directory:
        assert directory.read().admin_key == "a"


def test_a_place_where_nothing_can_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(DirectoryUnusable, match="SYNAXIS_DATA_DIR"),
        DataDirectory(tmp_path / "file" / "data"),
    ):
        pytest.fail("it was made")
