"""Delayed messages: from SCHEDULE_TOPIC_XXXX to their real topic when they are due (RocketMQ's ScheduleMessageService).

Level n lies in queue n - 1 of the schedule topic; the tag code of an entry is its delivery time. Within a level the
delays are equal, so the head of the queue is always the next one due. Per level there is one number: the queue offset
of the head. It is kept in `config/delayOffset.json`.

At least once: the offset moves only after the message was stored in its real topic, and the file only ever says what
lies behind messages that are flushed to disk. After a crash some messages are delivered again.
Never early: a message is due when the wall clock has reached its time. A message that was stored in the future means
that the clock was set back; it waits for its delay from now on. One whose level had a longer delay when it was stored,
or whose level does not exist any more, keeps its time.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from fastmq._store import ST_OK, Appended
from fastmq.broker.delivery.due import RETRY_MS, Due, DueLoop
from fastmq.broker.delivery.intake import PutsMessages, put_stored
from fastmq.broker.steady import Patience
from fastmq.clock import Clock
from fastmq.errors import ProtocolError, UsageError
from fastmq.protocol import message as m
from fastmq.protocol import names
from fastmq.protocol.bodies import DataVersion, dumps
from fastmq.protocol.fields import parse_int32, parse_int64
from fastmq.store.tables import load_table, object_of, save_json

log = logging.getLogger("fastmq.broker.delay")

MAX_LEVELS: Final = 64
SEEN_STEP_S: Final = 0.1
ENTRIES_A_LEVEL: Final = 64  # entries of one level per round, so that no level makes the others late


class DelayStore(PutsMessages, Protocol):
    """What delivery needs of the store."""

    @property
    def written_offset(self) -> int: ...
    @property
    def flushed_offset(self) -> int: ...
    def request_flush(self) -> None: ...
    def queue_offsets(self, topic: str, queue_id: int) -> tuple[int, int] | None: ...
    def queue_entries(self, topic: str, queue_id: int, offset: int, count: int) -> list[tuple[int, int, int]]: ...
    def read_record(self, log_offset: int) -> bytes | None: ...
    def watch(self, topic: str, queue_id: int, on: bool = True) -> int: ...


@dataclass(slots=True)
class _Seen:
    """Entries of a level before `end` were there `at` a time; other ones were added to them since `begun`."""

    end: int
    begun: float  # monotonic seconds
    at: float


class DelayDelivery(DueLoop):
    """The levels and how far each has come. `levels_ms`: the delay of each level, the first level first.

    Raises StoreError from the constructor if the file (and its backup) cannot be read.
    """

    def __init__(
        self,
        path: str | None,
        *,
        store: DelayStore,
        levels_ms: Sequence[int],
        clock: Clock,
        version_step: Callable[[], int] = lambda: 200,
        on_delivered: Callable[[str, int, Appended], None] = lambda _topic, _queue_id, _appended: None,
        queue_to_read: Callable[[str, int], int] = lambda _topic, queue_id: queue_id,
    ) -> None:
        super().__init__(clock)
        self._path = path
        self._store = store
        self._levels_ms = tuple(levels_ms)
        self._version_step = version_step
        self._on_delivered = on_delivered
        self._queue_to_read = queue_to_read
        self._offsets: dict[int, int] = {}
        self._seen: dict[int, deque[_Seen]] = {}  # of levels whose head was stored in the future
        self._stuck: set[int] = set()
        self._patience = Patience()
        self._updates = 0
        self._saved: dict[int, int] = {}
        self._unsaved: tuple[int, dict[int, int]] | None = None  # (log offset that must be flushed, offsets)
        self.data_version = DataVersion(counter=0, state_version=0, timestamp=clock.wall_ms())
        load_table(path, self._take_body)
        self._saved = dict(self._offsets)
        # messages may wait in levels that messageDelayLevel had before
        self._levels = range(1, max(len(self._levels_ms), self._last_queue()) + 1)

    # --- the core: no waiting ----------------------------------------------------------------------------------------

    def due(self, now_ms: int) -> Due:
        """Deliver what is due at a wall time, a bounded number of messages per level."""
        outcome = Due()
        for level in self._levels:
            self._deliver_level(level, now_ms, outcome)
        return outcome

    @property
    def level_count(self) -> int:
        """How many levels there are."""
        return len(self._levels_ms)

    def offsets(self) -> dict[int, int]:
        """Queue offset of the next message of each level that ever had one; a copy."""
        return dict(self._offsets)

    def to_body(self) -> dict[str, Any]:
        """The offsets as RocketMQ's DelayOffsetSerializeWrapper has them: also the content of the file."""
        return self._body(self._offsets)

    def _deliver_level(self, level: int, now_ms: int, outcome: Due) -> None:
        queue_id = level - 1
        end = self._store.watch(names.SCHEDULE_TOPIC, queue_id)
        offset = self._head(level)
        if offset >= end:
            return
        entries = self._store.queue_entries(names.SCHEDULE_TOPIC, queue_id, offset, ENTRIES_A_LEVEL)
        for log_offset, _size, stamp_ms in entries:
            deliver_ms = self._due_ms(level, offset, log_offset, stamp_ms, now_ms, end)
            if deliver_ms > now_ms:
                outcome.at(deliver_ms)
                return
            if not self._try_to_deliver(level, offset, log_offset):
                outcome.at(now_ms + RETRY_MS)
                return
            offset += 1
            self._advance(level, offset)
            outcome.delivered += 1
        if offset < end:
            outcome.at(now_ms if entries else now_ms + RETRY_MS)

    def _last_queue(self) -> int:
        """The last level that ever had a message, 0 if none had."""
        queues = (
            level for level in range(MAX_LEVELS, 0, -1) if self._store.queue_offsets(names.SCHEDULE_TOPIC, level - 1)
        )
        return next(queues, 0)

    def _due_ms(self, level: int, offset: int, log_offset: int, stamp_ms: int, now_ms: int, end: int) -> int:
        """When an entry is due that says `stamp_ms`; its queue has got to `end`."""
        delay_ms = self._levels_ms[level - 1] if level <= len(self._levels_ms) else 0
        if stamp_ms > now_ms + delay_ms:
            record = self._store.read_record(log_offset)
            try:
                stored_ms = stamp_ms if record is None else m.decode_message(record)[0].store_timestamp
            except ProtocolError:
                stored_ms = stamp_ms  # it is passed over
            if stored_ms > now_ms:
                return now_ms + self._left_ms(level, offset, end, stamp_ms - stored_ms)
        self._seen.pop(level, None)
        return stamp_ms

    def _left_ms(self, level: int, offset: int, end: int, delay_ms: int) -> int:
        """How long an entry has to wait that was stored in the future: its delay counts from when it was first seen.

        The store's times do not go back with the clock: all new entries are such ones for as long as that lasts.
        """
        now = self._clock.monotonic()
        seen = self._seen.setdefault(level, deque())
        while seen and seen[0].end <= offset:
            seen.popleft()
        if not seen or (seen[-1].end < end and now - seen[-1].begun >= SEEN_STEP_S):
            seen.append(_Seen(end, now, now))
        elif seen[-1].end < end:
            seen[-1].end, seen[-1].at = end, now
        return max(0, math.ceil(delay_ms - (now - seen[0].at) * 1000))

    def _try_to_deliver(self, level: int, offset: int, log_offset: int) -> bool:
        try:
            return self._deliver(level, offset, log_offset)
        except Exception as error:
            if not self._patience.is_over((level, offset), error):
                raise
            log.exception("delay level %d, offset %d, log offset %d: passed over", level, offset, log_offset)
            return True

    def _head(self, level: int) -> int:
        """The next offset of a level, within what the queue has."""
        offset = self._offsets.get(level, 0)
        bounds = self._store.queue_offsets(names.SCHEDULE_TOPIC, level - 1)
        if bounds is not None and not bounds[0] <= offset <= bounds[1]:
            border = bounds[0] if offset < bounds[0] else bounds[1]
            log.warning("delay level %d: offset %d is outside %s, going on at %d", level, offset, bounds, border)
            self._advance(level, border)
            return border
        return offset

    def _deliver(self, level: int, offset: int, log_offset: int) -> bool:
        """Store one message in its real topic. False: not possible now. What can never be delivered is passed over."""
        record = self._store.read_record(log_offset)
        if record is None:
            log.error("delay level %d, offset %d: no message at log offset %d, passed over", level, offset, log_offset)
            return True
        try:
            message, _ = m.decode_message(record)
        except ProtocolError as error:
            log.error("delay level %d, offset %d: passed over: %s", level, offset, error)
            return True
        properties = message.property_map
        topic = properties.get(m.PROPERTY_REAL_TOPIC)
        queue_id = parse_int32(properties.get(m.PROPERTY_REAL_QUEUE_ID))
        if topic is None or queue_id is None or queue_id < 0 or topic in names.WAITING_TOPICS:
            log.error("delay level %d, offset %d: no real topic and queue to go to, passed over", level, offset)
            return True
        queue_id = self._queue_to_read(topic, queue_id)
        try:
            appended = put_stored(self._store, message, topic, queue_id, message.properties)
        except UsageError as error:
            log.error("delay level %d, offset %d: passed over: %s", level, offset, error)
            return True
        if appended.status != ST_OK:
            if level not in self._stuck:
                self._stuck.add(level)
                log.error("delay level %d, offset %d: store status %d, trying again", level, offset, appended.status)
            return False
        self._stuck.discard(level)
        self._on_delivered(topic, queue_id, appended)
        return True

    def _advance(self, level: int, offset: int) -> None:
        self._offsets[level] = offset
        self._updates += 1
        if self._updates % self._version_step() == 0:
            self.data_version = self.data_version.next_version(self._clock.wall_ms())

    # --- file --------------------------------------------------------------------------------------------------------

    def take_snapshot(self) -> bytes | None:
        """What may be saved now, or None: the offsets of an earlier call once all they stand for is on disk."""
        ready: bytes | None = None
        if self._unsaved is not None and self._store.flushed_offset >= self._unsaved[0]:
            ready = dumps(self._body(self._unsaved[1]))
            self._saved = self._unsaved[1]
            self._unsaved = None
        if self._unsaved is None and self._offsets != self._saved:
            self._unsaved = self._store.written_offset, dict(self._offsets)
            self._store.request_flush()
        return ready

    def save(self, snapshot: bytes) -> None:
        """Write a snapshot; blocks on the disk. If it fails, the next snapshot is taken whatever happens."""
        if self._path is not None:
            try:
                save_json(self._path, snapshot)
            except BaseException:
                self._saved = {}
                raise

    def persist(self) -> bool:
        """Write the present offsets if their messages are on disk; whether nothing is left to write."""
        for _ in range(2):
            snapshot = self.take_snapshot()
            if snapshot is not None:
                self.save(snapshot)
        return self._unsaved is None

    def _body(self, offsets: dict[int, int]) -> dict[str, Any]:
        return {"dataVersion": self.data_version, "offsetTable": dict(sorted(offsets.items()))}

    def _take_body(self, content: dict[str, Any]) -> None:
        self.data_version = DataVersion.from_json(object_of(content, "dataVersion"))
        for key, offset in object_of(content, "offsetTable").items():
            level = parse_int64(key)
            if level is None or type(offset) is not int:
                raise ProtocolError(f"level {key!r} is at {offset!r}")
            self._offsets[level] = offset
