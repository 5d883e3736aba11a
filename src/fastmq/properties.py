"""Java's properties text: `name=value` lines with comments, continuation lines and escapes (java.util.Properties)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from fastmq.errors import UsageError

_TEXT_ESCAPES = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}


def read_properties(path: str) -> dict[str, str]:
    """A properties file (UTF-8) as a dict. Raises UsageError if it cannot be read."""
    try:
        with open(path, encoding="utf-8") as file:
            return parse_properties(file.read())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def parse_properties(text: str) -> dict[str, str]:
    """Text in the syntax of java.util.Properties; later lines win. Raises UsageError for a bad \\uXXXX escape."""
    return dict(_split(logical) for _, logical in _groups(text) if logical)


def update_text(text: str, updates: Mapping[str, str]) -> str:
    """Properties text in which some names have new values; comments and the other lines stay as they are."""
    kept = [
        line
        for written, logical in _groups(text)
        if not logical or _split(logical)[0] not in updates
        for line in written
    ]
    while kept and not kept[-1].strip():
        kept.pop()
    return "".join(f"{line}\n" for line in (*kept, *(f"{name}={escape_value(updates[name])}" for name in updates)))


def merge_properties(text: str, values: Mapping[str, str]) -> str:
    """Properties text with values set in their places: other names and comments stay, new names follow at the end."""
    lines: list[str] = []
    left = dict(values)
    groups = _groups(text)
    if groups and groups[-1] == ([""], ""):
        groups.pop()  # what is behind the last line's end
    for written, logical in groups:
        name = _split(logical)[0] if logical else None
        if name is None or name not in values:
            lines += written
        elif name in left:
            lines.append(f"{name}={escape_value(left.pop(name))}")
    lines += [f"{name}={escape_value(value)}" for name, value in left.items()]
    return "".join(f"{line}\n" for line in lines)


def update_file(path: str, updates: Mapping[str, str]) -> None:
    """Do `update_text` to a file, made if missing. A crash leaves the old or the new file. Blocks; raises OSError."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            old = file.read()
    except FileNotFoundError:
        old = ""
    folder = os.path.dirname(path) or "."
    os.makedirs(folder, exist_ok=True)
    fresh = path + ".tmp"
    with open(fresh, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        file.write(update_text(old, updates))
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _split(line: str) -> tuple[str, str]:
    """Name and value of a logical line."""
    end = 0
    while end < len(line) and line[end] not in "=: \t\f":
        end += 2 if line[end] == "\\" else 1
    rest = line[end:].lstrip(" \t\f")
    if rest[:1] in ("=", ":"):
        rest = rest[1:].lstrip(" \t\f")
    return _unescape(line[:end]), _unescape(rest)


def _groups(text: str) -> list[tuple[list[str], str]]:
    """(lines as written, logical line): a line that ends in an odd number of backslashes goes on in the next.

    Comments and blank lines are groups of their own with an empty logical line.
    """
    groups: list[tuple[list[str], str]] = []
    written: list[str] = []
    logical = ""
    for natural in re.split(r"\r\n|\n|\r", text):
        line = natural.lstrip(" \t\f")
        if not written and (not line or line[0] in "#!"):
            groups.append(([natural], ""))
            continue
        written.append(natural)
        logical += line
        if (len(line) - len(line.rstrip("\\"))) % 2:
            logical = logical[:-1]
            continue
        groups.append((written, logical))
        written, logical = [], ""
    if written:
        groups.append(([*written, ""], logical))
    for one, _ in groups:
        # what goes on with nothing is to go on with nothing when another line is written behind it, too
        if len(one) > 1 and not one[-1].strip():
            one.pop()
            one[-1] = one[-1][:-1]
    return groups


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    pieces: list[str] = []
    position = 0
    while position < len(text):
        character = text[position]
        position += 1
        if character != "\\" or position == len(text):
            pieces.append(character if character != "\\" else "")
            continue
        escaped = text[position]
        position += 1
        if escaped == "u":
            digits = text[position : position + 4]
            if not re.fullmatch(r"[0-9A-Fa-f]{4}", digits):
                raise UsageError(f"\\u{digits} is not an escaped character")
            pieces.append(chr(int(digits, 16)))
            position += 4
        else:
            pieces.append(_TEXT_ESCAPES.get(escaped, escaped))
    # two escapes may be the halves of one character
    return "".join(pieces).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def escape_value(text: str) -> str:
    """A value so that parse_properties gives it back."""
    escapes = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\f": "\\f"}
    escaped = "".join(escapes.get(character, character) for character in text)
    return "\\" + escaped if escaped.startswith(" ") else escaped
