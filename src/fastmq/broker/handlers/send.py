"""Sending: SEND_MESSAGE (10), its short form (310), batches (320) and the answers of request-reply (324, 325).

This is the whole specification of a send; the reactor's hot road serves the plain ones and must not differ from it in a
byte. After RocketMQ's SendMessageProcessor and ReplyMessageProcessor.

The stored properties are the client's items in their order (those without name or value dropped, a later duplicate in
the place of the first), POP_CK removed, then with values replaced in place where the item exists and appended in this
order where it does not: UNIQ_KEY (only if missing), MSG_REGION, TRACE_ON, CLUSTER. Every item ends with \\x02.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Coroutine
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from fastmq import _store as st
from fastmq.broker.delivery.intake import HOST_FLAGS, OutgoingMessage, put_as_is, schedule, store_message
from fastmq.broker.delivery.timer_rules import TIMER_PROPERTIES, is_timer
from fastmq.broker.delivery.transaction import to_half
from fastmq.broker.state.topics import describe_topic, is_batch_queue, is_compaction
from fastmq.config import BrokerConfig
from fastmq.errors import RequestError
from fastmq.net.server import Reply
from fastmq.protocol import message as m
from fastmq.protocol import names
from fastmq.protocol.bodies import PERM_WRITE, TOPIC_UNIT_FLAG, TopicConfig
from fastmq.protocol.codes import RequestCode, ResponseCode
from fastmq.protocol.command import Command
from fastmq.protocol.headers import ReplyMessageRequest, SendMessageRequest
from fastmq.protocol.recall import RecallHandle

if TYPE_CHECKING:
    from fastmq._store import Appended
    from fastmq.broker.app import Broker
    from fastmq.broker.dispatch import Handler
    from fastmq.net.server import Peer

log = logging.getLogger("fastmq.broker.send")

FAQ: Final = "See https://rocketmq.apache.org/docs/bestPractice/06FAQ for further details."
"""The pointer that RocketMQ puts behind some remarks."""

HONOURS_MAX_RECONSUME_VERSION: Final = 121
"""From 3.4.9 on a client's own maxReconsumeTimes counts."""

DLQ_QUEUES: Final = 1
PUSH_REPLY_TIMEOUT_S: Final = 10.0

_BATCH_FLAGS: Final = m.NEED_UNWRAP_FLAG | m.INNER_BATCH_FLAG


SEND_CODES: Final = frozenset({RequestCode.SEND_MESSAGE, RequestCode.SEND_MESSAGE_V2, RequestCode.SEND_BATCH_MESSAGE})


# --- what the reactor's hot road says, too ----------------------------------------------------------------------------


TOO_MANY_WAIT: Final = (
    int(ResponseCode.SYSTEM_BUSY),
    "[OVERLOAD]system busy, start flow control for a while: too many sends wait for the disk",
)
"""How a send is answered while so many others wait for a flush that it would only wait with them."""


def store_failures(config: BrokerConfig) -> dict[int, tuple[int, str]]:
    """How each status of the store but ST_OK is answered: (response code, remark)."""
    illegal = (
        int(ResponseCode.MESSAGE_ILLEGAL),
        "the message is illegal, maybe msg body or properties length not matched. msg body length limit "
        f"{config.max_message_size}B, msg properties length limit 32KB.",
    )
    unavailable = int(ResponseCode.SERVICE_NOT_AVAILABLE)
    system_error = int(ResponseCode.SYSTEM_ERROR)
    return {
        st.ST_BODY_TOO_LARGE: illegal,
        st.ST_PROPERTIES_TOO_LARGE: illegal,
        st.ST_TOPIC_TOO_LONG: illegal,
        st.ST_RECORD_TOO_LARGE: illegal,
        st.ST_BAD_BATCH: illegal,
        st.ST_DISK_FULL: (unavailable, "service not available now: the disk of the store is nearly full"),
        st.ST_FLUSH_FAILED: (unavailable, "the flush of the commit log failed, it takes no more messages"),
        st.ST_CLOSED: (unavailable, "service not available now: the store is closed"),
        st.ST_NOT_WRITEABLE: (unavailable, "service not available now: the store is not writeable"),
        st.ST_TOO_MANY_LMQ: (
            system_error,
            "[LMQ_CONSUME_QUEUE_NUM_EXCEEDED]broker config enableLmq and enableMultiDispatch, lmq consumeQueue num "
            "exceed maxLmqConsumeQueueNum config num, default limit 2w.",
        ),
        st.ST_IO_ERROR: (system_error, "the commit log could not be written"),
        st.ST_NO_MEMORY: (system_error, "out of memory"),
    }


