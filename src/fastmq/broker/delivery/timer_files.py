"""The files of the timers, and how they agree with each other and with the commit log after a crash.

    timerlog/            what waits, in the order it came
    timerwheel           per slot of time, its chain in the timer log
    config/timercheck    how far the timer queue was followed, the slot that is being delivered, the end of the log
    config/timermetrics  how many messages wait per topic

Order of writing: messages in the commit log, then timer log, then wheel, then check, each durable before the next. So
after a crash the check is the oldest: the wheel holds at least what lies before the check's end of the timer log, and
records behind that are linked in again. Records about messages that the commit log lost are cut off.

With another precision than before, messages belong to other slots and the chains in the log are worth nothing: what
still waits is written anew behind them (`waiting_records`), into a new file of the log. Until that is saved the check
says REMAKING, with all else as it was, so that a start after a crash does the same again.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from fastmq.broker.delivery.timer_metrics import TimerMetrics
from fastmq.clock import Clock
from fastmq.errors import ProtocolError
from fastmq.protocol import message as m
from fastmq.protocol import names
from fastmq.protocol.bodies import DataVersion
from fastmq.store.tables import save_json, sync_folder
from fastmq.store.timer_check import TimerCheck, load_check, save_check
from fastmq.store.timer_log import MAGIC_DELETE, RECORD_BYTES, TimerLog, TimerLogFile
from fastmq.store.timer_wheel import SLOTS, Slot, TimerWheel

log = logging.getLogger("fastmq.broker.timer")

_SIZE, _MAGIC, _WRITE_MS, _DELAY_MS, _LOG_OFFSET, _LOG_SIZE, _DUE_MS = 0, 2, 3, 4, 5, 6, 8

REMAKING: Final = 1
"""The precision in the check while the log is written anew: no setting has this one."""

Bound = tuple[int, int]
"""(due, position): records of a slot before this one were delivered."""


class TimerSource(Protocol):
    """What the files need of the store."""

    @property
    def written_offset(self) -> int: ...
    @property
    def flushed_offset(self) -> int: ...
    @property
    def min_log_offset(self) -> int: ...
    def request_flush(self) -> None: ...
    def queue_offsets(self, topic: str, queue_id: int) -> tuple[int, int] | None: ...
    def read_record(self, log_offset: int) -> bytes | None: ...


@dataclass(slots=True)
class TimerSnapshot:
    """What is to be on disk together. `store_end`: where the commit log must be flushed to before."""

    store_end: int
    state: tuple[Any, ...]
    check: TimerCheck
    slots: dict[int, Slot]
    log_files: list[TimerLogFile]
    new_log_file: bool
    metrics: bytes | None


class TimerFiles:
    """The files, open. `root` is the store's folder. Raises StoreError for files that cannot be used, OSError."""

    def __init__(
        self, root: str, *, store: TimerSource, precision_ms: int, log_file_bytes: int, clock: Clock
    ) -> None:  # fmt: skip
        self._store = store
        self._clock = clock
        self.precision_ms = precision_ms
        self._check_path = os.path.join(root, "config", "timercheck")
        self._metrics_path = os.path.join(root, "config", "timermetrics")
        self.metrics = TimerMetrics(self._metrics_path, clock.wall_ms)
        self.wheel = TimerWheel(os.path.join(root, "timerwheel"), precision_ms)
        self.log = TimerLog(os.path.join(root, "timerlog"), log_file_bytes)
        check = load_check(self._check_path)
        self.version = TimerCheck().version if check is None else check.version
        self.queue_offset = 0
        self.read_ms = self.wheel.floor(clock.wall_ms())
        self.bounds: dict[int, Bound] = {}
        self.bounds_end = 0
        self.repeat_until = 0
        self._remade: TimerCheck | None = None  # the check of another precision
        self._obsolete = 0  # the log before this is not needed once the next snapshot is saved
        self._recover(check)
        self._saved: tuple[Any, ...] = self._state({})
        self._saved_metrics: DataVersion | None = self.metrics.data_version
        self._waiting: TimerSnapshot | None = None

    # --- recovery ----------------------------------------------------------------------------------------------------

    def _recover(self, check: TimerCheck | None) -> None:
        timer_log, wheel = self.log, self.wheel
        ours = check is None or check.precision_ms > 0  # Apache RocketMQ makes the file before anything else
        known = TimerCheck() if check is None else check
        if check is not None and check.read_ms > 0:
            self.read_ms = wheel.floor(check.read_ms)
        elif timer_log.begin < self._scan(timer_log.begin, link=False)[0]:
            self.read_ms -= SLOTS // 2 * self.precision_ms
        rebuild = wheel.is_new or not timer_log.covers(known.log_end)
        rebuild = known.log_end > 0 and rebuild
        is_empty = known.log_end == 0 and next(timer_log.scan(timer_log.begin), None) is None
        other_precision = check is not None and ours and known.precision_ms != self.precision_ms
        if is_empty and (check is None or other_precision):
            # a crash may leave a log that no check speaks of: it must be known for which precision that was
            known = TimerCheck(
                read_ms=self.read_ms, queue_offset=known.queue_offset, version=known.version,
                precision_ms=self.precision_ms,
            )  # fmt: skip
            save_check(self._check_path, known.encode())
        remake = other_precision and not is_empty
        if remake:
            log.warning("timerPrecisionMs has changed: the timer log is written anew")
            self._remade = known
            save_check(self._check_path, replace(known, precision_ms=REMAKING).encode())
            wheel.clear()
            begin = timer_log.begin
        elif rebuild:
            log.warning("the timer wheel is made anew from the timer log")
            wheel.clear()
            begin = timer_log.begin
        elif ours:
            begin = max(known.log_end, timer_log.begin)
        else:
            begin = max(known.log_end - timer_log.file_bytes, timer_log.begin)
            begin -= begin % timer_log.file_bytes
        if remake:  # what came after the check is followed again
            end, last = self._scan(begin, link=False, until=known.log_end)
        else:
            end, last = self._scan(begin, count=ours and not rebuild)
        timer_log.set_end(end)
        if not ours or end < known.log_end:
            self._check_chains(end)
        queue_offset = self._queue_offset_behind(last if last >= 0 else self._last_before(end))
        if queue_offset is None:
            self.queue_offset = known.queue_offset if end >= known.log_end else 0
        elif end < known.log_end:
            self.queue_offset = queue_offset
        else:
            self.queue_offset = max(queue_offset, known.queue_offset) if ours else min(queue_offset, known.queue_offset)
        if self.queue_offset < known.queue_offset and end < known.log_end:
            log.warning("the timer log ends at %d instead of %d, its queue is read again", end, known.log_end)
            self.repeat_until = known.queue_offset
        if remake:
            self._obsolete = timer_log.start_file()
        elif ours:
            self.bounds, self.bounds_end = dict(known.bounds), known.log_end
        low, high = self._store.queue_offsets(names.TIMER_TOPIC, 0) or (0, 0)
        if not low <= self.queue_offset <= high:
            log.warning("timers: queue offset %d is outside %d to %d", self.queue_offset, low, high)
            self.queue_offset = max(low, min(self.queue_offset, high))

    def _scan(
        self, begin: int, *, link: bool = True, count: bool = False, until: int | None = None
    ) -> tuple[int, int]:  # fmt: skip
        """Link the records from a position on into the wheel; the end of what is good, the last record or -1.

        `count`: they are not in the metrics yet.
        """
        end, last, limit = begin, -1, self._store.written_offset
        for position, fields in self.log.scan(begin):
            if until is not None and position >= until:
                break
            if fields[_LOG_OFFSET] + fields[_LOG_SIZE] > limit:
                log.warning("timer log: cut at %d, the message at %d was lost", position, fields[_LOG_OFFSET])
                break
            if link:
                change = -1 if fields[_MAGIC] & MAGIC_DELETE else 1
                self.wheel.link(fields[_WRITE_MS] + fields[_DELAY_MS], position, change)
                if count:
                    self._count(fields[_LOG_OFFSET], change)
            end, last = position + RECORD_BYTES, position
        return end, last

    def waiting_records(self) -> Iterator[tuple[int, int, bool]]:
        """What has to be written anew: log offset and slot's time of each record, and whether it was delivered.

        Also those that were delivered, if their slots are not over: a recall may have found them.
        """
        known, self._remade = self._remade, None
        if known is None:
            return
        for position, fields in self.log.scan(self.log.begin):
            if position >= self._obsolete:
                return
            slot_ms = fields[_WRITE_MS] + fields[_DELAY_MS]
            if slot_ms >= known.read_ms:
                bound = known.bounds.get(slot_ms)
                done = bound is not None and (fields[_DUE_MS], position) < bound
                yield fields[_LOG_OFFSET], slot_ms, done and not fields[_MAGIC] & MAGIC_DELETE

    def _check_chains(self, end: int) -> None:
        """A slot may name records that the log does not have (not after a crash of fastmq): find its last one again."""
        broken = {slot.unit: slot for slot in self.wheel.slots_from(self.read_ms) if slot.last >= end}
        if not broken:
            return
        log.warning("the timer wheel was ahead of the timer log in %d slots", len(broken))
        for unit in broken:
            self.wheel.put(Slot(unit, -1, -1, 0))
        begin = max(min(slot.first for slot in broken.values()), self.log.begin)
        for position, fields in self.log.scan(begin if begin < end else self.log.begin):
            slot_ms = fields[_WRITE_MS] + fields[_DELAY_MS]
            if slot_ms // self.precision_ms in broken:
                self.wheel.link(slot_ms, position, -1 if fields[_MAGIC] & MAGIC_DELETE else 1)

    def _last_before(self, end: int) -> int:
        """The position of the last record before the end, or -1."""
        position = end - RECORD_BYTES
        if position >= self.log.begin and self.log.read(position) is not None:
            return position
        last = -1
        base = end - end % self.log.file_bytes
        if base - self.log.file_bytes >= self.log.begin:
            for position, _ in self.log.scan(base - self.log.file_bytes):
                last = position
        return last

    def _queue_offset_behind(self, position: int) -> int | None:
        """The offset in the timer queue behind the message that a record is about."""
        record = self.log.read(position) if position >= 0 else None
        data = None if record is None else self._store.read_record(record.log_offset)
        if data is None:
            return None
        try:
            message, _ = m.decode_message(data)
        except ProtocolError:
            return None
        return message.queue_offset + 1 if message.topic == names.TIMER_TOPIC else None

    def _count(self, log_offset: int, change: int) -> None:
        data = self._store.read_record(log_offset)
        try:
            topic = None if data is None else m.decode_message(data)[0].get(m.PROPERTY_REAL_TOPIC)
        except ProtocolError:
            topic = None
        if topic is not None:
            self.metrics.add(topic, change)

    # --- saving ------------------------------------------------------------------------------------------------------

    def check(self, bounds: dict[int, Bound]) -> TimerCheck:
        """The check of this moment."""
        return TimerCheck(
            read_ms=self.read_ms,
            log_end=self.log.end,
            queue_offset=self.queue_offset,
            master_queue_offset=self.queue_offset,
            version=self.version,
            precision_ms=self.precision_ms,
            bounds=bounds,
        )

    def take_snapshot(self, bounds: dict[int, Bound]) -> TimerSnapshot | None:
        """What may be saved now, or None: the state of an earlier call once all it stands for is on disk."""
        ready: TimerSnapshot | None = None
        if self._waiting is not None and self._store.flushed_offset >= self._waiting.store_end:
            ready, self._waiting = self._waiting, None
        elif self._waiting is not None:
            self._store.request_flush()
            return None
        state = self._state(bounds)
        if ready is None and state != self._saved:
            self.version = self.version.next_version(self._clock.wall_ms())
            metrics = None
            if self.metrics.data_version != self._saved_metrics:
                metrics, self._saved_metrics = self.metrics.encode(), self.metrics.data_version
            self._waiting = TimerSnapshot(
                store_end=self._store.written_offset,
                state=state,
                check=self.check(bounds),
                slots=self.wheel.changes(),
                new_log_file=self.log.take_new_name(),
                log_files=self.log.take_dirty(),
                metrics=metrics,
            )
            self._store.request_flush()
        return ready

    def save(self, snapshot: TimerSnapshot) -> None:
        """Write a snapshot; blocks on the disk, in any thread. Raises OSError."""
        for file in snapshot.log_files:
            file.sync()
        if snapshot.new_log_file:
            sync_folder(self.log.folder)
        self.wheel.write(snapshot.slots)
        save_check(self._check_path, snapshot.check.encode())
        if snapshot.metrics is not None:
            save_json(self._metrics_path, snapshot.metrics)

    def saved(self, snapshot: TimerSnapshot) -> None:
        """A snapshot is on disk."""
        self._saved = snapshot.state
        self.wheel.written(snapshot.slots)
        if self._obsolete and snapshot.check.log_end >= self._obsolete:
            self.log.delete_files_before(self._obsolete)
            self._obsolete = 0

    def failed(self, snapshot: TimerSnapshot) -> None:
        """A snapshot could not be written: the next one covers it."""
        self.log.mark_dirty(snapshot.log_files, new_name=snapshot.new_log_file)
        self._saved_metrics = None if snapshot.metrics is not None else self._saved_metrics

    @property
    def is_saved(self) -> bool:
        """Whether no snapshot waits."""
        return self._waiting is None

    def _state(self, bounds: dict[int, Bound]) -> tuple[Any, ...]:
        # the read time moves with the clock: what it passed were empty slots if nothing else has changed
        return self.queue_offset, self.log.end, self.metrics.data_version, tuple(sorted(bounds.items()))

    def clean(self) -> None:
        """Remove timer log files about messages that the commit log no longer has."""
        removed = self.log.delete_before(self._store.min_log_offset)
        if removed:
            log.info("%d files of the timer log removed", removed)
