"""The KV table of a name server (RocketMQ's KVConfigManager): namespace → key → value, the only state it keeps.

On disk it is one JSON file, `{"configTable":{"<namespace>":{"<key>":"<value>"}}}`, replaced as a whole by each change
(`store/tables.py` says how a crash cannot lose it).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from fastmq import limits
from fastmq.errors import RequestError, StoreError
from fastmq.protocol.bodies import dumps
from fastmq.protocol.codes import ResponseCode
from fastmq.store.tables import load_json, save_json

ORDER_TOPIC_CONFIG: Final = "ORDER_TOPIC_CONFIG"
"""Namespace of the order configuration: topic → `broker:queues;broker:queues`."""


class KvConfig:
    """The table. `save` is called with the whole text after each change, before the change counts as made."""

    def __init__(
        self, table: Mapping[str, Mapping[str, str]] | None = None, save: Callable[[str], None] | None = None
    ) -> None:
        self._table = {namespace: dict(entries) for namespace, entries in (table or {}).items()}
        self._save = save

    @classmethod
    def open(cls, path: str) -> KvConfig:
        """Load from a file, which need not exist yet. Raises StoreError if neither it nor its .bak can be read."""
        return cls(load_table(path), lambda text: save_json(path, text))

    def get(self, namespace: str, key: str) -> str | None:
        """The value, or None."""
        return self._table.get(namespace, {}).get(key)

    def namespace(self, namespace: str) -> dict[str, str] | None:
        """A copy of a namespace's entries; None if it was never used."""
        entries = self._table.get(namespace)
        return None if entries is None else dict(entries)

    def put(self, namespace: str, key: str, value: str) -> None:
        """Set a value. Raises RequestError (the table is full) or OSError (cannot be saved): nothing changed."""
        entries = self._table.get(namespace, {})
        if len(value) > limits.MAX_KV_VALUE_CHARS:
            raise RequestError(
                ResponseCode.SYSTEM_ERROR, f"the value has more than {limits.MAX_KV_VALUE_CHARS} characters"
            )
        if key not in entries and sum(map(len, self._table.values())) >= limits.MAX_KV_ENTRIES:
            raise RequestError(
                ResponseCode.SYSTEM_ERROR, f"the KV table holds {limits.MAX_KV_ENTRIES} entries, it is full"
            )
        self._replace(namespace, entries | {key: value})

    def delete(self, namespace: str, key: str) -> None:
        """Remove a value if it is there. Raises OSError as `put`."""
        entries = self._table.get(namespace)
        if entries is not None and key in entries:
            self._replace(namespace, {other: value for other, value in entries.items() if other != key})

    def _replace(self, namespace: str, entries: dict[str, str]) -> None:
        changed = self._table | {namespace: entries}
        if self._save is not None:
            self._save(dumps({"configTable": changed}).decode())
        self._table = changed


def load_table(path: str) -> dict[str, dict[str, str]]:
    """The table in a file, or in its .bak; empty if there is neither. Raises StoreError if what is there is damaged."""
    content = load_json(path)
    if content is None:
        return {}
    table = content.get("configTable")
    if not isinstance(table, dict) or not all(isinstance(entries, dict) for entries in table.values()):
        raise StoreError(f"{path}: there is no table of tables named configTable in it")
    return {name: {key: str(value) for key, value in entries.items()} for name, entries in table.items()}