def store_failure(config: BrokerConfig, status: int) -> tuple[int, str]:
    """The answer to one status of the store."""
    return store_failures(config).get(status, (int(ResponseCode.SYSTEM_ERROR), f"unknown store status {status}"))


def response_ext(config: BrokerConfig) -> dict[str, str]:
    """The two fields that every answer to a send carries."""
    return {"TRACE_ON": "true" if config.trace_on else "false", "MSG_REGION": config.region_id}


# --- requests ---------------------------------------------------------------------------------------------------------


def send_message(broker: Broker, peer: Peer, request: Command) -> Reply:
    """SEND_MESSAGE (10), SEND_MESSAGE_V2 (310), SEND_BATCH_MESSAGE (320): one message or a batch of them.

    The flag `batch` (`m`) decides about the form of the body: C++ clients send batches with 310. Only a request without
    it goes by its code.
    """
    header = decode_send_header(request)
    config = broker.config
    ext = response_ext(config)
    try:
        topic, queue_id = check_send(broker, peer, header, request)
        if header.batch or (header.batch is None and request.code == RequestCode.SEND_BATCH_MESSAGE):
            return _store_batch(broker, peer, header, request, topic, queue_id, ext)
        return _store_single(broker, peer, header, request, topic, queue_id, ext)
    except RequestError as error:
        return Reply(error.code, error.remark, ext)


def send_reply_message(broker: Broker, peer: Peer, request: Command) -> Reply | Coroutine[None, None, Reply]:
    """SEND_REPLY_MESSAGE (324) and its short form (325): pass the answer to the client that waits for it."""
    header = decode_send_header(request)
    ext = response_ext(broker.config)
    try:
        topic, queue_id = check_send(broker, peer, header, request)
        properties = _read_properties(broker, header)
        _refuse_transaction(header, properties, "an answer")
    except RequestError as error:
        return Reply(error.code, error.remark, ext)
    return _push_reply(broker, peer, header, request, topic, queue_id, properties, ext)


# --- checks -----------------------------------------------------------------------------------------------------------


def decode_send_header(request: Command) -> SendMessageRequest:
    """The header in the form that its code has. RequestError(1) for what is missing."""
    if request.code in (RequestCode.SEND_MESSAGE, RequestCode.SEND_REPLY_MESSAGE):
        return SendMessageRequest.decode(request.ext)
    return SendMessageRequest.from_v2(request.ext)


