"""Where requests to providers may go."""

import aiohttp
import pytest

from synaxis_common import egress


@pytest.mark.parametrize(
    "url",
    [
        "http://api.example.com/v1",
        "https://127.0.0.1/v1",
        "https://10.0.0.8/v1",
        "https://[::1]/v1",
        "https://[::ffff:10.0.0.8]/v1",
        "https://0.0.0.0/v1",
        "https://localhost/v1",
        "https://metadata.internal/v1",
        "https://user:secret@api.example.com/v1",
        "https://api.example.com/v1?key=1",
        "https://${ACCOUNT}.example.com/v1",
        "ftp://api.example.com/v1",
        "https:///v1",
        "https://[::1/v1",
        "not a url",
        "https://localhost./v1",
        "https://127.1/v1",
        "https://127.0.0.1./v1",
        "https://2130706433/v1",
        "https://0x7f.1/v1",
        "https://0x7f000001/v1",
        "https://１２７.0.0.1/v1",
        "https://a b.example/v1",
        "https://a..example/v1",
    ],
)
def test_a_base_url_that_could_take_a_key_elsewhere_is_refused(url: str) -> None:
    with pytest.raises(egress.ForbiddenAddress):
        egress.check_url(url, allow_private=False)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9000/v1", "https://10.1.2.3/v1", "http://vllm.internal:8000/v1"]
)
def test_private_addresses_pass_where_an_operator_allows_them(url: str) -> None:
    egress.check_url(url, allow_private=True)


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest",
        "http://169.254.169.254./latest",
        "http://2852039166/latest",
        "http://0xa9.254.169.254/latest",
        "http://0.0.0.0/v1",
        "http://0/v1",
        "http://[fe80::1]/v1",
        "http://[::ffff:169.254.169.254]/",
    ],
)
def test_link_local_addresses_are_never_allowed(url: str) -> None:
    with pytest.raises(egress.ForbiddenAddress):
        egress.check_url(url, allow_private=True)


def test_a_public_https_url_passes() -> None:
    egress.check_url("https://integrate.api.nvidia.com/v1", allow_private=False)


async def test_a_name_that_resolves_to_a_private_address_is_not_connected_to() -> None:
    async with egress.client_session(allow_private=False) as session:
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.get("http://localhost:9/", allow_redirects=False)
