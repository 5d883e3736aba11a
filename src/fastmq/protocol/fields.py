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

The functions of a class are written and compiled once, when it is first used.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, NoReturn, Self, TypeVar, dataclass_transform

from fastmq.errors import RequestError

INT32_MIN: Final = -(1 << 31)
INT32_MAX: Final = (1 << 31) - 1
INT64_MIN: Final = -(1 << 63)
INT64_MAX: Final = (1 << 63) - 1

Int32 = Annotated[int, 32]
"""An int that must fit into 32 bits to count as readable."""

_MISSING: Final = object()


class _Wire:
    """What `wire` leaves behind in a class body until `header` has read it."""

    __slots__ = ("default", "name")

    def __init__(self, name: str, default: Any) -> None:
        self.name = name
        self.default = default


def wire(name: str, *, default: Any = _MISSING) -> Any:
    """A field whose wire name is not the attribute in camelCase."""
    return _Wire(name, default)


def parse_int64(text: str | None) -> int | None:
    """What Java's Long.parseLong reads, None where it refuses."""
    return _parse_int(text, INT64_MIN, INT64_MAX)


def parse_int32(text: str | None) -> int | None:
    """What Java's Integer.parseInt reads, None where it refuses."""
    return _parse_int(text, INT32_MIN, INT32_MAX)


def _parse_int(text: str | None, low: int, high: int) -> int | None:
    if text is None:
        return None
    try:
        value = int(text)
    except ValueError:
        return None
    # int() also takes blanks around it and underscores
    if not low <= value <= high or not (text.isdigit() or (text[0] in "+-" and text[1:].isdigit())):
        return None
    return value


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
    """Base of all header classes; `@header` fills in the methods. Equal if all fields are."""

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

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.WIRE_NAMES)

    __hash__ = None  # type: ignore[assignment]

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        return type(self)(**{name: getattr(self, name) for name in self.WIRE_NAMES} | changes)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self.WIRE_NAMES)})"


_T = TypeVar("_T", bound=type)


def camel_case(name: str) -> str:
    """`queue_id` → `queueId`."""
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


_PARSERS: Final = {"str": parse_str, "bool": parse_bool, "float": parse_float, "int": parse_int64, "Int32": parse_int32}
_FORMATS: Final = {
    "str": "{0}", "bool": "format_bool({0})", "float": "str({0})", "int": "format_int({0})", "Int32": "format_int({0})",
}  # fmt: skip


@dataclass_transform(field_specifiers=(wire,))
def header(cls: _T) -> _T:
    """Make a class with slots of `cls`, whose constructor takes the fields, and give it `decode` and `encode`.

    The functions are compiled when the class is first used: there are many header classes, and a process that starts
    needs few of them at once. The module has to have `from __future__ import annotations`.
    """
    kinds: dict[str, str] = {}
    names: dict[str, str] = {}
    defaults: dict[str, Any] = {}
    for name, annotation in cls.__annotations__.items():
        kinds[name] = annotation.removesuffix(" | None")
        value = cls.__dict__.get(name, _MISSING)
        names[name] = camel_case(name)
        if isinstance(value, _Wire):
            names[name], value = value.name, value.default
        if value is not _MISSING:
            defaults[name] = value
    space = {key: value for key, value in cls.__dict__.items() if key not in {*kinds, "__dict__", "__weakref__"}}
    space["__slots__"] = tuple(kinds)
    made: Any = type(cls.__name__, cls.__bases__, space)
    made.__annotations__ = dict(cls.__annotations__)
    made.WIRE_NAMES = types.MappingProxyType(names)
    made.REQUIRED = frozenset(wire_name for name, wire_name in names.items() if name not in defaults)

    def compile_functions() -> None:
        functions = _compile(made, kinds, names, defaults)
        made.__init__ = functions["__init__"]
        made.decode = classmethod(functions["decode"])
        made.encode = functions["encode"]

    def first_init(self: Any, *args: Any, **kwargs: Any) -> None:
        compile_functions()
        self.__init__(*args, **kwargs)

    def first_decode(_cls: Any, ext: Mapping[str, str]) -> Any:
        compile_functions()
        return made.decode(ext)

    made.__init__ = first_init
    made.decode = classmethod(first_decode)
    return typing.cast(_T, made)


def _compile(
    made: Any, kinds: Mapping[str, str], names: Mapping[str, str], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """The constructor, `decode` and `encode` of a header class, written out field by field."""
    scope: dict[str, Any] = {"missing": _missing, "format_bool": format_bool, "format_int": format_int}
    arguments, keep, read, write = [], [], [], []
    for name, kind in kinds.items():
        parser: Any = _PARSERS[kind]
        scope[f"parse_{name}"] = parser
        text = f"get({names[name]!r})"
        read.append(f"    {name} = {text if parser is parse_str else f'parse_{name}({text})'}")
        read.append(f"    if {name} is None:")
        if name in defaults:
            scope[f"default_{name}"] = defaults[name]
            read.append(f"        {name} = default_{name}")
            arguments.append(f"{name}=default_{name}")
        else:
            read.append(f"        missing({names[name]!r})")
            arguments.append(name)
        keep.append(f"    self.{name} = {name}")
        write.append(f"    if self.{name} is not None:")
        write.append(f"        ext[{names[name]!r}] = {_FORMATS[kind].format(f'self.{name}')}")
    source = "\n".join(
        [
            f"def __init__({', '.join(['self', *arguments])}):",
            *(keep or ["    pass"]),
            "def decode(cls, ext):",
            "    get = ext.get",
            *read,
            f"    return cls({', '.join(kinds)})",
            "def encode(self):",
            "    ext = {}",
            *write,
            "    return ext",
        ]
    )
    exec(source, scope)  # noqa: S102  (our own text, made of the field names above; dataclasses does the same)
    scope["decode"].__doc__ = Header.decode.__doc__
    scope["encode"].__doc__ = Header.encode.__doc__
    return scope