def check_send(broker: Broker, peer: Peer, header: SendMessageRequest, request: Command) -> tuple[TopicConfig, int]:
    """The topic and the queue of a send, after all checks that come before the message is looked at."""
    config = broker.config
    if broker.draining:
        raise RequestError(ResponseCode.SERVICE_NOT_AVAILABLE, "service not available now: the broker is stopping")
    start_ms = config.start_accept_send_request_time_stamp
    if broker.clock.wall_ms() < start_ms:
        until = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(start_ms / 1000))
        raise RequestError(ResponseCode.SYSTEM_ERROR, f"broker unable to service, until {until}")
    name = header.topic
    if not config.broker_permission & PERM_WRITE and broker.topics.is_order(name):
        raise RequestError(ResponseCode.NO_PERMISSION, f"the broker[{config.broker_ip1}] sending message is forbidden")
    problem = names.validate_topic(name)
    if problem is not None:
        raise RequestError(ResponseCode.INVALID_PARAMETER, problem)
    if names.is_not_allowed_send_topic(name):
        raise RequestError(ResponseCode.NO_PERMISSION, f"Sending message to topic[{name}] is forbidden.")
    topic = broker.topics.get(name) or _create_topic(broker, peer, header)
    queues = max(topic.write_queue_nums, topic.read_queue_nums)
    if header.queue_id >= queues:
        raise RequestError(
            ResponseCode.INVALID_PARAMETER,
            f"request queueId[{header.queue_id}] is illegal, {describe_topic(topic)} Producer: {peer.address}",
        )
    if is_batch_queue(topic):
        raise RequestError(ResponseCode.MESSAGE_ILLEGAL, "topics with queue.type=BatchCQ are not supported yet")
    if not request.body:
        raise RequestError(ResponseCode.MESSAGE_ILLEGAL, "message body is empty")
    if header.queue_id >= 0:
        return topic, header.queue_id
    if topic.write_queue_nums <= 0:
        raise RequestError(ResponseCode.INVALID_PARAMETER, f"topic[{name}] has no queue to write to")
    return topic, broker.random.randrange(topic.write_queue_nums)


def _create_topic(broker: Broker, peer: Peer, header: SendMessageRequest) -> TopicConfig:
    """The topic of a send that the broker does not know."""
    sys_flag = TOPIC_UNIT_FLAG if header.unit_mode else 0
    topic = broker.topics.auto_create(
        header.topic,
        default_topic=header.default_topic,
        queue_nums=header.default_topic_queue_nums,
        sys_flag=sys_flag,
    )
    if topic is None and names.is_retry_topic(header.topic):
        topic = broker.topics.create_internal(header.topic, queue_nums=1, sys_flag=sys_flag)
    if topic is None:
        raise RequestError(ResponseCode.TOPIC_NOT_EXIST, f"topic[{header.topic}] not exist, apply first please!\n{FAQ}")
    log.info("topic %s with %d queues made for a send of %s", header.topic, topic.write_queue_nums, peer.address)
    return topic


def _read_properties(broker: Broker, header: SendMessageRequest) -> dict[str, str]:
    """The client's properties with what the broker adds to those of every single send."""
    config = broker.config
    properties = m.decode_properties(header.properties or "")
    properties.pop(m.PROPERTY_POP_CK, None)
    if m.PROPERTY_UNIQUE_KEY not in properties:
        properties[m.PROPERTY_UNIQUE_KEY] = broker.new_unique_key()
    if config.region_id:
        properties[m.PROPERTY_MSG_REGION] = config.region_id
    properties[m.PROPERTY_TRACE_SWITCH] = "true" if config.trace_on else "false"
    properties[m.PROPERTY_CLUSTER] = config.broker_cluster_name
    return properties


def _refuse_special(sys_flag: int, properties: dict[str, str]) -> None:
    """Refuse what would be acknowledged and never be delivered."""
    if sys_flag & _BATCH_FLAGS or m.PROPERTY_INNER_NUM in properties:
        raise RequestError(ResponseCode.MESSAGE_ILLEGAL, "an inner batch cannot be sent to an ordinary topic")
    if sys_flag & m.TRANSACTION_MASK not in (m.TRANSACTION_NOT_TYPE, m.TRANSACTION_COMMIT_TYPE):
        raise RequestError(
            ResponseCode.MESSAGE_ILLEGAL, "the sysFlag says that the message is in a transaction, its properties do not"
        )


def _is_transactional(properties: dict[str, str]) -> bool:
    return properties.get(m.PROPERTY_TRANSACTION_PREPARED, "").lower() == "true"


def _refuse_transaction(header: SendMessageRequest, properties: dict[str, str], what: str) -> None:
    if _is_transactional(properties):
        raise RequestError(ResponseCode.MESSAGE_ILLEGAL, f"{what} cannot be sent in a transaction")
    _refuse_special(header.sys_flag, properties)


