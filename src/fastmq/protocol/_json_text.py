"""JSON text as RocketMQ's fastjson writes and reads it.

What is written: compact, UTF-8, null members left out, enums by name, bytes as base64, control characters escaped with
upper-case digits. Maps may have keys that are objects; such a key is written as an object literal (`{{"a":1}:2}`),
which is not legal JSON and is what every RocketMQ client reads.
What is read: legal JSON, and that dialect: unquoted keys (numbers, names), keys that are objects, single quotes and
trailing commas.
"""

from __future__ import annotations

import base64
import json
import math
import re
from enum import Enum
from typing import Any, Final, NoReturn, Protocol, runtime_checkable

from fastmq.errors import ProtocolError

MAX_DEPTH: Final = 64
"""How deep arrays and objects may be nested in text that is read."""

_SPECIAL = re.compile('[\x00-\x1f"\\\\\x7f-\x9f\u2028\u2029]')
_SPECIAL_ASCII = re.compile('[^\x20-\x7e]|["\\\\]')
_SHORT: Final = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r", '"': '\\"', "\\": "\\\\"}


class JsonError(ProtocolError, ValueError):
    """A JSON body cannot be read. The frame around it was fine: answer with an error, keep the connection."""


def _escape(match: re.Match[str]) -> str:
    char = match.group()
    short = _SHORT.get(char)
    if short is not None:
        return short
    code = ord(char)
    if code > 0xFFFF:
        code -= 0x10000
        return f"\\u{0xD800 + (code >> 10):04X}\\u{0xDC00 + (code & 0x3FF):04X}"
    return f"\\u{code:04X}"


def quote(text: str, *, ascii_only: bool = False) -> str:
    """A JSON string with its quotes, escaped as fastjson does. `ascii_only`: everything else as \\uXXXX."""
    if ascii_only:
        return f'"{_SPECIAL_ASCII.sub(_escape, text)}"'
    return f'"{_SPECIAL.sub(_escape, text)}"'


def to_utf8(text: str) -> bytes:
    """UTF-8 of a text; half a surrogate pair, which has no UTF-8, becomes `?` as in Java."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


@runtime_checkable
class ToJson(Protocol):
    """Anything that can give its JSON form: dicts, lists, text, numbers, or again such objects."""

    def to_json(self) -> Any: ...


class JsonText:
    """JSON text that is there already, to be put into a larger one as it is."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "null"
    magnitude = abs(value)
    if magnitude == 0 or 1e-3 <= magnitude < 1e7:
        return repr(float(value))
    digits, _, exponent = f"{value!r}".partition("e")
    if exponent:
        if "." not in digits:
            digits += ".0"
        return f"{digits}E{int(exponent)}"
    sign = "-" if value < 0 else ""
    whole, _, fraction = repr(magnitude).partition(".")
    if magnitude >= 1:
        tail = (whole[1:] + fraction).rstrip("0") or "0"
        return f"{sign}{whole[0]}.{tail}E{len(whole) - 1}"
    significant = fraction.lstrip("0")
    return f"{sign}{significant[0]}.{significant[1:] or '0'}E{-(len(fraction) - len(significant) + 1)}"


