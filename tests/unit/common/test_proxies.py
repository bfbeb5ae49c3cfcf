"""Who is reached through a proxy, and what an operator may say of it."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from synaxis_common.proxies import DIRECT, Exemption, Proxies, parse_exemptions, parse_proxy
from synaxis_common.settings import OutwardSettings

SECRET = "hunter2-of-the-proxy"


@pytest.mark.parametrize(
    ("url", "shown", "credentials"),
    [
        ("http://proxy.example:3128", "http://proxy.example:3128", None),
        (" http://10.0.0.8:8080/ ", "http://10.0.0.8:8080", None),
        ("http://[fd00::8]:8080", "http://[fd00::8]:8080", None),
        ("http://user:secret@proxy:3128", "http://proxy:3128", "user:secret"),
        ("http://user:p%40ss%2Fw%3Ard@proxy:3128", "http://proxy:3128", "user:p@ss/w:rd"),
        ("http://m%C3%BCller:gr%C3%BCn@proxy:3128", "http://proxy:3128", "müller:grün"),
        ("http://user@proxy:3128", "http://proxy:3128", "user:"),
    ],
)
def test_a_proxy_is_what_its_url_says(url: str, shown: str, credentials: str | None) -> None:
    proxy = parse_proxy(url)
    assert proxy.url == shown
    if credentials is None:
        assert proxy.authorization is None
    else:
        assert proxy.authorization is not None
        token = base64.b64encode(credentials.encode()).decode()
        assert proxy.authorization.get_secret_value() == f"Basic {token}"


@pytest.mark.parametrize(
    "url",
    [
        f"https://user:{SECRET}@proxy:3128",
        f"socks5://user:{SECRET}@proxy:3128",
        f"user:{SECRET}@proxy:3128",
        f"http://user:{SECRET}@proxy",
        f"http://user:{SECRET}@proxy:0",
        f"http://user:{SECRET}@proxy:99999",
        f"http://user:{SECRET}@:3128",
        f"http://user:{SECRET}@a proxy:3128",
        f"http://user:{SECRET}@proxy:3128/path",
        f"http://user:{SECRET}/more@proxy:3128",
        f"http://user:12#{SECRET}@proxy:3128",
        f"http://user:{SECRET}%0d%0aX: y@proxy:3128",
        f"http://us%3Aer:{SECRET}@proxy:3128",
        f"http://us%ffer:{SECRET}@proxy:3128",
        f"http://[::1:{SECRET}",
        SECRET,
    ],
)
def test_what_is_no_proxy_is_refused_without_a_word_of_it(url: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        OutwardSettings(upstream_proxy=url)
    assert "upstream_proxy" in str(refusal.value)
    assert SECRET not in str(refusal.value)


def test_a_setting_shows_no_password_and_blank_is_no_proxy() -> None:
    settings = OutwardSettings(upstream_proxy=f"http://user:{SECRET}@proxy:3128")
    assert SECRET not in f"{settings!r} {settings.proxies!r} {settings.model_dump()}"
    assert OutwardSettings(upstream_proxy=" ").proxies == DIRECT
    assert OutwardSettings().proxies.to("provider.example", 443) is None


@pytest.mark.parametrize(
    ("exempt", "host", "is_exempt"),
    [
        ("", "example.com", False),
        ("*", "example.com", True),
        ("*", "10.0.0.8", True),
        ("example.com", "example.com", True),
        ("example.com", "EXAMPLE.com.", True),
        ("Example.COM", "api.example.com", True),
        ("example.com", "notexample.com", False),
        ("example.com", "example.com.evil.net", False),
        (".example.com", "api.example.com", True),
        (".example.com", "example.com", False),
        ("*.example.com", "a.b.example.com", True),
        ("localhost", "localhost", True),
        ("other, example.com ,", "example.com", True),
        ("10.0.0.8", "10.0.0.8", True),
        ("10.0.0.8", "10.0.0.80", False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.1.2.3/8", "10.9.9.9", True),
        ("10.0.0.0/8", "11.0.0.1", False),
        ("10.0.0.0/8", "ten.example", False),
        ("10.0.0.0/8", "::ffff:10.0.0.1", True),
        ("fd00::/8", "fd00::1", True),
        ("fd00::/8", "10.0.0.1", False),
        ("[::1]", "::1", True),
        ("::1", "0:0:0:0:0:0:0:1", True),
        ("example.com:443", "example.com", True),
        ("example.com:8443", "example.com", False),
        ("[::1]:443", "::1", True),
        ("10.0.0.8:443", "10.0.0.8", True),
        ("münchen.example", "xn--mnchen-3ya.example", True),
        ("xn--mnchen-3ya.example", "münchen.example", True),
    ],
)
def test_exemptions_mean_what_they_do_elsewhere(exempt: str, host: str, is_exempt: bool) -> None:
    proxies = Proxies(parse_proxy("http://proxy:3128"), parse_exemptions(exempt))
    assert (proxies.to(host, 443) is None) == is_exempt


def test_a_url_says_host_and_port() -> None:
    proxies = Proxies(parse_proxy("http://proxy:3128"), parse_exemptions("example.com:443,10.0.0.8:80"))
    assert proxies.to_url("https://example.com/v1") is None
    assert proxies.to_url("https://example.com:8443/v1") is proxies.proxy
    assert proxies.to_url("http://10.0.0.8/v1") is None
    assert DIRECT.to_url("https://example.com/v1") is None


@pytest.mark.parametrize(
    "exempt",
    [
        "10.0.0.0/33",
        "10.0.0/8",
        "10.0.0.300",
        "exam ple.com",
        "example..com",
        "example.com:0",
        "example.com:x",
        "example.com:1:2",
        "api.*.com",
        f"http://user:{SECRET}@proxy:3128",
    ],
)
def test_what_is_no_exemption_is_refused_by_its_place(exempt: str) -> None:
    with pytest.raises(ValidationError, match="entry 2") as refusal:
        OutwardSettings(upstream_no_proxy=f"localhost,{exempt}")
    assert SECRET not in str(refusal.value)


@given(st.text())
def test_any_text_is_a_proxy_or_refused_without_being_told(text: str) -> None:
    said = None
    try:
        parse_proxy(text)
    except ValueError as refusal:
        said = str(refusal)
    assert said is None or said.startswith(("must be http://", "has a user or password"))


@given(st.text(), st.text())
def test_any_text_is_exemptions_or_refused_by_their_place(text: str, host: str) -> None:
    said: str | None = None
    found: tuple[Exemption, ...] = ()
    try:
        found = parse_exemptions(text)
    except ValueError as refusal:
        said = str(refusal)
    assert said is None or said.startswith("entry ")
    assert all(one.covers(host, 443) in {True, False} for one in found)
