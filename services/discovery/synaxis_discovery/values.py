"""Single values as providers write them: taken if they are what they should be, else unknown. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Context, Decimal, InvalidOperation
from typing import Any, Final

from synaxis_common.contracts.catalog import Prices

MAX_TOKENS: Final = 2**53
DEAREST_PER_MTOK: Final = Decimal(10_000)
CHEAPEST_PER_MTOK: Final = Decimal("0.0001")
"""Outside of these (zero aside) a price per million tokens is one in another unit. Source: our choice; the
dearest that models.dev knows is a hundred times less than the one, the cheapest ten times the other."""

_EXACT: Final = Context(prec=60)
_MAX_DIGITS: Final = 30
_MAX_NAME: Final = 300
_PER_TOKEN_SHIFT: Final = 6


def mapping(value: object) -> Mapping[str, Any]:
    """`value` if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def text(value: object) -> str | None:
    """A short, not empty string that can be stored."""
    if not isinstance(value, str):
        return None
    cleaned = value.strip()
    if not cleaned or len(cleaned) > _MAX_NAME or "\x00" in cleaned or not _is_unicode(cleaned):
        return None
    return cleaned


def _is_unicode(value: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in value)


def texts(value: object) -> tuple[str, ...]:
    """The strings in a list, without repetition."""
    found = (text(item) for item in value) if isinstance(value, list) else ()
    return tuple(dict.fromkeys(item for item in found if item is not None))


def flag(value: object) -> bool | None:
    """A boolean."""
    return value if isinstance(value, bool) else None


def tokens(*candidates: object) -> int | None:
    """The first positive whole number of `candidates`: 0 is how some say that there is none."""
    for value in candidates:
        if isinstance(value, bool) or not isinstance(value, int | Decimal):
            continue
        if not Decimal(value).is_finite() or not 0 < value < MAX_TOKENS or value != int(value):
            continue
        return int(value)
    return None


def _amount(value: object) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | Decimal | str):
        return None
    if isinstance(value, str) and len(value) > 2 * _MAX_DIGITS:
        return None
    try:
        amount = Decimal(value)
    except InvalidOperation:
        return None
    if not amount.is_finite():
        return None
    _, digits, exponent = amount.as_tuple()
    if not isinstance(exponent, int) or len(digits) > _MAX_DIGITS or abs(exponent) > _MAX_DIGITS:
        return None
    return amount


def per_mtok(value: object) -> Decimal | None:
    """A price in USD per million tokens.

    Strings are prices of one token (OpenRouter, Vercel and those who copy them write `"0.0000015"`), numbers
    are prices of a million (Together, HuggingFace, DeepInfra write `1.5`). What would be out of all reason
    after that is in a unit that we don't know, and so is unknown: a wrong price is worse than none.
    """
    amount = _amount(value)
    if amount is None:
        return None
    price = amount.scaleb(_PER_TOKEN_SHIFT, _EXACT) if isinstance(value, str) else amount
    if price == 0:
        return Decimal(0)
    return price if CHEAPEST_PER_MTOK <= price <= DEAREST_PER_MTOK else None


def prices(
    said: Mapping[str, Any],
    *,
    input_key: str,
    output_key: str,
    extras: Iterable[tuple[str, str]] = (),
    request_key: str | None = None,
) -> Prices | None:
    """Prices from an object; None unless both input and output are known.

    `extras` pairs our name of a rate with theirs. A zero there beside an input price means that this kind of
    token is not priced apart, not that it is free.
    """
    base = per_mtok(said.get(input_key)), per_mtok(said.get(output_key))
    if base[0] is None or base[1] is None:
        return None
    rates = {ours: rate for ours, theirs in extras if (rate := per_mtok(said.get(theirs)))}
    fee = _amount(said.get(request_key)) if request_key is not None else None
    per_request = fee if fee is not None and 0 < fee <= DEAREST_PER_MTOK else None
    return Prices(input=base[0], output=base[1], per_request=per_request, **rates)
