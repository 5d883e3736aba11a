"""Languages of clients, as the wire numbers them (RocketMQ's LanguageCode)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import Final


class LanguageCode(IntEnum):
    """What a client is written in. In JSON headers it goes by name, in ROCKETMQ headers by number."""

    JAVA = 0
    CPP = 1
    DOTNET = 2
    PYTHON = 3
    DELPHI = 4
    ERLANG = 5
    RUBY = 6
    OTHER = 7
    HTTP = 8
    GO = 9
    PHP = 10
    OMS = 11
    RUST = 12
    NODE_JS = 13


LANGUAGE_NAMES: Final[Mapping[int, str]] = MappingProxyType({int(code): code.name for code in LanguageCode})
LANGUAGE_CODES: Final[Mapping[str, int]] = MappingProxyType({code.name: int(code) for code in LanguageCode})
