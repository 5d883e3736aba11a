"""Orderly pops: what each queue has handed out last, and the file `config/consumerOrderInfo.json`.

After RocketMQ's ConsumerOrderInfoManager and ConsumerOrderInfoLockManager. An orderly pop writes no checkpoint. Per
(topic, group, queue) there is one batch: the offsets that were given out, when they were, which of them are acked, and
when the others become visible again. While one of them is neither acked nor visible the queue is blocked, and nothing
behind it is given to anybody.

    event                        blocked before    after
    pop by somebody else         yes               nothing given
    pop with the same attempt    yes               the batch again, with a new pop time: its old handles are void
    ack of one offset            yes               blocked while others are open; offset committed to the first open one
    ack of the last open offset  yes               free; offset committed behind the batch
    change of invisible time     yes               blocked until that time
    time of all open ones comes  no                the next pop begins at the first open one, its count goes up

The group's offset stands at the first open message, so a crash that loses this file (or the last seconds of it) only
makes messages come again.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from fastmq.broker.state.saving import LaggingFile, Snapshot
from fastmq.errors import ProtocolError, UsageError
from fastmq.protocol.bodies import dumps
from fastmq.protocol.fields import parse_int32, parse_int64
from fastmq.store.tables import load_table, object_of

BATCH_MAX: Final = 64
"""Offsets of one batch: the acked ones are bits of a Java long in the file. A pop gives 32 messages at most."""

FORGOTTEN_AFTER_MS: Final = 24 * 3600 * 1000
"""A batch that nobody touched for so long is dropped (CLEAN_SPAN_FROM_LAST)."""

ILLEGAL: Final = -1
"""Outcome of `ack`: the offset is not one of the batch."""

NO_COMMIT: Final = -2
"""Outcome of `ack`: fine, and the group's offset stays where it is."""

_SEPARATOR: Final = "@"
_INT64: Final = 1 << 64

Key = tuple[str, str, int]
"""Topic, group, queue id."""


@dataclass(slots=True)
class OrderInfo:
    """One batch. Times are wall milliseconds; `invisible_ms` 0: not known, the next pop's counts."""

    attempt_id: str | None
    pop_ms: int
    invisible_ms: int
    offsets: tuple[int, ...]
    touched_ms: int
    acked: int = 0  # bits by index
    visible: dict[int, int] = field(default_factory=dict)  # offset → when it is visible again, if it was changed
    consumed: dict[int, int] = field(default_factory=dict)  # offset → how often it was given before, if it ever was

    def open_offsets(self) -> Iterator[int]:
        """The offsets that are not acked, ascending."""
        return (offset for index, offset in enumerate(self.offsets) if not self.acked >> index & 1)

    def free_ms(self) -> int | None:
        """When the last open offset becomes visible; None if nothing is open."""
        default = self.pop_ms + self.invisible_ms
        return max((self.visible.get(offset, default) for offset in self.open_offsets()), default=None)

    def next_offset(self) -> int:
        """Where the group stands: the first open offset, or behind the batch."""
        return next(self.open_offsets(), self.offsets[-1] + 1)

    def to_json(self) -> dict[str, Any]:
        """As OrderInfo of RocketMQ is written: short names, offsets after the first as distances from it."""
        first = self.offsets[0]
        return {
            "a": self.attempt_id,
            "cm": self.acked - _INT64 if self.acked >> 63 else self.acked,
            "i": self.invisible_ms,
            "l": self.touched_ms,
            "o": [first, *(offset - first for offset in self.offsets[1:])],
            "oc": dict(sorted(self.consumed.items())) or None,
            "ot": dict(sorted(self.visible.items())) or None,
            "popTime": self.pop_ms,
        }

    @classmethod
    def from_json(cls, where: str, value: Any) -> OrderInfo | None:
        """Raises ProtocolError; None for a batch without offsets."""
        if not isinstance(value, dict):
            raise ProtocolError(f"{where} is not an object")
        listed = value.get("o") or []
        if not isinstance(listed, list) or not all(type(offset) is int for offset in listed):
            raise ProtocolError(f"{where}: o is not a list of offsets")
        offsets = tuple(listed[:1]) + tuple(listed[0] + distance for distance in listed[1:])
        if not offsets:
            return None
        if offsets[0] < 0 or len(offsets) > BATCH_MAX or any(a >= b for a, b in itertools.pairwise(offsets)):
            raise ProtocolError(f"{where}: o is {listed}")
        attempt_id = value.get("a")
        return cls(
            attempt_id=None if attempt_id is None else str(attempt_id),
            pop_ms=_number(where, value, "popTime"),
            invisible_ms=max(0, _number(where, value, "i")),
            offsets=offsets,
            touched_ms=_number(where, value, "l"),
            acked=_number(where, value, "cm") % _INT64,
            visible=_by_offset(where, value, "ot"),
            consumed=_by_offset(where, value, "oc"),
        )


