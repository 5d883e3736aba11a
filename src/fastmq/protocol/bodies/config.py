"""Topics, subscription groups and the version of such tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from fastmq.protocol._json_text import JsonError, dumps_text, loads_lenient
from fastmq.protocol.bodies._read import as_bool, as_int, as_list, as_map, as_optional_str, as_str, read_object

PERM_READ: Final = 4
PERM_WRITE: Final = 2
PERM_INHERIT: Final = 1

SINGLE_TAG: Final = "SINGLE_TAG"
MULTI_TAG: Final = "MULTI_TAG"

TOPIC_UNIT_FLAG: Final = 1
TOPIC_UNIT_SUB_FLAG: Final = 2


@dataclass(frozen=True, slots=True, order=True)
class MessageQueue:
    """One queue of a topic on a broker. Ordered as RocketMQ orders it: topic, broker name, queue id."""

    topic: str
    broker_name: str
    queue_id: int

    def to_json(self) -> dict[str, Any]:
        """Members as on the wire."""
        return {"brokerName": self.broker_name, "queueId": self.queue_id, "topic": self.topic}

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read parsed JSON. JsonError if it is not a queue."""
        value = read_object(value, "a message queue")
        return cls(
            topic=as_str(value.get("topic")),
            broker_name=as_str(value.get("brokerName")),
            queue_id=as_int(value.get("queueId")),
        )

    @classmethod
    def from_key(cls, key: str) -> Self:
        """Read the key of a map as `loads_lenient` gives it: the queue's JSON text."""
        return cls.from_json(key)


def queue_map(value: Any) -> dict[MessageQueue, Any]:
    """A parsed map with queues as keys."""
    return {MessageQueue.from_key(key): item for key, item in as_map(value, lambda item: item).items()}


def message_queue_map(table: Mapping[MessageQueue, Any]) -> str:
    """JSON text of a map with queues as keys, each an object literal: `{{"brokerName":"b",…}:1}`."""
    return dumps_text(dict(table))


@dataclass(frozen=True, slots=True)
class DataVersion:
    """How often a table changed, and when it did last (ms). Two tables with equal versions are the same."""

    state_version: int = 0
    timestamp: int = 0
    counter: int = 0

    def next_version(self, now_ms: int, state_version: int | None = None) -> DataVersion:
        """The version after one more change. The object itself stays as it is."""
        return DataVersion(self.state_version if state_version is None else state_version, now_ms, self.counter + 1)

    def to_json(self) -> dict[str, Any]:
        """Members as on the wire."""
        return {"counter": self.counter, "stateVersion": self.state_version, "timestamp": self.timestamp}

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read parsed JSON or its text; 4.x has no stateVersion. JsonError if it is not one."""
        value = read_object(value, "a data version")
        return cls(as_int(value.get("stateVersion")), as_int(value.get("timestamp")), as_int(value.get("counter")))


@dataclass(frozen=True, slots=True)
class TopicConfig:
    """A topic on one broker. `perm` has the PERM_… bits."""

    topic_name: str
    read_queue_nums: int = 16
    write_queue_nums: int = 16
    perm: int = PERM_READ | PERM_WRITE
    topic_filter_type: str = SINGLE_TAG
    topic_sys_flag: int = 0
    order: bool = False
    attributes: Mapping[str, str] = field(default_factory=dict)

    @property
    def readable(self) -> bool:
        """Whether consumers may read it."""
        return self.perm & PERM_READ != 0

    @property
    def writeable(self) -> bool:
        """Whether producers may write to it."""
        return self.perm & PERM_WRITE != 0

    @property
    def inherited(self) -> bool:
        """Whether new topics may copy its settings."""
        return self.perm & PERM_INHERIT != 0

    def to_json(self) -> dict[str, Any]:
        """Members as on the wire and in topics.json."""
        return {
            "attributes": dict(self.attributes),
            "order": self.order,
            "perm": self.perm,
            "readQueueNums": self.read_queue_nums,
            "topicFilterType": self.topic_filter_type,
            "topicName": self.topic_name,
            "topicSysFlag": self.topic_sys_flag,
            "writeQueueNums": self.write_queue_nums,
        }

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read parsed JSON or its text; absent members have RocketMQ's defaults. JsonError if it is not one."""
        value = read_object(value, "a topic config")
        return cls(
            topic_name=as_str(value.get("topicName")),
            read_queue_nums=as_int(value.get("readQueueNums"), 16),
            write_queue_nums=as_int(value.get("writeQueueNums"), 16),
            perm=as_int(value.get("perm"), PERM_READ | PERM_WRITE),
            topic_filter_type=as_str(value.get("topicFilterType"), SINGLE_TAG),
            topic_sys_flag=as_int(value.get("topicSysFlag")),
            order=as_bool(value.get("order")),
            attributes=as_map(value.get("attributes"), as_str),
        )

    def encode(self) -> str:
        """The one-line form of compressed registrations; flags and order are not part of it."""
        line = f"{self.topic_name} {self.read_queue_nums} {self.write_queue_nums} {self.perm} {self.topic_filter_type}"
        return f"{line} {dumps_text(dict(self.attributes))}"

    @classmethod
    def decode(cls, line: str) -> Self:
        """Read the one-line form. JsonError if it is not one."""
        parts = line.split(" ", 5)
        if len(parts) < 5:
            raise JsonError("a topic config line has too few parts")
        attributes = loads_lenient(parts[5]) if len(parts) == 6 and parts[5] else {}
        return cls(
            topic_name=parts[0],
            read_queue_nums=as_int(parts[1]),
            write_queue_nums=as_int(parts[2]),
            perm=as_int(parts[3]),
            topic_filter_type=parts[4],
            attributes=as_map(attributes, as_str),
        )