class _Writer:
    __slots__ = ("ascii_only", "int_keys_quoted", "out")

    def __init__(self, *, int_keys_quoted: bool, ascii_only: bool) -> None:
        self.out: list[str] = []
        self.int_keys_quoted = int_keys_quoted
        self.ascii_only = ascii_only

    def write(self, value: Any) -> None:
        out = self.out
        if isinstance(value, str) and not isinstance(value, Enum):
            out.append(quote(value, ascii_only=self.ascii_only))
        elif isinstance(value, JsonText):
            out.append(value.text)
        elif value is None:
            out.append("null")
        elif isinstance(value, bool):
            out.append("true" if value else "false")
        elif isinstance(value, Enum):
            out.append(quote(value.name, ascii_only=self.ascii_only))
        elif isinstance(value, int):
            out.append(str(value))
        elif isinstance(value, float):
            out.append(_number(value))
        elif isinstance(value, dict):
            self.write_object(value)
        elif isinstance(value, list | tuple):
            self.write_array(value)
        elif isinstance(value, set | frozenset):
            self.write_array(sorted(value))
        elif isinstance(value, bytes):
            out.append(f'"{base64.b64encode(value).decode("ascii")}"')
        elif isinstance(value, ToJson):
            self.write(value.to_json())
        else:
            raise TypeError(f"{type(value).__name__} has no JSON form")

    def write_object(self, members: dict[Any, Any]) -> None:
        out = self.out
        out.append("{")
        separator = ""
        for key, value in members.items():
            if value is None:
                continue
            out.append(separator)
            separator = ","
            if isinstance(key, bool):
                out.append("true" if key else "false")
            elif isinstance(key, int) and not isinstance(key, Enum):
                out.append(f'"{key}"' if self.int_keys_quoted else str(key))
            else:
                self.write(key)
            out.append(":")
            self.write(value)
        out.append("}")

    def write_array(self, values: list[Any] | tuple[Any, ...]) -> None:
        self.out.append("[")
        for index, value in enumerate(values):
            if index:
                self.out.append(",")
            self.write(value)
        self.out.append("]")


def dumps_text(obj: Any, *, int_keys_quoted: bool = True, ascii_only: bool = False) -> str:
    """The JSON text of `obj`; see `dumps`."""
    writer = _Writer(int_keys_quoted=int_keys_quoted, ascii_only=ascii_only)
    writer.write(obj)
    return "".join(writer.out)


def dumps(obj: Any, *, int_keys_quoted: bool = True, ascii_only: bool = False) -> bytes:
    """The only way JSON leaves fastmq: compact UTF-8, members in the order given, None members left out.

    Takes dicts, lists, tuples, sets, text, numbers, bytes, enums and whatever has `to_json()`. A dict key may be text,
    an int (quoted, or bare with `int_keys_quoted=False`) or an object (written as an object literal). Objects give
    their members in alphabetical order themselves, as fastjson does.
    """
    return to_utf8(dumps_text(obj, int_keys_quoted=int_keys_quoted, ascii_only=ascii_only))


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def loads_lenient(data: bytes | bytearray | memoryview | str) -> Any:
    """Read JSON text in fastjson's dialect. Raises JsonError for anything else, and for nesting over MAX_DEPTH.

    Keys of objects come back as text, also unquoted numbers (`{0:1}` and `{"0":1}` are the same). A key that is
    itself an object comes back as its compact JSON text with sorted members; MessageQueue.from_key reads it.
    """
    text = data if isinstance(data, str) else str(data, "utf-8", "replace")
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return _Parser(text).parse()
    _check_depth(value)
    return value


def _check_depth(value: Any) -> None:
    """Refuse what is nested deeper than MAX_DEPTH, so that nobody who walks the value runs out of stack."""
    level = [value]
    for _ in range(MAX_DEPTH + 2):
        inner: list[Any] = []
        for item in level:
            kind = type(item)
            if kind is dict:
                inner += item.values()
            elif kind is list:
                inner += item
        if not inner:
            return
        level = inner
    raise JsonError(f"not JSON for us: nested deeper than {MAX_DEPTH}")


_SPACE = re.compile(r"[ \t\r\n\f\b]*")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?", re.ASCII)
_NAME = re.compile(r"[A-Za-z_$][A-Za-z0-9_$.-]*")
_PLAIN: Final = {'"': re.compile(r'[^"\\]*'), "'": re.compile(r"[^'\\]*")}
_ESCAPES: Final = {
    "b": "\b",
    "t": "\t",
    "n": "\n",
    "f": "\f",
    "r": "\r",
    '"': '"',
    "'": "'",
    "\\": "\\",
    "/": "/",
    "v": "\v",
    "0": "\0",
    "1": "\1",
    "2": "\2",
    "3": "\3",
    "4": "\4",
    "5": "\5",
    "6": "\6",
    "7": "\7",
}
_WORDS: Final = {"true": True, "false": False, "null": None}
_MAX_NUMBER_CHARS: Final = 400


