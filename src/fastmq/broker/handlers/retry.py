"""CONSUMER_SEND_MSG_BACK (36): a consumer could not deal with a message and gives it back.

The broker stores the message again, in the group's retry topic (delayed, longer each time) or, after too many tries, in
its dead-letter topic. After RocketMQ's AbstractSendMessageProcessor.consumerSendMsgBack.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from fastmq import _store as st
from fastmq.broker.delivery.intake import OutgoingMessage, store_message
from fastmq.broker.handlers.send import DLQ_QUEUES, FAQ, HONOURS_MAX_RECONSUME_VERSION
from fastmq.errors import ProtocolError
from fastmq.net.server import Reply
from fastmq.protocol import message as m
from fastmq.protocol import names
from fastmq.protocol.bodies import PERM_WRITE, TOPIC_UNIT_SUB_FLAG
from fastmq.protocol.codes import RequestCode, ResponseCode
from fastmq.protocol.headers import ConsumerSendMsgBackRequest

if TYPE_CHECKING:
    from fastmq.broker.app import Broker
    from fastmq.broker.dispatch import Handler
    from fastmq.net.server import Peer
    from fastmq.protocol.command import Command

log = logging.getLogger("fastmq.broker.retry")

FIRST_RETRY_LEVEL: Final = 3
"""Delay level of the first retry when the consumer names none: 10 s."""

STATUS_NAMES: Final = {
    st.ST_BODY_TOO_LARGE: "MESSAGE_ILLEGAL",
    st.ST_PROPERTIES_TOO_LARGE: "PROPERTIES_SIZE_EXCEEDED",
    st.ST_TOPIC_TOO_LONG: "MESSAGE_ILLEGAL",
    st.ST_RECORD_TOO_LARGE: "MESSAGE_ILLEGAL",
    st.ST_DISK_FULL: "SERVICE_NOT_AVAILABLE",
    st.ST_FLUSH_FAILED: "SERVICE_NOT_AVAILABLE",
    st.ST_CLOSED: "SERVICE_NOT_AVAILABLE",
    st.ST_NOT_WRITEABLE: "SERVICE_NOT_AVAILABLE",
    st.ST_TOO_MANY_LMQ: "LMQ_CONSUME_QUEUE_NUM_EXCEEDED",
}
"""RocketMQ's name (PutMessageStatus) of a failure, which is the remark of the answer."""


def consumer_send_msg_back(broker: Broker, peer: Peer, request: Command) -> Reply:
    """Store a message once more for a group. Its delay follows `delay_level`: 0 grows with the tries, < 0 gives up."""
    header = ConsumerSendMsgBackRequest.decode(request.ext)
    config = broker.config
    if broker.draining:
        return Reply(ResponseCode.SERVICE_NOT_AVAILABLE, "service not available now: the broker is stopping")
    group = broker.groups.find_or_create(header.group)
    if group is None:
        return Reply(ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST, f"subscription group not exist, {header.group} {FAQ}")
    if not config.broker_permission & PERM_WRITE:
        return Reply(ResponseCode.NO_PERMISSION, f"the broker[{config.broker_ip1}] sending message is forbidden")
    if group.retry_queue_nums <= 0:
        return Reply()  # the group wants no retries: the message is gone, on purpose
    name = names.retry_topic(header.group)
    topic = broker.topics.create_internal(
        name, queue_nums=group.retry_queue_nums, sys_flag=TOPIC_UNIT_SUB_FLAG if header.unit_mode else 0
    )
    if not topic.writeable:
        return Reply(ResponseCode.NO_PERMISSION, f"the topic[{name}] sending message is forbidden")
    record = broker.store.read_record(header.offset)
    try:
        original = None if record is None else m.decode_message(record)[0]
    except ProtocolError:
        original = None
    if original is None or _is_hidden(original.topic):
        return Reply(ResponseCode.SYSTEM_ERROR, f"look message by offset failed, {header.offset}")

    properties = original.property_map
    properties.setdefault(m.PROPERTY_RETRY_TOPIC, original.topic)
    properties[m.PROPERTY_WAIT_STORE_MSG_OK] = "false"
    properties.setdefault(m.PROPERTY_ORIGIN_MESSAGE_ID, original.offset_id)
    max_times = group.retry_max_times
    if header.max_reconsume_times is not None and request.version >= HONOURS_MAX_RECONSUME_VERSION:
        max_times = header.max_reconsume_times
    message = OutgoingMessage.of(original, name, broker.random.randrange(group.retry_queue_nums), properties)
    message.reconsume_times += 1
    given_up = original.reconsume_times >= max_times or header.delay_level < 0
    if given_up:
        message.topic = names.dlq_topic(header.group)
        message.queue_id = 0
        broker.topics.create_internal(message.topic, queue_nums=DLQ_QUEUES)
        properties.pop(m.PROPERTY_DELAY_TIME_LEVEL, None)
        # a dead letter is in no light queue: it would be consumed, and die, again and again
        properties.pop(m.PROPERTY_INNER_MULTI_DISPATCH, None)
        properties.pop(m.PROPERTY_INNER_MULTI_QUEUE_OFFSET, None)
    else:
        level = header.delay_level or FIRST_RETRY_LEVEL + original.reconsume_times
        properties[m.PROPERTY_DELAY_TIME_LEVEL] = str(level)
    # what the original was stored with for an earlier delay says nothing about this one
    for stale in (m.PROPERTY_TIMER_DELIVER_MS, m.PROPERTY_TIMER_DELAY_SEC, m.PROPERTY_TIMER_DELAY_MS):
        properties.pop(stale, None)
    appended = store_message(broker, message)
    if appended.status != st.ST_OK:
        broker.stats.on_put_failed()
        log.warning("message %d of %s was not stored: status %d", header.offset, header.group, appended.status)
        return Reply(ResponseCode.SYSTEM_ERROR, STATUS_NAMES.get(appended.status, "UNKNOWN_ERROR"))
    broker.stats.on_put(message.topic, message.queue_id, 1, appended.size)
    real_topic = properties[m.PROPERTY_RETRY_TOPIC]
    broker.stats.on_send_back(header.group, real_topic)
    if given_up:
        broker.stats.on_dead_letter(header.group, real_topic)
    # a consumer that was told yes forgets the message: with SYNC_FLUSH it must be on disk first
    return Reply(after_flush=appended.flush_target if config.sync_flush else None)


def _is_hidden(topic: str) -> bool:
    """Whether what lies in a topic is the broker's own affair: a copy would be seen too early, or be nonsense."""
    return topic in names.WAITING_TOPICS or topic.startswith(names.REVIVE_TOPIC_PREFIX)


HANDLERS: dict[int, Handler] = {
    RequestCode.CONSUMER_SEND_MSG_BACK: consumer_send_msg_back,
}