@dataclass(frozen=True, slots=True)
class SubscriptionGroupConfig:
    """A consumer group on one broker. `group_retry_policy` and `subscription_data_set` are kept as parsed JSON."""

    group_name: str
    consume_enable: bool = True
    consume_from_min_enable: bool = True
    consume_broadcast_enable: bool = True
    consume_message_orderly: bool = False
    retry_queue_nums: int = 1
    retry_max_times: int = 16
    group_retry_policy: Mapping[str, Any] = field(default_factory=lambda: {"type": "CUSTOMIZED"})
    broker_id: int = 0
    which_broker_when_consume_slowly: int = 1
    notify_consumer_ids_changed_enable: bool = True
    group_sys_flag: int = 0
    consume_timeout_minute: int = 15
    subscription_data_set: tuple[Mapping[str, Any], ...] | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Members as on the wire and in subscriptionGroup.json."""
        simple = self.subscription_data_set
        return {
            "attributes": dict(self.attributes),
            "brokerId": self.broker_id,
            "consumeBroadcastEnable": self.consume_broadcast_enable,
            "consumeEnable": self.consume_enable,
            "consumeFromMinEnable": self.consume_from_min_enable,
            "consumeMessageOrderly": self.consume_message_orderly,
            "consumeTimeoutMinute": self.consume_timeout_minute,
            "groupName": self.group_name,
            "groupRetryPolicy": dict(self.group_retry_policy),
            "groupSysFlag": self.group_sys_flag,
            "notifyConsumerIdsChangedEnable": self.notify_consumer_ids_changed_enable,
            "retryMaxTimes": self.retry_max_times,
            "retryQueueNums": self.retry_queue_nums,
            "subscriptionDataSet": None if simple is None else [dict(item) for item in simple],
            "whichBrokerWhenConsumeSlowly": self.which_broker_when_consume_slowly,
        }

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read parsed JSON or its text; absent members have RocketMQ's defaults. JsonError if it is not one."""
        value = read_object(value, "a subscription group config")
        policy = value.get("groupRetryPolicy")
        simple = value.get("subscriptionDataSet")
        return cls(
            group_name=as_str(value.get("groupName")),
            consume_enable=as_bool(value.get("consumeEnable"), True),
            consume_from_min_enable=as_bool(value.get("consumeFromMinEnable"), True),
            consume_broadcast_enable=as_bool(value.get("consumeBroadcastEnable"), True),
            consume_message_orderly=as_bool(value.get("consumeMessageOrderly")),
            retry_queue_nums=as_int(value.get("retryQueueNums"), 1),
            retry_max_times=as_int(value.get("retryMaxTimes"), 16),
            group_retry_policy={"type": "CUSTOMIZED"} if policy is None else read_object(policy, "a retry policy"),
            broker_id=as_int(value.get("brokerId")),
            which_broker_when_consume_slowly=as_int(value.get("whichBrokerWhenConsumeSlowly"), 1),
            notify_consumer_ids_changed_enable=as_bool(value.get("notifyConsumerIdsChangedEnable"), True),
            group_sys_flag=as_int(value.get("groupSysFlag")),
            consume_timeout_minute=as_int(value.get("consumeTimeoutMinute"), 15),
            subscription_data_set=None
            if simple is None
            else tuple(as_list(simple, lambda item: read_object(item, "a subscription"))),
            attributes=as_map(value.get("attributes"), as_str),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicConfigTable:
    """All topics of a broker with their version (TopicConfigAndMappingSerializeWrapper): body of code 21.

    The parts about static topics are kept as parsed JSON.
    """

    topic_config_table: Mapping[str, TopicConfig] = field(default_factory=dict)
    data_version: DataVersion = field(default_factory=DataVersion)
    mapping_data_version: DataVersion = field(default_factory=DataVersion)
    topic_queue_mapping_detail_map: Mapping[str, Any] = field(default_factory=dict)
    topic_queue_mapping_info_map: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Members as on the wire."""
        return {
            "dataVersion": self.data_version,
            "mappingDataVersion": self.mapping_data_version,
            "topicConfigTable": dict(self.topic_config_table),
            "topicQueueMappingDetailMap": dict(self.topic_queue_mapping_detail_map),
            "topicQueueMappingInfoMap": dict(self.topic_queue_mapping_info_map),
        }

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read parsed JSON or its text; 4.x has only the topics and their version. JsonError if it is not one."""
        value = read_object(value, "a topic config table")
        topics = as_map(value.get("topicConfigTable"), TopicConfig.from_json)
        return cls(
            topic_config_table=topics,
            data_version=DataVersion.from_json(value.get("dataVersion") or {}),
            mapping_data_version=DataVersion.from_json(value.get("mappingDataVersion") or {}),
            topic_queue_mapping_detail_map=as_map(value.get("topicQueueMappingDetailMap"), lambda item: item),
            topic_queue_mapping_info_map=as_map(value.get("topicQueueMappingInfoMap"), lambda item: item),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionGroupTable:
    """All groups of a broker (SubscriptionGroupWrapper): body of code 201. Forbidden: group → topic → bits."""

    subscription_group_table: Mapping[str, SubscriptionGroupConfig] = field(default_factory=dict)
    forbidden_table: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    data_version: DataVersion = field(default_factory=DataVersion)

    def to_json(self) -> dict[str, Any]:
        """Members as on the wire."""
        return {
            "dataVersion": self.data_version,
            "forbiddenTable": {group: dict(topics) for group, topics in self.forbidden_table.items()},
            "subscriptionGroupTable": dict(self.subscription_group_table),
        }

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read parsed JSON or its text. JsonError if it is not one."""
        value = read_object(value, "a subscription group table")
        return cls(
            subscription_group_table=as_map(value.get("subscriptionGroupTable"), SubscriptionGroupConfig.from_json),
            forbidden_table=as_map(value.get("forbiddenTable"), lambda topics: as_map(topics, as_int)),
            data_version=DataVersion.from_json(value.get("dataVersion") or {}),
        )


def topic_config_list(data: bytes | str) -> list[TopicConfig]:
    """The body of code 18."""
    return as_list(read_object(data, "the body").get("topicConfigList"), TopicConfig.from_json)


def group_config_list(data: bytes | str) -> list[SubscriptionGroupConfig]:
    """The body of code 225."""
    return as_list(read_object(data, "the body").get("groupConfigList"), SubscriptionGroupConfig.from_json)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupForbidden:
    """Whether a group may read a topic: body of code 353."""

    group: str
    topic: str
    readable: bool | None

    def to_json(self) -> dict[str, Any]:
        """Members as on the wire."""
        return {"group": self.group, "readable": self.readable, "topic": self.topic}

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read parsed JSON or its text. JsonError if it is not one."""
        value = read_object(value, "a forbidden mark")
        readable = value.get("readable")
        return cls(
            group=as_optional_str(value.get("group")) or "",
            topic=as_optional_str(value.get("topic")) or "",
            readable=None if readable is None else as_bool(readable),
        )
