"""What Admin shows, and how it is read from the answers of brokers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from fastmq.protocol.bodies._read import as_bool, as_int, as_list, as_map, as_str, read_object
from fastmq.protocol.bodies.client import Connection, SubscriptionData
from fastmq.protocol.bodies.config import MessageQueue, queue_map


class QueueRange(NamedTuple):
    """The offsets of a queue: the first message there is, the next that will be written; when it was last (ms)."""

    min_offset: int
    max_offset: int
    last_update_ms: int


class QueueProgress(NamedTuple):
    """How far a group is in a queue: offsets of broker and group; when its last message was stored (ms)."""

    broker_offset: int
    consumer_offset: int
    last_consumed_ms: int

    @property
    def lag(self) -> int:
        """Messages that are not consumed."""
        return self.broker_offset - self.consumer_offset


@dataclass(frozen=True, slots=True)
class Member:
    """A client that is connected. `version` is the ordinal that RocketMQ gives its releases."""

    client_id: str
    address: str
    language: str
    version: int


@dataclass(frozen=True, slots=True)
class GroupView:
    """A consumer group as its members say it is."""

    members: tuple[Member, ...]
    consume_type: str
    message_model: str
    consume_from: str
    subscriptions: Mapping[str, SubscriptionData]


@dataclass(frozen=True, slots=True)
class BrokerView:
    """A broker: its name, cluster, and the addresses by id (0 is the master)."""

    name: str
    cluster: str
    addresses: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class ConsumedDirectly:
    """How a message went that a consumer was asked to consume: `result` as in RocketMQ's CMResult."""

    result: str
    remark: str
    spent_ms: int
    in_order: bool


def read_topic_stats(body: bytes) -> dict[MessageQueue, QueueRange]:
    """The body of GET_TOPIC_STATS_INFO. Raises ProtocolError."""
    table = queue_map(read_object(body, "topic statistics").get("offsetTable"))
    found: dict[MessageQueue, QueueRange] = {}
    for queue, value in table.items():
        item = read_object(value, "the offsets of a queue")
        found[queue] = QueueRange(
            as_int(item.get("minOffset")), as_int(item.get("maxOffset")), as_int(item.get("lastUpdateTimestamp"))
        )
    return found


def read_progress(body: bytes) -> dict[MessageQueue, QueueProgress]:
    """The body of GET_CONSUME_STATS. Raises ProtocolError."""
    table = queue_map(read_object(body, "consume statistics").get("offsetTable"))
    found: dict[MessageQueue, QueueProgress] = {}
    for queue, value in table.items():
        item = read_object(value, "the progress of a queue")
        found[queue] = QueueProgress(
            as_int(item.get("brokerOffset")), as_int(item.get("consumerOffset")), as_int(item.get("lastTimestamp"))
        )
    return found


def read_members(value: Mapping[str, Any]) -> tuple[Member, ...]:
    """The connections in an answer."""
    return tuple(
        Member(one.client_id, one.client_addr, one.language, one.version)
        for one in as_list(value.get("connectionSet"), Connection.from_json)
    )


def read_group(body: bytes) -> GroupView:
    """The body of GET_CONSUMER_CONNECTION_LIST. Raises ProtocolError."""
    value = read_object(body, "a consumer group")
    return GroupView(
        read_members(value),
        as_str(value.get("consumeType")),
        as_str(value.get("messageModel")),
        as_str(value.get("consumeFromWhere")),
        as_map(value.get("subscriptionTable"), SubscriptionData.from_json),
    )


def read_consumed(body: bytes) -> ConsumedDirectly:
    """The body of CONSUME_MESSAGE_DIRECTLY. Raises ProtocolError."""
    value = read_object(body, "a result")
    return ConsumedDirectly(
        as_str(value.get("consumeResult")),
        as_str(value.get("remark")),
        as_int(value.get("spentTimeMills")),
        as_bool(value.get("order")),
    )
