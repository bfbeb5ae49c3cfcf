"""The providers of a chaos run: what they say they used is what they write down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientError
from aiohttp.test_utils import TestClient, TestServer
from tests.chaos.auditor import MARKER, Auditor, Billed, read_journal
from tests.chaos.world import PRICES, PROVIDER_KEYS

REQUESTS = 60


async def answers_of(journal: Path, *, lie: bool = False, stream: bool) -> dict[str, bytes | None]:
    """What an auditor answered to many requests, by their ids; None where the connection was closed."""
    found: dict[str, bytes | None] = {}
    marker = json.dumps({"tenant": "acme", "key": 0, "n": 1, "lie": lie, "strict": False})
    body = {
        "model": "talker-9",
        "messages": [{"role": "user", "content": f"{MARKER}{marker}\n{'x' * 40}"}],
        "max_tokens": 8,
        "stream": stream,
    }
    with journal.open("a") as output:
        async with TestClient(TestServer(Auditor(output, 3).app())) as client:
            for number in range(REQUESTS):
                name = f"request-{number}"
                headers = {"x-request-id": name, "authorization": f"Bearer {PROVIDER_KEYS['alpha'][1]}"}
                try:
                    async with client.post("/alpha/v1/chat/completions", json=body, headers=headers) as got:
                        found[name] = await got.read()
                except ClientError:
                    found[name] = None
    return found


@pytest.fixture(autouse=True)
def without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    async def at_once(_: float) -> None:
        """Nobody waits here for a slow provider."""

    monkeypatch.setattr("tests.chaos.auditor.asyncio.sleep", at_once)


def usage_in(answer: bytes) -> dict[str, Any] | None:
    for part in answer.decode().split("\n\n"):
        text = part.removeprefix("data: ").strip()
        if text.startswith("{") and "usage" in (said := json.loads(text)):
            usage: dict[str, Any] = said["usage"]
            return usage
    return None


@pytest.mark.parametrize("stream", [False, True])
async def test_the_journal_holds_what_was_told_and_what_was_not(tmp_path: Path, stream: bool) -> None:
    answers = await answers_of(tmp_path / "journal", stream=stream)
    journal = {one.request_id: one for one in read_journal(tmp_path / "journal")}
    assert journal.keys() == answers.keys()
    told = 0
    for name, answer in answers.items():
        billed = journal[name]
        usage = usage_in(answer) if answer else None
        assert billed.usage_said == (usage is not None) or not billed.is_billed
        if usage is not None:
            told += 1
            assert (usage["prompt_tokens"], usage["completion_tokens"]) == (billed.prompt, billed.completion)
            assert billed.is_complete
    assert REQUESTS / 2 < told < REQUESTS


async def test_a_provider_that_lies_bills_three_times_what_it_may_have_said(tmp_path: Path) -> None:
    await answers_of(tmp_path / "journal", lie=True, stream=False)
    most = max(one.completion for one in read_journal(tmp_path / "journal") if one.usage_said)
    assert most > 8


def test_a_cost_is_exact() -> None:
    billed = Billed(0, "r", "alpha", "talker-9", "acme", 0, False, 0.0, 0.0, prompt=7, completion=3)
    price = PRICES["alpha", "talker-9"]
    assert billed.cost * 1_000_000 == 7 * price.input + 3 * price.output
