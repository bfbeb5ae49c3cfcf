"""What breaks those who were built on a released contract, and what does not."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripts.contract_changes import broken

RELEASED = Path(__file__).parents[3] / "docs" / "asyncapi.released.json"
CURRENT = RELEASED.with_name("asyncapi.json")

SCHEMAS = "components", "schemas"
DOCUMENT: dict[str, Any] = {
    "channels": {
        "a.v1": {"address": "a.v1", "messages": {"M": {"$ref": "#/components/messages/a.v1:M"}}},
    },
    "components": {
        "messages": {"a.v1:M": {"payload": {"$ref": "#/components/schemas/Told"}}},
        "schemas": {
            "Told": {
                "type": "object",
                "properties": {
                    "id": {"type": "string", "maxLength": 10},
                    "when": {"anyOf": [{"type": "number"}, {"type": "null"}]},
                    "kind": {"$ref": "#/components/schemas/Kind"},
                    "names": {"type": "array", "items": {"type": "string"}},
                },
                "required": ["id"],
            },
            "Kind": {"type": "string", "enum": ["x", "y"]},
        },
    },
}

Change = Callable[[dict[str, Any]], object]


def told(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["components"]["schemas"]["Told"]
    return found


def changed(change: Change) -> list[str]:
    document = copy.deepcopy(DOCUMENT)
    change(document)
    return broken(DOCUMENT, document)


BREAKS: dict[str, tuple[Change, str]] = {
    "a channel is gone": (lambda d: d["channels"].pop("a.v1"), "the channel a.v1 is gone"),
    "another address": (
        lambda d: d["channels"]["a.v1"].update(address="b.v1"), "the channel a.v1 is at another address"
    ),
    "another message": (
        lambda d: d["components"]["messages"]["a.v1:M"].update(payload={"$ref": "#/components/schemas/Kind"}),
        "the channel a.v1 carries another message",
    ),
    "a message is gone": (lambda d: d["components"]["schemas"].pop("Kind"), "the message Kind is gone"),
    "a field is gone": (lambda d: told(d)["properties"].pop("when"), "Told.when is gone"),
    "a field is renamed": (
        lambda d: told(d)["properties"].update(at=told(d)["properties"].pop("when")), "Told.when is gone"
    ),
    "a field is retyped": (
        lambda d: told(d)["properties"]["id"].update(type="integer"),
        "Told.id: type was 'string' and is 'integer'",
    ),
    "items are retyped": (
        lambda d: told(d)["properties"]["names"].update(items={"type": "number"}),
        "Told.names[]: type was 'string' and is 'number'",
    ),
    "items are not said": (
        lambda d: told(d)["properties"]["names"].pop("items"),
        "Told.names[]: what it holds is not said any more",
    ),
    "null is not possible": (
        lambda d: told(d)["properties"]["when"].update(anyOf=[{"type": "number"}]),
        "Told.when: {'type': 'null'} is not possible any more",
    ),
    "a value is gone": (
        lambda d: d["components"]["schemas"]["Kind"].update(enum=["x"]), "Kind: 'y' is no value any more"
    ),
    "newly required": (lambda d: told(d)["required"].append("kind"), "Told.kind has become required"),
    "shorter": (
        lambda d: told(d)["properties"]["id"].update(maxLength=9), "Told.id: maxLength was 10 and is 9"
    ),
    "bounded from below": (
        lambda d: told(d)["properties"]["id"].update(minLength=1), "Told.id: minLength was None and is 1"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "said"), BREAKS.values(), ids=BREAKS)
def test_what_breaks_a_contract_is_named(change: Change, said: str) -> None:
    assert changed(change) == [said]


KEEPS: dict[str, Change] = {
    "nothing": lambda _: None,
    "a new channel": lambda d: d["channels"].update({"b.v1": d["channels"]["a.v1"]}),
    "a new field": lambda d: told(d)["properties"].update(more={"type": "string"}),
    "a new value": lambda d: d["components"]["schemas"]["Kind"]["enum"].append("z"),
    "longer": lambda d: told(d)["properties"]["id"].update(maxLength=11),
    "not required any more": lambda d: told(d)["required"].remove("id"),
    "other words": lambda d: told(d).update(description="Something was told.", title="T"),
    "one more alternative": lambda d: told(d)["properties"]["when"]["anyOf"].append({"type": "string"}),
}


@pytest.mark.parametrize("change", KEEPS.values(), ids=KEEPS)
def test_what_adds_to_a_contract_breaks_nobody(change: Change) -> None:
    assert changed(change) == []


def test_nobody_who_was_built_on_the_released_contracts_is_broken() -> None:
    assert broken(json.loads(RELEASED.read_text()), json.loads(CURRENT.read_text())) == []
