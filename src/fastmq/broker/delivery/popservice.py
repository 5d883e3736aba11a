"""The loop around `poprevive`: reads the revive queues and puts what was not acknowledged into the retry topics.

Driven by the clock: a checkpoint is over when its time has come and everything due until then has come out of the
timer, whether or not there is any traffic. Each step does a bounded amount of work: other tasks have their turn.

An orderly stop leaves `config/revivedAhead.json` if checkpoints were revived behind one that is still open (short
invisible times, a clock that was set back): `{"revived":{topic:{queue:{offset:log offset}}}}`. The next start takes the
file away: it tells of that stop and nothing else.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

import trio

from fastmq import _store as st
from fastmq.broker.delivery.intake import put_stored
from fastmq.broker.delivery.longpoll import Watch
from fastmq.broker.delivery.pop import RETRY_QUEUES
from fastmq.broker.delivery.popck import ACK_TAG, BATCH_ACK_TAG, CK_TAG, Ack, CheckPoint, normal_topic
from fastmq.broker.delivery.poprevive import NOTHING_DONE, Pending, ReviveQueue
from fastmq.broker.state.saving import LaggingFile
from fastmq.broker.steady import Patience
from fastmq.errors import ProtocolError, RequestError, StoreError, UsageError
from fastmq.protocol import message as m
from fastmq.protocol import names
from fastmq.protocol.bodies import dumps
from fastmq.protocol.fields import parse_int64
from fastmq.store.tables import BACKUP_SUFFIX, load_table, object_of

if TYPE_CHECKING:
    from fastmq.broker.app import Broker

log = logging.getLogger("fastmq.broker.pop")

ENTRIES_A_STEP: Final = 64  # of one queue
CHECKPOINTS_A_STEP: Final = 4  # of one queue; each holds up to 32 messages
READ_AHEAD: Final = (
    10_000  # checkpoints of one queue in memory; more only if it takes that to know that the first is over
)
RETRY_MS: Final = 100  # after something could not be stored
SOON_MS: Final = 50  # when the timer has not come as far as the clock

ReviveKey = tuple[str, int]
"""A revive topic and a queue of it."""


class AcksKnown:
    """Up to which wall time all acks lie in the revive queues, where they can be read.

    The timer says up to when it has delivered; with SYNC_FLUSH queues show messages only when they are on disk.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._known_ms = 0
        self._noted = (0, 0)  # end of the log, and what had been delivered by then

    def __call__(self) -> int:
        store, timers = self._broker.store, self._broker.timers
        if timers is not None:
            for _ in range(2):
                if store.dispatched_offset >= self._noted[0]:
                    self._known_ms = self._noted[1]
                    self._noted = store.written_offset, timers.delivered_until_ms
        return self._known_ms