class _Parser:
    """Recursive descent over fastjson's dialect; the depth is counted, so that text cannot exhaust the stack."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.pos = 0

    def parse(self) -> Any:
        value = self.value(0)
        self.space()
        if self.pos != len(self.text):
            self.fail("something follows the value")
        return value

    def fail(self, reason: str) -> NoReturn:
        raise JsonError(f"not JSON at character {self.pos}: {reason}")

    def space(self) -> str:
        """Skip white space; the next character, or "" at the end."""
        match = _SPACE.match(self.text, self.pos)
        assert match is not None
        self.pos = match.end()
        return self.text[self.pos : self.pos + 1]

    def value(self, depth: int) -> Any:
        if depth > MAX_DEPTH:
            self.fail(f"nested deeper than {MAX_DEPTH}")
        char = self.space()
        if char == "{":
            return self.object(depth)
        if char == "[":
            return self.array(depth)
        if char in ('"', "'") and char:
            return self.string(char)
        if char and char in "+-0123456789":
            return self.number()
        name = _NAME.match(self.text, self.pos)
        if name is not None and name.group() in _WORDS:
            self.pos = name.end()
            return _WORDS[name.group()]
        return self.fail("a value is missing")

    def number(self) -> int | float:
        match = _NUMBER.match(self.text, self.pos)
        if match is None or len(match.group()) > _MAX_NUMBER_CHARS:
            self.fail("a number is broken")
        self.pos = match.end()
        if match.group(1) is None and match.group(2) is None:
            return int(match.group())
        value = float(match.group())
        if not math.isfinite(value):
            self.fail("a number is too large")
        return value

    def string(self, mark: str) -> str:
        plain = _PLAIN[mark]
        parts: list[str] = []
        pos = self.pos + 1
        while True:
            match = plain.match(self.text, pos)
            assert match is not None
            parts.append(match.group())
            pos = match.end()
            if pos >= len(self.text):
                self.fail("a string has no end")
            if self.text[pos] == mark:
                self.pos = pos + 1
                return _join_surrogates("".join(parts))
            escape = self.text[pos + 1 : pos + 2]
            width = {"u": 4, "x": 2}.get(escape, 0)
            if width:
                digits = self.text[pos + 2 : pos + 2 + width]
                if len(digits) != width or not all(c in "0123456789abcdefABCDEF" for c in digits):
                    self.fail("a character code is broken")
                parts.append(chr(int(digits, 16)))
            elif escape in _ESCAPES:
                parts.append(_ESCAPES[escape])
            else:
                self.fail("an escape is unknown")
            pos += 2 + width

    def array(self, depth: int) -> list[Any]:
        self.pos += 1
        values: list[Any] = []
        while True:
            char = self.space()
            if char == "]":
                self.pos += 1
                return values
            if char == "," and values:
                self.pos += 1
                continue
            values.append(self.value(depth + 1))
            if self.space() not in (",", "]"):
                self.fail("an array has no end")

    def object(self, depth: int) -> dict[str, Any]:
        self.pos += 1
        members: dict[str, Any] = {}
        while True:
            char = self.space()
            if char == "}":
                self.pos += 1
                return members
            if char == "," and members:
                self.pos += 1
                continue
            key = self.key(char, depth)
            if self.space() != ":":
                self.fail("a key has no value")
            self.pos += 1
            members[key] = self.value(depth + 1)
            if self.space() not in (",", "}"):
                self.fail("an object has no end")

    def key(self, char: str, depth: int) -> str:
        if char in ('"', "'") and char:
            return self.string(char)
        if char == "{":
            return object_key(self.value(depth + 1))
        pattern = _NUMBER if char and char in "+-0123456789" else _NAME
        match = pattern.match(self.text, self.pos)
        if match is None:
            self.fail("a key is missing")
        self.pos = match.end()
        return match.group()


def _join_surrogates(text: str) -> str:
    """Two escaped halves of a surrogate pair are one character."""
    if any("\ud800" <= char <= "\udfff" for char in text):
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    return text


def object_key(value: dict[str, Any]) -> str:
    """The text under which `loads_lenient` files the value of a key that is an object."""
    return dumps_text(dict(sorted(value.items())))
