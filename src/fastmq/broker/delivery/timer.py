"""Messages for any time: from rmq_sys_wheel_timer to their real topic when they are due (RocketMQ's TimerMessageStore).

Two cursors. The first follows the timer queue and hangs every message into the slot of its time: timer log, then wheel.
The second, the read time, goes from slot to slot; the slots around it are in memory, ordered by the exact due time. A
message is delivered when the wall clock has reached that millisecond, never before, and only after everything stored
until then was followed: so a message that was taken back in time is never delivered.

At least once: what the files say lies behind messages that are flushed to disk (see `timer_files`). After a crash some
messages are delivered again; after a normal stop none.
A clock that is set back delivers nothing twice: a slot that delivered something takes no more messages, those for
earlier times hang in the next slot and keep their due time. A clock that is set forward makes messages due.
"""

from __future__ import annotations

import heapq
import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from fastmq._store import (
    ST_BODY_TOO_LARGE,
    ST_OK,
    ST_PROPERTIES_TOO_LARGE,
    ST_RECORD_TOO_LARGE,
    ST_TOPIC_TOO_LONG,
    java_hash,
)
from fastmq.broker.delivery.due import RETRY_MS, Due, DueLoop
from fastmq.broker.delivery.intake import PutsMessages, put_stored
from fastmq.broker.delivery.timer_files import Bound, TimerFiles, TimerSnapshot
from fastmq.broker.delivery.timer_rules import delete_key, first_look, roll_window
from fastmq.broker.delivery.timer_slots import OpenSlot, Recall, TimerMessage, properties_after_wait
from fastmq.broker.steady import Patience
from fastmq.clock import Clock
from fastmq.errors import ProtocolError, UsageError
from fastmq.protocol import message as m
from fastmq.protocol import names
from fastmq.protocol.fields import parse_int32
from fastmq.store.timer_log import MAGIC_DELETE, MAGIC_ROLL, RECORD, RECORD_BYTES, TimerRecord
from fastmq.store.timer_wheel import Slot

if TYPE_CHECKING:
    from fastmq._store import Appended

log = logging.getLogger("fastmq.broker.timer")

FOLLOW_A_STEP: Final = 64  # messages that are read from the timer queue at once
DELIVER_A_STEP: Final = 64
LOAD_A_STEP: Final = 2000  # records of a slot that are taken into memory at once
ANEW_A_STEP: Final = 1000  # records that are written anew at once
PASS_A_STEP: Final = 10_000  # empty slots
JUMP_SLOTS: Final = 200_000  # from so many on it is faster to look for the next slot that is not empty
RATE_STEP_S: Final = 10.0
RATE_STEPS: Final = 7
AHEAD_MS: Final = 2000  # slots are loaded so long before they begin
_ILLEGAL: Final = (ST_BODY_TOO_LARGE, ST_PROPERTIES_TOO_LARGE, ST_TOPIC_TOO_LONG, ST_RECORD_TOO_LARGE)


class TimerStore(PutsMessages, Protocol):
    """What delivery needs of the store."""

    def queue_offsets(self, topic: str, queue_id: int) -> tuple[int, int] | None: ...
    def queue_entries(self, topic: str, queue_id: int, offset: int, count: int) -> list[tuple[int, int, int]]: ...
    def read_record(self, log_offset: int) -> bytes | None: ...
    def watch(self, topic: str, queue_id: int, on: bool = True) -> int: ...