class PopRevive:
    """The revive queues of this broker. `file` is written at an orderly stop."""

    def __init__(self, broker: Broker, path: str, *, watch: Watch) -> None:
        self._broker = broker
        self._path = path
        self._revived_before: dict[ReviveKey, dict[int, int]] = {}  # offset -> log offset
        try:
            load_table(path, self._take_revived)
        except StoreError as error:
            log.warning("messages that were revived before may be revived again: %s", error)
        self.file = LaggingFile(path, self._freeze, before=self._note_revived)
        self._watch = watch
        self._acks_known = AcksKnown(broker)
        self._committed: dict[ReviveKey, int] = {}
        self._queues: dict[ReviveKey, ReviveQueue] = {}
        self._stuck: set[ReviveKey] = set()
        self._patience = Patience()
        self._wake = trio.Event()
        self.revived = 0

    # --- one step: no waiting ----------------------------------------------------------------------------------------

    def step(self) -> int | None:
        """Do some of what there is to do; the wall time of the next thing, None: not before a queue moves."""
        return _earliest(map(self._step_queue, self._keys()))

    def statistics(self) -> dict[str, int]:
        """Checkpoints that wait for their time or for the store, and messages revived since the start."""
        return {"pending_checkpoints": sum(map(len, self._queues.values())), "revived_messages": self.revived}

    def _keys(self) -> list[ReviveKey]:
        """All revive queues: those that are in use, and what fewer queues or another cluster name left behind."""
        broker = self._broker
        topic = broker.pop.revive_topic
        config = broker.topics.get(topic)
        count = max(broker.config.revive_queue_num, config.read_queue_nums if config is not None else 0)
        keys = dict.fromkeys((topic, queue_id) for queue_id in range(count))
        if not self._queues:
            keys.update(
                dict.fromkeys(
                    (name, queue_id)
                    for name, queue_id, _, _ in broker.store.queues()
                    if name.startswith(names.REVIVE_TOPIC_PREFIX)
                )
            )
        for key in keys:
            if key not in self._queues:
                committed = broker.offsets.query(names.REVIVE_CONSUMER_GROUP, *key)
                self._queues[key] = ReviveQueue(committed, self._still_revived(key))
                self._committed[key] = committed
        if self._revived_before:
            self._revived_before = {}
            for path in (self._path + BACKUP_SUFFIX, self._path):
                with contextlib.suppress(OSError):
                    os.unlink(path)
        return list(self._queues)

    # --- what was revived behind an open one --------------------------------------------------------------------------

    def _take_revived(self, content: dict[str, Any]) -> None:
        topics = object_of(content, "revived")
        for topic in topics:
            queues = object_of(topics, topic)
            for queue_id in queues:
                places = object_of(queues, queue_id)
                try:
                    found = {int(offset): int(log_offset) for offset, log_offset in places.items()}
                    self._revived_before[topic, int(queue_id)] = found
                except (TypeError, ValueError) as error:
                    raise ProtocolError(f"revived of {topic}, queue {queue_id}: {error}") from None

    def _still_revived(self, key: ReviveKey) -> list[int]:
        """What the last stop left of a queue, as far as the queue is still the same."""
        before = self._revived_before.get(key, {})
        return [offset for offset, log_offset in before.items() if self._log_offset(key, offset) == log_offset]

    def _log_offset(self, key: ReviveKey, offset: int) -> int | None:
        entries = self._broker.store.queue_entries(*key, offset, 1)
        return entries[0][0] if entries else None

    def _note_revived(self) -> None:
        if any(queue.revived_ahead for queue in self._queues.values()):
            self.file.changed()

    def _freeze(self) -> Callable[[], bytes]:
        topics: dict[str, dict[int, dict[int, int | None]]] = {}
        for key, queue in self._queues.items():
            places = {offset: self._log_offset(key, offset) for offset in queue.revived_ahead}
            if places:
                topics.setdefault(key[0], {})[key[1]] = places
        return lambda: dumps({"revived": topics})

    def _step_queue(self, key: ReviveKey) -> int | None:
        broker, queue = self._broker, self._queues[key]
        now_ms = broker.clock.wall_ms()
        # asked before the end is looked at: an ack known by then lies before that end
        acks_known_ms = min(self._acks_known(), now_ms)
        end = self._watch(*key, True)
        begin = queue.next_offset
        if not queue.has_read_enough(READ_AHEAD):
            self._read(key, queue, end)
        queue = self._queues[key]
        at_end = queue.next_offset >= end
        horizon_ms = queue.horizon(acks_known_ms, at_end=at_end)
        stuck = False
        number = 0
        for number, pending in enumerate(queue.due(horizon_ms), 1):
            if not self._try_to_revive(key, pending):
                stuck = True
                break
            queue.finish_revived(pending)
            if number == CHECKPOINTS_A_STEP:
                break
        self._commit(key, queue.committed(horizon_ms))
        if stuck:
            return now_ms + RETRY_MS
        if not at_end:
            return now_ms if queue.next_offset > begin or number else now_ms + RETRY_MS
        next_ms = queue.next_due_ms()
        if next_ms is None or next_ms > now_ms:
            return next_ms
        return now_ms if next_ms <= horizon_ms else now_ms + SOON_MS

    def _read(self, key: ReviveKey, queue: ReviveQueue, end: int) -> None:
        """The next entries of a queue."""
        store = self._broker.store
        low = (store.queue_offsets(*key) or (0, 0))[0]
        if queue.next_offset < low:
            log.warning("%s, queue %d: entries before %d are gone", *key, low)
            queue.skip_to(low)
        if queue.next_offset > end:
            # the committed offset is of a log that had more in it; what comes now is new
            log.warning("%s, queue %d: ends at %d, not at %d", *key, end, queue.next_offset)
            self._queues[key] = ReviveQueue(end - 1)
            self._committed[key] = end - 1
            self._broker.offsets.commit(names.REVIVE_CONSUMER_GROUP, *key, end - 1)
            return
        if queue.next_offset == end:
            return
        for log_offset, _, _ in store.queue_entries(*key, queue.next_offset, ENTRIES_A_STEP):
            entry, due_ms = self._try_entry(key, queue.next_offset, log_offset)
            queue.feed(queue.next_offset, entry, due_ms)

    def _try_entry(self, key: ReviveKey, offset: int, log_offset: int) -> tuple[CheckPoint | Ack | None, int]:
        try:
            return self._entry(key, offset, log_offset)
        except Exception as error:
            if not self._patience.is_over((key, offset), error):
                raise
            log.exception("%s, queue %d, offset %d: passed over", *key, offset)
            return None, 0

    def _entry(self, key: ReviveKey, offset: int, log_offset: int) -> tuple[CheckPoint | Ack | None, int]:
        """What lies at an offset of a queue, and when it was due."""
        record = self._broker.store.read_record(log_offset)
        try:
            if record is None:
                raise ProtocolError(f"no message at log offset {log_offset}")
            message, _ = m.decode_message(record)
            properties = message.property_map
            due_ms = parse_int64(properties.get(m.PROPERTY_TIMER_DELIVER_MS)) or 0
            tag = properties.get(m.PROPERTY_TAGS)
            if tag == CK_TAG:
                return CheckPoint.decode(message.body), due_ms
            if tag in (ACK_TAG, BATCH_ACK_TAG):
                broker_name = self._broker.config.broker_name
                return Ack.decode(message.body, batch=tag == BATCH_ACK_TAG, broker=broker_name), due_ms
            raise ProtocolError(f"neither a checkpoint nor an ack but {tag!r}")
        except ProtocolError as error:
            log.error("%s, queue %d, offset %d: passed over: %s", *key, offset, error)
            return None, 0

    def _commit(self, key: ReviveKey, offset: int) -> None:
        if offset > self._committed.get(key, NOTHING_DONE):
            self._committed[key] = offset
            self._broker.offsets.commit(names.REVIVE_CONSUMER_GROUP, *key, offset)

    # --- making visible again ----------------------------------------------------------------------------------------

    def _try_to_revive(self, key: ReviveKey, pending: Pending) -> bool:
        try:
            return self._revive(key, pending)
        except Exception as error:
            if not self._patience.is_over((key, pending.offset, "revive"), error):
                raise
            log.exception("%s, queue %d, offset %d: the checkpoint is dropped", *key, pending.offset)
            return True

    def _revive(self, key: ReviveKey, pending: Pending) -> bool:
        """Put the open messages of a checkpoint into the retry topic. False if the store takes nothing now."""
        broker, checkpoint = self._broker, pending.checkpoint
        topic, group = normal_topic(checkpoint.topic, checkpoint.group), checkpoint.group
        if topic not in broker.topics or group not in broker.groups:
            log.info("a checkpoint of %s for %s is dropped: they do not exist any more", group, topic)
            return True
        for offset in checkpoint.open_offsets():
            if not self._retry(checkpoint, offset) and not self._put_again(key, checkpoint, offset):
                if key not in self._stuck:
                    self._stuck.add(key)
                    log.error("messages of %s cannot be put into its retry topic now, trying again", group)
                return False
            checkpoint.ack(offset)
            broker.pop.inflight.subtract(checkpoint.topic, group, checkpoint.queue_id, 1, checkpoint.pop_time)
        self._stuck.discard(key)
        return True

    def _retry(self, checkpoint: CheckPoint, offset: int) -> bool:
        """Make one message visible again. What is no longer there is done with."""
        broker, store = self._broker, self._broker.store
        entries = store.queue_entries(checkpoint.topic, checkpoint.queue_id, offset, 1)
        record = store.read_record(entries[0][0]) if entries else None
        try:
            original = None if record is None else m.decode_message(record)[0]
        except ProtocolError:
            original = None
        if original is None:
            log.warning("%s, queue %d: offset %d is gone", checkpoint.topic, checkpoint.queue_id, offset)
            return True
        topic = self._retry_topic(checkpoint)
        properties = original.property_map
        if original.reconsume_times == 0 or m.PROPERTY_FIRST_POP_TIME not in properties:
            properties[m.PROPERTY_FIRST_POP_TIME] = str(checkpoint.pop_time)
        text = m.encode_properties(properties)
        try:
            # not through the hook for delays: the message had its delay
            appended = put_stored(store, original, topic, 0, text, tries=1, born_host=broker.store_host)
        except (UsageError, ValueError) as error:
            log.error("%s, queue %d, offset %d: %s", checkpoint.topic, checkpoint.queue_id, offset, error)
            return False
        if appended.status != st.ST_OK:
            return False
        self.revived += 1
        broker.stats.on_put(topic, 0, 1, appended.size)
        return True

    def _retry_topic(self, checkpoint: CheckPoint) -> str:
        """The topic a message comes back in, which is made if it does not exist."""
        broker, group = self._broker, checkpoint.group
        topic = checkpoint.topic
        if not names.is_retry_topic(topic):
            topic = names.pop_retry_topic(group, topic, v2=broker.config.enable_retry_topic_v2)
        if topic not in broker.topics:
            broker.topics.create_internal(topic, queue_nums=RETRY_QUEUES)
            if broker.offsets.query(group, topic, 0) < 0:
                broker.offsets.commit(group, topic, 0, 0)
        return topic

    def _put_again(self, key: ReviveKey, checkpoint: CheckPoint, offset: int) -> bool:
        """A message that the retry topic does not take is looked at again later."""
        broker = self._broker
        again = checkpoint.again(offset, broker.clock.wall_ms())
        try:
            return broker.pop.put_checkpoint(again, key[1]).status == st.ST_OK
        except RequestError as error:
            log.error("%s, queue %d, offset %d: %s", checkpoint.topic, checkpoint.queue_id, offset, error.remark)
            return False

    # --- the loop ----------------------------------------------------------------------------------------------------

    def moved(self) -> None:
        """A revive queue has new entries."""
        self._wake.set()

    async def run(self) -> None:
        """Revive until cancelled."""
        while True:
            self._wake = trio.Event()
            times = []
            for key in self._keys():
                times.append(self._step_queue(key))
                await trio.lowlevel.checkpoint()
            next_ms = _earliest(times)
            now_ms = self._broker.clock.wall_ms()
            if next_ms is not None and next_ms <= now_ms:
                continue
            # the clock may be set meanwhile
            longest_ms = self._broker.config.revive_interval
            wait_ms = longest_ms if next_ms is None else min(longest_ms, next_ms - now_ms)
            with trio.move_on_after(wait_ms / 1000):
                await self._wake.wait()


def _earliest(times: Iterable[int | None]) -> int | None:
    return min((time for time in times if time is not None), default=None)
