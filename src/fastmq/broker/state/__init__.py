"""What a broker knows: topics, groups, offsets, sessions, locks; each a table and its file."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import TypeVar

T = TypeVar("T")


def nothing() -> None:
    """What a table calls before the broker has wired it to those who want to know."""


def put_back(table: MutableMapping[str, T], before: Mapping[str, T | None]) -> None:
    """Undo changes of a table: what was under some names before, None where nothing was."""
    for name, value in before.items():
        if value is None:
            table.pop(name, None)
        else:
            table[name] = value
