"""Timer messages: taking them back (RECALL_MESSAGE 370), their checkpoint (60) and their counts (61)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from fastmq import _store as st
from fastmq.broker.delivery.intake import OutgoingMessage, store_message
from fastmq.broker.delivery.timer_rules import delete_key
from fastmq.broker.handlers.send import born_host
from fastmq.errors import RequestError
from fastmq.net.server import Reply
from fastmq.protocol import message as m
from fastmq.protocol import names
from fastmq.protocol.bodies import PERM_WRITE, DataVersion, dumps
from fastmq.protocol.codes import RequestCode, ResponseCode
from fastmq.protocol.command import Command
from fastmq.protocol.headers import RecallMessageRequest
from fastmq.protocol.recall import RecallHandle

if TYPE_CHECKING:
    from fastmq.broker.app import Broker
    from fastmq.broker.dispatch import Handler
    from fastmq.net.server import Peer

log = logging.getLogger("fastmq.broker.timer")

RECALL_TAG: Final = "_RECALL_TAG_"


def recall_message(broker: Broker, peer: Peer, request: Command) -> Reply:
    """RECALL_MESSAGE (370): cancel a timer message that is not due yet (RecallMessageProcessor).

    What is stored is a timer message for the same slot; delivery drops both. So a success means: the message will not
    be delivered. If it is not in the timer (never was, or delivered meanwhile) nothing happens.
    """
    ext = {"MSG_REGION": broker.config.region_id}
    try:
        header = RecallMessageRequest.decode(request.ext)
        handle = _check(broker, header)
        message = _take_back(broker, peer, header, handle)
        appended = store_message(broker, message)
    except RequestError as error:
        return Reply(error.code, error.remark, ext)
    if appended.status != st.ST_OK:
        broker.stats.on_put_failed()
        log.warning("a recall of %s was not stored: status %d of the store", peer.address, appended.status)
        return Reply(ResponseCode.SYSTEM_ERROR, "recall failed, execute error", ext)
    broker.stats.on_put(message.topic, message.queue_id, 1, appended.size)
    after = appended.flush_target if broker.config.sync_flush else None
    return Reply(ext={"msgId": handle.unique_key, **ext}, after_flush=after)


def _check(broker: Broker, header: RecallMessageRequest) -> RecallHandle:
    config = broker.config
    now_ms = broker.clock.wall_ms()
    if not config.recall_message_enable:
        raise RequestError(ResponseCode.NO_PERMISSION, "recall failed, operation is forbidden")
    writeable = config.broker_permission & PERM_WRITE or config.allow_recall_when_broker_not_writeable
    if broker.draining or now_ms < config.start_accept_send_request_time_stamp or not writeable:
        raise RequestError(ResponseCode.SERVICE_NOT_AVAILABLE, "recall failed, broker service not available")
    if names.is_not_allowed_send_topic(header.topic):
        # a checkpoint of a pop is a timer message, too: taking it back would lose what was popped
        raise RequestError(ResponseCode.NO_PERMISSION, f"recall failed, the topic[{header.topic}] is the broker's own")
    if header.topic not in broker.topics:
        raise RequestError(ResponseCode.TOPIC_NOT_EXIST, f"recall failed, the topic[{header.topic}] not exist")
    try:
        handle = RecallHandle.decode(header.recall_handle)
    except ValueError as error:
        raise RequestError(ResponseCode.ILLEGAL_OPERATION, str(error)) from error
    if handle.topic != header.topic:
        raise RequestError(ResponseCode.ILLEGAL_OPERATION, "recall failed, topic not match")
    if handle.broker_name != config.broker_name:
        raise RequestError(ResponseCode.ILLEGAL_OPERATION, "recall failed, broker service not available")
    if not 0 < handle.time_ms - now_ms <= config.timer_max_delay_sec * 1000:
        raise RequestError(ResponseCode.ILLEGAL_OPERATION, "recall failed, timestamp invalid")
    return handle


def _take_back(broker: Broker, peer: Peer, header: RecallMessageRequest, handle: RecallHandle) -> OutgoingMessage:
    """The message that cancels another one."""
    now_ms = broker.clock.wall_ms()
    properties = {
        m.PROPERTY_TAGS: RECALL_TAG,
        m.PROPERTY_TIMER_DEL_UNIQKEY: delete_key(handle.topic, handle.unique_key),
        m.PROPERTY_UNIQUE_KEY: handle.unique_key,
        m.PROPERTY_TIMER_DELIVER_MS: str(handle.time_ms),
        m.PROPERTY_BORN_TIMESTAMP: str(now_ms),
    }
    if header.producer_group:
        properties[m.PROPERTY_PRODUCER_GROUP] = header.producer_group
    return OutgoingMessage(
        topic=handle.topic,
        queue_id=0,
        body=b"0",
        properties=properties,
        born_timestamp_ms=now_ms,
        born_host=born_host(peer),
        internal=True,
    )


def get_timer_check_point(broker: Broker, peer: Peer, request: Command) -> Reply:
    """GET_TIMER_CHECK_POINT (60): how far timers are, 56 bytes as in the file."""
    timers = broker.timers
    if timers is None:
        return Reply(ResponseCode.SYSTEM_ERROR, "The checkpoint is null")
    return Reply(body=timers.files.check({}).head())


def get_timer_metrics(broker: Broker, peer: Peer, request: Command) -> Reply:
    """GET_TIMER_METRICS (61): how many messages wait per topic."""
    timers = broker.timers
    if timers is None:
        version = DataVersion(timestamp=broker.stats.boot_timestamp_ms)
        return Reply(body=dumps({"dataVersion": version, "timingCount": {}}))
    return Reply(body=dumps(timers.files.metrics.to_body()))


HANDLERS: dict[int, Handler] = {
    RequestCode.RECALL_MESSAGE: recall_message,
    RequestCode.GET_TIMER_CHECK_POINT: get_timer_check_point,
    RequestCode.GET_TIMER_METRICS: get_timer_metrics,
}
