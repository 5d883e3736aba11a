"""Bodies that administration asks for: progress, statistics, queue contents, replication."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

from fastmq.protocol._json_text import JsonError
from fastmq.protocol.bodies._read import as_bool, as_enum, as_int, as_list, as_map, as_str, read_object
from fastmq.protocol.bodies.client import CMResult, SubscriptionData
from fastmq.protocol.bodies.config import DataVersion, MessageQueue, queue_map


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicOffset:
    """One queue in a TopicStatsTable; the time is that of its last message in ms."""

    min_offset: int
    max_offset: int
    last_update_timestamp: int = 0

    def to_json(self) -> dict[str, Any]:
        """Members as on the wire."""
        return {
            "lastUpdateTimestamp": self.last_update_timestamp,
            "maxOffset": self.max_offset,
            "minOffset": self.min_offset,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicStatsTable:
    """Body of code 202."""

    offset_table: Mapping[MessageQueue, TopicOffset] = field(default_factory=dict)
    topic_put_tps: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Members as on the wire."""
        return {"offsetTable": dict(self.offset_table), "topicPutTps": self.topic_put_tps}


@dataclass(frozen=True, slots=True, kw_only=True)
class OffsetWrapper:
    """How far a group is in one queue; the time is that of the last consumed message in ms."""

    broker_offset: int
    consumer_offset: int
    pull_offset: int = 0
    last_timestamp: int = 0

    def to_json(self) -> dict[str, Any]:
        """Members as on the wire."""
        return {
            "brokerOffset": self.broker_offset,
            "consumerOffset": self.consumer_offset,
            "lastTimestamp": self.last_timestamp,
            "pullOffset": self.pull_offset,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumeStats:
    """Body of code 208, and an item of 317."""

    offset_table: Mapping[MessageQueue, OffsetWrapper] = field(default_factory=dict)
    consume_tps: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Members as on the wire."""
        return {"consumeTps": self.consume_tps, "offsetTable": dict(self.offset_table)}

    @property
    def total_diff(self) -> int:
        """How many messages the group has not consumed."""
        return sum(item.broker_offset - item.consumer_offset for item in self.offset_table.values())

    @property
    def total_inflight_diff(self) -> int:
        """How many messages were pulled and not consumed."""
        return sum(item.pull_offset - item.consumer_offset for item in self.offset_table.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumeStatsList:
    """Body of code 317: group → its stats."""

    broker_addr: str
    consume_stats_list: Iterable[Mapping[str, list[ConsumeStats]]] = ()
    total_diff: int = 0
    total_inflight_diff: int = 0

    def to_json(self) -> dict[str, Any]:
        """Members as on the wire."""
        return {
            "brokerAddr": self.broker_addr,
            "consumeStatsList": [dict(item) for item in self.consume_stats_list],
            "totalDiff": self.total_diff,
            "totalInflightDiff": self.total_inflight_diff,
        }


def _human(timestamp_ms: int) -> str:
    moment = datetime.fromtimestamp(timestamp_ms / 1000)
    return f"{moment:%Y-%m-%d#%H:%M:%S}:{timestamp_ms % 1000:03d}"


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueTimeSpan:
    """Times of the messages of one queue in ms: first, last, last consumed; and how late the group is."""

    message_queue: MessageQueue
    min_timestamp: int
    max_timestamp: int
    consume_timestamp: int
    delay_time: int

    def to_json(self) -> dict[str, Any]:
        """Members as on the wire."""
        return {
            "consumeTimeStamp": self.consume_timestamp,
            "consumeTimeStampStr": _human(self.consume_timestamp),
            "delayTime": self.delay_time,
            "maxTimeStamp": self.max_timestamp,
            "maxTimeStampStr": _human(self.max_timestamp),
            "messageQueue": self.message_queue,
            "minTimeStamp": self.min_timestamp,
            "minTimeStampStr": _human(self.min_timestamp),
        }


def consume_time_span(spans: Iterable[QueueTimeSpan]) -> dict[str, Any]:
    """Body of code 303."""
    return {"consumeTimeSpanSet": list(spans)}


@dataclass(frozen=True, slots=True, kw_only=True)
class QuerySubscriptionBody:
    """Body of code 345."""

    group: str
    topic: str | None = None
    subscription_data: SubscriptionData | None = None

    def to_json(self) -> dict[str, Any]:
        """Members as on the wire."""
        return {"group": self.group, "subscriptionData": self.subscription_data, "topic": self.topic}


@dataclass(frozen=True, slots=True)
class ResetOffsetBody:
    """Bodies of code 220 and of the answer to 222: the offsets that were set."""

    offset_table: Mapping[MessageQueue, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Members as on the wire."""
        return {"offsetTable": dict(self.offset_table)}

    def to_json_for_c(self) -> dict[str, Any]:
        """The form that C++ clients read: a list."""
        rows = [
            {"brokerName": queue.broker_name, "offset": offset, "queueId": queue.queue_id, "topic": queue.topic}
            for queue, offset in self.offset_table.items()
        ]
        return {"offsetTable": rows}

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read the body. JsonError if it is not one."""
        table = queue_map(read_object(value, "the body").get("offsetTable"))
        return cls({queue: as_int(offset) for queue, offset in table.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerStatusBody:
    """Bodies of the answers to 221 (`message_queue_table`) and 223 (`consumer_table`: client id → queue → offset)."""

    message_queue_table: Mapping[MessageQueue, int] = field(default_factory=dict)
    consumer_table: Mapping[str, Mapping[MessageQueue, int]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Members as on the wire."""
        return {
            "consumerTable": {client: dict(table) for client, table in self.consumer_table.items()},
            "messageQueueTable": dict(self.message_queue_table),
        }

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read the body. JsonError if it is not one."""
        value = read_object(value, "the body")

        def offsets(table: Any) -> dict[MessageQueue, int]:
            return {queue: as_int(offset) for queue, offset in queue_map(table).items()}

        return cls(
            message_queue_table=offsets(value.get("messageQueueTable")),
            consumer_table=as_map(value.get("consumerTable"), offsets),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerStatsItem:
    """Sum, per-second rate and average value of one window."""

    sum: int = 0
    tps: float = 0.0
    avgpt: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Members as on the wire."""
        return {"avgpt": float(self.avgpt), "sum": self.sum, "tps": float(self.tps)}


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerStatsData:
    """Body of code 315."""

    minute: BrokerStatsItem = field(default_factory=BrokerStatsItem)
    hour: BrokerStatsItem = field(default_factory=BrokerStatsItem)
    day: BrokerStatsItem = field(default_factory=BrokerStatsItem)

    def to_json(self) -> dict[str, Any]:
        """Members as on the wire."""
        return {"statsDay": self.day, "statsHour": self.hour, "statsMinute": self.minute}


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumeQueueEntry:
    """One queue entry in the body of code 321."""

    physic_offset: int
    physic_size: int
    tags_code: int
    extend_data_json: str | None = None
    bit_map: str | None = None
    eval: bool = False
    msg: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Members as on the wire."""
        return {
            "bitMap": self.bit_map,
            "eval": self.eval,
            "extendDataJson": self.extend_data_json,
            "msg": self.msg,
            "physicOffset": self.physic_offset,
            "physicSize": self.physic_size,
            "tagsCode": self.tags_code,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryConsumeQueueBody:
    """Body of code 321."""

    min_queue_index: int = 0
    max_queue_index: int = 0
    queue_data: tuple[ConsumeQueueEntry, ...] = ()
    subscription_data: SubscriptionData | None = None
    filter_data: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Members as on the wire."""
        return {
            "filterData": self.filter_data,
            "maxQueueIndex": self.max_queue_index,
            "minQueueIndex": self.min_queue_index,
            "queueData": self.queue_data,
            "subscriptionData": self.subscription_data,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerOffsetTable:
    """All consumer offsets, `topic@group` → queue id → offset: body of code 43 and consumerOffset.json."""

    offset_table: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    data_version: DataVersion = field(default_factory=DataVersion)

    def to_json(self) -> dict[str, Any]:
        """Members as on the wire."""
        return {
            "dataVersion": self.data_version,
            "offsetTable": {key: dict(queues) for key, queues in self.offset_table.items()},
        }

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read either form of it, queue ids quoted or not. JsonError if it is not one."""
        value = read_object(value, "an offset table")

        def queues(table: Any) -> dict[int, int]:
            return {as_int(queue): offset for queue, offset in as_map(table, as_int).items()}

        return cls(
            offset_table=as_map(value.get("offsetTable"), queues),
            data_version=DataVersion.from_json(value.get("dataVersion") or {}),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DelayOffsetTable:
    """How far each delay level is: body of code 45 and delayOffset.json."""

    offset_table: Mapping[int, int] = field(default_factory=dict)
    data_version: DataVersion = field(default_factory=DataVersion)

    def to_json(self) -> dict[str, Any]:
        """Members as on the wire."""
        return {"dataVersion": self.data_version, "offsetTable": dict(self.offset_table)}

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read either form of it, levels quoted or not. JsonError if it is not one."""
        value = read_object(value, "a delay offset table")
        table = {as_int(level): offset for level, offset in as_map(value.get("offsetTable"), as_int).items()}
        return cls(offset_table=table, data_version=DataVersion.from_json(value.get("dataVersion") or {}))


@dataclass(frozen=True, slots=True, kw_only=True)
class HaConnectionInfo:
    """One replica as the master sees it, in the body of code 907."""

    addr: str
    slave_ack_offset: int = 0
    diff: int = 0
    in_sync: bool = False
    transferred_byte_in_second: int = 0
    transfer_from_where: int = 0

    def to_json(self) -> dict[str, Any]:
        """Members as on the wire."""
        return {
            "addr": self.addr,
            "diff": self.diff,
            "inSync": self.in_sync,
            "slaveAckOffset": self.slave_ack_offset,
            "transferFromWhere": self.transfer_from_where,
            "transferredByteInSecond": self.transferred_byte_in_second,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class HaClientInfo:
    """A replica's own view, in the body of code 907."""

    master_addr: str | None = None
    transferred_byte_in_second: int = 0
    max_offset: int = 0
    last_read_timestamp: int = 0
    last_write_timestamp: int = 0
    master_flush_offset: int = 0

    def to_json(self) -> dict[str, Any]:
        """Members as on the wire."""
        return {
            "lastReadTimestamp": self.last_read_timestamp,
            "lastWriteTimestamp": self.last_write_timestamp,
            "masterAddr": self.master_addr,
            "masterFlushOffset": self.master_flush_offset,
            "maxOffset": self.max_offset,
            "transferredByteInSecond": self.transferred_byte_in_second,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class HaRuntimeInfo:
    """Body of code 907."""

    master: bool
    master_commit_log_max_offset: int = 0
    in_sync_slave_nums: int = 0
    ha_connection_info: tuple[HaConnectionInfo, ...] = ()
    ha_client_runtime_info: HaClientInfo = field(default_factory=HaClientInfo)

    def to_json(self) -> dict[str, Any]:
        """Members as on the wire."""
        return {
            "haClientRuntimeInfo": self.ha_client_runtime_info,
            "haConnectionInfo": self.ha_connection_info,
            "inSyncSlaveNums": self.in_sync_slave_nums,
            "master": self.master,
            "masterCommitLogMaxOffset": self.master_commit_log_max_offset,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchAck:
    """One item of BATCH_ACK_MESSAGE (200151): bit i of `acked` stands for offset `start_offset` + i."""

    consumer_group: str
    topic: str
    retry: str
    start_offset: int
    queue_id: int
    revive_queue_id: int
    pop_time: int
    invisible_time: int
    acked: bytes

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read parsed JSON. JsonError if it is not one."""
        value = read_object(value, "an ack")
        try:
            acked = base64.b64decode(as_str(value.get("b")), validate=True)
        except binascii.Error:
            raise JsonError("the bit set of an ack is not base64") from None
        return cls(
            consumer_group=as_str(value.get("c")),
            topic=as_str(value.get("t")),
            retry=as_str(value.get("r")),
            start_offset=as_int(value.get("so")),
            queue_id=as_int(value.get("q")),
            revive_queue_id=as_int(value.get("rq")),
            pop_time=as_int(value.get("pt")),
            invisible_time=as_int(value.get("it")),
            acked=acked,
        )

    def to_json(self) -> dict[str, Any]:
        """Members as on the wire."""
        return {
            "b": base64.b64encode(self.acked).decode("ascii"),
            "c": self.consumer_group,
            "it": self.invisible_time,
            "pt": self.pop_time,
            "q": self.queue_id,
            "r": self.retry,
            "rq": self.revive_queue_id,
            "so": self.start_offset,
            "t": self.topic,
        }

    @property
    def offsets(self) -> list[int]:
        """The acknowledged offsets, ascending."""
        return [
            self.start_offset + 8 * place + bit
            for place, byte in enumerate(self.acked)
            if byte
            for bit in range(8)
            if byte >> bit & 1
        ]


def batch_acks(body: bytes | str) -> list[BatchAck]:
    """The items of the body of code 200151."""
    return as_list(read_object(body, "the body").get("acks"), BatchAck.from_json)


def batch_ack_broker(body: bytes | str) -> str:
    """The broker that the pops of the body of code 200151 were from, empty if it does not say."""
    return as_str(read_object(body, "the body").get("brokerName"))


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageRequestMode:
    """How a group gets a topic: body of code 401. `mode` is PULL or POP."""

    topic: str
    consumer_group: str
    mode: str = "PULL"
    pop_share_queue_num: int = 0

    def to_json(self) -> dict[str, Any]:
        """Members as on the wire."""
        return {
            "consumerGroup": self.consumer_group,
            "mode": self.mode,
            "popShareQueueNum": self.pop_share_queue_num,
            "topic": self.topic,
        }

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read the body. JsonError if it is not one."""
        value = read_object(value, "the body")
        return cls(
            topic=as_str(value.get("topic")),
            consumer_group=as_str(value.get("consumerGroup")),
            mode=as_str(value.get("mode"), "PULL"),
            pop_share_queue_num=as_int(value.get("popShareQueueNum")),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumeMessageDirectlyResult:
    """What a client answers to code 309."""

    consume_result: CMResult
    order: bool = False
    auto_commit: bool = True
    remark: str | None = None
    spent_time_mills: int = 0

    def to_json(self) -> dict[str, Any]:
        """Members as on the wire."""
        return {
            "autoCommit": self.auto_commit,
            "consumeResult": self.consume_result,
            "order": self.order,
            "remark": self.remark,
            "spentTimeMills": self.spent_time_mills,
        }

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read the body. JsonError if it is not one."""
        value = read_object(value, "the body")
        return cls(
            consume_result=as_enum(CMResult, value.get("consumeResult"), CMResult.CR_RETURN_NULL),
            order=as_bool(value.get("order")),
            auto_commit=as_bool(value.get("autoCommit"), True),
            remark=None if value.get("remark") is None else as_str(value.get("remark")),
            spent_time_mills=as_int(value.get("spentTimeMills")),
        )
