"""Finding messages: by key, by commit log offset, and the raw entries of a consume queue (QueryMessageProcessor).

Old messages may lie on a disk that is slow to answer, so reading happens in a worker thread.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from fastmq import limits
from fastmq.errors import ProtocolError
from fastmq.net.server import Reply
from fastmq.protocol.bodies import ConsumeQueueEntry, QueryConsumeQueueBody, dumps
from fastmq.protocol.codes import RequestCode, ResponseCode
from fastmq.protocol.headers import (
    QueryConsumeQueueRequest,
    QueryMessageRequest,
    QueryMessageResponse,
    ViewMessageRequest,
)
from fastmq.protocol.message import KEY_SEPARATOR, PROPERTY_KEYS, PROPERTY_UNIQUE_KEY, decode_message, decode_properties

if TYPE_CHECKING:
    from fastmq._store import Store
    from fastmq.broker.app import Broker
    from fastmq.broker.dispatch import Handler
    from fastmq.net.server import Peer
    from fastmq.protocol.command import Command

QUEUE_ENTRIES_MAX: Final = 1024  # of one QUERY_CONSUME_QUEUE
BODY_MAX_BYTES: Final = limits.MAX_FRAME_BYTES - limits.MIB  # what an answer may hold so that a client takes it
SEARCH_FACTOR: Final = 4  # index entries looked at for each wanted message: others may share the hash


async def query_message(broker: Broker, peer: Peer, request: Command) -> Reply:
    """QUERY_MESSAGE (12): messages of a topic with a key (one of KEYS, or UNIQ_KEY), stored within a time range.

    The index knows only hashes, so topic and key of each record are compared before it is handed out.
    """
    header = QueryMessageRequest.decode(request.ext)
    config = broker.config
    wanted = config.default_query_max_num if header.unique_key_query else header.max_num
    wanted = max(0, min(wanted, config.max_msgs_num_batch))
    search = partial(
        _search, broker.store, header.topic, header.key, wanted, header.begin_timestamp, header.end_timestamp
    )
    body, last_timestamp, last_log_offset = await trio.to_thread.run_sync(search)
    reply = Reply(
        ext=QueryMessageResponse(
            index_last_update_timestamp=last_timestamp if body else 0,
            index_last_update_phyoffset=last_log_offset if body else 0,
        ).encode(),
        body=body,
    )
    if not body:
        reply.code = ResponseCode.QUERY_NOT_FOUND
        reply.remark = "can not find message, maybe time range not correct"
    return reply


def _search(store: Store, topic: str, key: str, wanted: int, begin_ms: int, end_ms: int) -> tuple[bytes, int, int]:
    """(records one after another, oldest first; last update of the index: time, log offset)."""
    if wanted == 0:
        return b"", 0, 0
    offsets, last_timestamp, last_log_offset = store.query_index(topic, key, wanted * SEARCH_FACTOR, begin_ms, end_ms)
    found: list[bytes] = []
    size = 0
    for log_offset in reversed(offsets):  # newest first: if not all fit, these are wanted
        record = store.read_record(log_offset)
        if record is None or not has_key(record, topic, key):
            continue
        size += len(record)
        if found and size > BODY_MAX_BYTES:
            break
        found.append(record)
        if len(found) == wanted:
            break
    return b"".join(reversed(found)), last_timestamp, last_log_offset


def has_key(record: bytes, topic: str, key: str) -> bool:
    """Whether a stored record belongs to the topic and carries the key, as one of KEYS or as UNIQ_KEY."""
    try:
        message, _ = decode_message(record)
    except ProtocolError:
        return False
    if message.topic != topic:
        return False
    properties = decode_properties(message.properties)
    return key == properties.get(PROPERTY_UNIQUE_KEY) or key in properties.get(PROPERTY_KEYS, "").split(KEY_SEPARATOR)


async def view_message_by_id(broker: Broker, peer: Peer, request: Command) -> Reply:
    """VIEW_MESSAGE_BY_ID (33): the record at a commit log offset, which an offset message id ends with."""
    log_offset = ViewMessageRequest.decode(request.ext).offset
    record = None
    if log_offset >= 0:
        record = await trio.to_thread.run_sync(broker.store.read_record, log_offset)
    if record is None:
        return Reply(ResponseCode.SYSTEM_ERROR, f"can not find message by the offset, {log_offset}")
    return Reply(body=record)


async def query_consume_queue(broker: Broker, peer: Peer, request: Command) -> Reply:
    """QUERY_CONSUME_QUEUE (321): entries of a queue from an index on, and what a group's filter is."""
    header = QueryConsumeQueueRequest.decode(request.ext)
    topic = broker.topics.get(header.topic or "")
    queues = 0 if topic is None else max(topic.read_queue_nums, topic.write_queue_nums)
    if not 0 <= header.queue_id < queues:
        return Reply(ResponseCode.SYSTEM_ERROR, f"{header.queue_id}@{header.topic} is not exist!")
    assert topic is not None
    min_offset, max_offset = broker.store.queue_offsets(topic.topic_name, header.queue_id) or (0, 0)
    start = max(header.index, min_offset)
    count = max(0, min(header.count, QUEUE_ENTRIES_MAX, max_offset - start))
    entries: list[tuple[int, int, int]] = []
    if count:
        entries = await trio.to_thread.run_sync(
            broker.store.queue_entries, topic.topic_name, header.queue_id, start, count
        )
    subscription = filter_text = None
    if header.consumer_group:
        subscription = broker.sessions.find_subscription(header.consumer_group, topic.topic_name)
        filter_text = "null" if subscription else f"{header.consumer_group}@{topic.topic_name} is not online!"
    return Reply(
        body=dumps(
            QueryConsumeQueueBody(
                min_queue_index=min_offset,
                max_queue_index=max_offset,
                queue_data=tuple(
                    ConsumeQueueEntry(physic_offset=log_offset, physic_size=size, tags_code=tags_code)
                    for log_offset, size, tags_code in entries
                ),
                subscription_data=subscription,
                filter_data=filter_text,
            )
        )
    )


HANDLERS: Final[dict[int, Handler]] = {
    RequestCode.QUERY_MESSAGE: query_message,
    RequestCode.VIEW_MESSAGE_BY_ID: view_message_by_id,
    RequestCode.QUERY_CONSUME_QUEUE: query_consume_queue,
}
