"""Ext fields of a request or response as a dataclass: the work of RocketMQ's CommandCustomHeader.

    @header
    class QueryConsumerOffsetRequest(Header):
        consumer_group: str
        topic: str
        queue_id: int
        set_zero_if_not_found: bool | None = None

A field without a default is required. The wire name is the attribute in camelCase unless `wire("name")` says otherwise.
The types are `str`, `bool`, `float`, `int` (64 bit), `Int32`, each also `| None`.

Text is read as Java reads it: a number is an optional sign and digits within the range of its type, `true` in any case
is true and everything else false. A number that cannot be read counts as absent. A required field that is absent raises
RequestError(1, "the custom field <name> is null"); an optional one keeps its default. `encode` leaves out None.

The two functions of a class are written and compiled once, when the class is made.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, NoReturn, Self, TypeVar, Union, dataclass_transform

from fastmq.errors import RequestError

INT32_MIN: Final = -(1 << 31)
INT32_MAX: Final = (1 << 31) - 1
INT64_MIN: Final = -(1 << 63)
INT64_MAX: Final = (1 << 63) - 1

Int32 = Annotated[int, 32]
"""An int that must fit into 32 bits to count as readable."""

_WIRE: Final = "wire"


def wire(name: str, *, default: Any = dataclasses.MISSING) -> Any:
    """A field whose wire name is not the attribute in camelCase."""
    return dataclasses.field(default=default, metadata={_WIRE: name})


def parse_int64(text: str | None) -> int | None:
    """What Java's Long.parseLong reads, None where it refuses."""
    if text is None:
        return None
    try:
        value = int(text)
    except ValueError:
        return None
    if not INT64_MIN <= value <= INT64_MAX or not (text.isdigit() or _is_signed_number(text)):
        return None
    return value


def parse_int32(text: str | None) -> int | None:
    """What Java's Integer.parseInt reads, None where it refuses."""
    if text is None:
        return None
    try:
        value = int(text)
    except ValueError:
        return None
    if not INT32_MIN <= value <= INT32_MAX or not (text.isdigit() or _is_signed_number(text)):
        return None
    return value


def _is_signed_number(text: str) -> bool:
    return text[0] in "+-" and text[1:].isdigit()


def parse_float(text: str | None) -> float | None:
    """What Java's Double.parseDouble reads (without its hexadecimal form), None where it refuses."""
    if text is None or "_" in text:
        return None
    try:
        return float(text)
    except ValueError:
        return None


def parse_bool(text: str | None) -> bool | None:
    """Java's Boolean.parseBoolean: `true` in any case is true, any other text is false; None for an absent field."""
    return None if text is None else text == "true" or text.lower() == "true"


def parse_str(text: str | None) -> str | None:
    """The text itself."""
    return text


def format_int(value: int) -> str:
    """Decimal digits."""
    return str(int(value))


def format_bool(value: bool) -> str:
    """`true` or `false`."""
    return "true" if value else "false"


def _missing(name: str) -> NoReturn:
    raise RequestError(1, f"the custom field <{name}> is null")


class Header:
    """Base of all header classes; `@header` fills in the two methods."""

    __slots__ = ()

    WIRE_NAMES: ClassVar[Mapping[str, str]]
    """Attribute name to wire name, in the order of the class."""
    REQUIRED: ClassVar[frozenset[str]]
    """The wire names without a default."""

    @classmethod
    def decode(cls, ext: Mapping[str, str]) -> Self:
        """Read the ext fields; unknown ones are ignored. RequestError(1) if a required one is absent or unreadable."""
        raise NotImplementedError

    def encode(self) -> dict[str, str]:
        """The ext fields, without those that are None."""
        raise NotImplementedError


_T = TypeVar("_T", bound=type)


def camel_case(name: str) -> str:
    """`queue_id` → `queueId`."""
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def _plain_type(annotation: Any) -> tuple[Any, bool]:
    """(kind of the field, whether 32 bit) of an annotation, looking through `| None` and Annotated."""
    if typing.get_origin(annotation) in (Union, types.UnionType):
        (annotation,) = (arm for arm in typing.get_args(annotation) if arm is not type(None))
    if typing.get_origin(annotation) is Annotated:
        return typing.get_args(annotation)[0], True
    return annotation, False


_PARSERS: Final = {str: parse_str, bool: parse_bool, float: parse_float, int: parse_int64}
_FORMATS: Final = {str: "{0}", bool: "format_bool({0})", float: "str({0})", int: "format_int({0})"}


@dataclass_transform(field_specifiers=(dataclasses.field, wire))
def header(cls: _T) -> _T:
    """Make a dataclass (with slots) of `cls` and give it `decode` and `encode`."""
    made: Any = dataclasses.dataclass(slots=True)(cls)
    hints = typing.get_type_hints(made, include_extras=True)
    fields = dataclasses.fields(made)
    names = {f.name: f.metadata.get(_WIRE) or camel_case(f.name) for f in fields}
    scope: dict[str, Any] = {
        "missing": _missing, "format_bool": format_bool, "format_int": format_int, "made": made,
    }  # fmt: skip
    read: list[str] = []
    write: list[str] = []
    for f in fields:
        kind, narrow = _plain_type(hints[f.name])
        parser = parse_int32 if narrow else _PARSERS[kind]
        scope[f"parse_{f.name}"] = parser
        name = names[f.name]
        text = f"get({name!r})"
        read.append(f"    {f.name} = {text if parser is parse_str else f'parse_{f.name}({text})'}")
        read.append(f"    if {f.name} is None:")
        if f.default is dataclasses.MISSING:
            read.append(f"        missing({name!r})")
        else:
            scope[f"default_{f.name}"] = f.default
            read.append(f"        {f.name} = default_{f.name}")
        write.append(f"    if self.{f.name} is not None:")
        write.append(f"        ext[{name!r}] = {_FORMATS[kind].format(f'self.{f.name}')}")
    arguments = ", ".join(f.name for f in fields)
    source = "\n".join(
        [
            "def decode(cls, ext):",
            "    get = ext.get",
            *read,
            f"    return cls({arguments})",
            "def encode(self):",
            "    ext = {}",
            *write,
            "    return ext",
        ]
    )
    exec(source, scope)  # noqa: S102  (our own text, made of the field names above; dataclasses does the same)
    made.decode = classmethod(scope["decode"])
    made.encode = scope["encode"]
    made.decode.__func__.__doc__ = Header.decode.__doc__
    made.encode.__doc__ = Header.encode.__doc__
    made.WIRE_NAMES = types.MappingProxyType(names)
    made.REQUIRED = frozenset(names[f.name] for f in fields if f.default is dataclasses.MISSING)
    return typing.cast(_T, made)
