"""What `synaxis up` says when everything is ready."""

from __future__ import annotations

import dataclasses
import json
import shlex
from typing import Any

import pytest

from synaxis_cli.announce import Ready, as_json, as_text, chat_model

READY = Ready(
    url="http://127.0.0.1:8080",
    admin_key="sk-syn-admin-1",
    tenant_key="sk-syn-1",
    nats_url="nats://127.0.0.1:4222",
    database_url="postgresql://synaxis:secret@127.0.0.1:5432/postgres",
    monitoring_url="http://127.0.0.1:8222",
    providers=("nvidia",),
    models=80,
    chat_model="gemma-3-27b-it",
    pids={"nats-server": 1, "postgres": 2, "registry": [3], "gateway": [4], "sync": [5], "discovery": [6]},
    demo_url=None,
)


def model(model_id: str, price: str | None = "1", **more: Any) -> dict[str, Any]:
    """A model as `/v1/models` lists it: one that talks, unless told otherwise."""
    pricing = None if price is None else {"input": price, "output": price}
    shape = {"input_modalities": ["text"], "output_modalities": ["text"], **more.pop("architecture", {})}
    return {"id": model_id, "pricing": pricing, "capabilities": ["tools"], "architecture": shape, **more}


def command(text: str, start: str) -> list[str]:
    """The words of the command in `text` that begins with `start`, as a shell takes them."""
    return shlex.split(text[text.index(start) :].partition("\n\n")[0])


def test_a_script_gets_one_line_with_just_the_agreed_names() -> None:
    line = as_json(READY)
    assert "\n" not in line
    assert json.loads(line) == {
        "url": "http://127.0.0.1:8080",
        "admin_key": "sk-syn-admin-1",
        "tenant_key": "sk-syn-1",
        "nats_url": "nats://127.0.0.1:4222",
        "database_url": "postgresql://synaxis:secret@127.0.0.1:5432/postgres",
        "monitoring_url": "http://127.0.0.1:8222",
        "providers": ["nvidia"],
        "models": 80,
        "pids": READY.pids,
    }


def test_the_printed_command_asks_a_model_with_the_printed_key() -> None:
    words = command(as_text(READY), "curl ")
    assert words[1] == "http://127.0.0.1:8080/v1/chat/completions"
    assert "Authorization: Bearer sk-syn-1" in words
    body = json.loads(words[words.index("-d") + 1])
    assert body == {"model": "gemma-3-27b-it", "messages": [{"role": "user", "content": "Hello"}]}


def test_a_demo_is_called_one_and_shows_how_to_make_it_fail() -> None:
    assert "demo" not in as_text(READY)
    text = as_text(dataclasses.replace(READY, demo_url="http://127.0.0.1:7001"))
    assert "demo providers, not language models" in text
    words = command(text, "curl -X POST")
    assert words[3] == "http://127.0.0.1:7001/demo/fail"
    assert json.loads(words[-1]) == {"mode": "500"}


def test_without_a_model_no_command_is_printed_that_cannot_work() -> None:
    text = as_text(dataclasses.replace(READY, models=0, chat_model=None))
    assert "curl" not in text
    assert "No model can be used yet" in text


def test_many_providers_are_counted_and_not_all_named() -> None:
    text = as_text(dataclasses.replace(READY, providers=tuple(f"p{number}" for number in range(50))))
    assert "p7 and 42 more" in text


@pytest.mark.parametrize(
    ("models", "chosen"),
    [
        ([], None),
        ([model("dear", "3"), model("cheap", "0.1"), model("medium", "1")], "cheap"),
        ([model("free", "0"), model("paid", "5")], "paid"),
        ([model("unpriced", None), model("paid", "5")], "paid"),
        ([model("free", "0")], "free"),
        ([model("embedder", "0.01", capabilities=[]), model("talker", "5")], "talker"),
        ([model("painter", architecture={"output_modalities": ["image"]})], None),
        ([model("listener", architecture={"input_modalities": ["audio"]})], None),
        ([model("bare", None, architecture={"input_modalities": [], "output_modalities": []})], "bare"),
    ],
)
def test_the_model_to_try_is_the_cheapest_that_surely_talks(
    models: list[dict[str, Any]], chosen: str | None
) -> None:
    assert chat_model(models) == chosen
