"""What becomes of popped messages.

ACK_MESSAGE (200051), BATCH_ACK_MESSAGE (200151), CHANGE_MESSAGE_INVISIBLETIME (200053), after RocketMQ's
AckMessageProcessor and ChangeInvisibleTimeProcessor. Acks of ordinary pops are messages for the revive topic; those of
orderly pops move the group's offset. An ack that comes too late does no harm and no good: SUCCESS.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Protocol

from fastmq import _store as st
from fastmq.broker.delivery.popck import ORDER_REVIVE_QUEUE, Ack, CheckPoint, CheckPointKey, Receipt, real_topic
from fastmq.broker.handlers.send import FAQ
from fastmq.broker.state import order_info
from fastmq.errors import RequestError
from fastmq.net.server import Reply
from fastmq.protocol.bodies import BatchAck, batch_ack_broker, batch_acks
from fastmq.protocol.codes import RequestCode, ResponseCode
from fastmq.protocol.headers.pop import AckMessageRequest, ChangeInvisibleTimeRequest

if TYPE_CHECKING:
    from fastmq._store import Appended
    from fastmq.broker.app import Broker
    from fastmq.broker.dispatch import Handler
    from fastmq.net.server import Peer
    from fastmq.protocol.command import Command

log = logging.getLogger("fastmq.broker.pop")

MAX_BIT_SET_BYTES: Final = 8192
"""Of one item of a batch ack. A pop hands out 32 messages which lie no further apart than a read looks."""


class _Handled(Protocol):
    """What acks and changes of the invisible time have in common."""

    @property
    def consumer_group(self) -> str: ...
    @property
    def topic(self) -> str: ...
    @property
    def queue_id(self) -> int: ...
    @property
    def extra_info(self) -> str: ...


# --- ack --------------------------------------------------------------------------------------------------------------


def ack_message(broker: Broker, peer: Peer, request: Command) -> Reply:
    """ACK_MESSAGE: a consumer is done with one message."""
    header = AckMessageRequest.decode(request.ext)
    low, high = _check_queue(broker, peer, header)
    if not low <= header.offset <= high:
        raise RequestError(
            ResponseCode.NO_MESSAGE,
            f"offset is illegal, key:{header.topic}@{header.queue_id}, commit:{header.offset}, store:{low}~{high}",
        )
    receipt = _receipt(broker, header)
    group, topic, queue_id = header.consumer_group, header.topic, header.queue_id
    if receipt.in_order:
        _ack_in_order(broker, peer, group, topic, queue_id, header.offset, receipt)
        return Reply()
    key = CheckPointKey(topic, group, queue_id, receipt.start_offset, receipt.pop_time, receipt.broker)
    appended = _store_ack(broker, Ack(key=key, offsets=(header.offset,)), receipt.revive_queue, receipt.invisible_time)
    return Reply(after_flush=appended.flush_target if broker.config.sync_flush else None)


def batch_ack_message(broker: Broker, peer: Peer, request: Command) -> Reply:
    """BATCH_ACK_MESSAGE: messages of several pops. Offsets outside of their queue are passed over."""
    items = batch_acks(request.body) if request.body else []
    if not items:
        return Reply(ResponseCode.NO_MESSAGE, "there is nothing in the batch")
    name = batch_ack_broker(request.body) or broker.config.broker_name
    answer = Reply()
    for item in items:
        try:
            flush_target = _ack_item(broker, peer, item, name)
        except RequestError as error:
            # the others are acknowledged all the same: what is consumed must not come back
            answer.code, answer.remark = error.code, error.remark
            continue
        if flush_target is not None and broker.config.sync_flush:
            answer.after_flush = max(answer.after_flush or 0, flush_target)
    return answer


def _ack_item(broker: Broker, peer: Peer, item: BatchAck, broker_name: str) -> int | None:
    """Acknowledge what one item names; the log offset that must be on disk for it."""
    if len(item.acked) > MAX_BIT_SET_BYTES:
        raise RequestError(ResponseCode.MESSAGE_ILLEGAL, f"a bit set of {len(item.acked)} bytes in a batch ack")
    group, queue_id = item.consumer_group, item.queue_id
    try:
        topic = real_topic(item.topic, group, item.retry)
    except ValueError as error:
        raise RequestError(ResponseCode.MESSAGE_ILLEGAL, str(error)) from None
    bounds = broker.store.queue_offsets(topic, queue_id) if queue_id >= 0 else None
    if topic not in broker.topics or bounds is None:
        log.warning("a batch ack of %s for queue %d of %s, which does not exist", group, queue_id, topic)
        return None
    offsets = tuple(offset for offset in item.offsets if bounds[0] <= offset <= bounds[1])
    if item.revive_queue_id == ORDER_REVIVE_QUEUE:
        receipt = Receipt(
            item.start_offset, item.pop_time, item.invisible_time, ORDER_REVIVE_QUEUE, item.retry, broker_name,
            queue_id, item.start_offset,
        )  # fmt: skip
        for offset in offsets:
            _ack_in_order(broker, peer, group, topic, queue_id, offset, receipt)
        return None
    if not offsets:
        return None
    _check_times(broker, item.revive_queue_id, item.pop_time, item.invisible_time)
    key = CheckPointKey(topic, group, queue_id, item.start_offset, item.pop_time, broker_name)
    ack = Ack(key=key, offsets=offsets, batch=True)
    return _store_ack(broker, ack, item.revive_queue_id, item.invisible_time).flush_target


def _store_ack(broker: Broker, ack: Ack, revive_queue: int, invisible_time: int) -> Appended:
    """Write an ack down. A consumer that is told so can ack again; RocketMQ says SUCCESS and hands it out again."""
    key = ack.key
    try:
        appended = broker.pop.put_ack(ack, revive_queue, key.pop_time + invisible_time)
    except ValueError as error:  # a group that no pop can have had, with control characters
        raise RequestError(ResponseCode.MESSAGE_ILLEGAL, str(error)) from None
    if appended.status != st.ST_OK:
        raise RequestError(ResponseCode.SYSTEM_ERROR, f"the ack was not stored, store status {appended.status}")
    broker.stats.on_ack(key.group, key.topic, len(ack.offsets))
    broker.pop.inflight.subtract(key.topic, key.group, key.queue_id, len(ack.offsets), key.pop_time)
    return appended


def _ack_in_order(
    broker: Broker, peer: Peer, group: str, topic: str, queue_id: int, offset: int, receipt: Receipt
) -> None:
    """Acknowledge a message of an orderly pop; RequestError if the pop did not hand it out."""
    committed = broker.offsets.query(group, topic, queue_id)
    if offset < committed:
        return
    now_ms = broker.clock.wall_ms()
    following = broker.order.ack(topic, group, queue_id, offset, pop_ms=receipt.pop_time, committed=committed)
    if following == order_info.ILLEGAL:
        raise RequestError(
            ResponseCode.MESSAGE_ILLEGAL,
            f"offset is illegal, key:{topic}@{group}@{queue_id}, old:{committed}, commit:{offset}, next:{following}, "
            f"/{peer.address}",
        )
    broker.stats.on_ack(group, topic, 1)
    broker.pop.inflight.subtract(topic, group, queue_id, 1, receipt.pop_time)
    if following != order_info.NO_COMMIT:
        if not broker.offsets.has_reset(group, topic, queue_id):
            broker.offsets.commit(group, topic, queue_id, following)
        if not broker.order.blocked(
            topic, group, queue_id, attempt_id=None, invisible_ms=receipt.invisible_time, now_ms=now_ms
        ):
            broker.pop.wake_later(topic, group, queue_id)


# --- change -----------------------------------------------------------------------------------------------------------


def change_message_invisible_time(broker: Broker, peer: Peer, request: Command) -> Reply:
    """CHANGE_MESSAGE_INVISIBLETIME: from now on for so long. The old handle is void, the new one is in the answer."""
    header = ChangeInvisibleTimeRequest.decode(request.ext)
    low, high = _check_queue(broker, peer, header)
    if not low <= header.offset < high:
        raise RequestError(
            ResponseCode.NO_MESSAGE,
            f"offset is illegal, key:{header.topic}@{header.queue_id}, offset:{header.offset}, store:{low}~{high}",
        )
    receipt = _receipt(broker, header)
    if not 0 <= header.invisible_time <= broker.config.timer_max_delay_sec * 1000:
        raise RequestError(
            ResponseCode.INVALID_PARAMETER,
            f"invisibleTime {header.invisible_time} is not between 0 and {broker.config.timer_max_delay_sec * 1000} ms",
        )
    if receipt.in_order:
        return _change_in_order(broker, header, receipt)
    group, topic, queue_id = header.consumer_group, header.topic, header.queue_id
    # later than the old handle even within one millisecond: with the same time the ack below would be for both
    pop_time = max(broker.clock.wall_ms(), receipt.pop_time + 1)
    checkpoint = CheckPoint(
        topic=topic,
        group=group,
        queue_id=queue_id,
        start_offset=header.offset,
        pop_time=pop_time,
        invisible_time=header.invisible_time,
        broker=receipt.broker,
        diffs=(0,),
    )
    appended = broker.pop.put_checkpoint(checkpoint, receipt.revive_queue)
    if appended.status != st.ST_OK:
        raise RequestError(ResponseCode.SYSTEM_ERROR, f"the new time was not stored, status {appended.status}")
    broker.stats.on_checkpoint(group, topic)
    key = CheckPointKey(topic, group, queue_id, receipt.start_offset, receipt.pop_time, receipt.broker)
    ack = Ack(key=key, offsets=(header.offset,))
    acked = _store_ack(broker, ack, receipt.revive_queue, receipt.invisible_time)
    broker.pop.inflight.add(topic, group, queue_id, 1, pop_time)
    return Reply(
        ext=_changed(pop_time, header.invisible_time, receipt.revive_queue),
        after_flush=acked.flush_target if broker.config.sync_flush else None,
    )


def _change_in_order(broker: Broker, header: ChangeInvisibleTimeRequest, receipt: Receipt) -> Reply:
    group, topic, queue_id = header.consumer_group, header.topic, header.queue_id
    if header.offset < broker.offsets.query(group, topic, queue_id):
        return Reply(ext=_changed(0, 0, 0))  # consumed long ago
    visible_ms = broker.clock.wall_ms() + header.invisible_time
    broker.order.set_visible(topic, group, queue_id, header.offset, pop_ms=receipt.pop_time, visible_ms=visible_ms)
    return Reply(ext=_changed(receipt.pop_time, visible_ms - receipt.pop_time, receipt.revive_queue))


def _changed(pop_time: int, invisible_time: int, revive_queue: int) -> dict[str, str]:
    return {"popTime": str(pop_time), "invisibleTime": str(invisible_time), "reviveQid": str(revive_queue)}


# --- checks -----------------------------------------------------------------------------------------------------------


def _check_queue(broker: Broker, peer: Peer, header: _Handled) -> tuple[int, int]:
    """The ends of the queue that a request names."""
    topic = broker.topics.get(header.topic)
    if topic is None:
        raise RequestError(ResponseCode.TOPIC_NOT_EXIST, f"topic[{header.topic}] not exist, apply first please! {FAQ}")
    bounds = broker.store.queue_offsets(header.topic, header.queue_id) if header.queue_id >= 0 else None
    # the topic may have fewer queues by now than when it was popped
    if header.queue_id < 0 or (bounds is None and header.queue_id >= topic.read_queue_nums):
        raise RequestError(
            ResponseCode.MESSAGE_ILLEGAL,
            f"queueId[{header.queue_id}] is illegal, topic:[{header.topic}] "
            f"topicConfig.readQueueNums:[{topic.read_queue_nums}] consumer:[/{peer.address}]",
        )
    return bounds or (0, 0)


def _receipt(broker: Broker, header: _Handled) -> Receipt:
    """The handle of a request. RequestError if no pop can have given it."""
    try:
        receipt = Receipt.parse(header.extra_info)
    except ValueError as error:
        raise RequestError(ResponseCode.MESSAGE_ILLEGAL, f"extraInfo is illegal: {error}") from None
    if not receipt.in_order:
        _check_times(broker, receipt.revive_queue, receipt.pop_time, receipt.invisible_time)
    return receipt


def _check_times(broker: Broker, revive_queue: int, pop_time: int, invisible_time: int) -> None:
    """What a client sends as part of a handle goes into the log: it must be something that a pop can have said."""
    topic = broker.topics.get(broker.pop.revive_topic)
    queues = max(broker.config.revive_queue_num, topic.read_queue_nums if topic is not None else 0)
    if not 0 <= revive_queue < queues:
        raise RequestError(ResponseCode.MESSAGE_ILLEGAL, f"reviveQid {revive_queue} is not below {queues}")
    longest_ms = broker.config.timer_max_delay_sec * 1000
    if pop_time < 0 or not 0 <= invisible_time <= longest_ms:
        raise RequestError(ResponseCode.MESSAGE_ILLEGAL, f"popTime {pop_time}, invisibleTime {invisible_time}")
    if pop_time + invisible_time > broker.clock.wall_ms() + longest_ms:
        raise RequestError(ResponseCode.MESSAGE_ILLEGAL, f"popTime {pop_time} is in the future")


HANDLERS: dict[int, Handler] = {
    RequestCode.ACK_MESSAGE: ack_message,
    RequestCode.BATCH_ACK_MESSAGE: batch_ack_message,
    RequestCode.CHANGE_MESSAGE_INVISIBLETIME: change_message_invisible_time,
}
