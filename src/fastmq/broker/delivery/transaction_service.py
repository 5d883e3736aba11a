"""Transactions of a broker: what END_TRANSACTION does, op messages in time, and the rounds of checks.

After RocketMQ's TransactionalMessageServiceImpl, TransactionalOpBatchService, TransactionalMessageCheckService and
AbstractTransactionalMessageCheckListener. The state is in `HalfQueue`; the loops here only say when.

An op message is written in the turn of its decision if the last one is OP_GAP_MS old, else when it is: so a crash
between a commit and its op message, after which the producer is asked again and may commit again, has some
milliseconds to happen in (up to transactionOpBatchInterval in RocketMQ), and thousands of decisions a second still
share a message.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import trio

from fastmq import _store as st
from fastmq.broker.delivery.intake import put_as_is, store_message
from fastmq.broker.delivery.transaction import (
    GIVEN_UP_TOPIC,
    HALF_QUEUE,
    HALF_TOPIC,
    OP_TOPIC,
    CheckRules,
    HalfMessage,
)
from fastmq.broker.delivery.transaction_queue import HalfQueue
from fastmq.broker.state.offsets import NOT_COMMITTED
from fastmq.broker.state.transaction_metrics import TransactionMetrics
from fastmq.protocol import message as m
from fastmq.protocol import names
from fastmq.protocol.codes import RequestCode
from fastmq.protocol.command import ONEWAY_FLAG, Command

if TYPE_CHECKING:
    from fastmq._store import Appended
    from fastmq.broker.app import Broker
    from fastmq.broker.delivery.intake import OutgoingMessage

log = logging.getLogger("fastmq.broker.transaction")

OP_GAP_MS: Final = 20
RETRY_MS: Final = 1000  # after an op message could not be stored
RECORDS_A_STEP: Final = 64  # between two steps trio's other tasks have their turn
MAX_TIME_QUEUES: Final = 1
FIRST_OP_STEPS: Final = 16
MAX_TURNS: Final = 10_000  # groups of which it is known who was asked last
MAX_TWINS: Final = 32  # messages with the same key that are looked at


class Transactions:
    """The transactions of one broker."""

    def __init__(self, broker: Broker, metrics_path: str | None) -> None:
        self._broker = broker
        self._queues: dict[int, HalfQueue] = {}
        self._last_op_ms = -math.inf
        self._op_failed = False
        self._ops_wait = False
        self._ops_wake = trio.Event()
        self._turns: dict[str, int] = {}  # which producer of a group is asked next
        self._unpublished: tuple[int, dict[int, tuple[int, int]]] | None = None
        self._published: dict[int, tuple[int, int]] = {}
        self.metrics = TransactionMetrics(metrics_path, broker.clock.wall_ms)

    # --- decisions ---------------------------------------------------------------------------------------------------

    def queue(self, queue_id: int = HALF_QUEUE) -> HalfQueue:
        """A queue of the half topic."""
        queue = self._queues.get(queue_id)
        if queue is None:
            broker = self._broker
            queue = self._queues[queue_id] = HalfQueue(
                queue_id,
                broker.store,
                half_offset=self._stored_offset(HALF_TOPIC, queue_id),
                op_offset=self._stored_offset(OP_TOPIC, queue_id),
                store_host=broker.store_host,
                wall_ms=broker.clock.wall_ms,
                on_put=self._count_put,
            )
            self._published[queue_id] = queue.half_offset, queue.op_offset
            for _ in range(FIRST_OP_STEPS):  # a start reads the rest, if there is one, in `run`
                if not queue.read_ops():
                    break
        return queue

    def begun(self, topic: str) -> None:
        """A half message for the topic was stored."""
        self.metrics.add(topic, 1)

    def find(self, log_offset: int, *, given_up: bool = False) -> HalfMessage | None:
        """The half message at a log offset; None if there is none. `given_up`: it may be one that was put aside."""
        half = HalfMessage.decode(self._broker.store.read_record(log_offset)) if log_offset >= 0 else None
        if half is None or half.message.log_offset != log_offset:
            return None
        if given_up and half.message.topic == GIVEN_UP_TOPIC:
            return half
        if half.message.topic != HALF_TOPIC or half.message.queue_id not in self._queue_ids():
            return None
        return half if self.queue(half.message.queue_id).holds(half) else None

    def is_decided(self, half: HalfMessage) -> bool:
        """Whether somebody has decided about the transaction already."""
        return self.queue(half.message.queue_id).is_decided(half)

    def commit(self, half: HalfMessage) -> int:
        """Store the message in its real topic. The status of the store; unless it is ST_OK, nothing has happened.

        Raises RequestError if the message is one that cannot be stored (a delay beyond the limit, for instance).
        """
        if self.queue(half.message.queue_id).may_be_known_before(half) and self._was_committed(half):
            self._decide(half)
            return st.ST_OK
        message = half.committed()
        message.queue_id = self._broker.topics.queue_to_read(message.topic, message.queue_id)
        appended = store_message(self._broker, message)
        if appended.status == st.ST_OK:
            self._broker.stats.on_put(message.topic, message.queue_id, 1, appended.size)
            self._decide(half)
        return appended.status

    def _was_committed(self, half: HalfMessage) -> bool:
        """Whether the index leads to the committed message: a crash may have come before its op message.

        A delayed one is not found by its topic; nor is any with messageIndexEnable off.
        """
        store = self._broker.store
        key = half.properties.get(m.PROPERTY_UNIQUE_KEY)
        if not key:
            return False
        found, _, _ = store.query_index(half.real_topic, key, MAX_TWINS, 0, (1 << 63) - 1)
        for log_offset in found:
            twin = HalfMessage.decode(store.read_record(log_offset))
            if twin is not None and twin.is_commit_of(half):
                return True
        return False

    def roll_back(self, half: HalfMessage) -> None:
        """The message is never delivered."""
        self._decide(half)

    def resume(self, half: HalfMessage) -> bool:
        """Ask the producers again from the beginning, also for a message that was given up. False: not possible now."""
        from_half_topic = half.message.topic == HALF_TOPIC
        queue = self.queue(half.message.queue_id if from_half_topic else HALF_QUEUE)
        if queue.put_again(half, half.checked(0)) is None:
            return False
        if not from_half_topic:
            self.metrics.add(half.real_topic, 1)
        self._ops_grew(queue)
        return True

    def _decide(self, half: HalfMessage) -> None:
        queue = self.queue(half.message.queue_id)
        queue.decide(half)
        self.metrics.add(half.real_topic, -1)
        self._ops_grew(queue)

    # --- op messages -------------------------------------------------------------------------------------------------

    def _ops_grew(self, queue: HalfQueue) -> None:
        if queue.unwritten_chars >= self._broker.config.transaction_op_msg_max_size or self._ops_due_ms() <= 0:
            self.write_ops()
        elif not self._ops_wait:
            self._ops_wait = True
            self._ops_wake.set()

    def _ops_due_ms(self) -> float:
        """Milliseconds until op messages may be written again."""
        gap_ms = min(OP_GAP_MS, self._broker.config.transaction_op_batch_interval)
        return self._last_op_ms + (RETRY_MS if self._op_failed else gap_ms) - self._now_ms()

    def write_ops(self) -> bool:
        """Write all op messages that wait; False: the store does not take them now."""
        max_chars = self._broker.config.transaction_op_msg_max_size
        done = True
        for queue in self._queues.values():
            while queue.unwritten_chars and done:
                done = queue.write_ops(max_chars)
        if done is self._op_failed:
            self._op_failed = not done
            if not done:
                log.error("op messages of transactions cannot be stored, trying again")
        self._last_op_ms = self._now_ms()
        return done

    async def _write_ops_in_time(self) -> None:
        while True:
            self._ops_wake = trio.Event()
            self._ops_wait = any(queue.unwritten_chars for queue in self._queues.values())
            if not self._ops_wait:
                await self._ops_wake.wait()
                continue
            await trio.sleep(max(0.0, self._ops_due_ms()) / 1000)
            self.write_ops()

    # --- checks ------------------------------------------------------------------------------------------------------

    def check_steps(self) -> Iterator[None]:
        """One round of checks over all queues; others may have their turn at each step."""
        config = self._broker.config
        for queue_id in self._queue_ids():
            queue = self.queue(queue_id)
            while queue.read_ops() or queue.learn():
                yield
            queue.begin_round()
            while True:
                rules = CheckRules(
                    timeout_ms=config.transaction_time_out,
                    max_checks=config.transaction_check_max,
                    max_age_ms=config.file_reserved_time * 3_600_000,
                )
                done = queue.check(self._broker.clock.wall_ms(), rules, self, RECORDS_A_STEP)
                if queue.unwritten_chars:
                    self.write_ops()
                if done is not None:
                    break
                yield
            if done.asked or done.moved or done.given_up:
                log.info(
                    "half queue %d: asked about %d, given up %d, stored again %d; next is %d of %d",
                    queue_id, done.asked, done.given_up, done.moved, queue.half_offset, queue.end,
                )  # fmt: skip

    async def _check_in_time(self) -> None:
        for queue_id in self._queue_ids():
            queue = self.queue(queue_id)
            while queue.read_ops() or queue.learn():
                await trio.lowlevel.checkpoint()
        while True:
            await trio.sleep(self._broker.config.transaction_check_interval / 1000)
            if self._broker.draining:
                continue
            for _ in self.check_steps():
                await trio.lowlevel.checkpoint()

    async def run(self) -> None:
        """Write op messages and check, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write_ops_in_time)
            nursery.start_soon(self._check_in_time)

    def can_ask(self, group: str | None) -> bool:
        """Whether a producer of the group is connected."""
        sessions, broker = self._broker.sessions, self._broker
        return group is not None and any(broker.peer_of(channel) is not None for channel in sessions.producers(group))

    def ask(self, half: HalfMessage, copy: OutgoingMessage, appended: Appended) -> None:
        """Send CHECK_TRANSACTION_STATE (39) to a producer of the group, in turn. It answers with END_TRANSACTION."""
        broker = self._broker
        group = half.producer_group or ""
        try:
            header, body = half.check_request(
                copy, appended.queue_offset, appended.log_offset, broker.config.broker_name
            )
        except ValueError as error:
            log.error("no check of a half message at log offset %d: %s", appended.log_offset, error)
            return
        request = Command(
            RequestCode.CHECK_TRANSACTION_STATE,
            opaque=broker.next_opaque(),
            flag=ONEWAY_FLAG,
            ext=header.encode(),
            body=body,
        )
        channels = broker.sessions.producers(group)
        if len(self._turns) > MAX_TURNS:
            self._turns.clear()
        for _ in channels:
            turn = self._turns[group] = self._turns.get(group, -1) + 1
            peer = broker.peer_of(channels[turn % len(channels)])
            if peer is not None and peer.send(request):
                return
        log.warning("no producer of %s could be asked about %s", group, header.msg_id)

    def give_up(self, half: HalfMessage) -> bool:
        """Put a message nobody decided about into TRANS_CHECK_MAX_TIME_TOPIC."""
        broker = self._broker
        message = half.given_up()
        broker.topics.create_internal(message.topic, queue_nums=MAX_TIME_QUEUES)
        appended = put_as_is(broker.store, message)
        if appended.status != st.ST_OK:
            return False
        self._count_put(message.topic, message.queue_id, appended)
        self.metrics.add(half.real_topic, -1)
        log.warning(
            "transaction %s for %s: nobody of %s decided after %d checks, its message is in %s",
            half.properties.get(m.PROPERTY_UNIQUE_KEY), half.real_topic, half.producer_group, half.checks,
            message.topic,
        )  # fmt: skip
        return True

    # --- offsets -----------------------------------------------------------------------------------------------------

    def publish(self) -> bool:
        """Pass on how far the queues are done to the table of consumer offsets, once all it rests on is on disk.

        To be called from time to time; whether nothing is left to pass on.
        """
        broker = self._broker
        if self._unpublished is not None and broker.store.flushed_offset >= self._unpublished[0]:
            for queue_id, (half_offset, op_offset) in self._unpublished[1].items():
                broker.offsets.commit(names.TRANS_CONSUMER_GROUP, HALF_TOPIC, queue_id, half_offset)
                broker.offsets.commit(names.TRANS_CONSUMER_GROUP, OP_TOPIC, queue_id, op_offset)
                self._published[queue_id] = half_offset, op_offset
            self._unpublished = None
        if self._unpublished is None:
            changed = {
                queue_id: (queue.half_offset, queue.op_offset)
                for queue_id, queue in self._queues.items()
                if self._published[queue_id] != (queue.half_offset, queue.op_offset)
            }
            if changed:
                self._unpublished = broker.store.written_offset, changed
                broker.store.request_flush()
        return self._unpublished is None

    # --- inside ------------------------------------------------------------------------------------------------------

    def _queue_ids(self) -> range:
        topic = self._broker.topics.get(HALF_TOPIC)
        return range(max(1, topic.read_queue_nums if topic is not None else 1))

    def _stored_offset(self, topic: str, queue_id: int) -> int | None:
        offset = self._broker.offsets.query(names.TRANS_CONSUMER_GROUP, topic, queue_id)
        return None if offset == NOT_COMMITTED else offset

    def _count_put(self, topic: str, queue_id: int, appended: Appended) -> None:
        self._broker.stats.on_put(topic, queue_id, 1, appended.size)

    def _now_ms(self) -> float:
        return self._broker.clock.monotonic() * 1000
