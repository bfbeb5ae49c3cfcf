"""Which changes of the AsyncAPI document would break somebody who was built on the last released one.

Of a message's version nothing may be renamed, removed or retyped, and nothing may become required or more
tightly bounded; channels, fields, and values of an enumeration may be added.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import unquote

Schema = Mapping[str, Any]

_UPPER: Final = ("maximum", "exclusiveMaximum", "maxLength", "maxItems")
_LOWER: Final = ("minimum", "exclusiveMinimum", "minLength", "minItems")
_SAME: Final = ("type", "$ref", "const", "format", "pattern")


def broken(released: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """What of `released` is not kept in `current`, in words."""
    return [
        *_channels(released, current),
        *(
            problem
            for name, schema in sorted(released["components"]["schemas"].items())
            for problem in _named(name, schema, current["components"]["schemas"].get(name))
        ),
    ]


def _channels(released: Mapping[str, Any], current: Mapping[str, Any]) -> Iterator[str]:
    for name, channel in sorted(released["channels"].items()):
        now = current["channels"].get(name)
        if now is None:
            yield f"the channel {name} is gone"
        elif now["address"] != channel["address"]:
            yield f"the channel {name} is at another address"
        elif _carried(current, now) != _carried(released, channel):
            yield f"the channel {name} carries another message"


def _carried(document: Mapping[str, Any], channel: Mapping[str, Any]) -> list[str]:
    """The names of the schemas of a channel's messages."""
    messages = document["components"]["messages"]
    named = (unquote(each["$ref"].rsplit("/", 1)[-1]) for each in channel["messages"].values())
    return sorted(str(messages[name]["payload"].get("$ref")) for name in named)


def _named(name: str, schema: Schema, now: Schema | None) -> Iterator[str]:
    if now is None:
        yield f"the message {name} is gone"
        return
    yield from _changes(name, schema, now)


def _changes(where: str, schema: Schema, now: Schema) -> Iterator[str]:
    for word in _SAME:
        if schema.get(word) != now.get(word):
            yield f"{where}: {word} was {schema.get(word)!r} and is {now.get(word)!r}"
    for value in schema.get("enum", ()):
        if value not in now.get("enum", ()):
            yield f"{where}: {value!r} is no value any more"
    for bound in _UPPER:
        if bound in now and now[bound] < schema.get(bound, float("inf")):
            yield f"{where}: {bound} was {schema.get(bound)} and is {now[bound]}"
    for bound in _LOWER:
        if bound in now and now[bound] > schema.get(bound, float("-inf")):
            yield f"{where}: {bound} was {schema.get(bound)} and is {now[bound]}"
    for name, field in sorted(schema.get("properties", {}).items()):
        kept = now.get("properties", {}).get(name)
        if kept is None:
            yield f"{where}.{name} is gone"
        else:
            yield from _changes(f"{where}.{name}", field, kept)
    for name in sorted(set(now.get("required", ())) - set(schema.get("required", ()))):
        yield f"{where}.{name} has become required"
    for inner in ("items", "additionalProperties"):
        if isinstance(schema.get(inner), dict):
            yield from _inner(f"{where}[]", schema[inner], now.get(inner))
    yield from _alternatives(where, schema, now)


def _inner(where: str, schema: Schema, now: object) -> Iterator[str]:
    if isinstance(now, dict):
        yield from _changes(where, schema, now)
    else:
        yield f"{where}: what it holds is not said any more"


def _alternatives(where: str, schema: Schema, now: Schema) -> Iterator[str]:
    """Each of the released alternatives must still be one, perhaps with looser bounds."""
    for alternative in schema.get("anyOf", ()):
        if not any(not list(_changes(where, alternative, one)) for one in now.get("anyOf", ())):
            yield f"{where}: {alternative} is not possible any more"
