"""Which environment each child gets: a secret goes only to those who need it."""

from __future__ import annotations

from collections.abc import Mapping

_MACHINE = frozenset(
    {
        "PATH",
        "HOME",
        "LANG",
        "TZ",
        "TMPDIR",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "REQUESTS_CA_BUNDLE",
        "LD_LIBRARY_PATH",
        "VIRTUAL_ENV",
    }
)
_MACHINE_PREFIXES = ("LC_", "PYTHON")
_SECRET_OF = {
    "SYNAXIS_DATABASE_URL": {"registry"},
    "SYNAXIS_ADMIN_KEY": {"registry", "gateway"},
    "SYNAXIS_KEY_PEPPER": {"gateway"},
    "SYNAXIS_WEBHOOK_SECRET": {"registry"},
    "SYNAXIS_UPSTREAM_PROXY": {"gateway", "discovery", "sync"},
}
_HOLDS_PROVIDER_KEYS = frozenset({"gateway", "discovery"})


def of_service(service: str, environment: Mapping[str, str]) -> dict[str, str]:
    """What `service` may see of `environment`.

    Gateway and discovery see all that is not another service's secret, since any variable may hold a
    provider's key; the others only Synaxis' own settings and what every program needs.
    """
    return {
        name: value
        for name, value in environment.items()
        if service in _SECRET_OF.get(name, {service})
        and (service in _HOLDS_PROVIDER_KEYS or name.startswith("SYNAXIS_") or _is_of_machine(name))
    }


def of_demo(environment: Mapping[str, str]) -> dict[str, str]:
    """What a demo provider may see: nothing of ours."""
    return {name: value for name, value in environment.items() if _is_of_machine(name)}


def _is_of_machine(name: str) -> bool:
    return name in _MACHINE or name.startswith(_MACHINE_PREFIXES)
