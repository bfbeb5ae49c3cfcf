"""JSON from others, read without losing a digit and without surprises."""

from __future__ import annotations

import json
from decimal import Decimal, InvalidOperation
from typing import Any, Final

_NOT_A_NUMBER: Final = Decimal("NaN")


class NotJson(ValueError):
    """The bytes are no JSON document."""


def _exact(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:  # an exponent beyond all bounds; spoils the value it is in, not the document
        return _NOT_A_NUMBER


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def parse(body: bytes) -> Any:
    """The document in `body`: whole numbers are `int`, others `Decimal`, and never a float.

    A number that no `Decimal` holds is NaN. Raises NotJson, also for NaN and Infinity as literals, for what
    is not UTF-8, and for nesting too deep to read.
    """
    try:
        return json.loads(body.decode("utf-8-sig"), parse_float=_exact, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise NotJson(f"not JSON ({type(error).__name__})") from error
