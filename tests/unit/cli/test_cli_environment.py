"""Which of our children may see which secret."""

from __future__ import annotations

import pytest

from synaxis_cli.environment import of_demo, of_service

EVERYTHING = {
    "PATH": "/bin",
    "LC_ALL": "C",
    "PYTHONPATH": "/somewhere",
    "NVIDIA_API_KEY": "a provider's",
    "MY_OWN_VARIABLE": "another provider's",
    "SYNAXIS_NATS_URL": "nats://127.0.0.1:4222",
    "SYNAXIS_DATABASE_URL": "postgresql://user:password@127.0.0.1/synaxis",
    "SYNAXIS_ADMIN_KEY": "an operator's",
    "SYNAXIS_KEY_PEPPER": "the hashes'",
    "SYNAXIS_UPSTREAM_PROXY": "http://user:password@proxy:3128",
}
PROVIDER_KEYS = {"NVIDIA_API_KEY", "MY_OWN_VARIABLE"}
MACHINE = {"PATH", "LC_ALL", "PYTHONPATH"}


@pytest.mark.parametrize(
    ("service", "secrets"),
    [
        (
            "gateway",
            PROVIDER_KEYS | {"SYNAXIS_ADMIN_KEY", "SYNAXIS_KEY_PEPPER", "SYNAXIS_UPSTREAM_PROXY"},
        ),
        ("discovery", PROVIDER_KEYS | {"SYNAXIS_UPSTREAM_PROXY"}),
        ("registry", {"SYNAXIS_DATABASE_URL", "SYNAXIS_ADMIN_KEY"}),
        ("sync", {"SYNAXIS_UPSTREAM_PROXY"}),
    ],
)
def test_a_service_sees_the_secrets_that_it_needs_and_no_other(service: str, secrets: set[str]) -> None:
    assert set(of_service(service, EVERYTHING)) == MACHINE | {"SYNAXIS_NATS_URL"} | secrets


def test_a_demo_provider_sees_nothing_of_ours() -> None:
    assert set(of_demo(EVERYTHING)) == MACHINE
