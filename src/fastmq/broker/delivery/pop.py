"""What POP keeps and writes on behalf of its handlers: start offsets, checkpoints and acks, messages in flight.

A pop hands messages out for a time. Its checkpoint is stored before the answer leaves, and only a stored checkpoint
moves the group's offset; so a message is always behind the offset, or named by a checkpoint, or acknowledged.
Checkpoints and acks are timer messages for the revive topic: `poprevive` looks at them when their time has come.
"""

from __future__ import annotations

import itertools
import logging
from typing import TYPE_CHECKING, Final

import trio

from fastmq import _store as st
from fastmq.broker.delivery.intake import OutgoingMessage, store_message
from fastmq.broker.delivery.popck import CK_TAG, Ack, CheckPoint
from fastmq.protocol import message as m
from fastmq.protocol import names
from fastmq.protocol.headers.pop import INIT_MODE_MIN

if TYPE_CHECKING:
    from fastmq._store import Appended
    from fastmq.broker.app import Broker

log = logging.getLogger("fastmq.broker.pop")

WOKEN_A_STEP: Final = 32  # between two steps trio's other tasks have their turn
RETRY_QUEUES: Final = 1
"""Queues of a pop retry topic (PopAckConstants.retryQueueNum)."""


def retry_topics(broker: Broker, group: str, topic: str) -> list[str]:
    """The topics in which messages come back to pops of a group; the first one is that of new ones.

    What came back before enableRetryTopicV2 was switched off is in the V2 topic, and still to be had.
    """
    v1, v2 = (names.pop_retry_topic(group, topic, v2=v2) for v2 in (False, True))
    config = broker.config
    if config.enable_retry_topic_v2:
        return [v2, v1] if config.retrieve_message_from_pop_retry_topic_v1 else [v2]
    return [v1, v2] if broker.store.queue_offsets(v2, 0) is not None else [v1]


class PopInflight:
    """How many messages of a queue are with the consumers of a group; estimates (PopInflightMessageCounter)."""

    def __init__(self, since_ms: int) -> None:
        self._since_ms = since_ms
        self._counts: dict[tuple[str, str], dict[int, int]] = {}

    def add(self, topic: str, group: str, queue_id: int, count: int, pop_time: int) -> None:
        """Messages were handed out."""
        self._since_ms = min(self._since_ms, pop_time)  # the clock may have been set back since the start
        queues = self._counts.setdefault((topic, group), {})
        queues[queue_id] = queues.get(queue_id, 0) + count

    def subtract(self, topic: str, group: str, queue_id: int, count: int, pop_time: int) -> None:
        """Messages of a pop are acknowledged or visible again. Pops of before the start were never counted."""
        queues = self._counts.get((topic, group))
        if queues is None or pop_time < self._since_ms or queue_id not in queues:
            return
        queues[queue_id] = max(0, queues[queue_id] - count)

    def count(self, topic: str, group: str, queue_id: int) -> int:
        """Messages in flight."""
        return self._counts.get((topic, group), {}).get(queue_id, 0)

    def clear_queue(self, topic: str, group: str, queue_id: int) -> None:
        """Forget one queue: the group begins elsewhere."""
        self._counts.get((topic, group), {}).pop(queue_id, None)

    def forget(self, *, topic: str | None = None, group: str | None = None) -> None:
        """Forget a deleted topic or group."""
        for key in [key for key in self._counts if topic == key[0] or group == key[1]]:
            del self._counts[key]


