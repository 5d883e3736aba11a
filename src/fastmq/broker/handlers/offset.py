"""Offsets of consumers and of queues: codes 14, 15 and 29 to 32.

After RocketMQ's ConsumerManageProcessor and AdminBrokerProcessor. One difference is on purpose: a group without an
offset that asks about a queue which is still empty is told 0, as RocketMQ 4.x did. Apache 5.x says "not found"; the
client then starts at the queue's end and can miss the first message, sent between the question and its first pull.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fastmq.broker.handlers.admin import refuse_broker_group
from fastmq.broker.state.offsets import NOT_COMMITTED
from fastmq.net.server import Reply
from fastmq.protocol.codes import RequestCode, ResponseCode
from fastmq.protocol.headers import (
    GetEarliestMsgStoretimeRequest,
    GetMaxOffsetRequest,
    GetMinOffsetRequest,
    QueryConsumerOffsetRequest,
    SearchOffsetRequest,
    UpdateConsumerOffsetRequest,
)

if TYPE_CHECKING:
    from fastmq.broker.app import Broker
    from fastmq.broker.dispatch import Handler
    from fastmq.net.server import Peer
    from fastmq.protocol.command import Command

MAX_QUEUE_ID: Final = 65_535
"""Highest queue id that an offset is kept for: a bound on what one client can make the broker remember."""


def query_consumer_offset(broker: Broker, peer: Peer, request: Command) -> Reply:
    """QUERY_CONSUMER_OFFSET (14). Code 22 tells the client to begin as its consumeFromWhere says."""
    header = QueryConsumerOffsetRequest.decode(request.ext)
    offset = broker.offsets.query(header.consumer_group, header.topic, header.queue_id)
    if offset > NOT_COMMITTED:
        return _offset(offset)
    if header.set_zero_if_not_found is False:
        return Reply(ResponseCode.QUERY_NOT_FOUND, "Not found, do not set to zero, maybe this group boot first")
    if _begins_at_zero(broker, header.topic, header.queue_id):
        return _offset(0)
    return Reply(ResponseCode.QUERY_NOT_FOUND, "Not found, V3_0_6_SNAPSHOT maybe this group consumer boot first")


def _begins_at_zero(broker: Broker, topic_name: str, queue_id: int) -> bool:
    """Whether a new group is to read a queue from its beginning: it is young, or still empty.

    Young means that its first message is there and, going by its distance from the log's end, still in memory.
    """
    bounds = broker.store.queue_offsets(topic_name, queue_id)
    if bounds is None or bounds[1] == 0:
        topic = broker.topics.get(topic_name)
        return topic is not None and 0 <= queue_id < topic.read_queue_nums
    if bounds[0] > 0:
        return False
    first = broker.store.queue_entries(topic_name, queue_id, 0, 1)
    in_memory = broker.memory_bytes * broker.config.access_message_in_memory_max_ratio // 100
    return bool(first) and broker.store.written_offset - first[0][0] <= in_memory


def update_consumer_offset(broker: Broker, peer: Peer, request: Command) -> Reply:
    """UPDATE_CONSUMER_OFFSET (15). A lower offset is accepted; while a reset waits for the queue nothing is stored."""
    header = UpdateConsumerOffsetRequest.decode(request.ext)
    group, topic, queue_id, offset = header.consumer_group, header.topic, header.queue_id, header.commit_offset
    refuse_broker_group(group)
    if group not in broker.groups:
        return Reply(ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST, f"Group {group} not exist!")
    if topic not in broker.topics:
        return Reply(ResponseCode.TOPIC_NOT_EXIST, f"Topic {topic} not exist!")
    if queue_id is None:
        return Reply(ResponseCode.INVALID_PARAMETER, "QueueId is null, topic is " + topic)
    if offset is None:
        return Reply(ResponseCode.INVALID_PARAMETER, "Offset is null, topic is " + topic)
    if not 0 <= queue_id <= MAX_QUEUE_ID:
        return Reply(ResponseCode.INVALID_PARAMETER, f"queueId[{queue_id}] is illegal, topic is {topic}")
    if broker.config.use_server_side_reset_offset and broker.offsets.has_reset(group, topic, queue_id):
        return Reply(remark="Offset has been previously reset")
    broker.offsets.commit(group, topic, queue_id, offset)
    return Reply()


def search_offset_by_timestamp(broker: Broker, peer: Peer, request: Command) -> Reply:
    """SEARCH_OFFSET_BY_TIMESTAMP (29)."""
    header = SearchOffsetRequest.decode(request.ext)
    if broker.store.queue_offsets(header.topic, header.queue_id) is None:
        return _offset(0)
    offset = broker.store.search_offset(header.topic, header.queue_id, header.timestamp, upper=header.upper)
    return _offset(offset)


def get_max_offset(broker: Broker, peer: Peer, request: Command) -> Reply:
    """GET_MAX_OFFSET (30): the offset that the next message gets, 0 for a queue never used."""
    header = GetMaxOffsetRequest.decode(request.ext)
    bounds = broker.store.queue_offsets(header.topic, header.queue_id)
    return _offset(0 if bounds is None else bounds[1])


def get_min_offset(broker: Broker, peer: Peer, request: Command) -> Reply:
    """GET_MIN_OFFSET (31): the oldest offset that can be read, 0 for a queue never used."""
    header = GetMinOffsetRequest.decode(request.ext)
    bounds = broker.store.queue_offsets(header.topic, header.queue_id)
    return _offset(0 if bounds is None else bounds[0])


def get_earliest_msg_storetime(broker: Broker, peer: Peer, request: Command) -> Reply:
    """GET_EARLIEST_MSG_STORETIME (32): when the oldest message of the queue was stored, -1 if there is none."""
    header = GetEarliestMsgStoretimeRequest.decode(request.ext)
    bounds = broker.store.queue_offsets(header.topic, header.queue_id)
    timestamp = -1
    if bounds is not None and bounds[0] < bounds[1]:
        timestamp = broker.store.store_timestamp_at(header.topic, header.queue_id, bounds[0])
    return Reply(ext={"timestamp": str(timestamp)})


def _offset(offset: int) -> Reply:
    return Reply(ext={"offset": str(offset)})


HANDLERS: dict[int, Handler] = {
    RequestCode.QUERY_CONSUMER_OFFSET: query_consumer_offset,
    RequestCode.UPDATE_CONSUMER_OFFSET: update_consumer_offset,
    RequestCode.SEARCH_OFFSET_BY_TIMESTAMP: search_offset_by_timestamp,
    RequestCode.GET_MAX_OFFSET: get_max_offset,
    RequestCode.GET_MIN_OFFSET: get_min_offset,
    RequestCode.GET_EARLIEST_MSG_STORETIME: get_earliest_msg_storetime,
}
