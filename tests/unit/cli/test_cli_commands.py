"""The commands that ask the admin API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from typer.testing import CliRunner

from synaxis_cli.main import app
from synaxis_cli.state import DataDirectory

PAGES: dict[str, Any] = {
    "/admin/v1/providers?limit=1000": {
        "data": [
            {
                "id": "on-1",
                "is_on": True,
                "off_reason": None,
                "last_poll_outcome": "ok",
                "base_url": "https://a",
            },
            {
                "id": "off-1",
                "is_on": False,
                "off_reason": "no_key",
                "last_poll_outcome": None,
                "base_url": None,
            },
        ],
        "next_cursor": "2 and/more",
    },
    "/admin/v1/providers?limit=1000&cursor=2%20and/more": {
        "data": [
            {
                "id": "on-2",
                "is_on": True,
                "off_reason": None,
                "last_poll_outcome": None,
                "base_url": "https://b",
            }
        ],
        "next_cursor": None,
    },
    "/admin/v1/tenants?limit=1000": {"data": [{"id": "acme", "name": "Acme"}], "next_cursor": None},
    "/admin/v1/route": {"candidates": [{"provider_id": "on-1"}]},
}


class Admin(BaseHTTPRequestHandler):
    """An admin API that knows its key and a few pages."""

    def do_GET(self) -> None:
        known = self.headers["Authorization"] == "Bearer the-key"
        body: Any = {"error": {"message": "The admin key is not valid."}} if not known else PAGES[self.path]
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(200 if known else 401)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture
def admin(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Admin) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setenv("SYNAXIS_URL", url)
        monkeypatch.setenv("SYNAXIS_ADMIN_KEY", "the-key")
        yield url
        server.shutdown()
        thread.join()


def test_providers_are_listed_from_all_pages(admin: str) -> None:
    result = CliRunner().invoke(app, ["providers"])
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.output.splitlines()] == ["on-1", "on-2"]
    everybody = CliRunner().invoke(app, ["providers", "--all"]).output
    assert "off: no_key" in everybody


def test_the_environment_is_not_needed_where_up_was_started(
    admin: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("SYNAXIS_URL")
    monkeypatch.delenv("SYNAXIS_ADMIN_KEY")
    with DataDirectory(tmp_path / "data") as directory:
        directory.read_or_make()
        directory.update(url=admin, admin_key="the-key")
    result = CliRunner().invoke(app, ["tenants", "--data-dir", str(tmp_path / "data")])
    assert result.output.split() == ["acme", "Acme"]


def test_route_shows_the_plan_as_json(admin: str) -> None:
    result = CliRunner().invoke(app, ["route", "some-model"])
    assert json.loads(result.output) == PAGES["/admin/v1/route"]


def test_a_wrong_key_is_an_error_that_says_so(admin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNAXIS_ADMIN_KEY", "another-key")
    result = CliRunner().invoke(app, ["tenants"])
    assert result.exit_code == 1
    assert "401: The admin key is not valid." in result.output


def test_where_nothing_was_started_nothing_is_made_and_the_way_on_is_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("SYNAXIS_URL", raising=False)
    monkeypatch.delenv("SYNAXIS_ADMIN_KEY", raising=False)
    result = CliRunner().invoke(app, ["models", "--data-dir", str(tmp_path / "data")])
    assert result.exit_code == 1
    assert "run `synaxis up`" in result.output
    assert not (tmp_path / "data").exists()
