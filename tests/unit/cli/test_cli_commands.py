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
    "/admin/v1/tenants/acme%2Feu/limits?limit=1000": {
        "data": [
            {
                "model": "*",
                "used_requests": 7,
                "allowed_rpm": 60,
                "used_tokens": 0,
                "allowed_tpm": None,
                "requests_at_once": 2,
                "allowed_concurrency": 5,
                "spent_usd": "4.10",
                "monthly_budget_usd": "10",
                "budget_percent": 41.0,
                "allowed": True,
            },
            {
                "model": "talker-2",
                "used_requests": 0,
                "allowed_rpm": None,
                "used_tokens": 0,
                "allowed_tpm": None,
                "requests_at_once": 0,
                "allowed_concurrency": None,
                "spent_usd": "0",
                "monthly_budget_usd": None,
                "budget_percent": None,
                "allowed": False,
            },
        ],
        "next_cursor": None,
    },
    "/admin/v1/usage?group_by=tenant,provider&tenant=a%26b&from=2026-07-01": {
        "data": [
            {
                "tenant": "a&b",
                "provider": None,
                "requests": 12,
                "input_tokens": 3400,
                "output_tokens": 56,
                "cost_usd": "0.0078",
                "requests_without_price": 0,
                "requests_estimated": 0,
            }
        ],
        "next_cursor": None,
    },
    "/admin/v1/dead-letters?limit=1000": {
        "data": [
            {
                "id": 7,
                "at": "2026-07-01T10:00:00.123456+00:00",
                "subject": "synaxis.usage.v1",
                "size": 12,
                "reason": "not a valid message",
            }
        ],
        "next_cursor": None,
    },
    "/admin/v1/dead-letters/7/replay": {"replayed": 7, "subject": "synaxis.usage.v1", "sequence": 3},
    "/admin/v1/dead-letters/7": {"deleted": 7},
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

    def do_DELETE(self) -> None:
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


def test_the_limits_of_a_tenant_are_shown_beside_what_is_used_of_them(admin: str) -> None:
    result = CliRunner().invoke(app, ["tenants", "limits", "acme/eu"])
    assert result.exit_code == 0
    head, of_all, of_one = (
        [part.strip() for part in line.split("  ") if part] for line in result.output.splitlines()
    )
    assert head == ["model", "requests/min", "tokens/min", "at once", "USD this month", "of it", "allowed"]
    assert of_all == ["*", "7 / 60", "0 / -", "2 / 5", "4.10 / 10", "41 %", "yes"]
    assert of_one == ["talker-2", "0 / -", "0 / -", "0 / -", "0 / -", "-", "no"]


def test_usage_is_asked_for_as_the_options_say_and_shown_as_a_table(admin: str) -> None:
    options = ["--group-by", "tenant,provider", "--tenant", "a&b", "--from", "2026-07-01"]
    result = CliRunner().invoke(app, ["usage", *options])
    assert [line.split() for line in result.output.splitlines()] == [
        ["tenant", "provider", "requests", "input_tokens", "output_tokens", "cost_usd"],
        ["a&b", "-", "12", "3400", "56", "0.0078"],
    ]


@pytest.mark.parametrize("command", [["dead-letters"], ["dead-letters", "list"]])
def test_dead_letters_are_listed_with_the_reason(admin: str, command: list[str]) -> None:
    result = CliRunner().invoke(app, command)
    assert result.output.split() == [
        *("7", "2026-07-01T10:00:00", "synaxis.usage.v1", "12", "B", "not", "a", "valid", "message")
    ]


def test_a_dead_letter_is_replayed_or_deleted_by_its_number(admin: str) -> None:
    replayed = CliRunner().invoke(app, ["dead-letters", "replay", "7"])
    assert replayed.output == "7 was sent to synaxis.usage.v1 again\n"
    assert CliRunner().invoke(app, ["dead-letters", "delete", "7"]).output == "7 is gone\n"
    assert CliRunner().invoke(app, ["dead-letters", "delete", "seven"]).exit_code == 2


@pytest.mark.parametrize("before", [True, False])
def test_a_data_directory_may_be_named_before_or_after_the_last_word_of_a_command(
    admin: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, before: bool
) -> None:
    monkeypatch.delenv("SYNAXIS_URL")
    monkeypatch.delenv("SYNAXIS_ADMIN_KEY")
    with DataDirectory(tmp_path / "data") as directory:
        directory.read_or_make()
        directory.update(url=admin, admin_key="the-key")
    option = ["--data-dir", str(tmp_path / "data")]
    words = ["dead-letters", *option, "list"] if before else ["dead-letters", "list", *option]
    result = CliRunner().invoke(app, words)
    assert result.output.split()[0] == "7"


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
