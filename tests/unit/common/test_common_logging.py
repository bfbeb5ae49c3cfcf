"""No secret reaches a log line, whoever writes it."""

import io
import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synaxis_common import ids
from synaxis_common.logging import REDACTED, configure_logging, get_logger, scrub

KEYS = [
    "sk-proj-Abcdefghijklmnop1234",
    "nvapi-abcdefghijklmnopqrstuvwx",
    "hf_abcdefghijklmnopqrstuvwxyz",
    "gsk_abcdefghijklmnopqrstuv",
]


@pytest.mark.parametrize("key", [*KEYS, pytest.param(ids.new_tenant_key().key, id="one of ours")])
def test_a_key_is_taken_out_of_a_text(key: str) -> None:
    assert key not in scrub(f"upstream said: Incorrect API key provided: {key}. You can find")


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("Authorization: Bearer abc.def", "abc.def"),
        ("Proxy-Authorization: Basic dXNlcjpodW50ZXIy", "dXNlcjpodW50ZXIy"),
        ("nats://user:hunter2@10.0.0.1:4222 refused", "hunter2"),
        ('{"api_key": "zzz111"}', "zzz111"),
    ],
)
def test_credentials_in_other_forms_are_taken_out(text: str, secret: str) -> None:
    assert secret not in scrub(text)
    assert REDACTED in scrub(text)


@given(st.text(max_size=2000))
def test_scrubbing_never_fails_and_keeps_its_bound(text: str) -> None:
    assert len(scrub(text, 100)) <= 100


def test_our_own_and_the_libraries_lines_are_json_without_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    monkeypatch.setattr("sys.stderr", stream)
    try:
        configure_logging("gateway", "INFO")
        get_logger("test").info("seen", header=f"Bearer {KEYS[0]}")
        try:
            raise ValueError(f"bad header {KEYS[1]}")
        except ValueError:
            logging.getLogger("aiohttp.server").exception("Error handling request %s", KEYS[2])
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["service"] for line in lines] == ["gateway", "gateway"]
    assert lines[0]["event"] == "seen"
    assert "ValueError" in lines[1]["event"]
    assert not any(key in stream.getvalue() for key in KEYS)
