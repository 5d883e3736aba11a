"""The topics of the broker and their file `config/topics.json`.

After RocketMQ's TopicConfigManager: the system topics are there from the start, what the file says then replaces them;
every change raises the data version, is written to the file (`saving.py`), is told to the store, and is passed to
`on_change` so that the name servers learn of it at once. The hot road takes sends to a topic only once the file has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final, Protocol

from fastmq.broker.state import put_back
from fastmq.broker.state.saving import TableFile
from fastmq.config import BrokerConfig
from fastmq.protocol import names
from fastmq.protocol.bodies import (
    MULTI_TAG,
    PERM_INHERIT,
    PERM_READ,
    PERM_WRITE,
    DataVersion,
    JsonText,
    TopicConfig,
    TopicConfigTable,
    dumps,
    dumps_text,
)
from fastmq.store.tables import load_table, object_of

PERM_READ_WRITE: Final = PERM_READ | PERM_WRITE

# flags of Store.set_topic; the numbers of `_store.pxd`
TOPIC_SEND_HOT: Final = 1
TOPIC_MULTI_TAG: Final = 2

ATTRIBUTE_QUEUE_TYPE: Final = "queue.type"
ATTRIBUTE_CLEANUP_POLICY: Final = "cleanup.policy"

_BENCHMARK_QUEUES: Final = 1024
_CLUSTER_TOPIC_QUEUES: Final = 16


class StoreTopics(Protocol):
    """What the table tells the storage engine."""

    def set_topic(self, name: str, *, perm: int, read_queues: int, write_queues: int, flags: int) -> None: ...
    def remove_topic(self, name: str) -> None: ...


def is_batch_queue(topic: TopicConfig) -> bool:
    """Whether the topic keeps client batches as one message each (attribute queue.type=BatchCQ)."""
    return topic.attributes.get(ATTRIBUTE_QUEUE_TYPE) == "BatchCQ"


def is_compaction(topic: TopicConfig) -> bool:
    """Whether only the last message of each key is kept (attribute cleanup.policy=COMPACTION)."""
    return topic.attributes.get(ATTRIBUTE_CLEANUP_POLICY) == "COMPACTION"


def is_multi_tag(topic: TopicConfig) -> bool:
    """Whether its messages carry the multi-tag bit."""
    return topic.topic_filter_type == MULTI_TAG


def describe_topic(topic: TopicConfig) -> str:
    """The topic as TopicConfig.toString of RocketMQ shows it in remarks."""
    attributes = ", ".join(f"{key}={value}" for key, value in topic.attributes.items())
    return (
        f"TopicConfig [topicName={topic.topic_name}, readQueueNums={topic.read_queue_nums}, "
        f"writeQueueNums={topic.write_queue_nums}, perm={describe_perm(topic.perm)}, "
        f"topicFilterType={topic.topic_filter_type}, topicSysFlag={topic.topic_sys_flag}, "
        f"order={'true' if topic.order else 'false'}, attributes={{{attributes}}}]"
    )


def describe_perm(perm: int) -> str:
    """Three letters, `-` for what is missing: RWX, X being the inherit bit."""
    bits = ((PERM_READ, "R"), (PERM_WRITE, "W"), (PERM_INHERIT, "X"))
    return "".join(letter if perm & bit else "-" for bit, letter in bits)


def _nobody(_names: list[str]) -> None:
    pass


def _never(_name: str) -> bool:
    return False


class TopicTable:
    """Topic configurations by name. `file` says when a change is durable.

    Raises StoreError from the constructor if `path` (and its backup) cannot be read. `path=None` keeps all in memory.
    """

    def __init__(
        self,
        path: str | None,
        *,
        config: Callable[[], BrokerConfig],
        store: StoreTopics,
        wall_ms: Callable[[], int],
        on_change: Callable[[list[str]], None] = _nobody,
    ) -> None:
        self._config = config
        self._store = store
        self._wall_ms = wall_ms
        self.on_change = on_change
        self.is_cold: Callable[[str], bool] = _never  # whether Python has to see every message of a topic
        self._topics: dict[str, TopicConfig] = {}
        self._texts: dict[str, JsonText] = {}  # of topics that were written to the file or a client before
        self._whole: JsonText | None = None
        self._listing: bytes | None = None
        self._unsaved: set[str] = set()
        self.data_version = DataVersion(counter=0, state_version=0, timestamp=wall_ms())
        for topic in self._system_topics():
            self._topics[topic.topic_name] = topic
        self.system_names = frozenset(self._topics)
        load_table(path, self._take_body)
        self.file = TableFile(path, self._freeze, on_saved=self._all_saved)
        for topic in self._topics.values():
            self._tell_store(topic)

    # --- reading -----------------------------------------------------------------------------------------------------

    def get(self, name: str) -> TopicConfig | None:
        """The topic, or None. With enableLmq every light queue is one, with one queue (LmqTopicConfigManager)."""
        if self._is_light(name):
            return TopicConfig(name, 1, 1, PERM_READ_WRITE)
        return self._topics.get(name)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def __len__(self) -> int:
        return len(self._topics)

    def names(self) -> list[str]:
        """All names, oldest first."""
        return list(self._topics)

    def items(self) -> list[tuple[str, TopicConfig]]:
        """All topics, oldest first."""
        return list(self._topics.items())

    def is_system(self, name: str) -> bool:
        """Whether tools may not change or delete it: a fixed system name, or one this broker made for itself."""
        return name in self.system_names or names.is_system_topic(name)

    def queue_to_read(self, name: str, queue_id: int) -> int:
        """Where a message goes that was accepted for a queue and has waited: the topic may have fewer queues by now.

        Nobody would read it beyond the last of them.
        """
        topic = self._topics.get(name)
        if topic is None or queue_id < topic.read_queue_nums or topic.read_queue_nums <= 0 or self.is_system(name):
            return queue_id
        return queue_id % topic.read_queue_nums

    def is_order(self, name: str) -> bool:
        """Whether the topic exists and is marked as ordered."""
        topic = self._topics.get(name)
        return topic is not None and topic.order

    def to_body(self) -> dict[str, Any]:
        """The table as RocketMQ's TopicConfigSerializeWrapper has it: also the content of the file."""
        return {"dataVersion": self.data_version, "topicConfigTable": self.whole_text()}

    def texts(self, names: Iterable[str]) -> dict[str, JsonText]:
        """Topics that exist as JSON, which is kept: encoding a table of 20,000 topics takes 0.3 s."""
        texts = self._texts
        return {name: texts.get(name) or self._text_of(name) for name in names}

    def whole_text(self) -> JsonText:
        """All topics as one JSON object, kept until one changes."""
        if self._whole is None:
            self._whole = JsonText(dumps_text(self.texts(sorted(self._topics))))
        return self._whole

    def listing(self, boot_timestamp_ms: int) -> bytes:
        """All topics as tools and other brokers get them, kept until one changes: the same bytes go to everybody."""
        if self._listing is None:
            table = TopicConfigTable(
                data_version=self.data_version, mapping_data_version=DataVersion(timestamp=boot_timestamp_ms)
            )
            self._listing = dumps(table.to_json() | {"topicConfigTable": self.whole_text()})
        return self._listing

    def _text_of(self, name: str) -> JsonText:
        text = self._texts[name] = JsonText(dumps_text(self._topics[name]))
        return text

    # --- changing ----------------------------------------------------------------------------------------------------

    def put(self, topic: TopicConfig) -> None:
        """Add or replace one topic."""
        self.put_many([topic])

    def put_many(self, topics: Iterable[TopicConfig]) -> None:
        """Add or replace topics with one new data version and one write."""
        changed = [topic for topic in topics if not self._is_light(topic.topic_name)]
        if not changed:
            return
        before = {topic.topic_name: self._topics.get(topic.topic_name) for topic in changed}
        for topic in changed:
            self._topics[topic.topic_name] = topic
        self._commit(before)
        for topic in changed:
            self._tell_store(topic)
        self.on_change([topic.topic_name for topic in changed])

    def delete(self, name: str) -> bool:
        """Remove a topic; False if there is none. Its messages are another matter (Store.delete_topic_data)."""
        topic = self._topics.pop(name, None)
        if topic is None:
            return False
        self._commit({name: topic})
        self._store.remove_topic(name)
        self.on_change([name])
        return True

    def touch(self) -> None:
        """Raise the data version although nothing changed, so that name servers take the table again."""
        self._commit({})

    def auto_create(self, name: str, *, default_topic: str, queue_nums: int, sys_flag: int = 0) -> TopicConfig | None:
        """Create the topic of a send after the settings of `default_topic`; None if that is not allowed.

        `queue_nums` is what the client wants; it gets no more than the default topic has. The default topic needs the
        inherit bit; TBW102 loses it while autoCreateTopicEnable is off (createTopicInSendMessageMethod).
        """
        existing = self.get(name)
        if existing is not None:
            return existing
        default = self._topics.get(default_topic)
        if default is None:
            return None
        perm = default.perm
        if default_topic == names.AUTO_CREATE_TOPIC and not self._config().auto_create_topic_enable:
            perm = PERM_READ_WRITE
        if not perm & PERM_INHERIT:
            return None
        queues = max(0, min(queue_nums, default.write_queue_nums))
        topic = TopicConfig(
            topic_name=name,
            read_queue_nums=queues,
            write_queue_nums=queues,
            perm=perm & ~PERM_INHERIT,
            topic_filter_type=default.topic_filter_type,
            topic_sys_flag=sys_flag,
        )
        self.put(topic)
        return topic

    def create_internal(
        self, name: str, *, queue_nums: int, perm: int = PERM_READ_WRITE, order: bool | None = None, sys_flag: int = 0
    ) -> TopicConfig:
        """A retry or dead-letter topic: created if missing (createTopicInSendMessageBackMethod).

        `order` sets the order mark, of an existing topic too; None leaves it alone. An existing topic with fewer queues
        gets more: a group may ask for more retry queues later, and what is sent to a queue must be read by somebody.
        """
        topic = self._topics.get(name)
        if topic is not None:
            wanted = replace(
                topic,
                order=topic.order if order is None else order,
                read_queue_nums=max(topic.read_queue_nums, queue_nums),
                write_queue_nums=max(topic.write_queue_nums, queue_nums),
            )
            if wanted == topic:
                return topic
            self.put(wanted)
            return wanted
        topic = TopicConfig(
            topic_name=name, read_queue_nums=queue_nums, write_queue_nums=queue_nums, perm=perm,
            order=bool(order), topic_sys_flag=sys_flag,
        )  # fmt: skip
        self.put(topic)
        return topic

    def refresh(self, name: str) -> None:
        """Something else about the topic has changed that the hot road has to know."""
        topic = self._topics.get(name)
        if topic is not None:
            self._tell_store(topic)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _is_light(self, name: str) -> bool:
        return names.is_light_queue(name) and self._config().enable_lmq

    def _system_topics(self) -> Iterable[TopicConfig]:
        config = self._config()
        cluster, broker = config.broker_cluster_name, config.broker_name
        inherit = PERM_READ_WRITE | PERM_INHERIT

        def topic(name: str, queues: int = 1, perm: int = PERM_READ_WRITE) -> TopicConfig:
            return TopicConfig(topic_name=name, read_queue_nums=queues, write_queue_nums=queues, perm=perm)

        yield topic(names.SELF_TEST_TOPIC)
        if config.auto_create_topic_enable:
            yield topic(names.AUTO_CREATE_TOPIC, config.default_topic_queue_nums, inherit)
        yield topic(names.BENCHMARK_TOPIC, _BENCHMARK_QUEUES)
        yield topic(cluster, _CLUSTER_TOPIC_QUEUES, inherit if config.cluster_topic_enable else PERM_INHERIT)
        yield topic(broker, 1, inherit if config.broker_topic_enable else PERM_INHERIT)
        yield topic(names.OFFSET_MOVED_EVENT)
        yield topic(names.SCHEDULE_TOPIC, len(config.delay_levels_ms))
        if config.trace_topic_enable:
            yield topic(config.msg_trace_topic_name)
        yield topic(names.reply_topic(cluster))
        yield topic(names.revive_topic(cluster), config.revive_queue_num)
        yield topic(names.sync_member_topic(broker), 1, PERM_INHERIT)
        yield topic(names.TRANS_HALF_TOPIC)
        yield topic(names.TRANS_OP_HALF_TOPIC)
        if config.timer_wheel_enable:
            yield topic(names.TIMER_TOPIC)

    def _take_body(self, content: dict[str, Any]) -> None:
        self.data_version = DataVersion.from_json(object_of(content, "dataVersion"))
        for name, value in object_of(content, "topicConfigTable").items():
            topic = TopicConfig.from_json(value)
            self._topics[name] = topic if topic.topic_name == name else replace(topic, topic_name=name)

    def _commit(self, before: Mapping[str, TopicConfig | None]) -> None:
        """Have the table written with a new version. If the disk refuses at once, what was before is put back."""
        version = self.data_version
        self.data_version = version.next_version(self._wall_ms())
        self._forget_texts(before)
        try:
            self.file.changed()
        except BaseException:
            put_back(self._topics, before)
            self.data_version = version
            self._forget_texts(before)
            raise
        if not self.file.is_saved:
            self._unsaved.update(before)

    def _forget_texts(self, names: Iterable[str]) -> None:
        self._whole = self._listing = None
        for name in names:
            self._texts.pop(name, None)

    def _freeze(self) -> Callable[[], bytes]:
        version, texts = self.data_version, self.texts(sorted(self._topics))
        return lambda: dumps({"dataVersion": version, "topicConfigTable": texts})

    def _all_saved(self) -> None:
        """Everything is on disk: the hot road may have the topics that are new."""
        unsaved, self._unsaved = self._unsaved, set()
        for topic in filter(None, map(self._topics.get, unsaved)):
            self._tell_store(topic)

    def _tell_store(self, topic: TopicConfig) -> None:
        self._store.set_topic(
            topic.topic_name,
            perm=topic.perm,
            read_queues=topic.read_queue_nums,
            write_queues=topic.write_queue_nums,
            flags=self._store_flags(topic),
        )

    def _store_flags(self, topic: TopicConfig) -> int:
        flags = TOPIC_MULTI_TAG if is_multi_tag(topic) else 0
        name = topic.topic_name
        if name in self._unsaved or self.is_cold(name):
            return flags
        ordinary = not (
            names.is_retry_topic(name)
            or names.is_dlq_topic(name)
            or names.is_not_allowed_send_topic(name)
            or (self.is_system(name) and name != names.BENCHMARK_TOPIC)
            or is_batch_queue(topic)
            or is_compaction(topic)
        )
        return flags | TOPIC_SEND_HOT if ordinary else flags
