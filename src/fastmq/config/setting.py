"""What one setting is, and what a configuration made of settings can do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, NamedTuple

from fastmq import limits
from fastmq.config.values import parse_addresses
from fastmq.errors import UsageError
from fastmq.properties import escape_value

# the ranges that settings share
LONG = 1 << 63
PORT = (0, 65_535)
SIZE = (1, limits.MAX_SEGMENT_BYTES)
INT = (0, (1 << 31) - 1)
COUNT = (1, (1 << 31) - 1)
PERIOD = (1, LONG - 1)  # milliseconds
# refused by the update commands whatever configBlackList says
NEVER_UPDATED = frozenset({"brokerConfigPath", "configBlackList", "configStorePath", "kvConfigPath", "rocketmqHome"})


@dataclass(frozen=True, slots=True)
class Setting:
    """What is known of one property. `acts` is False where fastmq only keeps the value."""

    name: str
    text: str = ""
    acts: bool = True
    own: bool = False  # not a property of RocketMQ
    low: int = -LONG
    high: int = LONG - 1
    clamp: bool = False  # RocketMQ pulls values into the range instead of refusing them
    choices: tuple[str, ...] = ()
    list_of_addresses: bool = False


def setting(name: str, default: Any, text: str, between: tuple[int, int] | None = None, **facts: Any) -> Any:
    """A field whose value does something: its property name, default, meaning, and the smallest and largest number."""
    low, high = between or (-LONG, LONG - 1)
    return field(default=default, metadata={"setting": Setting(name, text, low=low, high=high, **facts)})


def kept(name: str, default: Any) -> Any:
    """A field that is read, checked and shown, and changes nothing."""
    return field(default=default, metadata={"setting": Setting(name, acts=False)})


class ConfigUpdate(NamedTuple):
    """Answer of `with_updates`: the new value, the property names that were set, those nobody knows."""

    config: Any
    applied: list[str]
    unknown: list[str]


@dataclass(frozen=True, kw_only=True, repr=False)
class Config:
    """What both configurations can do."""

    environment_prefix: ClassVar[str] = "FASTMQ_"

    given: frozenset[str] = frozenset()  # names of the properties that some source has set
    config_black_list: str = ""

    def to_properties(self, *, only_given: bool = False) -> str:
        """All settings as `name=value` lines in alphabetical order, as getBrokerConfig answers.

        With only_given just those that some source has set, escaped so that `parse_properties` reads them back:
        the text for a rewritten file.
        """
        values = {s.name: format_value(getattr(self, attribute)) for attribute, s in settings(type(self)).items()}
        if not only_given:
            return "".join(f"{name}={values[name]}\n" for name in sorted(values))
        return "".join(f"{name}={escape_value(values[name])}\n" for name in sorted(values) if name in self.given)

    def black_list(self) -> frozenset[str]:
        """Property names that update commands must refuse as a whole with NO_PERMISSION."""
        return NEVER_UPDATED | {name.strip() for name in self.config_black_list.split(";") if name.strip()}

    def refused_updates(self, updates: Iterable[str]) -> list[str]:
        """Those of the property names that are on the black list, sorted."""
        return sorted(self.black_list().intersection(updates))

    def with_updates(self, updates: Mapping[str, str]) -> ConfigUpdate:
        """A new configuration with property names set to texts; unknown names are left out and reported.

        Raises UsageError if a value is wrong: then nothing is applied. The black list is the caller's to ask first.
        """
        known = {s.name: (attribute, s) for attribute, s in settings(type(self)).items()}
        applied = [name for name in updates if name in known]
        values = {
            known[name][0]: parse_value(known[name][1], type(getattr(self, known[name][0])), updates[name], "update")
            for name in applied
        }
        changed = replace(self, **values, given=self.given.union(applied))
        changed.check()
        return ConfigUpdate(changed, applied, [name for name in updates if name not in known])

    def check(self) -> None:
        """Raise UsageError for settings that contradict each other or that fastmq cannot honour."""
        raise NotImplementedError


def settings(cls: type[Config]) -> dict[str, Setting]:
    """The properties of a configuration class by attribute name."""
    return {f.name: f.metadata["setting"] for f in fields(cls) if "setting" in f.metadata}


def parse_value(setting: Setting, kind: type, text: str, source: str) -> Any:
    """A text from a source as a value of the setting's kind, or UsageError."""
    text = text.strip()
    where = f"{setting.name}={text} ({source})"
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise UsageError(f"{where}: must be true or false")
        return text.lower() == "true"
    if kind is int:
        if not re.fullmatch(r"[+-]?[0-9]+", text):
            raise UsageError(f"{where}: must be a whole number")
        number = int(text)
        if setting.clamp:
            return min(max(number, setting.low), setting.high)
        if not setting.low <= number <= setting.high:
            raise UsageError(f"{where}: must be between {setting.low} and {setting.high}")
        return number
    if any(ord(character) < 32 for character in text):
        raise UsageError(f"{setting.name} ({source}): must not contain control characters")
    if setting.choices:
        chosen = {choice.lower(): choice for choice in setting.choices}.get(text.lower())
        if chosen is None:
            raise UsageError(f"{where}: must be one of {', '.join(setting.choices)}")
        return chosen
    if setting.list_of_addresses:
        parse_addresses(setting.name, text)
    return text


def format_value(value: Any) -> str:
    """A setting's value as properties text has it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