def _begin_transaction(broker: Broker, header: SendMessageRequest, message: OutgoingMessage) -> None:
    """The message is to be held back until its producer has decided: turn it into a half message.

    A delay counts from the commit on; a delay that no commit could keep is refused now.
    """
    config = broker.config
    if config.reject_transaction_message:
        raise RequestError(
            ResponseCode.NO_PERMISSION, f"the broker[{config.broker_ip1}] sending transaction message is forbidden"
        )
    properties = message.properties
    properties.setdefault(m.PROPERTY_PRODUCER_GROUP, header.producer_group)
    if m.PROPERTY_DELAY_TIME_LEVEL in properties or is_timer(properties):
        schedule(broker, replace(message, sys_flag=0, properties=dict(properties)))
    to_half(message)


# --- storing ----------------------------------------------------------------------------------------------------------


def _store_single(
    broker: Broker, peer: Peer, header: SendMessageRequest, request: Command, topic: TopicConfig, queue_id: int,
    ext: dict[str, str],
) -> Reply:  # fmt: skip
    message = OutgoingMessage(
        topic=header.topic,
        queue_id=queue_id,
        body=request.body,
        properties=_read_properties(broker, header),
        flag=header.flag,
        sys_flag=header.sys_flag & ~HOST_FLAGS,
        born_timestamp_ms=header.born_timestamp,
        born_host=born_host(peer),
        reconsume_times=header.reconsume_times or 0,
    )
    properties = message.properties
    if names.is_retry_topic(header.topic):
        _redirect_given_up(broker, header, request, message)
    if is_compaction(topic) and not properties.get(m.PROPERTY_KEYS, "").strip():
        raise RequestError(ResponseCode.MESSAGE_ILLEGAL, "Required message key is missing")
    # the retry of a consumer, of a message that was once sent in a transaction, is a plain message
    retried = message.reconsume_times > 0 and message.delay_level > 0
    in_transaction = _is_transactional(properties) and not retried
    if in_transaction:
        _begin_transaction(broker, header, message)
    _refuse_special(message.sys_flag, properties)
    appended = put_as_is(broker.store, message) if in_transaction else store_message(broker, message)
    if appended.status != st.ST_OK:
        return _refused(broker, appended.status, ext)
    broker.stats.on_put(message.topic, message.queue_id, 1, appended.size)
    if in_transaction:
        broker.transactions.begun(properties[m.PROPERTY_REAL_TOPIC])
    reply = _sent(
        broker, queue_id, appended.queue_offset, offset_id(broker, appended),
        properties.get(m.PROPERTY_UNIQUE_KEY), ext, appended.flush_target if message.waits_for_flush else None,
    )  # fmt: skip
    if message.timer_due_ms is not None and not names.is_retry_topic(header.topic):
        handle = RecallHandle(
            header.topic, broker.config.broker_name, message.timer_due_ms, properties[m.PROPERTY_UNIQUE_KEY]
        )
        reply.ext["recallHandle"] = handle.encode()
    return reply


