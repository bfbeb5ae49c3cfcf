"""Which variables may hold a provider's key, and which switch a provider on."""

import pytest

from synaxis_common import key_variables


@pytest.mark.parametrize("name", ["NVIDIA_API_KEY", "HF_TOKEN", "OPENROUTER_API_KEY", "ZAI_API_KEY"])
def test_a_providers_own_variable_switches_it_on(name: str) -> None:
    assert key_variables.switches_on(name)


@pytest.mark.parametrize(
    "name", ["GITHUB_TOKEN", "GITLAB_TOKEN", "GOOGLE_APPLICATION_CREDENTIALS", "AWS_SECRET_ACCESS_KEY"]
)
def test_a_variable_that_other_programs_set_switches_nothing_on_but_may_be_named(name: str) -> None:
    assert not key_variables.switches_on(name)
    assert not key_variables.is_forbidden(name)


@pytest.mark.parametrize(
    "name",
    ["SYNAXIS_ADMIN_KEY", "DATABASE_URL", "NATS_URL", "PGPASSWORD", "PATH", "HOME", "", "lower_case", "A B"],
)
def test_our_own_and_the_machines_variables_are_never_read_as_a_key(name: str) -> None:
    assert key_variables.is_forbidden(name)
    assert key_variables.find_key([name], {name: "secret"}) is None


def test_the_first_variable_that_is_set_holds_the_key() -> None:
    environment = {"GOOGLE_API_KEY": "  ", "GEMINI_API_KEY": "second"}
    assert key_variables.find_key(["GOOGLE_API_KEY", "GEMINI_API_KEY"], environment) == "second"
    assert key_variables.find_key(["OTHER_API_KEY"], environment) is None
