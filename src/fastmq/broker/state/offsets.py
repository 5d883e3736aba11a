"""How far each consumer group has come, and the file `config/consumerOffset.json`.

After RocketMQ's ConsumerOffsetManager. Three tables with the same keys:

    committed   what the group says it has consumed; a lower offset is accepted like any other
    pull        the offset the last pull of the queue ended with; only for estimates of lag, not restored
    reset       an offset set by a tool, handed out once by the next pull; commits wait until then

Changes are kept in memory; the broker has `file` written every flushConsumerOffsetInterval and before it answers a
tool that moved offsets: a crash loses the commits of one interval and no reset, and may hand out again a reset that was
handed out in that interval. (RocketMQ writes the table of resets, but does not read it.)

With enableLmq the file is `config/lmqConsumerOffset.json` instead, as in LmqConsumerOffsetManager: light groups have a
table of their own in it, with one offset for each topic. If it is missing, the other file is read.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from fastmq.broker.state import nothing
from fastmq.broker.state.saving import LaggingFile, Snapshot
from fastmq.config import BrokerConfig
from fastmq.errors import ProtocolError
from fastmq.protocol import names
from fastmq.protocol._json_text import quote, to_utf8
from fastmq.protocol.bodies import DataVersion, dumps
from fastmq.protocol.fields import parse_int64
from fastmq.store.tables import load_table, object_of

NOT_COMMITTED: Final = -1

KEYS_A_PIECE: Final = 200  # of the file are encoded at once
PAUSE_S: Final = 50e-6  # between two pieces: whoever waits for the interpreter gets it

_SEPARATOR: Final = "@"
LIGHT_FILE: Final = "lmqConsumerOffset.json"

QueueOffsets = dict[int, int]


def offset_key(topic: str, group: str) -> str:
    """The key of a topic and a group in the file and in admin bodies: `topic@group`."""
    return f"{topic}{_SEPARATOR}{group}"


TOGETHER: Final = tuple(
    offset_key(topic, names.TRANS_CONSUMER_GROUP) for topic in (names.TRANS_HALF_TOPIC, names.TRANS_OP_HALF_TOPIC)
)
"""An op offset newer than its half offset would make the broker ask about transactions that are decided."""


class ConsumerOffsetTable:
    """Offsets by group, topic and queue. Raises StoreError from the constructor if the file cannot be read."""

    def __init__(self, path: str | None, *, config: Callable[[], BrokerConfig], wall_ms: Callable[[], int]) -> None:
        self._light = config().enable_lmq
        own_path = os.path.join(os.path.dirname(path), LIGHT_FILE) if path is not None and self._light else path
        self._config = config
        self._wall_ms = wall_ms
        self._committed: dict[str, QueueOffsets] = {}
        self._pulled: dict[str, QueueOffsets] = {}
        self._reset: dict[str, QueueOffsets] = {}
        self._commits = 0
        self.file = LaggingFile(own_path, self._freeze, before=self._catch_up)
        self.before: Callable[[], None] = nothing  # takes over what others committed, before a table is used
        # who keeps copies of committed offsets hears of one commit, or that any others have changed
        self.on_commit: Callable[[str, str, int, int], None] = _nobody
        self.on_reset: Callable[[], None] = nothing
        self.data_version = DataVersion(counter=0, state_version=0, timestamp=wall_ms())
        if not load_table(own_path, self._take_body) and self._light:
            load_table(path, self._take_body)  # light queues were switched on

    # --- one queue ---------------------------------------------------------------------------------------------------

    def query(self, group: str, topic: str, queue_id: int) -> int:
        """The pending reset offset if there is one, else the committed offset, else NOT_COMMITTED."""
        self.before()
        key = offset_key(topic, group)
        if self._reset and self._config().use_server_side_reset_offset:
            reset = self._reset.get(key, {}).get(queue_id)
            if reset is not None:
                return reset
        return self._committed.get(key, {}).get(queue_id, NOT_COMMITTED)

    def commit(self, group: str, topic: str, queue_id: int, offset: int, commits: int = 1) -> None:
        """Store an offset, also one lower than before; the last of so many commits."""
        self.before()
        self._committed.setdefault(offset_key(topic, group), {})[queue_id] = offset
        self.on_commit(group, topic, queue_id, offset)
        self.file.changed()
        step = self._config().consumer_offset_update_version_step
        before = self._commits
        self._commits += commits
        for _ in range(self._commits // step - before // step):
            self.data_version = self.data_version.next_version(self._wall_ms())

    def pull_offset(self, group: str, topic: str, queue_id: int) -> int:
        """Where the last pull ended, else the committed offset, else NOT_COMMITTED."""
        self.before()
        offset = self._pulled.get(offset_key(topic, group), {}).get(queue_id)
        return offset if offset is not None else self.query(group, topic, queue_id)

    def commit_pull(self, group: str, topic: str, queue_id: int, offset: int) -> None:
        """Note where a pull ended."""
        self._pulled.setdefault(offset_key(topic, group), {})[queue_id] = offset

    # --- reset by the server -----------------------------------------------------------------------------------------

    def assign_reset(self, group: str, topic: str, queue_id: int, offset: int) -> None:
        """Set the offset of a queue for the group: its next pull is told to go there (once)."""
        self.before()
        key = offset_key(topic, group)
        self._reset.setdefault(key, {})[queue_id] = offset
        self._committed.setdefault(key, {})[queue_id] = offset
        self.on_reset()
        self.file.changed()
        self.data_version = self.data_version.next_version(self._wall_ms())

    def has_reset(self, group: str, topic: str, queue_id: int) -> bool:
        """Whether a reset of the queue waits for the group's next pull."""
        return bool(self._reset) and queue_id in self._reset.get(offset_key(topic, group), {})

    def has_any_reset(self, group: str, topic: str) -> bool:
        """Whether a reset of any queue of the topic waits for the group."""
        return bool(self._reset) and offset_key(topic, group) in self._reset

    def take_reset(self, group: str, topic: str, queue_id: int) -> int | None:
        """The offset of a waiting reset, which is over then."""
        if not self._reset:
            return None
        key = offset_key(topic, group)
        queues = self._reset.get(key)
        if queues is None:
            return None
        offset = queues.pop(queue_id, None)
        self.file.changed()
        if not queues:
            del self._reset[key]
        return offset

    # --- whole groups and topics -------------------------------------------------------------------------------------

    def offsets_of(self, group: str, topic: str) -> QueueOffsets:
        """Committed offsets by queue id; a copy."""
        self.before()
        return dict(self._committed.get(offset_key(topic, group), {}))

    def table_of(self, group: str) -> dict[str, QueueOffsets]:
        """Committed offsets of a group by topic; copies."""
        self.before()
        return {topic: dict(queues) for topic, owner, queues in self._entries() if owner == group}

    def groups_of_topic(self, topic: str) -> set[str]:
        """Groups that ever committed on the topic."""
        self.before()
        return {owner for name, owner, _ in self._entries() if name == topic}

    def topics_of_group(self, group: str) -> set[str]:
        """Topics that the group ever committed on."""
        self.before()
        return {name for name, owner, _ in self._entries() if owner == group}

    def delete_group(self, group: str) -> None:
        """Forget everything about a group."""
        self.before()
        self._delete(lambda _topic, owner: owner == group)

    def delete_topic(self, topic: str) -> None:
        """Forget everything about a topic."""
        self.before()
        self._delete(lambda name, _owner: name == topic)

    def clone(self, source: str, target: str, topic: str) -> None:
        """Give group `target` the committed offsets of group `source` on one topic."""
        self.before()
        queues = self._committed.get(offset_key(topic, source))
        if queues is not None:
            self._committed[offset_key(topic, target)] = dict(queues)
            self.on_reset()
            self.file.changed()

    # --- file --------------------------------------------------------------------------------------------------------

    def to_body(self) -> dict[str, Any]:
        """The tables as RocketMQ's ConsumerOffsetSerializeWrapper has them: also the content of the file."""
        self.before()
        members: dict[str, Any] = {
            "dataVersion": self.data_version,
            "offsetTable": self._committed,
            "pullOffsetTable": self._pulled,
            "resetOffsetTable": self._reset,
        }
        if self._light:
            light = {key: queues[0] for key, queues in self._committed.items() if _is_light(key) and 0 in queues}
            members["lmqOffsetTable"] = light
            members["offsetTable"] = {key: queues for key, queues in self._committed.items() if key not in light}
        return members

    def _freeze(self) -> Snapshot:
        """Next to nothing is copied here: the thread reads the tables as they are, a few keys at a time.

        What changes meanwhile is in the text or is not, and the file is written again for it. All that the text speaks
        of was known to the broker when the text was done; only then `LaggingFile.durable` is called. Only what would
        lose something if one of two was older than the other is taken as it is now.
        """
        version = self.data_version
        together = {key: dict(self._committed[key]) for key in TOGETHER if key in self._committed}
        return lambda: b"".join(self._text(version, together))

    def view(self) -> Snapshot:
        """The body of GET_ALL_CONSUMER_OFFSET: committed offsets, and which topics each group has some on."""
        self.before()
        version = self.data_version

        def parts() -> Iterator[bytes]:
            topics_of: dict[str, list[str]] = {}
            for topic, group in map(_split, list(self._committed)):
                topics_of.setdefault(group, []).append(topic)
            yield b'{"dataVersion":' + dumps(version) + b',"groupTopicMap":'
            time.sleep(PAUSE_S)
            yield dumps({group: sorted(topics_of[group]) for group in sorted(topics_of)})
            yield from self._table_text("offsetTable", self._committed, {}, {})
            yield b"}"

        return lambda: b"".join(parts())

    def _text(self, version: DataVersion, together: dict[str, QueueOffsets]) -> Iterator[bytes]:
        """`dumps(self.to_body())` in pieces."""
        light: dict[str, int] = {}
        yield b'{"dataVersion":' + dumps(version)
        yield from self._table_text("offsetTable", self._committed, together, light)
        yield from self._table_text("pullOffsetTable", self._pulled, {}, {})
        yield from self._table_text("resetOffsetTable", self._reset, {}, {})
        if self._light:
            yield b',"lmqOffsetTable":' + dumps(light)
        yield b"}"

    def _table_text(
        self, name: str, table: dict[str, QueueOffsets], together: dict[str, QueueOffsets], light: dict[str, int]
    ) -> Iterator[bytes]:
        """One table, with a pause after each piece so that the trio thread need not wait for all. What belongs to the
        other table of light groups is put there instead.
        """
        yield f',"{name}":{{'.encode()
        separator = ""
        keys = list(table)
        for begin in range(0, len(keys), KEYS_A_PIECE):
            texts = []
            for key in keys[begin : begin + KEYS_A_PIECE]:
                queues = together.get(key) or table.get(key)
                if queues is None:
                    continue  # deleted meanwhile
                queues = dict(queues)
                if self._light and table is self._committed and _is_light(key) and 0 in queues:
                    light[key] = queues[0]
                    continue
                offsets = ",".join([f'"{queue_id}":{offset}' for queue_id, offset in queues.items()])
                texts.append(f"{quote(key)}:{{{offsets}}}")
            if texts:
                yield to_utf8(separator + ",".join(texts))
                separator = ","
            time.sleep(PAUSE_S)
        yield b"}"

    def _catch_up(self) -> None:
        self.before()

    # --- inside ------------------------------------------------------------------------------------------------------

    def _entries(self) -> Iterator[tuple[str, str, QueueOffsets]]:
        for key, queues in self._committed.items():
            topic, found, group = key.partition(_SEPARATOR)
            if found:
                yield topic, group, queues

    def _delete(self, matches: Callable[[str, str], bool]) -> None:
        self.on_reset()
        for table in (self._committed, self._pulled, self._reset):
            for key in [key for key in table if matches(*_split(key))]:
                del table[key]
                self.file.changed()

    def _take_body(self, content: dict[str, Any]) -> None:
        self.data_version = DataVersion.from_json(object_of(content, "dataVersion"))
        for name, table in (("offsetTable", self._committed), ("resetOffsetTable", self._reset)):
            for key in object_of(content, name):
                queues = object_of(content[name], key)
                if queues or table is self._committed:
                    table[key] = dict(_queue(key, *item) for item in queues.items())
        for key, offset in object_of(content, "lmqOffsetTable").items():
            self._committed[key] = dict([_queue(key, "0", offset)])


def _nobody(_group: str, _topic: str, _queue_id: int, _offset: int) -> None:
    pass


def _queue(key: str, queue_id: str, offset: Any) -> tuple[int, int]:
    number = parse_int64(queue_id)
    if number is None or type(offset) is not int:
        raise ProtocolError(f"{key} has the queue {queue_id!r} at {offset!r}")
    return number, offset


def _is_light(key: str) -> bool:
    return names.is_light_queue(_split(key)[1])


def _split(key: str) -> tuple[str, str]:
    topic, _, group = key.partition(_SEPARATOR)
    return topic, group
