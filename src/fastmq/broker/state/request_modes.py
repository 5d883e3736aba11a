"""How groups get topics, by pulling or by popping, and the file `config/messageRequestMode.json`.

After RocketMQ's MessageRequestModeManager. Consumers that leave the sharing of queues to the broker (QUERY_ASSIGNMENT)
are told the mode with their queues. As in RocketMQ a mode outlives the deletion of its topic or group.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from fastmq.broker.state.saving import TableFile
from fastmq.protocol.bodies import MessageRequestMode, dumps
from fastmq.store.tables import load_table, object_of

PULL: Final = "PULL"
POP: Final = "POP"
MODES: Final = (PULL, POP)


class MessageRequestModes:
    """Modes by topic and group; only those that somebody has set. `file` says when a change is durable.

    Raises StoreError from the constructor if `path` (and its backup) cannot be read. `path=None` keeps all in memory.
    """

    def __init__(self, path: str | None) -> None:
        self._modes: dict[str, dict[str, MessageRequestMode]] = {}
        load_table(path, self._take_body)
        self.file = TableFile(path, self._freeze)

    def get(self, topic: str, group: str) -> MessageRequestMode | None:
        """What was set for a group on a topic."""
        return self._modes.get(topic, {}).get(group)

    def put(self, mode: MessageRequestMode) -> None:
        """Set a mode."""
        groups = self._modes.setdefault(mode.topic, {})
        before = groups.get(mode.consumer_group)
        groups[mode.consumer_group] = mode
        try:
            self.file.changed()
        except BaseException:
            if before is None:
                del groups[mode.consumer_group]
            else:
                groups[mode.consumer_group] = before
            raise

    def to_body(self) -> dict[str, Any]:
        """All modes as code 402 answers them: also the content of the file."""
        return {
            "messageRequestModeMap": {
                topic: dict(sorted(groups.items())) for topic, groups in sorted(self._modes.items()) if groups
            }
        }

    # --- inside ------------------------------------------------------------------------------------------------------

    def _freeze(self) -> Callable[[], bytes]:
        body = self.to_body()
        return lambda: dumps(body)

    def _take_body(self, content: dict[str, Any]) -> None:
        topics = object_of(content, "messageRequestModeMap")
        for topic in topics:
            for group, value in object_of(topics, topic).items():
                self._modes.setdefault(topic, {})[group] = MessageRequestMode.from_json(value)