def _store_batch(
    broker: Broker, peer: Peer, header: SendMessageRequest, request: Command, topic: TopicConfig, queue_id: int,
    ext: dict[str, str],
) -> Reply:  # fmt: skip
    config = broker.config
    if len(header.topic) > names.TOPIC_MAX_LENGTH:
        raise RequestError(ResponseCode.MESSAGE_ILLEGAL, f"message topic length over {names.TOPIC_MAX_LENGTH}")
    if names.is_retry_topic(header.topic):
        raise RequestError(ResponseCode.MESSAGE_ILLEGAL, f"batch request does not support retry group {header.topic}")
    properties = m.decode_properties(header.properties or "")
    _refuse_transaction(header, properties, "a batch")
    if m.PROPERTY_DELAY_TIME_LEVEL in properties or any(name in properties for name in TIMER_PROPERTIES):
        raise RequestError(ResponseCode.MESSAGE_ILLEGAL, "a batch cannot be delayed")
    if len(request.body) > config.max_message_size:
        raise RequestError(*store_failure(config, st.ST_BODY_TOO_LARGE))
    if is_compaction(topic):
        raise RequestError(ResponseCode.MESSAGE_ILLEGAL, "a batch cannot be sent to a compaction topic")
    status, appended = broker.store.put_batch(
        header.topic,
        queue_id,
        request.body,
        sys_flag=header.sys_flag & ~HOST_FLAGS,
        born_timestamp_ms=header.born_timestamp,
        born_host=born_host(peer),
    )
    if status != st.ST_OK or not appended:
        return _refused(broker, status if status != st.ST_OK else st.ST_BAD_BATCH, ext)
    broker.stats.on_put(header.topic, queue_id, len(appended), sum(one.size for one in appended))
    waits = properties.get(m.PROPERTY_WAIT_STORE_MSG_OK, "true").lower() == "true"
    return _sent(
        broker, queue_id, appended[0].queue_offset, ",".join(offset_id(broker, one) for one in appended),
        properties.get(m.PROPERTY_UNIQUE_KEY), ext, appended[-1].flush_target if waits else None,
    )  # fmt: skip


def _redirect_given_up(broker: Broker, header: SendMessageRequest, request: Command, message: OutgoingMessage) -> None:
    """A consumer's retry sent as a plain message: after too many tries it goes to the group's dead-letter topic.

    So does every retry of a group that holds queue locks: an orderly consumer has retried it locally already.
    """
    group_name = names.group_of_retry_topic(header.topic)
    group = broker.groups.find_or_create(group_name)
    if group is None:
        raise RequestError(
            ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST, f"subscription group not exist, {group_name} {FAQ}"
        )
    max_times = group.retry_max_times
    if header.max_reconsume_times is not None and request.version >= HONOURS_MAX_RECONSUME_VERSION:
        max_times = header.max_reconsume_times
    given_up = message.reconsume_times > max_times
    if not given_up and not broker.locks.group_is_locked(group_name, broker.clock.monotonic()):
        return
    dead_letters = names.dlq_topic(group_name)
    broker.topics.create_internal(dead_letters, queue_nums=DLQ_QUEUES)
    message.topic = dead_letters
    message.queue_id = 0
    message.properties[m.PROPERTY_DELAY_TIME_LEVEL] = "-1"
    broker.stats.on_dead_letter(group_name, message.properties.get(m.PROPERTY_RETRY_TOPIC, header.topic))


def born_host(peer: Peer) -> tuple[str, int]:
    """The sender's address as a record can hold it: without the zone of a link-local IPv6 address."""
    return peer.host.partition("%")[0], peer.port


def offset_id(broker: Broker, appended: Appended) -> str:
    """The id of a stored message, by which any client finds this broker and the record."""
    host, port = broker.store_host
    return m.offset_message_id(host, port, appended.log_offset)


def _refused(broker: Broker, status: int, ext: dict[str, str]) -> Reply:
    broker.stats.on_put_failed()
    code, remark = store_failure(broker.config, status)
    return Reply(code, remark, ext)


def _sent(
    broker: Broker, queue_id: int, queue_offset: int, message_id: str, unique_key: str | None, ext: dict[str, str],
    flush_target: int | None,
) -> Reply:  # fmt: skip
    """The answer to a message that was stored. With SYNC_FLUSH it leaves once the message is on disk."""
    fields = {"queueId": str(queue_id)}
    if unique_key is not None:
        fields["transactionId"] = unique_key
    fields["msgId"] = message_id
    fields.update(ext)
    fields["queueOffset"] = str(queue_offset)
    return Reply(ext=fields, after_flush=flush_target if broker.config.sync_flush else None)


# --- request-reply ----------------------------------------------------------------------------------------------------


