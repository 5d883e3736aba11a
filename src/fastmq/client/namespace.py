"""Namespaces: part of the name on the wire (`ns%topic`), unseen by who uses the client (RocketMQ's NamespaceUtil)."""

from __future__ import annotations

from fastmq.protocol import names

SEPARATOR = "%"
_DERIVED = (names.RETRY_PREFIX, names.DLQ_PREFIX)


def wrap(namespace: str, name: str) -> str:
    """The name on the wire of a topic or group. System names and names that have the prefix stay as they are."""
    if not namespace or not name or names.is_system_topic(name) or names.is_system_group(name):
        return name
    for prefix in _DERIVED:
        if name.startswith(prefix):
            return prefix + wrap(namespace, name.removeprefix(prefix))
    start = namespace + SEPARATOR
    return name if name.startswith(start) else start + name


def unwrap(namespace: str, name: str) -> str:
    """The name without its namespace."""
    if not namespace:
        return name
    for prefix in _DERIVED:
        if name.startswith(prefix):
            return prefix + unwrap(namespace, name.removeprefix(prefix))
    return name.removeprefix(namespace + SEPARATOR)
