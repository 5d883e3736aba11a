"""From defaults, file, environment and command line to one checked configuration, with notes about what was odd."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from fastmq.config.broker import BrokerConfig
from fastmq.config.nameserver import NamesrvConfig
from fastmq.config.setting import Config, parse_value, settings
from fastmq.config.values import parse_addresses
from fastmq.properties import read_properties

# variables of the build, not settings
_OTHER_VARIABLES = frozenset({"FASTMQ_DEBUG", "FASTMQ_SANITIZE"})


@dataclass(frozen=True, slots=True)
class Host:
    """What defaults need to know about the machine. `local_address` is asked only if an address must be found."""

    home: str
    name: str
    local_address: Callable[[], str]

    @classmethod
    def of(cls, env: Mapping[str, str]) -> Self:
        """What a process with this environment finds."""
        return cls(env.get("HOME") or os.getcwd(), socket.gethostname(), first_local_address)


def first_local_address() -> str:
    """The IPv4 address that packets to other machines would leave from; 127.0.0.1 if there is none. Sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # a documentation address; connecting a datagram socket only picks a route
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def load_broker_config(
    path: str | None, env: Mapping[str, str], overrides: Mapping[str, str], *, host: Host | None = None
) -> tuple[BrokerConfig, list[str]]:
    """Read a broker's settings; returns them and notes (unknown or pointless settings) for the log, one sentence each.

    overrides: property names to texts, from the command line. Raises UsageError with a sentence for the user.
    """
    host = host or Host.of(env)
    found, notes = _collect(BrokerConfig, path, env, overrides)
    bind = str(found.get("bind_address", "127.0.0.1"))
    found.setdefault("broker_ip1", _advertised(bind, host))
    defaults: dict[str, Any] = {
        "broker_name": host.name.strip() or "DEFAULT_BROKER",
        "broker_ip2": found["broker_ip1"],
        "namesrv_addr": env.get("NAMESRV_ADDR", "").strip(),
        "store_path_root_dir": os.path.join(host.home, "store"),
        "rocketmq_home": env.get("ROCKETMQ_HOME", ""),
        "broker_config_path": path or "",
    }
    config = BrokerConfig(**(defaults | found))
    config.check()
    parse_addresses("namesrvAddr", config.namesrv_addr)
    if config.max_message_size >= config.mapped_file_size_commit_log:
        notes.append(
            f"mappedFileSizeCommitLog={config.mapped_file_size_commit_log} is smaller than "
            f"maxMessageSize={config.max_message_size}: messages that do not fit into one file are refused"
        )
    return config, notes


def load_namesrv_config(
    path: str | None, env: Mapping[str, str], overrides: Mapping[str, str], *, host: Host | None = None
) -> tuple[NamesrvConfig, list[str]]:
    """Read a name server's settings, with no path from where updateNamesrvConfig writes; else as load_broker_config."""
    host = host or Host.of(env)
    stored = os.path.join(host.home, "namesrv", "namesrv.properties")
    source = path if path is not None or not os.path.exists(stored) else stored
    found, notes = _collect(NamesrvConfig, source, env, overrides)
    defaults: dict[str, Any] = {
        "kv_config_path": os.path.join(host.home, "namesrv", "kvConfig.json"),
        "config_store_path": path or stored,
        "rocketmq_home": env.get("ROCKETMQ_HOME", ""),
    }
    config = NamesrvConfig(**(defaults | found))
    config.check()
    return config, notes


def environment_name(cls: type[Config], attribute: str) -> str:
    """The environment variable that sets an attribute: FASTMQ_LISTEN_PORT, FASTMQ_NAMESRV_LISTEN_PORT."""
    return f"{cls.environment_prefix}{attribute.upper()}"


def _collect(
    cls: type[Config], path: str | None, env: Mapping[str, str], overrides: Mapping[str, str]
) -> tuple[dict[str, Any], list[str]]:
    """Attribute values from all sources, later ones winning, and the notes."""
    table = settings(cls)
    kinds = {f.name: type(f.default) for f in fields(cls)}
    attribute_of = {s.name: attribute for attribute, s in table.items()}
    notes: list[str] = []
    texts: dict[str, tuple[str, str]] = {}  # attribute → text, source
    for name, text in (read_properties(path) if path is not None else {}).items():
        if name in attribute_of:
            texts[attribute_of[name]] = (text, f"file {path}")
        else:
            notes.append(_unknown(name, f"file {path}", attribute_of))
    for attribute in table:
        variable = environment_name(cls, attribute)
        if variable in env:
            texts[attribute] = (env[variable], f"environment variable {variable}")
    notes += _unknown_variables(env) if cls is BrokerConfig else []
    for name, text in overrides.items():
        if name not in attribute_of:
            notes.append(_unknown(name, "command line", attribute_of))
        else:
            texts[attribute_of[name]] = (text, "command line")
    found: dict[str, Any] = {"given": frozenset(table[attribute].name for attribute in texts)}
    for attribute, (text, source) in texts.items():
        setting = table[attribute]
        found[attribute] = value = parse_value(setting, kinds[attribute], text, source)
        if not setting.acts and value != _default(cls, attribute):
            notes.append(f"{setting.name} ({source}) is accepted but changes nothing in fastmq")
        elif setting.clamp and value != int(text):
            notes.append(f"{setting.name}={text.strip()} ({source}) was set to {value}, the nearest value allowed")
    return found, notes


def _default(cls: type[Config], attribute: str) -> Any:
    return next(f.default for f in fields(cls) if f.name == attribute)


def _unknown(name: str, source: str, known: Iterable[str]) -> str:
    near = [other for other in known if other.lower() == name.lower()]
    if not near:
        import difflib  # noqa: PLC0415  (only a mistake pays for it)

        near = difflib.get_close_matches(name, list(known), 1, 0.85)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"unknown property {name} ({source}) is ignored{hint}"


def _unknown_variables(env: Mapping[str, str]) -> list[str]:
    known = _OTHER_VARIABLES.union(environment_name(c, a) for c in (BrokerConfig, NamesrvConfig) for a in settings(c))
    return [
        f"environment variable {name} matches no property and is ignored"
        for name in sorted(env)
        if name.startswith("FASTMQ_") and name not in known
    ]


def _advertised(bind: str, host: Host) -> str:
    """The address clients can reach a listener at."""
    if bind in ("", "0.0.0.0", "::", "*"):  # noqa: S104  (compared, not bound)
        return host.local_address()
    return "127.0.0.1" if bind == "localhost" else bind
