"""What clients say of themselves: heartbeats, subscriptions, locks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Self

from fastmq.protocol.bodies._read import as_bool, as_enum, as_int, as_list, as_optional_str, as_str, read_object
from fastmq.protocol.bodies.config import MessageQueue
from fastmq.protocol.message import java_hash

SUB_ALL: Final = "*"
TAG: Final = "TAG"
SQL92: Final = "SQL92"


class ConsumeType(StrEnum):
    """How a consumer gets its messages; the order is the ordinal that C++ clients send."""

    CONSUME_ACTIVELY = "CONSUME_ACTIVELY"
    CONSUME_PASSIVELY = "CONSUME_PASSIVELY"
    CONSUME_POP = "CONSUME_POP"


class MessageModel(StrEnum):
    """Whether every member of a group gets every message."""

    BROADCASTING = "BROADCASTING"
    CLUSTERING = "CLUSTERING"


class ConsumeFromWhere(StrEnum):
    """Where a new group begins."""

    CONSUME_FROM_LAST_OFFSET = "CONSUME_FROM_LAST_OFFSET"
    CONSUME_FROM_LAST_OFFSET_AND_FROM_MIN_WHEN_BOOT_FIRST = "CONSUME_FROM_LAST_OFFSET_AND_FROM_MIN_WHEN_BOOT_FIRST"
    CONSUME_FROM_MIN_OFFSET = "CONSUME_FROM_MIN_OFFSET"
    CONSUME_FROM_MAX_OFFSET = "CONSUME_FROM_MAX_OFFSET"
    CONSUME_FROM_FIRST_OFFSET = "CONSUME_FROM_FIRST_OFFSET"
    CONSUME_FROM_TIMESTAMP = "CONSUME_FROM_TIMESTAMP"


class CMResult(StrEnum):
    """How a message that was consumed on request (309) went; Go sends the ordinal."""

    CR_SUCCESS = "CR_SUCCESS"
    CR_LATER = "CR_LATER"
    CR_ROLLBACK = "CR_ROLLBACK"
    CR_COMMIT = "CR_COMMIT"
    CR_THROW_EXCEPTION = "CR_THROW_EXCEPTION"
    CR_RETURN_NULL = "CR_RETURN_NULL"


def is_tag_type(expression_type: str | None) -> bool:
    """Whether an expression type means a filter by tags; none or empty does (ExpressionType.isTagType)."""
    return not expression_type or expression_type == TAG


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionData:
    """A topic that a group subscribes to, with its filter. For TAG filters the codes are the hashes of the tags."""

    topic: str
    sub_string: str = SUB_ALL
    tags_set: frozenset[str] = frozenset()
    code_set: frozenset[int] = frozenset()
    sub_version: int = 0
    expression_type: str = TAG
    class_filter_mode: bool = False

    @classmethod
    def from_expression(
        cls, topic: str, expression: str | None, expression_type: str | None = TAG, sub_version: int = 0
    ) -> Self:
        """Build it from a filter text (FilterAPI). ValueError for a tag filter made of separators only.

        `*`, empty and None take everything; tags are separated by `||`, trimmed, empty ones skipped. A text of another
        type is kept as it is.
        """
        kind = expression_type or TAG
        if not is_tag_type(kind):
            return cls(topic=topic, sub_string=expression or "", sub_version=sub_version, expression_type=kind)
        if not expression or expression == SUB_ALL:
            return cls(topic=topic, sub_version=sub_version)
        pieces = expression.split("||")
        if not any(pieces):
            raise ValueError("subString split error")
        tags = frozenset(filter(None, map(str.strip, pieces)))
        return cls(
            topic=topic,
            sub_string=expression,
            tags_set=tags,
            code_set=frozenset(map(java_hash, tags)),
            sub_version=sub_version,
        )

    @property
    def takes_all(self) -> bool:
        """Whether every message matches."""
        return is_tag_type(self.expression_type) and not self.code_set and not self.class_filter_mode

    def to_json(self) -> dict[str, Any]:
        """Members as on the wire."""
        return {
            "classFilterMode": self.class_filter_mode,
            "codeSet": self.code_set,
            "expressionType": self.expression_type,
            "subString": self.sub_string,
            "subVersion": self.sub_version,
            "tagsSet": self.tags_set,
            "topic": self.topic,
        }

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read parsed JSON or its text. Tags and codes are worked out from the text, what the client says is ignored.

        JsonError if it is not a subscription.
        """
        value = read_object(value, "a subscription")
        topic = as_str(value.get("topic"))
        text = as_optional_str(value.get("subString"))
        kind = as_str(value.get("expressionType"), TAG) or TAG
        version = as_int(value.get("subVersion"))
        if as_bool(value.get("classFilterMode")):
            return cls(
                topic=topic, sub_string=text or "", sub_version=version, expression_type=kind, class_filter_mode=True
            )
        try:
            return cls.from_expression(topic, text, kind, version)
        except ValueError:
            return cls(topic=topic, sub_string=text or "", sub_version=version, expression_type=kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerData:
    """A consumer group of a heartbeat."""

    group_name: str
    consume_type: ConsumeType = ConsumeType.CONSUME_PASSIVELY
    message_model: MessageModel = MessageModel.CLUSTERING
    consume_from_where: ConsumeFromWhere = ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET
    subscription_data_set: tuple[SubscriptionData, ...] = ()
    unit_mode: bool = False

    def to_json(self) -> dict[str, Any]:
        """Members as on the wire."""
        return {
            "consumeFromWhere": self.consume_from_where,
            "consumeType": self.consume_type,
            "groupName": self.group_name,
            "messageModel": self.message_model,
            "subscriptionDataSet": self.subscription_data_set,
            "unitMode": self.unit_mode,
        }

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read parsed JSON; enums by name or ordinal. JsonError if it is not a consumer group."""
        value = read_object(value, "consumer data")
        return cls(
            group_name=as_str(value.get("groupName")),
            consume_type=as_enum(ConsumeType, value.get("consumeType"), ConsumeType.CONSUME_PASSIVELY),
            message_model=as_enum(MessageModel, value.get("messageModel"), MessageModel.CLUSTERING),
            consume_from_where=as_enum(
                ConsumeFromWhere, value.get("consumeFromWhere"), ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET
            ),
            subscription_data_set=tuple(as_list(value.get("subscriptionDataSet"), SubscriptionData.from_json)),
            unit_mode=as_bool(value.get("unitMode")),
        )


@dataclass(frozen=True, slots=True)
class ProducerData:
    """A producer group of a heartbeat."""

    group_name: str

    def to_json(self) -> dict[str, Any]:
        """Members as on the wire."""
        return {"groupName": self.group_name}

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read parsed JSON. JsonError if it is not a producer group."""
        return cls(as_str(read_object(value, "producer data").get("groupName")))


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatData:
    """The body of a heartbeat (34). `without_sub` marks the short form: known subscriptions are to be kept."""

    client_id: str
    producer_data_set: tuple[ProducerData, ...] = ()
    consumer_data_set: tuple[ConsumerData, ...] = ()
    heartbeat_fingerprint: int = 0
    without_sub: bool = False

    def to_json(self) -> dict[str, Any]:
        """Members as on the wire."""
        return {
            "clientID": self.client_id,
            "consumerDataSet": self.consumer_data_set,
            "heartbeatFingerprint": self.heartbeat_fingerprint,
            "producerDataSet": self.producer_data_set,
            "withoutSub": self.without_sub,
        }

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read the body, or parsed JSON; absent members are empty. JsonError if it is not a heartbeat."""
        value = read_object(value, "a heartbeat")
        return cls(
            client_id=as_str(value.get("clientID")),
            producer_data_set=tuple(as_list(value.get("producerDataSet"), ProducerData.from_json)),
            consumer_data_set=tuple(as_list(value.get("consumerDataSet"), ConsumerData.from_json)),
            heartbeat_fingerprint=as_int(value.get("heartbeatFingerprint")),
            without_sub=as_bool(value.get("withoutSub")),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckClientBody:
    """The body of CHECK_CLIENT_CONFIG (46)."""

    client_id: str = ""
    group: str = ""
    namespace: str | None = None
    subscription_data: SubscriptionData | None = None

    def to_json(self) -> dict[str, Any]:
        """Members as on the wire."""
        return {
            "clientId": self.client_id,
            "group": self.group,
            "namespace": self.namespace,
            "subscriptionData": self.subscription_data,
        }

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read the body. JsonError if it is not one."""
        value = read_object(value, "the body")
        subscription = value.get("subscriptionData")
        return cls(
            client_id=as_str(value.get("clientId")),
            group=as_str(value.get("group")),
            namespace=as_optional_str(value.get("namespace")),
            subscription_data=None if subscription is None else SubscriptionData.from_json(subscription),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LockBatchBody:
    """The body of LOCK_BATCH_MQ and UNLOCK_BATCH_MQ (41, 42)."""

    consumer_group: str
    client_id: str
    mq_set: tuple[MessageQueue, ...] = ()
    only_this_broker: bool = False

    def to_json(self) -> dict[str, Any]:
        """Members as on the wire."""
        return {
            "clientId": self.client_id,
            "consumerGroup": self.consumer_group,
            "mqSet": self.mq_set,
            "onlyThisBroker": self.only_this_broker,
        }

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read the body. JsonError if it is not one."""
        value = read_object(value, "the body")
        return cls(
            consumer_group=as_str(value.get("consumerGroup")),
            client_id=as_str(value.get("clientId")),
            mq_set=tuple(as_list(value.get("mqSet"), MessageQueue.from_json)),
            only_this_broker=as_bool(value.get("onlyThisBroker")),
        )


@dataclass(frozen=True, slots=True)
class LockBatchResponseBody:
    """The answer to LOCK_BATCH_MQ: the queues that the caller holds now."""

    lock_ok_mq_set: tuple[MessageQueue, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Members as on the wire."""
        return {"lockOKMQSet": self.lock_ok_mq_set}

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read the body. JsonError if it is not one."""
        return cls(tuple(as_list(read_object(value, "the body").get("lockOKMQSet"), MessageQueue.from_json)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """One client of a group, for administration. `client_addr` is `ip:port`."""

    client_id: str
    client_addr: str
    language: str
    version: int

    def to_json(self) -> dict[str, Any]:
        """Members as on the wire."""
        return {
            "clientAddr": self.client_addr,
            "clientId": self.client_id,
            "language": self.language,
            "version": self.version,
        }

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read parsed JSON. JsonError if it is not a connection."""
        value = read_object(value, "a connection")
        return cls(
            client_id=as_str(value.get("clientId")),
            client_addr=as_str(value.get("clientAddr")),
            language=as_str(value.get("language")),
            version=as_int(value.get("version")),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerConnection:
    """The members of a consumer group: body of code 203."""

    connection_set: tuple[Connection, ...] = ()
    subscription_table: dict[str, SubscriptionData] = field(default_factory=dict)
    consume_type: ConsumeType | None = None
    message_model: MessageModel | None = None
    consume_from_where: ConsumeFromWhere | None = None
    subscription_conflicts: dict[str, dict[str, str]] = field(default_factory=dict)
    """fastmq's own: what each client wants of a topic, for topics of which they do not all want the same."""

    def to_json(self) -> dict[str, Any]:
        """Members as on the wire."""
        members: dict[str, Any] = {
            "connectionSet": self.connection_set,
            "consumeFromWhere": self.consume_from_where,
            "consumeType": self.consume_type,
            "messageModel": self.message_model,
            "subscriptionTable": self.subscription_table,
        }
        if self.subscription_conflicts:
            members["subscriptionConflicts"] = self.subscription_conflicts
        return members


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerInfo:
    """One producer, for administration: an item of the body of code 328."""

    client_id: str
    remote_ip: str
    language: str
    version: int
    last_update_timestamp: int

    def to_json(self) -> dict[str, Any]:
        """Members as on the wire."""
        return {
            "clientId": self.client_id,
            "language": self.language,
            "lastUpdateTimestamp": self.last_update_timestamp,
            "remoteIP": self.remote_ip,
            "version": self.version,
        }


def producer_connection(connections: Iterable[Connection]) -> dict[str, Any]:
    """The body of code 204."""
    return {"connectionSet": list(connections)}


def producer_table(table: dict[str, list[ProducerInfo]]) -> dict[str, Any]:
    """The body of code 328."""
    return {"data": table}


def consumer_id_list(client_ids: Iterable[str]) -> dict[str, Any]:
    """The body of code 38."""
    return {"consumerIdList": list(client_ids)}
