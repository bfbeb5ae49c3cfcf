"""What `synaxis up` says once everything is ready: to a person, or to a script."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any


@dataclass(frozen=True, slots=True)
class Ready:
    """A running system."""

    url: str
    admin_key: str
    tenant_key: str
    nats_url: str
    database_url: str
    monitoring_url: str | None
    """None: the nats-server is not ours."""
    providers: tuple[str, ...]
    models: int
    chat_model: str | None
    """One that answers now; None: there is none."""
    pids: Mapping[str, Any]
    demo_url: str | None
    """The root of the cheaper demo provider; None: no demo."""


def as_json(ready: Ready) -> str:
    """One line for scripts."""
    return json.dumps(
        {
            "url": ready.url,
            "admin_key": ready.admin_key,
            "tenant_key": ready.tenant_key,
            "nats_url": ready.nats_url,
            "database_url": ready.database_url,
            "monitoring_url": ready.monitoring_url,
            "providers": ready.providers,
            "models": ready.models,
            "pids": ready.pids,
        }
    )


def as_text(ready: Ready) -> str:
    """What a person needs to go on, with commands that work as they stand."""
    parts = [
        f"""
Synaxis is ready.

  URL         {ready.url}/v1
  admin key   {ready.admin_key}
  tenant key  {ready.tenant_key}
  providers   {_shortened(ready.providers)}
  models      {ready.models}
"""
    ]
    if ready.chat_model is None:
        parts.append(
            """
No model can be used yet: `synaxis providers` shows how the polls of the providers ended.
"""
        )
    else:
        parts.append(
            f"""
Try it:

  curl {ready.url}/v1/chat/completions -H "Authorization: Bearer {ready.tenant_key}" \\
    -H "Content-Type: application/json" \\
    -d '{{"model": "{ready.chat_model}", "messages": [{{"role": "user", "content": "Hello"}}]}}'
"""
        )
    if ready.demo_url is not None:
        parts.append(
            f"""
These are demo providers, not language models: export NVIDIA_API_KEY, HF_TOKEN or any other variable that
models.dev names, and start again. To see a failover, make the cheaper one fail and ask again; with `curl -i`
the headers x-synaxis-provider and x-synaxis-attempts say who answered:

  curl -X POST {ready.demo_url}/demo/fail -d '{{"mode": "500"}}'

The modes are 500, hang, cut and off.
"""
        )
    parts.append("\nCtrl-C stops everything.\n")
    return "".join(parts)


def chat_model(models: Iterable[Mapping[str, Any]]) -> str | None:
    """The cheapest of the models, as `/v1/models` lists them, that answer text with text."""
    fitting = [model for model in models if _chats(model)]
    return min(fitting, key=_dearness)["id"] if fitting else None


def _chats(model: Mapping[str, Any]) -> bool:
    """A list without a word about modalities is a provider's bare list, mostly of language models."""
    shape = model["architecture"]
    takes, gives = shape["input_modalities"], shape["output_modalities"]
    return (not takes or "text" in takes) and (not gives or gives == ["text"])


def _dearness(model: Mapping[str, Any]) -> tuple[bool, bool, Decimal, str]:
    """Those that surely talk come first, then those with a price, then the cheapest.

    Only language models call tools, while an embedding model is listed as giving text, too. A price of zero
    may be a free tier that is easily spent, so it is no recommendation.
    """
    pricing = model["pricing"] or {}
    price = sum((Decimal(str(pricing.get(name) or 0)) for name in ("input", "output")), Decimal(0))
    return "tools" not in model["capabilities"], price == 0, price, str(model["id"])


def _shortened(providers: tuple[str, ...], most: int = 8) -> str:
    if len(providers) <= most:
        return ", ".join(providers) or "none"
    return f"{', '.join(providers[:most])} and {len(providers) - most} more"