class PopService:
    """The part of POP that all its requests share."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._numbers = itertools.count()
        self._to_wake: dict[tuple[str, str, int], None] = {}
        self._wake = trio.Event()
        self._stuck = False
        self.inflight = PopInflight(broker.clock.wall_ms())

    # --- where a pop begins ------------------------------------------------------------------------------------------

    def next_revive_queue(self) -> int:
        """The revive queue for the checkpoints of a pop: each in turn."""
        return next(self._numbers) % self._broker.config.revive_queue_num

    def start_offset(self, group: str, topic: str, queue_id: int, init_mode: int) -> int:
        """Where the group's next pop of the queue begins. A waiting reset is over with it."""
        broker = self._broker
        offsets = broker.offsets
        if broker.config.use_server_side_reset_offset:
            reset = offsets.take_reset(group, topic, queue_id)
            if reset is not None:
                self.begin_elsewhere(group, topic, queue_id)
                offsets.commit(group, topic, queue_id, reset)
                return reset
        offset = offsets.query(group, topic, queue_id)
        if offset < 0:
            offset = self._first_offset(topic, queue_id, init_mode)
            offsets.commit(group, topic, queue_id, offset)
        return offset

    def begin_elsewhere(self, group: str, topic: str, queue_id: int) -> None:
        """The group's offset of a queue is set: what pops have kept of the queue is void, whoever waits looks again."""
        self._broker.order.clear(topic, group, queue_id)
        self.inflight.clear_queue(topic, group, queue_id)
        self.wake_later(topic, group, queue_id)

    def _first_offset(self, topic: str, queue_id: int, init_mode: int) -> int:
        """Where a group begins that never popped the queue: `initMode` says at its start or at its last message."""
        broker = self._broker
        low, high = broker.store.queue_offsets(topic, queue_id) or (0, 0)
        if init_mode == INIT_MODE_MIN or names.is_retry_topic(topic):
            return max(0, low)
        if broker.config.init_pop_offset_by_check_msg_in_mem and low <= 0 and self._in_memory(topic, queue_id):
            return 0
        return max(0, high - 1)

    def _in_memory(self, topic: str, queue_id: int) -> bool:
        """Whether the first message of a queue is, going by its distance from the log's end, still in memory."""
        broker = self._broker
        first = broker.store.queue_entries(topic, queue_id, 0, 1)
        in_memory = broker.memory_bytes * broker.config.access_message_in_memory_max_ratio // 100
        return bool(first) and broker.store.written_offset - first[0][0] <= in_memory

    # --- what is written ---------------------------------------------------------------------------------------------

    def put_checkpoint(self, checkpoint: CheckPoint, revive_queue: int) -> Appended:
        """Store a checkpoint. RequestError if its time is too far ahead for a timer message."""
        body, key = checkpoint.encode(), checkpoint.unique_key
        return self._put(CK_TAG, key, body, revive_queue, checkpoint.deliver_time)

    def put_ack(self, ack: Ack, revive_queue: int, revive_time: int) -> Appended:
        """Store an ack for a checkpoint that is over at `revive_time`. RequestError as for the checkpoint."""
        return self._put(ack.tag, ack.unique_key, ack.encode(), revive_queue, revive_time)

    def _put(self, tag: str, key: str, body: bytes, revive_queue: int, deliver_ms: int) -> Appended:
        broker = self._broker
        message = OutgoingMessage(
            topic=self.revive_topic,
            queue_id=revive_queue,
            body=body,
            properties={
                m.PROPERTY_TAGS: tag,
                m.PROPERTY_UNIQUE_KEY: key,
                m.PROPERTY_TIMER_DELIVER_MS: str(deliver_ms),
            },
            born_timestamp_ms=broker.clock.wall_ms(),
            born_host=broker.store_host,
            internal=True,
        )
        appended = store_message(broker, message)
        if appended.status == st.ST_OK:
            self._stuck = False
            broker.stats.on_put(message.topic, message.queue_id, 1, appended.size)
        elif not self._stuck:
            self._stuck = True
            log.error("checkpoints and acks of pops cannot be stored: status %d", appended.status)
        return appended

    # --- others that wait --------------------------------------------------------------------------------------------

    def wake_later(self, topic: str, group: str, queue_id: int) -> None:
        """A pop has left messages: another one that waits may have them. Not at once: it may leave some, too."""
        self._to_wake[topic, group, queue_id] = None
        self._wake.set()

    def wake_some(self) -> bool:
        """Let some of the pops that wait look again; whether there are more of them."""
        for key in list(itertools.islice(self._to_wake, WOKEN_A_STEP)):
            del self._to_wake[key]
            self._broker.popwaits.wake(*key)
        return bool(self._to_wake)

    async def run(self) -> None:
        """Wake until cancelled."""
        while True:
            self._wake = trio.Event()
            if self.wake_some():
                await trio.lowlevel.checkpoint()
            else:
                await self._wake.wait()

    @property
    def revive_topic(self) -> str:
        """The topic of checkpoints and acks."""
        return names.revive_topic(self._broker.config.broker_cluster_name)
