"""Java's numbers as text and in order: what comparisons in a filter rest on.

A text that is no number raises ValueError, as Integer.valueOf and its kin raise NumberFormatException.
"""

from __future__ import annotations

import math
import re
from typing import Final

_INTEGER: Final = re.compile(r"[+-]?\d+")
_DECIMAL: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_HEXADECIMAL: Final = re.compile(r"[+-]?0[xX](?:[0-9a-fA-F]+\.?[0-9a-fA-F]*|\.[0-9a-fA-F]+)[pP][+-]?[0-9]+")
_NAMED: Final = {"NaN": math.nan, "Infinity": math.inf}
_MAX_TEXT: Final = 400  # characters of a number: what is longer is refused before it is read
_BLANKS: Final = "".join(map(chr, range(33)))


def to_int(text: str) -> int:
    """Integer.valueOf."""
    return _to_integer(text, 1 << 31)


def to_long(text: str) -> int:
    """Long.valueOf."""
    return _to_integer(text, 1 << 63)


def _to_integer(text: str, limit: int) -> int:
    # the digits of all scripts, as in Java
    if len(text) > _MAX_TEXT or _INTEGER.fullmatch(text) is None:
        raise ValueError(f"not an integer: {text[:40]!r}")
    value = int(text)
    if not -limit <= value < limit:
        raise ValueError(f"out of range: {text[:40]}")
    return value


def to_double(text: str) -> float:
    """Double.valueOf: with blanks around, a type letter behind, hexadecimal, NaN and Infinity."""
    trimmed = text.strip(_BLANKS)
    if len(trimmed) > _MAX_TEXT:
        raise ValueError("not a number: too long")
    named = _NAMED.get(trimmed.lstrip("+-") if trimmed[1:2] not in ("+", "-") else trimmed)
    if named is not None:
        return -named if trimmed[0] == "-" else named
    number = trimmed[:-1] if trimmed[-1:] in ("d", "D", "f", "F") else trimmed
    if _DECIMAL.fullmatch(number) is not None:
        return float(number)
    if _HEXADECIMAL.fullmatch(trimmed) is not None or _HEXADECIMAL.fullmatch(number) is not None:
        try:
            return float.fromhex(number)
        except OverflowError:
            return -math.inf if number[0] == "-" else math.inf
    raise ValueError(f"not a number: {text[:40]!r}")


def to_boolean(text: str) -> bool:
    """Boolean.valueOf."""
    return text.lower() == "true"


def compare_doubles(left: float, right: float) -> int:
    """Double.compareTo: NaN is above everything and equals itself, 0.0 is above -0.0."""
    if left < right:
        return -1
    if left > right:
        return 1
    if left == right and left != 0.0:
        return 0
    return _rank(left) - _rank(right)


def _rank(value: float) -> int:
    if math.isnan(value):
        return 1
    return -1 if math.copysign(1.0, value) < 0 else 0
