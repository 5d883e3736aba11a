"""Popping: POP_MESSAGE (200050). ACK, BATCH_ACK and CHANGE_MESSAGE_INVISIBLETIME are in `popack`.

After RocketMQ's PopMessageProcessor. A pop reads one queue of the topic, or all of them, and now and then the group's
retry topic first. RocketMQ locks a (topic, group, queue) meanwhile; here a pop is done in one go on one thread.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from fastmq import _store as st
from fastmq.broker.delivery.pop import RETRY_QUEUES, retry_topics
from fastmq.broker.delivery.popck import ORDER_REVIVE_QUEUE, CheckPoint, Receipt, retry_flag
from fastmq.broker.delivery.popwait import ANY_QUEUE, HeldPop, Hold, wait_deadline
from fastmq.broker.filter.matching import MessageFilter, read_matching
from fastmq.broker.handlers.admin import refuse_broker_group
from fastmq.broker.handlers.popcheck import check_place
from fastmq.broker.light import read_records
from fastmq.broker.state.order_info import order_counts
from fastmq.errors import RequestError
from fastmq.limits import MAX_PROPERTIES_BYTES
from fastmq.net.server import Reply, answer_again
from fastmq.protocol import message as m
from fastmq.protocol import names
from fastmq.protocol.bodies import PERM_READ, SUB_ALL, SubscriptionData
from fastmq.protocol.codes import RequestCode, ResponseCode
from fastmq.protocol.headers.pop import PopMessageRequest

if TYPE_CHECKING:
    from fastmq.broker.app import Broker
    from fastmq.broker.dispatch import Handler
    from fastmq.net.server import Peer
    from fastmq.protocol.command import Command

log = logging.getLogger("fastmq.broker.pop")

MAX_MESSAGES: Final = 32
READS_A_TURN: Final = 4  # of a pop whose queues grow, or hold much that its filter leaves out
LOOKED_AT: Final = 64  # new messages that are compared with a waiting pop's filter; more wake it
STALE_AFTER_MS: Final = 500  # a request that was so much longer on its way than it wanted to wait

_CORRECTED: Final = (st.OFFSET_TOO_SMALL, st.OFFSET_OVERFLOW_BADLY, st.OFFSET_FOUND_NULL)
_SKIPPED: Final = (st.NO_MATCHED_MESSAGE, st.OFFSET_FOUND_NULL, st.MESSAGE_WAS_REMOVING)
_EMPTY: Final = (st.NO_MATCHED_LOGIC_QUEUE, st.NO_MESSAGE_IN_QUEUE)


@dataclass(slots=True)
class _Page:
    """What a pop has gathered so far."""

    pop_time: int
    revive_queue: int
    records: list[bytes] = field(default_factory=list)
    size: int = 0
    rest: int = 0
    starts: list[str] = field(default_factory=list)
    offsets: list[str] = field(default_factory=list)
    counts: list[str] = field(default_factory=list)
    ends: dict[tuple[str, int], int] = field(default_factory=dict)  # of the queues, as far as they were read
    flush_target: int | None = None

    def reply(
        self, broker: Broker, header: PopMessageRequest, nothing: ResponseCode = ResponseCode.POLLING_TIMEOUT
    ) -> Reply:
        """The answer; `nothing` is its code if there are no messages."""
        ext = {
            "popTime": str(self.pop_time),
            "invisibleTime": str(header.invisible_time),
            "reviveQid": str(self.revive_queue),
            "restNum": str(self.rest),
            "startOffsetInfo": ";".join(self.starts),
            "msgOffsetInfo": ";".join(self.offsets),
        }
        if header.order:
            ext["orderCountInfo"] = ";".join(self.counts)
        if not self.records:
            return Reply(nothing, "NO_MESSAGE_IN_QUEUE", ext)
        # a consumer must not have a message whose checkpoint a power loss could take back
        after_flush = self.flush_target if broker.config.sync_flush else None
        return Reply(ResponseCode.SUCCESS, "FOUND", ext, b"".join(self.records), after_flush)


@dataclass(frozen=True, slots=True)
class _PopContext:
    """A pop that may have to wait."""

    peer: Peer
    request: Command
    header: PopMessageRequest


def pop_message(broker: Broker, peer: Peer, request: Command) -> Reply | None:
    """POP_MESSAGE; None if it is held until a message comes."""
    header = PopMessageRequest.decode(request.ext)
    now_ms = broker.clock.wall_ms()
    if header.born_time == 0:
        header = header.replace(born_time=now_ms)
    deadline = wait_deadline(
        born_ms=header.born_time, poll_ms=header.poll_time, now_ms=now_ms, now=broker.clock.monotonic()
    )
    return _process(broker, _PopContext(peer, request, header), deadline)


def _process(broker: Broker, context: _PopContext, deadline: float | None) -> Reply | None:
    """Answer a pop, or let it wait until `deadline`: then the answer is None."""
    header = context.header
    try:
        wanted = check_pop(broker, context.peer, header)
    except RequestError as error:
        return _refused(error)
    for _ in range(READS_A_TURN):
        try:
            page = take_messages(broker, header, wanted)
        except RequestError as error:
            return _refused(error)
        if page.records:
            if page.rest > 0:
                broker.pop.wake_later(header.topic, header.consumer_group, header.queue_id)
            return page.reply(broker, header)
        if deadline is None or broker.draining:
            break
        match _hold(broker, context, wanted, page, deadline):
            case Hold.HELD:
                broker.longpoll_changed()
                return None
            case Hold.FULL:
                return page.reply(broker, header, ResponseCode.POLLING_FULL)
    return page.reply(broker, header)


def _hold(broker: Broker, context: _PopContext, wanted: MessageFilter, page: _Page, deadline: float) -> Hold:
    """Let a pop wait for the queues it has read."""
    header = context.header

    def matches(queue: tuple[str, int], begin: int, end: int) -> bool:
        if end - begin > LOOKED_AT:
            return True
        if wanted.by_tags_alone:
            entries = broker.store.queue_entries(*queue, begin, end - begin)
            return any(wanted.matches(b"", code) for _, _, code in entries)
        found = broker.store.queue_properties(*queue, begin, end - begin)
        return any(wanted.matches(one) if isinstance(one, bytes) else one is None for one in found)

    def again(held: HeldPop) -> None:
        left = held.deadline if held.deadline > broker.clock.monotonic() else None
        answer_again(context.peer, context.request, lambda: _process(broker, context, left))

    return broker.popwaits.pops.hold(
        HeldPop(
            topic=header.topic,
            group=header.consumer_group,
            queue_id=max(header.queue_id, ANY_QUEUE),
            queues=page.ends,
            deadline=deadline,
            peer_id=context.peer.id,
            request=context,
            again=again,
            matches=matches,
            filter=(header.exp, header.exp_type),
            size=context.request.size,
        )
    )


def check_pop(broker: Broker, peer: Peer, header: PopMessageRequest) -> MessageFilter:
    """The filter of a pop, or the RequestError that refuses it."""
    config = broker.config
    broker.sessions.compensate(header.consumer_group, None, broker.clock.monotonic())
    if broker.clock.wall_ms() - header.born_time - header.poll_time > STALE_AFTER_MS:
        raise RequestError(
            ResponseCode.POLLING_TIMEOUT, f"the broker[{config.broker_ip1}] pop message is timeout too much"
        )
    if not config.broker_permission & PERM_READ:
        raise RequestError(ResponseCode.NO_PERMISSION, f"the broker[{config.broker_ip1}] pop message is forbidden")
    if header.max_msg_nums > MAX_MESSAGES:
        raise RequestError(
            ResponseCode.INVALID_PARAMETER,
            f"the broker[{config.broker_ip1}] pop message's num is greater than {MAX_MESSAGES}",
        )
    if header.max_msg_nums < 1:
        raise RequestError(ResponseCode.INVALID_PARAMETER, f"maxMsgNums {header.max_msg_nums} is less than 1")
    if not 0 <= header.invisible_time <= config.timer_max_delay_sec * 1000:
        raise RequestError(
            ResponseCode.INVALID_PARAMETER,
            f"invisibleTime {header.invisible_time} is not between 0 and {config.timer_max_delay_sec * 1000} ms",
        )
    if not config.timer_wheel_enable:
        raise RequestError(
            ResponseCode.SYSTEM_ERROR,
            f"the broker[{config.broker_ip1}] pop message is forbidden because timerWheelEnable is false",
        )
    refuse_broker_group(header.consumer_group)
    check_place(broker, peer, header.topic, header.consumer_group, header.queue_id)
    return _subscription(broker, header)


def _subscription(broker: Broker, header: PopMessageRequest) -> MessageFilter:
    """The filter that the request brings; the group is from now on known to use it."""
    try:
        subscription = SubscriptionData.from_expression(header.topic, header.exp or SUB_ALL, header.exp_type)
    except ValueError:
        raise RequestError(ResponseCode.SUBSCRIPTION_PARSE_FAILED, "parse the consumer's subscription failed") from None
    wanted = broker.filters.own(header.consumer_group, subscription)
    now = broker.clock.monotonic()
    broker.sessions.compensate(header.consumer_group, subscription, now)
    retry_topic = names.pop_retry_topic(header.consumer_group, header.topic, v2=broker.config.enable_retry_topic_v2)
    broker.sessions.compensate(header.consumer_group, SubscriptionData(topic=retry_topic), now)
    return wanted


def _refused(error: RequestError) -> Reply:
    ext = {"popTime": "0", "invisibleTime": "0", "reviveQid": "0", "restNum": "0"}
    return Reply(error.code, error.remark, ext)


# --- reading ----------------------------------------------------------------------------------------------------------


def take_messages(broker: Broker, header: PopMessageRequest, wanted: MessageFilter) -> _Page:
    """Hand out what there is now."""
    config = broker.config
    chance = broker.random.randrange(100)
    revive_queue = ORDER_REVIVE_QUEUE if header.order else broker.pop.next_revive_queue()
    page = _Page(broker.clock.wall_ms(), revive_queue)
    retry_first = chance < config.pop_from_retry_probability
    if retry_first and not header.order:
        _take_retries(broker, header, wanted, page, chance)
    if header.queue_id < 0:
        _take_topic(broker, header, wanted, page, header.topic, chance)
    else:
        _take_queue(broker, header, wanted, page, header.topic, header.queue_id)
    if not retry_first and not header.order and len(page.records) < header.max_msg_nums:
        _take_retries(broker, header, wanted, page, chance)
    if not page.records and not header.order:
        # whichever retry topic was read: a waiting pop waits for both
        for v2 in (False, True):
            topic = names.pop_retry_topic(header.consumer_group, header.topic, v2=v2)
            page.ends.setdefault((topic, 0), (broker.store.queue_offsets(topic, 0) or (0, 0))[1])
    return page


def _take_retries(broker: Broker, header: PopMessageRequest, wanted: MessageFilter, page: _Page, chance: int) -> None:
    """Messages that came back. One answer can only hold one kind of retry topic."""
    topics = retry_topics(broker, header.consumer_group, header.topic)
    before = len(page.records)
    for topic in reversed(topics) if chance % 2 == 0 else topics:
        if topic not in broker.topics and broker.store.queue_offsets(topic, 0) is not None:
            # a crash has lost the topic, but not its messages
            broker.topics.create_internal(topic, queue_nums=RETRY_QUEUES)
        _take_topic(broker, header, wanted, page, topic, chance)
        if len(page.records) > before:
            return


def _take_topic(
    broker: Broker, header: PopMessageRequest, wanted: MessageFilter, page: _Page, topic_name: str, chance: int
) -> None:
    topic = broker.topics.get(topic_name)
    if topic is None:
        return
    for number in range(topic.read_queue_nums):
        queue_id = (chance + number) % topic.read_queue_nums
        _take_queue(broker, header, wanted, page, topic_name, queue_id)


def _take_queue(
    broker: Broker, header: PopMessageRequest, wanted: MessageFilter, page: _Page, topic: str, queue_id: int
) -> None:
    """What one queue has, as far as there is room; its checkpoint is stored with it."""
    config, store, group = broker.config, broker.store, header.consumer_group
    end = page.ends[topic, queue_id] = (store.queue_offsets(topic, queue_id) or (0, 0))[1]
    start = broker.pop.start_offset(group, topic, queue_id, header.init_mode)
    if header.order and broker.order.blocked(
        topic, group, queue_id,
        attempt_id=header.attempt_id, invisible_ms=header.invisible_time, now_ms=page.pop_time,
    ):  # fmt: skip
        return
    room = header.max_msg_nums - len(page.records)
    in_flight = broker.pop.inflight.count(topic, group, queue_id)
    stopped = config.enable_pop_message_threshold and in_flight > config.pop_inflight_message_threshold
    if stopped or room <= 0 or page.size >= config.max_transfer_bytes_on_message_in_memory:
        page.rest += max(0, end - start)
        return
    max_bytes, monotonic = config.max_transfer_bytes_on_message_in_memory, broker.clock.monotonic
    result = read_matching(store, wanted, topic, queue_id, start, room, monotonic=monotonic, max_bytes=max_bytes)
    if result.status in _CORRECTED and result.next_offset != start:
        log.warning("%s, queue %d: %s goes on at %d, not at %d", topic, queue_id, group, result.next_offset, start)
        start = result.next_offset
        broker.offsets.commit(group, topic, queue_id, start)
        result = read_matching(store, wanted, topic, queue_id, start, room, monotonic=monotonic, max_bytes=max_bytes)
    found: list[tuple[int, bytes]] = []
    if result.status == st.FOUND:
        found = list(_records(read_records(store, topic, queue_id, start, result)))
    if found:
        if not _give(broker, header, page, topic, queue_id, start, found):
            page.rest += max(0, result.max_offset - start)
            return
        if not header.order:
            broker.offsets.commit(group, topic, queue_id, result.next_offset)
    elif result.status in (st.FOUND, *_SKIPPED) or (result.status in _EMPTY and result.next_offset < start):
        # filtered out or removed; or a queue that began anew, whose messages must not be taken for consumed
        broker.offsets.commit(group, topic, queue_id, result.next_offset)
        page.ends[topic, queue_id] = result.next_offset
    page.rest += max(0, result.max_offset - result.next_offset)


def _give(
    broker: Broker,
    header: PopMessageRequest,
    page: _Page,
    topic: str,
    queue_id: int,
    start: int,
    found: list[tuple[int, bytes]],
) -> bool:
    """Put records on the page under a checkpoint. False, and nothing is given, if the checkpoint cannot be stored."""
    group = header.consumer_group
    offsets = [offset for offset, _ in found]
    flag = retry_flag(topic)
    if header.order:
        info = broker.order.put(
            topic, group, queue_id, offsets,
            attempt_id=header.attempt_id, pop_ms=page.pop_time, invisible_ms=header.invisible_time,
            now_ms=page.pop_time,
        )  # fmt: skip
        page.counts.append(order_counts(info, queue_id, int(flag)))
        broker.pop.inflight.clear_queue(topic, group, queue_id)
        broker.offsets.commit(group, topic, queue_id, start)
    else:
        checkpoint = CheckPoint(
            topic=topic,
            group=group,
            queue_id=queue_id,
            start_offset=start,
            pop_time=page.pop_time,
            invisible_time=header.invisible_time,
            broker=broker.config.broker_name,
            diffs=tuple(offset - start for offset in offsets),
        )
        appended = broker.pop.put_checkpoint(checkpoint, page.revive_queue)
        if appended.status != st.ST_OK:
            return False
        page.flush_target = max(page.flush_target or 0, appended.flush_target)
        broker.stats.on_checkpoint(group, header.topic)
    size = sum(len(record) for _, record in found)
    broker.stats.on_get(group, topic, queue_id, len(found), size)
    broker.pop.inflight.add(topic, group, queue_id, len(found), page.pop_time)
    page.starts.append(f"{flag} {queue_id} {start}")
    page.offsets.append(f"{flag} {queue_id} {','.join(map(str, offsets))}")
    page.size += size
    if topic == header.topic or broker.config.pop_response_return_actual_retry_topic:
        page.records += [record for _, record in found]
    else:
        for offset, record in found:
            receipt = Receipt(
                start, page.pop_time, header.invisible_time, page.revive_queue, flag, broker.config.broker_name,
                queue_id, offset,
            )  # fmt: skip
            page.records.append(_as_original(record, header.topic, receipt))
    return True


def _records(body: bytes) -> Iterator[tuple[int, bytes]]:
    """The records of a page with their queue offsets."""
    at = 0
    while at < len(body):
        size = int.from_bytes(body[at : at + 4])
        yield int.from_bytes(body[at + 20 : at + 28]), body[at : at + size]
        at += size


def _as_original(record: bytes, topic: str, receipt: Receipt) -> bytes:
    """A message of a retry topic as one of the topic the consumer knows, with the handle it cannot make itself."""
    message, _ = m.decode_message(record)
    properties = message.property_map
    properties[m.PROPERTY_POP_CK] = str(receipt)
    text = m.encode_properties(properties)
    if len(text) > MAX_PROPERTIES_BYTES:
        return record  # clients know retry topics, too
    message.properties = text
    message.topic = topic
    message.version = 0
    return m.encode_message(message)


HANDLERS: dict[int, Handler] = {
    RequestCode.POP_MESSAGE: pop_message,
}