async def _push_reply(
    broker: Broker, peer: Peer, header: SendMessageRequest, request: Command, topic: TopicConfig, queue_id: int,
    properties: dict[str, str], ext: dict[str, str],
) -> Reply:  # fmt: skip
    """Push the answer to the requester, then store it. The code is that of the push, the ids those of the store."""
    problem = await _push_to_requester(broker, peer, header, request, queue_id, properties)
    reply = Reply(
        ResponseCode.SUCCESS if problem is None else ResponseCode.SYSTEM_ERROR,
        problem,
        {"queueId": "0", "msgId": "0", **ext, "queueOffset": "0"},
    )
    if not broker.config.store_reply_message_enable or broker.draining:
        return reply
    message = OutgoingMessage(
        topic=topic.topic_name,
        queue_id=queue_id,
        body=request.body,
        properties=properties,
        flag=header.flag,
        sys_flag=header.sys_flag & ~HOST_FLAGS,
        born_timestamp_ms=header.born_timestamp,
        born_host=born_host(peer),
        reconsume_times=header.reconsume_times or 0,
    )
    try:
        appended = store_message(broker, message)
    except RequestError as error:
        log.info("a reply of %s was not stored: %s", peer.address, error.remark)
        return reply
    if appended.status != st.ST_OK:
        broker.stats.on_put_failed()
        log.warning("a reply of %s was not stored: status %d of the store", peer.address, appended.status)
        return reply
    broker.stats.on_put(message.topic, message.queue_id, 1, appended.size)
    reply.ext.update(queueId=str(queue_id), msgId=offset_id(broker, appended), queueOffset=str(appended.queue_offset))
    return reply


async def _push_to_requester(
    broker: Broker, peer: Peer, header: SendMessageRequest, request: Command, queue_id: int,
    properties: dict[str, str],
) -> str | None:  # fmt: skip
    """Relay by PUSH_REPLY_MESSAGE_TO_CLIENT (326); None, or why it did not work."""
    client_id = properties.get(m.PROPERTY_MESSAGE_REPLY_TO_CLIENT)
    if client_id is None:
        return f"reply message properties[{m.PROPERTY_MESSAGE_REPLY_TO_CLIENT}] is null"
    channel = broker.sessions.find_producer_channel(client_id)
    requester = broker.peer_of(channel)
    if requester is None:
        return f"push reply message fail, channel of <{client_id}> not found."
    now_ms = broker.clock.wall_ms()
    properties[m.PROPERTY_PUSH_REPLY_TIME] = str(now_ms)
    host, port = broker.store_host
    push = ReplyMessageRequest(
        producer_group=header.producer_group,
        topic=header.topic,
        default_topic=header.default_topic,
        default_topic_queue_nums=header.default_topic_queue_nums,
        queue_id=queue_id,
        sys_flag=header.sys_flag,
        born_timestamp=header.born_timestamp,
        flag=header.flag,
        born_host=peer.address,
        store_host=f"{host}:{port}",
        store_timestamp=now_ms,
        properties="".join(f"{name}\x01{value}\x02" for name, value in properties.items()),
        reconsume_times=header.reconsume_times,
        unit_mode=header.unit_mode,
    )
    command = Command(RequestCode.PUSH_REPLY_MESSAGE_TO_CLIENT, ext=push.encode(), body=request.body)
    try:
        answer = await requester.call(command, PUSH_REPLY_TIMEOUT_S)
    except TimeoutError:
        return f"push reply message to <{client_id}> fail, no answer within {PUSH_REPLY_TIMEOUT_S:.0f} s"
    except ConnectionError as error:
        return f"push reply message to <{client_id}> fail, {error}"
    if answer.code != ResponseCode.SUCCESS:
        return f"push reply message to <{client_id}> fail, it answered {answer.code} {answer.remark or ''}".rstrip()
    return None


HANDLERS: dict[int, Handler] = {
    RequestCode.SEND_MESSAGE: send_message,
    RequestCode.SEND_MESSAGE_V2: send_message,
    RequestCode.SEND_BATCH_MESSAGE: send_message,
    RequestCode.SEND_REPLY_MESSAGE: send_reply_message,
    RequestCode.SEND_REPLY_MESSAGE_V2: send_reply_message,
}