class TimerDelivery(DueLoop):
    """The wheel and how far it has come. `window_slots`: timerRollWindowSlot."""

    def __init__(
        self,
        files: TimerFiles,
        *,
        store: TimerStore,
        clock: Clock,
        window_slots: int = 172_800,
        on_delivered: Callable[[str, int, Appended], None] = lambda _topic, _queue_id, _appended: None,
        queue_to_read: Callable[[str, int], int] = lambda _topic, queue_id: queue_id,
    ) -> None:
        super().__init__(clock)
        self.files = files
        self._store = store
        self._window_slots = roll_window(window_slots)
        self.precision_ms = self._precision_ms = files.precision_ms
        self._on_delivered = on_delivered
        self._queue_to_read = queue_to_read
        self._open: dict[int, OpenSlot] = {}
        self._recalls: dict[str, Recall] = {}
        self._loaded = False  # all that was open when an earlier run ended
        self._opened_to = files.read_ms - files.precision_ms
        self._floor = files.read_ms  # slots before this one take no more messages
        self._now_ms = files.version.timestamp
        self._gate: tuple[int, int] = (0, 0)  # (queue offset, time): what was stored until then lies before the offset
        self._allowed_ms = 0  # what is due until then may be delivered
        self._rolled_end = 0  # queue offset behind the last message that was sent on to a later slot
        self._stuck = False
        self._patience = Patience()
        self.enqueued = self.delivered = 0
        self._samples: deque[tuple[float, int, int]] = deque([(clock.monotonic(), 0, 0)], maxlen=RATE_STEPS)
        self.delivered_until_ms = 0  # what was stored before the last step and is due until then was delivered
        for slot_ms, bound in files.bounds.items():
            if slot_ms >= files.read_ms:
                slot = self._open_slot(slot_ms)
                slot.bound, slot.served = bound, True
        self._enqueue_anew()

    # --- the core: no waiting ----------------------------------------------------------------------------------------

    def due(self, now_ms: int) -> Due:
        """Follow the queue and deliver what is due at a wall time, a bounded number of messages of each."""
        outcome = Due()
        if now_ms < self._now_ms:
            self._clock_was_set_back()
        self._now_ms = now_ms
        end = self._store.watch(names.TIMER_TOPIC, 0)
        if self.files.queue_offset >= self._gate[0]:
            self._allowed_ms = self._gate[1]
            self._gate = end, now_ms
        if self.files.queue_offset < end:
            self._follow(now_ms, outcome)
        if self.files.queue_offset >= self._gate[0]:
            self._allowed_ms = self._gate[1]
        self._load(outcome)
        until_ms = min(now_ms, self._allowed_ms)
        self._deliver_due(until_ms, outcome)
        self._note_delivered(until_ms)
        self._pass(now_ms, outcome)
        return outcome

    def slot_count(self, slot_ms: int) -> int:
        """How many messages wait in a slot."""
        slot = self.files.wheel.get(slot_ms)
        return 0 if slot is None else slot.messages

    @property
    def read_behind_ms(self) -> int:
        """How long ago the slot began that is being delivered."""
        return max(0, self._clock.wall_ms() - self.files.read_ms)

    @property
    def queue_behind(self) -> int:
        """How many messages of the timer queue were not looked at yet."""
        bounds = self._store.queue_offsets(names.TIMER_TOPIC, 0)
        return 0 if bounds is None else max(0, bounds[1] - self.files.queue_offset)

    def rates(self) -> tuple[float, float]:
        """Messages that began to wait, and that were delivered, per second of the last minute."""
        now, enqueued, delivered = self._clock.monotonic(), self.enqueued, self.delivered
        self._note_rates()
        then, enqueued_then, delivered_then = self._samples[0]
        took = max(1.0, now - then)
        return (enqueued - enqueued_then) / took, (delivered - delivered_then) / took

    def _note_rates(self) -> None:
        now = self._clock.monotonic()
        if now - self._samples[-1][0] >= RATE_STEP_S:
            self._samples.append((now, self.enqueued, self.delivered))

    def bounds(self) -> dict[int, Bound]:
        """What was delivered of the slots that are not done."""
        found = {slot_ms: slot.done_until for slot_ms, slot in self._open.items()}
        return {slot_ms: bound for slot_ms, bound in found.items() if bound is not None}

    def _note_delivered(self, until_ms: int) -> None:
        """Note up to when nothing is left, if that can be told."""
        until_ms = min(until_ms, self._opened_to + self._precision_ms)
        for slot_ms, slot in self._open.items():
            if slot.next >= 0 and slot_ms <= until_ms:
                return
            if slot.waiting:
                until_ms = min(until_ms, slot.waiting[0][0] - 1)
        self.delivered_until_ms = until_ms

    def _clock_was_set_back(self) -> None:
        served = max((slot_ms for slot_ms, slot in self._open.items() if slot.served), default=None)
        if served is not None:
            self._floor = max(self._floor, served + self._precision_ms)

    # --- the first cursor: from the queue into the wheel -------------------------------------------------------------

    def _follow(self, now_ms: int, outcome: Due) -> None:
        files = self.files
        bounds = self._store.queue_offsets(names.TIMER_TOPIC, 0)
        if bounds is not None and files.queue_offset < bounds[0]:
            log.warning("timers: queue offset %d is below %d, going on there", files.queue_offset, bounds[0])
            files.queue_offset = bounds[0]
        entries = self._store.queue_entries(names.TIMER_TOPIC, 0, files.queue_offset, FOLLOW_A_STEP)
        if not entries:
            outcome.at(now_ms + RETRY_MS)
            return
        outcome.at(now_ms)
        followed = []
        for number, (log_offset, _, _) in enumerate(entries):
            queue_offset = files.queue_offset + number
            one = self._read(log_offset)
            if one is None:
                log.error("timer queue offset %d: no timer message, passed over", queue_offset)
            elif queue_offset >= files.repeat_until or one.slot_ms >= files.read_ms:
                one.due_ms = max(one.due_ms, now_ms)
                followed.append(one)
        try:
            self._enqueue(followed, now_ms)
        except OSError as error:
            if not self._stuck:
                log.error("the timer log cannot be written, trying again: %s", error)
            self._stuck = True
            outcome.next_ms = now_ms + RETRY_MS
            return
        self._stuck = False
        files.queue_offset += len(entries)

    def _read(self, log_offset: int) -> TimerMessage | None:
        try:
            return TimerMessage.read(self._store.read_record(log_offset), log_offset, self._precision_ms)
        except Exception as error:
            if not self._patience.is_over(("read", log_offset), error):
                raise
            log.exception("timers: the message at log offset %d cannot be read", log_offset)
            return None

    def _enqueue(self, followed: list[TimerMessage], now_ms: int, *, count: bool = True) -> None:
        """Write records for messages and hang them into their slots: all of them, or OSError and none.

        `count`: they are not in the metrics yet.
        """
        files = self.files
        write_ms = max(files.wheel.floor(now_ms), self._floor)
        slots: dict[int, Slot] = {}
        placed: list[tuple[TimerMessage, int, int, int]] = []
        for one in followed:
            slot_ms, magic = self._slot_for(one, write_ms)
            unit = slot_ms // self._precision_ms
            slot = slots.get(unit) or files.wheel.get(slot_ms) or Slot(unit, -1, -1, 0)
            due_ms = slot_ms + self._precision_ms if magic & MAGIC_ROLL else one.due_ms
            record = RECORD.pack(
                RECORD_BYTES, slot.last, magic, write_ms, slot_ms - write_ms, one.log_offset, one.size,
                java_hash(one.topic), due_ms,
            )  # fmt: skip
            position = files.log.place(record)
            change = -1 if magic & MAGIC_DELETE else 1
            first = slot.first if slot.first >= 0 else position
            slots[unit] = Slot(unit, first, position, slot.messages + change, slot.magic)
            placed.append((one, slot_ms, magic, position))
        files.log.write()
        opened = {slot_ms for _, slot_ms, _, _ in placed if slot_ms <= self._opened_to or slot_ms in self._open}
        for slot in slots.values():
            files.wheel.put(slot)
        for one, slot_ms, magic, position in placed:
            if count:
                files.metrics.add(one.topic, -1 if magic & MAGIC_DELETE else 1)
            if slot_ms in opened:
                due_ms = slot_ms + self._precision_ms if magic & MAGIC_ROLL else one.due_ms
                self._add(slot_ms, self._open.setdefault(slot_ms, OpenSlot(-1)), due_ms, position, magic, one)
            elif slot_ms <= self._floor and slot_ms not in self._open:
                self._open_slot(slot_ms)
        self.enqueued += len(placed) if count else 0

    def _enqueue_anew(self) -> None:
        """The precision has changed: hang what waits into the slots it belongs to now."""
        now_ms = self._clock.wall_ms()
        waiting: list[TimerMessage] = []
        for log_offset, slot_ms, delivered in self.files.waiting_records():
            one = self._read(log_offset)
            if one is None:
                log.error("the timer message at log offset %d is gone, passed over", log_offset)
            elif delivered:
                known_in = max(self.files.wheel.floor(slot_ms), self._floor)
                self._open.setdefault(known_in, OpenSlot(-1)).known.append(one.key)
            else:
                one.due_ms = max(one.due_ms, now_ms)
                waiting.append(one)
            if len(waiting) == ANEW_A_STEP:
                self._enqueue(waiting, now_ms, count=False)
                waiting.clear()
        self._enqueue(waiting, now_ms, count=False)

    def _slot_for(self, one: TimerMessage, write_ms: int) -> tuple[int, int]:
        """The slot a message hangs in, and its magic."""
        wheel, precision_ms = self.files.wheel, self._precision_ms
        wanted = max(one.slot_ms, self._floor)
        slot_ms = first_look(wanted, write_ms, self._window_slots, precision_ms)
        magic = one.magic | (0 if slot_ms == wanted else MAGIC_ROLL)
        while slot_ms > self._floor:
            other = wheel.occupant(slot_ms)
            if other.unit == slot_ms // precision_ms or other.unit * precision_ms < self.files.read_ms:
                break
            # what lies there is one turn of the wheel late and not delivered yet: wait in an earlier slot
            magic |= MAGIC_ROLL
            slot_ms = max(self._floor, slot_ms - precision_ms)
        return slot_ms, magic

    # --- the second cursor: slots around the read time ---------------------------------------------------------------

    def _open_slot(self, slot_ms: int) -> OpenSlot:
        slot = self.files.wheel.get(slot_ms)
        opened = self._open[slot_ms] = OpenSlot(-1 if slot is None else slot.last)
        return opened

    def _load(self, outcome: Due) -> None:
        """Open the slots that come next, and take a part of their chains into memory."""
        until = self.files.read_ms + max(AHEAD_MS, 2 * self._precision_ms)
        while self._opened_to < until:
            self._opened_to += self._precision_ms
            if self._opened_to not in self._open and self.files.wheel.get(self._opened_to) is not None:
                self._open_slot(self._opened_to)
        left = LOAD_A_STEP
        for slot_ms in sorted(self._open):
            slot = self._open[slot_ms]
            while slot.next >= 0 and left > 0:
                left -= 1
                position = slot.next
                record = self.files.log.read(position)
                if record is None or record.slot_ms // self._precision_ms != slot_ms // self._precision_ms:
                    slot.next = -1
                    if position >= self.files.log.begin:
                        log.error("timer log: position %d is not part of slot %d", position, slot_ms)
                    break
                slot.next = record.previous if record.previous < position else -1
                self._take(slot_ms, slot, position, record)
            if slot.next >= 0:
                outcome.at(self._now_ms)
                return
        self._loaded = True

    def _take(self, slot_ms: int, slot: OpenSlot, position: int, record: TimerRecord) -> None:
        """One record of the chain goes into memory."""
        due_ms, magic = record.due_ms, record.magic
        one = None
        if magic & MAGIC_DELETE and not magic & MAGIC_ROLL:
            one = self._read(record.log_offset)
        elif due_ms == 0:  # written by Apache RocketMQ
            due_ms = record.slot_ms + self._precision_ms
            if not magic & MAGIC_ROLL:
                one = self._read(record.log_offset)
                due_ms = due_ms if one is None else one.due_ms
        known = slot.bound is not None and position < self.files.bounds_end and (due_ms, position) < slot.bound
        if not known or magic & MAGIC_DELETE:
            self._add(slot_ms, slot, due_ms, position, magic, one)
        elif one is not None or (one := self._read(record.log_offset)) is not None:
            slot.known.append(one.key)

    def _add(
        self, slot_ms: int, slot: OpenSlot, due_ms: int, position: int, magic: int, one: TimerMessage | None
    ) -> None:  # fmt: skip
        if magic & MAGIC_ROLL or not magic & MAGIC_DELETE:
            heapq.heappush(slot.waiting, (due_ms, position))
        elif one is not None:
            recall = self._recalls.setdefault(one.key, Recall(one.topic, slot_ms))
            recall.slot_ms = max(recall.slot_ms, slot_ms)
            recall.recalls += 1

    def _pass(self, now_ms: int, outcome: Due) -> None:
        """Leave the slots that are over and empty behind."""
        files = self.files
        if self._has_sent_on(outcome):
            return
        left = PASS_A_STEP
        while now_ms >= files.read_ms + self._precision_ms or files.read_ms < self._floor:
            slot = self._open.get(files.read_ms)
            if slot is not None:
                if slot.next >= 0 or slot.waiting:
                    break
                self._forget_recalls(files.read_ms, slot)
                del self._open[files.read_ms]
            elif files.read_ms > self._opened_to:
                self._load(outcome)
                continue
            files.read_ms += self._precision_ms
            self._floor = max(self._floor, files.read_ms)
            outcome.at(now_ms)
            left -= 1
            if left == 0:
                self._jump(now_ms)
                break

    def _has_sent_on(self, outcome: Due) -> bool:
        """Whether a message, or a recall, was sent on to a later slot and is not there yet: later slots must wait."""
        if self.files.queue_offset >= self._rolled_end:
            return False
        visible = self._store.watch(names.TIMER_TOPIC, 0) > self.files.queue_offset
        outcome.at(self._now_ms if visible else self._now_ms + RETRY_MS)
        return True

    def _forget_recalls(self, slot_ms: int, slot: OpenSlot) -> None:
        """A slot is over: so are the recalls in it. Those that found nothing were counted all the same."""
        for key in slot.known:
            if key in self._recalls:
                self._recalls[key].found += 1
        for key in [key for key, recall in self._recalls.items() if recall.slot_ms <= slot_ms]:
            recall = self._recalls.pop(key)
            if recall.recalls != recall.found:
                self.files.metrics.add(recall.topic, recall.recalls - recall.found)

    def _jump(self, now_ms: int) -> None:
        """Leave a long way of empty slots behind at once."""
        files = self.files
        if self._open or now_ms - files.read_ms < JUMP_SLOTS * self._precision_ms:
            return
        following = min((slot.unit for slot in files.wheel.slots_from(files.read_ms)), default=None)
        target = files.wheel.floor(now_ms)
        if following is not None:
            target = min(target, following * self._precision_ms)
        files.read_ms = self._floor = target
        self._opened_to = target - self._precision_ms

    # --- delivering --------------------------------------------------------------------------------------------------

    def _deliver_due(self, until_ms: int, outcome: Due) -> None:
        """Deliver what is due until a time, the earliest first."""
        if not self._loaded:
            return
        left = DELIVER_A_STEP
        for slot_ms in sorted(self._open):
            slot = self._open[slot_ms]
            if slot.next >= 0 or self._has_sent_on(outcome):
                return
            while slot.waiting and slot.waiting[0][0] <= until_ms:
                if left == 0:
                    outcome.at(self._now_ms)
                    return
                left -= 1
                if not self._try_to_deliver(slot.waiting[0][1]):
                    outcome.at(self._now_ms + RETRY_MS)
                    return
                heapq.heappop(slot.waiting)
                slot.served = True
                outcome.delivered += 1
            if slot.waiting:
                outcome.at(max(slot.waiting[0][0], self._now_ms))

    def _try_to_deliver(self, position: int) -> bool:
        try:
            return self._deliver(position)
        except Exception as error:
            if not self._patience.is_over(position, error):
                raise
            log.exception("timer log %d: passed over", position)
            return True

    def _deliver(self, position: int) -> bool:
        """Store one message where it belongs. False: not possible now. What can never be delivered is passed over."""
        record = self.files.log.read(position)
        data = None if record is None else self._store.read_record(record.log_offset)
        if record is None or data is None:
            log.error("timer log %d: its message is gone, passed over", position)
            return True
        try:
            message, _ = m.decode_message(data)
        except ProtocolError as error:
            log.error("timer log %d: passed over: %s", position, error)
            return True
        properties = message.property_map
        topic = properties.get(m.PROPERTY_REAL_TOPIC)
        if message.topic != names.TIMER_TOPIC or topic is None or message.size != record.log_size:
            log.error("timer log %d: no timer message at log offset %d, passed over", position, record.log_offset)
            return True
        rolls = record.magic & MAGIC_ROLL != 0
        key = delete_key(topic, properties.get(m.PROPERTY_UNIQUE_KEY, ""))
        recall = None if rolls else self._recalls.get(key)
        if recall is not None:
            recall.found += 1
            return True  # the recall was counted already
        target: str | None = names.TIMER_TOPIC if rolls else topic
        queue_id = 0 if rolls else parse_int32(properties.get(m.PROPERTY_REAL_QUEUE_ID))
        if queue_id is None or queue_id < 0 or (not rolls and target in names.WAITING_TOPICS):
            log.error("timer log %d: no real topic and queue to go to, passed over", position)
            self.files.metrics.add(topic, -1)
            return True
        assert target is not None
        queue_id = queue_id if rolls else self._queue_to_read(target, queue_id)
        kept = properties_after_wait(message, properties, record, self._now_ms, self._precision_ms)
        appended = self._put(target, queue_id, message, kept)
        if appended is None or appended.status in _ILLEGAL:
            log.error("timer log %d: %s takes no such message, passed over", position, target)
        elif appended.status != ST_OK:
            if not self._stuck:
                log.error("timer log %d: store status %d, trying again", position, appended.status)
            self._stuck = True
            return False
        else:
            self._stuck = False
            if rolls:
                self._rolled_end = appended.queue_offset + 1
            else:
                self.delivered += 1
                self._on_delivered(target, queue_id, appended)
        self.files.metrics.add(topic, 1 if record.magic & MAGIC_DELETE else -1)
        return True

    def _put(self, topic: str, queue_id: int, message: m.StoredMessage, properties: bytes) -> Appended | None:
        """Store a copy of a message. None: there can be no such topic or queue."""
        try:
            return put_stored(self._store, message, topic, queue_id, properties)
        except UsageError as error:
            log.error("%s, queue %d: %s", topic, queue_id, error)
            return None

    # --- files -------------------------------------------------------------------------------------------------------

    def take_snapshot(self) -> TimerSnapshot | None:
        """What may be saved now; see `TimerFiles.take_snapshot`."""
        self._note_rates()
        if any(slot.bound is not None and slot.next >= 0 for slot in self._open.values()):
            return None  # a bound of the last run holds only for records that are as old
        return self.files.take_snapshot(self.bounds())

    def persist(self) -> bool:
        """Write the present state if its messages are on disk; whether nothing is left to write."""
        for _ in range(2):
            snapshot = self.take_snapshot()
            if snapshot is not None:
                self.files.save(snapshot)
                self.files.saved(snapshot)
        return self.files.is_saved
