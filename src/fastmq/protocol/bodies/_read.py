"""Reading values out of parsed JSON the way fastjson fills a Java object: by what can be made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, TypeVar

from fastmq.protocol._json_text import JsonError, loads_lenient

E = TypeVar("E", bound=StrEnum)
T = TypeVar("T")


def read_object(data: Any, what: str) -> Mapping[str, Any]:
    """The object in a JSON text (or already parsed). JsonError if it is none."""
    value = loads_lenient(data) if isinstance(data, bytes | bytearray | memoryview | str) else data
    if not isinstance(value, Mapping):
        raise JsonError(f"{what} is not a JSON object")
    return value


def as_int(value: Any, default: int = 0) -> int:
    """An integer given as number, text or boolean; `default` for null. JsonError for anything else."""
    if type(value) is int:
        return value
    if value is None or value == "":
        return default
    if isinstance(value, bool | float | str):
        try:
            return int(value)
        except (ValueError, OverflowError):
            pass
    raise JsonError("a value is not an integer")


def as_bool(value: Any, default: bool = False) -> bool:
    """A boolean given as boolean, number or text; `default` for null. JsonError for anything else."""
    if isinstance(value, bool):
        return value
    if value is None or value == "":
        return default
    if isinstance(value, int):
        return value != 0
    if isinstance(value, str) and value.lower() in ("true", "false", "1", "0"):
        return value.lower() in ("true", "1")
    raise JsonError("a value is not a boolean")


def as_str(value: Any, default: str = "") -> str:
    """Text; numbers and booleans give their JSON form, null gives `default`. JsonError for arrays and objects."""
    if isinstance(value, str):
        return value
    if value is None:
        return default
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    raise JsonError("a value is not text")


def as_optional_str(value: Any) -> str | None:
    """Text, or None for null."""
    return None if value is None else as_str(value)


def as_enum(kind: type[E], value: Any, default: E) -> E:
    """A member by name or, as C++ clients send it, by ordinal. An unknown one gives `default`, as null does."""
    members = list(kind)
    if isinstance(value, str):
        if value in kind.__members__:
            return kind[value]
        if not value.isdecimal() or len(value) > 3:
            return default
        value = int(value)
    if type(value) is int and 0 <= value < len(members):
        return members[value]
    return default


def as_list(value: Any, read: Callable[[Any], T]) -> list[T]:
    """The items of an array, each through `read`; null is empty. JsonError if it is no array."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise JsonError("a value is not an array")
    return [read(item) for item in value if item is not None]


def as_map(value: Any, read: Callable[[Any], T]) -> dict[str, T]:
    """The members of an object, each value through `read`, null members left out. JsonError if it is no object."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise JsonError("a value is not an object")
    return {str(key): read(item) for key, item in value.items() if item is not None}
