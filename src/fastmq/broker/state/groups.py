"""The consumer groups of the broker and their file `config/subscriptionGroup.json`.

After RocketMQ's SubscriptionGroupManager. The groups of RocketMQ's own tools are there from the start; others come by
command or, with autoCreateSubscriptionGroup, when a client first names them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from fastmq.broker.state import nothing, put_back
from fastmq.broker.state.saving import TableFile
from fastmq.config import BrokerConfig
from fastmq.errors import ProtocolError
from fastmq.protocol import names
from fastmq.protocol.bodies import DataVersion, SubscriptionGroupConfig, dumps
from fastmq.store.tables import load_table, object_of

FORBIDDEN_READ_BIT: Final = 2
"""Bit of the forbidden table that stops a group from pulling a topic (PermName.INDEX_PERM_READ)."""


class SubscriptionGroupTable:
    """Group configurations by name. `file` says when a change is durable.

    Raises StoreError from the constructor if `path` (and its backup) cannot be read. `path=None` keeps all in memory.
    """

    def __init__(self, path: str | None, *, config: Callable[[], BrokerConfig], wall_ms: Callable[[], int]) -> None:
        self._config = config
        self._wall_ms = wall_ms
        self.on_change: Callable[[], None] = nothing
        self._groups: dict[str, SubscriptionGroupConfig] = {}
        self._forbidden: dict[str, dict[str, int]] = {}
        self.data_version = DataVersion(counter=0, state_version=0, timestamp=wall_ms())
        for name in names.PREDEFINED_GROUPS:
            self._groups[name] = SubscriptionGroupConfig(group_name=name)
        load_table(path, self._take_body)
        self.file = TableFile(path, self._freeze)

    # --- reading -----------------------------------------------------------------------------------------------------

    def get(self, name: str) -> SubscriptionGroupConfig | None:
        """The group, or None; never creates it. With enableLmq every light group is one."""
        if names.is_light_queue(name) and self._config().enable_lmq:
            return SubscriptionGroupConfig(group_name=name)
        return self._groups.get(name)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def __len__(self) -> int:
        return len(self._groups)

    def names(self) -> list[str]:
        """All names, oldest first."""
        return list(self._groups)

    def items(self) -> list[tuple[str, SubscriptionGroupConfig]]:
        """All groups, oldest first."""
        return list(self._groups.items())

    def to_body(self) -> dict[str, Any]:
        """The table as RocketMQ's SubscriptionGroupWrapper has it: also the content of the file."""
        return {
            "dataVersion": self.data_version,
            "forbiddenTable": {name: dict(sorted(topics.items())) for name, topics in sorted(self._forbidden.items())},
            "subscriptionGroupTable": {name: self._groups[name] for name in sorted(self._groups)},
        }

    # --- changing ----------------------------------------------------------------------------------------------------

    def find_or_create(self, name: str) -> SubscriptionGroupConfig | None:
        """The group; made with the defaults if the configuration allows it and the name is valid (else None)."""
        group = self.get(name)
        if group is not None:
            return group
        config = self._config()
        allowed = config.auto_create_subscription_group or (
            config.enable_create_sys_group and names.is_system_group(name)
        )
        if not allowed or names.validate_group(name) is not None:
            return None
        group = SubscriptionGroupConfig(group_name=name)
        self.put(group)
        return group

    def put(self, group: SubscriptionGroupConfig) -> None:
        """Add or replace one group."""
        self.put_many([group])

    def put_many(self, groups: Iterable[SubscriptionGroupConfig]) -> None:
        """Add or replace groups with one new data version and one write."""
        light = self._config().enable_lmq
        changed = [group for group in groups if not (light and names.is_light_queue(group.group_name))]
        if not changed:
            return
        before = {group.group_name: self._groups.get(group.group_name) for group in changed}
        for group in changed:
            self._groups[group.group_name] = group
        self._commit(before, {})

    def delete(self, name: str) -> bool:
        """Remove a group and what is forbidden to it; False if there is none."""
        group = self._groups.pop(name, None)
        if group is None:
            return False
        self._commit({name: group}, {name: self._forbidden.pop(name, None)})
        return True

    # --- forbidden ---------------------------------------------------------------------------------------------------

    def forbidden(self, group: str, topic: str, bit: int = FORBIDDEN_READ_BIT) -> bool:
        """Whether one thing (a bit number, normally reading) is forbidden to the group on the topic."""
        return self.forbidden_bits(group, topic) >> bit & 1 == 1

    def forbidden_bits(self, group: str, topic: str) -> int:
        """All bits of the group on the topic."""
        return self._forbidden.get(group, {}).get(topic, 0)

    def set_forbidden(self, group: str, topic: str, bit: int, on: bool) -> None:
        """Set or clear one bit; ValueError for a bit number outside 0..31. Makes the group if that is allowed."""
        if not 0 <= bit < 32:
            raise ValueError(f"forbidden bit {bit} is not in 0..31")
        bits = self.forbidden_bits(group, topic)
        self.set_forbidden_bits(group, topic, bits | 1 << bit if on else bits & ~(1 << bit))

    def set_forbidden_bits(self, group: str, topic: str, bits: int) -> None:
        """Replace all bits of the group on the topic."""
        before = self._forbidden.get(group)
        topics = {**(before or {}), topic: bits}
        put_back(self._forbidden, {group: {name: value for name, value in topics.items() if value} or None})
        self._commit({}, {group: before})

    # --- inside ------------------------------------------------------------------------------------------------------

    def _take_body(self, content: dict[str, Any]) -> None:
        self.data_version = DataVersion.from_json(object_of(content, "dataVersion"))
        for name, value in object_of(content, "subscriptionGroupTable").items():
            self._groups[name] = SubscriptionGroupConfig.from_json(value)
        for name in object_of(content, "forbiddenTable"):
            bits = {}
            for topic, value in object_of(content["forbiddenTable"], name).items():
                if type(value) is not int:
                    raise ProtocolError(f"forbiddenTable has {value!r} for {name} and {topic}")
                if value:
                    bits[topic] = value
            if bits:
                self._forbidden[name] = bits

    def _commit(
        self,
        groups: Mapping[str, SubscriptionGroupConfig | None],
        forbidden: Mapping[str, dict[str, int] | None],
    ) -> None:
        """Have the table written with a new version. If the disk refuses at once, what was before is put back."""
        version = self.data_version
        self.data_version = version.next_version(self._wall_ms())
        try:
            self.file.changed()
        except BaseException:
            put_back(self._groups, groups)
            put_back(self._forbidden, forbidden)
            self.data_version = version
            raise
        self.on_change()

    def _freeze(self) -> Callable[[], bytes]:
        body = self.to_body()
        return lambda: dumps(body)