class ConsumerOrderTable:
    """The batches by topic, group and queue. Raises StoreError from the constructor if the file cannot be read.

    `notify` says whether ends of blocks are to be told (enableNotifyAfterPopOrderLockRelease): see `take_free`.
    """

    def __init__(self, path: str | None, *, notify: Callable[[], bool] = lambda: True) -> None:
        self._notify = notify
        self._table: dict[tuple[str, str], dict[int, OrderInfo]] = {}
        self._frees: list[tuple[int, Key]] = []  # heap; only entries that `_due` knows count
        self._due: dict[Key, int] = {}
        self.file = LaggingFile(path, self._freeze)
        load_table(path, self._take_body)

    def __len__(self) -> int:
        return sum(map(len, self._table.values()))

    # --- one queue ---------------------------------------------------------------------------------------------------

    def get(self, topic: str, group: str, queue_id: int) -> OrderInfo | None:
        """The batch the queue has given out last."""
        return self._table.get((topic, group), {}).get(queue_id)

    def blocked(
        self, topic: str, group: str, queue_id: int, *, attempt_id: str | None, invisible_ms: int, now_ms: int
    ) -> bool:
        """Whether a pop of the queue has to get nothing. Not blocked for the attempt that has the batch."""
        info = self.get(topic, group, queue_id)
        if info is None or (info.attempt_id is not None and info.attempt_id == attempt_id):
            return False
        if info.invisible_ms <= 0 and invisible_ms > 0:
            info.invisible_ms = invisible_ms
            self.file.changed()
        free_ms = info.free_ms()
        return free_ms is not None and now_ms < free_ms

    def put(
        self,
        topic: str,
        group: str,
        queue_id: int,
        offsets: Sequence[int],
        *,
        attempt_id: str | None,
        pop_ms: int,
        invisible_ms: int,
        now_ms: int,
    ) -> OrderInfo:
        """A pop gives out these offsets (ascending, at least one). UsageError for more than BATCH_MAX."""
        if not 0 < len(offsets) <= BATCH_MAX:
            raise UsageError(f"an orderly pop of {len(offsets)} messages")
        before = self.get(topic, group, queue_id)
        info = OrderInfo(attempt_id, pop_ms, invisible_ms, tuple(offsets), now_ms)
        if before is not None:
            if before.attempt_id is not None and before.attempt_id == attempt_id:
                info.consumed = {offset: before.consumed[offset] for offset in offsets if offset in before.consumed}
            else:
                seen = set(before.offsets)
                info.consumed = {offset: before.consumed.get(offset, 0) + 1 for offset in offsets if offset in seen}
        self._table.setdefault((topic, group), {})[queue_id] = info
        self._touched((topic, group, queue_id), info)
        return info

    def ack(self, topic: str, group: str, queue_id: int, offset: int, *, pop_ms: int, committed: int) -> int:
        """An offset of the batch of that pop is consumed; the offset to commit for the group, ILLEGAL or NO_COMMIT.

        `committed` is the group's offset. Without a batch (lost with a crash, or a reset) only the message that stands
        there may move it on: RocketMQ would commit behind any acked message and so skip those before it.
        """
        info = self.get(topic, group, queue_id)
        if info is None:
            return offset + 1 if offset <= committed else NO_COMMIT
        if pop_ms != info.pop_ms:
            return NO_COMMIT
        if offset not in info.offsets:
            return ILLEGAL
        info.acked |= 1 << info.offsets.index(offset)
        self._touched((topic, group, queue_id), info)
        return info.next_offset()

    def set_visible(self, topic: str, group: str, queue_id: int, offset: int, *, pop_ms: int, visible_ms: int) -> bool:
        """Set when an offset of the batch of that pop is visible again; False if there is no such batch or offset."""
        info = self.get(topic, group, queue_id)
        if info is None or info.pop_ms != pop_ms or offset not in info.offsets:
            return False
        info.visible[offset] = visible_ms
        self._touched((topic, group, queue_id), info)
        return True

    def clear(self, topic: str, group: str, queue_id: int) -> None:
        """The group goes elsewhere in the queue (reset): it is free."""
        queues = self._table.get((topic, group))
        if queues is not None and queues.pop(queue_id, None) is not None:
            self.file.changed()
            if not queues:
                del self._table[topic, group]

    # --- whole topics and groups -------------------------------------------------------------------------------------

    def delete_topic(self, topic: str) -> None:
        """Forget everything about a topic."""
        self._drop([key for key in self._table if key[0] == topic])

    def delete_group(self, group: str) -> None:
        """Forget everything about a group."""
        self._drop([key for key in self._table if key[1] == group])

    def clean(self, *, read_queues: Callable[[str], int], has_group: Callable[[str], bool], now_ms: int) -> int:
        """Drop what is of no use: topics (`read_queues` is 0), groups and queues that are gone, batches left alone.

        How many batches were dropped.
        """
        before = len(self)
        for (topic, group), queues in list(self._table.items()):
            count = read_queues(topic) if has_group(group) else 0
            for queue_id, info in list(queues.items()):
                blocked = (info.free_ms() or 0) > now_ms  # its consumer may have the messages for days
                if queue_id >= count or (now_ms - info.touched_ms > FORGOTTEN_AFTER_MS and not blocked):
                    self.clear(topic, group, queue_id)
        return before - len(self)

    # --- ends of blocks ----------------------------------------------------------------------------------------------

    def next_free_ms(self) -> int | None:
        """The wall time at which `take_free` has something to say, as far as is known now."""
        while self._frees and self._due.get(self._frees[0][1]) != self._frees[0][0]:
            heapq.heappop(self._frees)
        return self._frees[0][0] if self._frees else None

    def take_free(self, now_ms: int) -> list[Key]:
        """Queues whose block ended by itself: whoever waits for them may look again. Each end is told once."""
        free = []
        while (due_ms := self.next_free_ms()) is not None and due_ms <= now_ms:
            key = heapq.heappop(self._frees)[1]
            del self._due[key]
            info = self.get(*key)
            free_ms = None if info is None else info.free_ms()
            if free_ms is None:
                continue  # acked meanwhile: whoever did it has told
            if free_ms > now_ms:
                self._schedule(key, free_ms)
            elif self._notify():
                free.append(key)
        return free

    # --- file --------------------------------------------------------------------------------------------------------

    def to_body(self) -> dict[str, Any]:
        """The content of the file."""
        return {
            "table": {
                f"{topic}{_SEPARATOR}{group}": {queue_id: queues[queue_id].to_json() for queue_id in sorted(queues)}
                for (topic, group), queues in sorted(self._table.items())
            }
        }

    def statistics(self) -> dict[str, int]:
        """Numbers of batches and of those with open offsets."""
        infos = [info for queues in self._table.values() for info in queues.values()]
        return {"order_batches": len(infos), "open_order_batches": sum(info.free_ms() is not None for info in infos)}

    # --- inside ------------------------------------------------------------------------------------------------------

    def _touched(self, key: Key, info: OrderInfo) -> None:
        self.file.changed()
        self._schedule_end(key, info)

    def _schedule_end(self, key: Key, info: OrderInfo) -> None:
        free_ms = info.free_ms()
        if free_ms is not None:
            self._schedule(key, free_ms)

    def _schedule(self, key: Key, free_ms: int) -> None:
        """Look at the queue at that time. A time later than the one already noted is found when that one comes."""
        due_ms = self._due.get(key)
        if due_ms is None or free_ms < due_ms:
            self._due[key] = free_ms
            heapq.heappush(self._frees, (free_ms, key))

    def _drop(self, keys: list[tuple[str, str]]) -> None:
        for key in keys:
            del self._table[key]
            self.file.changed()

    def _freeze(self) -> Snapshot:
        body = self.to_body()
        return lambda: dumps(body)

    def _take_body(self, content: dict[str, Any]) -> None:
        for name in object_of(content, "table"):
            topic, found, group = name.partition(_SEPARATOR)
            queues = object_of(content["table"], name)
            for queue, value in queues.items() if found else ():
                queue_id = parse_int32(queue)
                if queue_id is None or queue_id < 0:
                    raise ProtocolError(f"{name} has the queue {queue!r}")
                info = OrderInfo.from_json(f"{name}, queue {queue_id}", value)
                if info is not None:
                    self._table.setdefault((topic, group), {})[queue_id] = info
                    self._schedule_end((topic, group, queue_id), info)


def order_counts(info: OrderInfo, queue_id: int, retry_flag: int = 0) -> str:
    """The items of orderCountInfo for one queue: each message that was given before, and the least of all counts.

    `retry_flag` is 0 for a normal topic, 1 and 2 for pop retry topics. Old clients read only the last item.
    """
    items = [f"{retry_flag} qo{queue_id}%{offset} {count}" for offset, count in sorted(info.consumed.items())]
    all_again = len(info.consumed) == len(info.offsets)
    items.append(f"{retry_flag} {queue_id} {min(info.consumed.values()) if all_again else 0}")
    return ";".join(items)


def _number(where: str, value: dict[str, Any], name: str) -> int:
    number = value.get(name, 0)
    if number is None:
        return 0
    if type(number) is not int:
        raise ProtocolError(f"{where}: {name} is {number!r}")
    return number


def _by_offset(where: str, value: dict[str, Any], name: str) -> dict[int, int]:
    table = {}
    for key, number in object_of(value, name).items():
        offset = parse_int64(key)
        if offset is None or type(number) is not int:
            raise ProtocolError(f"{where}: {name} has {number!r} for {key!r}")
        table[offset] = number
    return table
