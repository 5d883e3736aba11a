"""Looking at what a pop would find: PEEK_MESSAGE (200052), NOTIFICATION (200054), POLLING_INFO (200055).

After RocketMQ's PeekMessageProcessor, NotificationProcessor and PollingInfoProcessor. None of them takes anything: the
group's offsets stay where they are. A notification waits like a pop, but in a table of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fastmq import _store as st
from fastmq.broker.delivery.pop import retry_topics
from fastmq.broker.delivery.popwait import HeldPop, Hold, wait_deadline
from fastmq.broker.handlers.popcheck import check_place
from fastmq.broker.light import read_records
from fastmq.errors import RequestError
from fastmq.net.server import Reply, answer_again
from fastmq.protocol.bodies import PERM_READ
from fastmq.protocol.codes import RequestCode, ResponseCode
from fastmq.protocol.headers.pop import (
    NotificationRequest,
    NotificationResponse,
    PeekMessageRequest,
    PollingInfoRequest,
    PollingInfoResponse,
    PopMessageResponse,
)

if TYPE_CHECKING:
    from fastmq.broker.app import Broker
    from fastmq.broker.dispatch import Handler
    from fastmq.net.server import Peer
    from fastmq.protocol.command import Command

RETRY_FIRST_PERCENT: Final = 20  # of the peeks look into the group's retry topic first


def _check(broker: Broker, peer: Peer, topic_name: str, group_name: str, queue_id: int) -> int:
    """The number of the topic's queues, or the RequestError that refuses the request."""
    config = broker.config
    if not config.broker_permission & PERM_READ:
        raise RequestError(ResponseCode.NO_PERMISSION, f"the broker[{config.broker_ip1}] peeking message is forbidden")
    return check_place(broker, peer, topic_name, group_name, queue_id)


def retry_queues(broker: Broker, group: str, topic: str) -> list[tuple[str, int]]:
    """The queues in which messages of the topic come back to pops of the group; they need not exist yet."""
    queues = []
    for name in retry_topics(broker, group, topic):
        known = broker.topics.get(name)
        queues += [(name, queue_id) for queue_id in range(1 if known is None else known.read_queue_nums)]
    return queues


def _from(broker: Broker, queue_count: int, topic: str, queue_id: int) -> Iterator[tuple[str, int]]:
    """The queue that is meant; of all (`queue_id` below 0) no matter which comes first."""
    if queue_id >= 0:
        yield topic, queue_id
        return
    first = broker.random.randrange(queue_count) if queue_count else 0
    yield from ((topic, (first + number) % queue_count) for number in range(queue_count))


def _next_offset(broker: Broker, group: str, topic: str, queue_id: int, min_offset: int) -> int:
    """Where the group's next pop of a queue begins."""
    return max(min_offset, broker.offsets.query(group, topic, queue_id))


# --- notification -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Notification:
    """One request, and until when it may wait."""

    peer: Peer
    request: Command
    header: NotificationRequest
    deadline: float | None


def notification(broker: Broker, peer: Peer, request: Command) -> Reply | None:
    """NOTIFICATION: whether a pop would find something, at once or when it comes; None if it is held."""
    header = NotificationRequest.decode(request.ext)
    now_ms = broker.clock.wall_ms()
    deadline = wait_deadline(
        born_ms=header.born_time or now_ms, poll_ms=header.poll_time, now_ms=now_ms, now=broker.clock.monotonic()
    )
    return _notify(broker, _Notification(peer, request, header, deadline))


def _notify(broker: Broker, waiting: _Notification) -> Reply | None:
    header, peer = waiting.header, waiting.peer
    while True:
        try:
            queue_count = _check(broker, peer, header.topic, header.consumer_group, header.queue_id)
        except RequestError as error:
            return Reply(error.code, error.remark, NotificationResponse(has_msg=False).encode())
        seen = _queues_without_messages(broker, header, queue_count)
        if seen is None:
            return Reply(ext=NotificationResponse(has_msg=True).encode())
        if waiting.deadline is None or broker.clock.monotonic() >= waiting.deadline or broker.draining:
            return Reply(ext=NotificationResponse(has_msg=False).encode())
        outcome = broker.popwaits.notifications.hold(_held(broker, waiting, waiting.deadline, seen))
        if outcome is Hold.HELD:
            broker.longpoll_changed()
            return None
        if outcome is Hold.FULL:
            return Reply(ext=NotificationResponse(has_msg=False, polling_full=True).encode())


