"""What a comparison with other gateways says, and what it never installs."""

from __future__ import annotations

import json

import pytest
from tests.bench.figures import Figures
from tests.bench.peers import install, litellm, tensorzero, versions
from tests.bench.peers.table import OURS, lines, ratio, refusals

FOUND: dict[str, Figures] = {
    OURS: {
        "clients_32.requests_per_s": 3_000.0,
        "clients_32.added_p50_ms": 2.0,
        "clients_32.gateway_share": 0.9,
    },
    "Other": {
        "clients_32.requests_per_s": 1_500.0,
        "clients_32.added_p50_ms": 8.0,
        "clients_32.gateway_share": 1.0,
    },
}


@pytest.mark.parametrize("version", sorted(versions.COMPROMISED["litellm"]))
def test_a_compromised_release_is_never_installed(version: str) -> None:
    with pytest.raises(versions.Compromised):
        versions.requirement("litellm", version, extra="proxy")


def test_what_is_pinned_may_be_installed() -> None:
    assert versions.requirement("litellm", versions.LITELLM, extra="proxy") == (
        f"litellm[proxy]=={versions.LITELLM}"
    )
    assert versions.requirement("tensorzero", versions.TENSORZERO) == f"tensorzero=={versions.TENSORZERO}"


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        (3_000.0, 1_500.0, "2"),
        (50.0, 150.0, "0.333"),
        (12_000.0, 100.0, "120"),
        (1.0, -0.1, ""),
        (0.0, 1.0, ""),
        ("the gateway", 1.0, ""),
    ],
)
def test_a_ratio_is_told_only_where_it_says_something(ours: float | str, theirs: float, said: str) -> None:
    assert ratio(ours, theirs) == said


def test_the_table_has_each_figure_with_its_ratio_and_says_who_is_missing() -> None:
    told = lines(FOUND, {"Third": "it could not be installed: npm not found"}, [OURS, "Other", "Third"])
    (rate,) = (line.split() for line in told if line.strip().startswith("requests/s  ") and "3,000" in line)
    assert rate == ["requests/s", "3,000", "1,500", "2"]
    (share,) = (line.split() for line in told if "share of its core" in line and "0.9" in line)
    assert share[-2:] == ["0.9", "1"], "shares are not compared"
    assert "Third: not measured: it could not be installed: npm not found" in told


def test_answers_that_were_none_are_told() -> None:
    figures: Figures = {"clients_1.statuses.200": 5, "clients_1.statuses.500": 2, "clients_32.statuses.0": 0}
    assert refusals(figures) == ["clients_1: 2 answers with 500"]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (
            "Collecting x\nERROR: No matching distribution found for x\n",
            "ERROR: No matching distribution found for x",
        ),
        (
            "npm error code E404\nnpm error A complete log of this run can be found in: /x\n",
            "npm error code E404",
        ),
        ("nothing of use", "pip ended with 1"),
    ],
)
def test_why_something_could_not_be_installed_is_what_its_installer_said(said: str, reason: str) -> None:
    assert install.reason(said, "pip ended with 1") == reason


def test_peers_are_configured_for_the_upstream_at_hand() -> None:
    url = "http://127.0.0.1:1/v1"
    (model,) = json.loads(json.dumps(litellm.configuration(url)))["model_list"]
    assert model["litellm_params"]["api_base"] == url
    assert f'api_base = "{url}/"' in tensorzero.configuration(url)