def _held(broker: Broker, waiting: _Notification, deadline: float, seen: dict[tuple[str, int], int]) -> HeldPop:
    def again(_held: HeldPop) -> None:
        answer_again(waiting.peer, waiting.request, lambda: _notify(broker, waiting))

    header = waiting.header
    return HeldPop(
        topic=header.topic,
        group=header.consumer_group,
        queue_id=header.queue_id,
        queues=seen,
        deadline=deadline,
        peer_id=waiting.peer.id,
        request=waiting,
        again=again,
        size=waiting.request.size,
    )


def _queues_without_messages(
    broker: Broker, header: NotificationRequest, queue_count: int
) -> dict[tuple[str, int], int] | None:
    """None if there is a message for the group, else the queues to wait for and their ends.

    A queue that an orderly pop has blocked has none, and what comes into it is no reason to wake up.
    """
    group, topic = header.consumer_group, header.topic
    seen: dict[tuple[str, int], int] = {}
    queues = list(_from(broker, queue_count, topic, header.queue_id))
    if not header.order:
        queues += retry_queues(broker, group, topic)
    now_ms = broker.clock.wall_ms()
    for name, queue_id in queues:
        if header.order and broker.order.blocked(
            name, group, queue_id, attempt_id=header.attempt_id, invisible_ms=0, now_ms=now_ms
        ):
            continue
        low, end = broker.store.queue_offsets(name, queue_id) or (0, 0)
        if end > _next_offset(broker, group, name, queue_id, low):
            return None
        seen[name, queue_id] = end
    return seen


# --- who waits --------------------------------------------------------------------------------------------------------


def polling_info(broker: Broker, peer: Peer, request: Command) -> Reply:
    """POLLING_INFO: how many pops wait for a queue of a topic, or (-1) for any of its queues."""
    header = PollingInfoRequest.decode(request.ext)
    try:
        _check(broker, peer, header.topic, header.consumer_group, header.queue_id)
    except RequestError as error:
        return Reply(error.code, error.remark, PollingInfoResponse(polling_num=0).encode())
    count = broker.popwaits.pops.count(header.topic, header.consumer_group, header.queue_id)
    return Reply(ext=PollingInfoResponse(polling_num=count).encode())


# --- peek -------------------------------------------------------------------------------------------------------------


def peek_message(broker: Broker, peer: Peer, request: Command) -> Reply:
    """PEEK_MESSAGE: what a pop would give, without giving it: messages of retry topics come as they lie there."""
    header = PeekMessageRequest.decode(request.ext)
    group, topic = header.consumer_group, header.topic
    try:
        queue_count = _check(broker, peer, topic, group, header.queue_id)
    except RequestError as error:
        return Reply(error.code, error.remark, PopMessageResponse().encode())
    queues = list(_from(broker, queue_count, topic, header.queue_id))
    retries = [queue for queue in retry_queues(broker, group, topic) if queue[0] in broker.topics]
    queues = retries + queues if broker.random.randrange(100) < RETRY_FIRST_PERCENT else queues + retries
    config = broker.config
    room = min(header.max_msg_nums, config.max_transfer_count_on_message_in_memory)
    body = b""
    rest = 0
    for name, queue_id in queues:
        low, end = broker.store.queue_offsets(name, queue_id) or (0, 0)
        offset = _next_offset(broker, group, name, queue_id, low)
        rest += max(0, end - offset)
        left = config.max_transfer_bytes_on_message_in_memory - len(body)
        if room <= 0 or left <= 0:
            continue
        result = broker.store.read_queue(name, queue_id, offset, room, max_bytes=left)
        if result.status in (st.OFFSET_TOO_SMALL, st.OFFSET_OVERFLOW_BADLY):
            offset = result.next_offset
            result = broker.store.read_queue(name, queue_id, offset, room, max_bytes=left)
        if result.status != st.FOUND:
            continue
        records = read_records(broker.store, name, queue_id, offset, result)
        if records:
            body += records
            room -= len(result.messages)
            broker.stats.on_get(group, topic, queue_id, len(result.messages), len(records))
    ext = PopMessageResponse(rest_num=rest).encode()
    if not body:
        return Reply(ResponseCode.PULL_NOT_FOUND, "NO_MESSAGE_IN_QUEUE", ext)
    return Reply(ResponseCode.SUCCESS, "FOUND", ext, body)


HANDLERS: dict[int, Handler] = {
    RequestCode.PEEK_MESSAGE: peek_message,
    RequestCode.NOTIFICATION: notification,
    RequestCode.POLLING_INFO: polling_info,
}
