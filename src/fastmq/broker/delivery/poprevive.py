"""Reviving: messages that a pop handed out and nobody acknowledged in time become visible again.

`ReviveQueue` is the core, one for each queue of the revive topic: it is told the entries of its queue in order, and up
to which time all acks are known, and says which checkpoints are over. `PopRevive` (`popservice`, RocketMQ's
PopReviveService) reads the queues, puts what is left of those checkpoints into the retry topic, and commits how far the
queues are done.

At least once: a revive offset is committed only behind entries that need nothing more, and it is saved only when the
messages put until then are on disk. After a crash some messages are put into the retry topic again. After an orderly
stop none are: `revived_ahead` says which checkpoints are done although an entry before them is not.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from fastmq.broker.delivery.popck import Ack, CheckPoint, CheckPointKey

BACKLOG_MARGIN_MS: Final = 2000
"""Behind a backlog a checkpoint is over when entries so much younger were seen (PopReviveService.mergeAndRevive)."""

NOTHING_DONE: Final = -1
"""The committed offset of a queue of which nothing is done. Others name the last entry that is."""


@dataclass(slots=True, eq=False)
class Pending:
    """A checkpoint that was read and is not over yet. `offset`: of its entry in the revive queue."""

    checkpoint: CheckPoint
    offset: int
    over: bool = field(default=False, init=False)


class ReviveQueue:
    """One queue of the revive topic. `committed`: offset of the last entry that is done, NOTHING_DONE if none is;
    `revived`: checkpoints behind it whose messages were put into the retry topic before.
    """

    def __init__(self, committed: int = NOTHING_DONE, revived: Iterable[int] = ()) -> None:
        self.next_offset = committed + 1
        self._revived = set(revived)
        self._pending: dict[CheckPointKey, list[Pending]] = {}
        self._count = 0
        self._by_time: list[tuple[int, int, Pending]] = []
        self._strays: dict[CheckPointKey, list[tuple[int, int, Ack]]] = {}  # (offset, due, ack)
        self._stray_times: list[tuple[int, int, CheckPointKey]] = []
        self._open: list[int] = []  # offsets of entries that are needed again after a restart; a heap
        self._closed: set[int] = set()
        self._newest_due_ms = 0
        self._committed = committed

    def __len__(self) -> int:
        """How many checkpoints are pending."""
        return self._count

    # --- what the queue says -----------------------------------------------------------------------------------------

    def skip_to(self, offset: int) -> None:
        """The entries before `offset` are gone, or cannot be read."""
        self.next_offset = max(self.next_offset, offset)

    def feed(self, offset: int, entry: CheckPoint | Ack | None, due_ms: int = 0) -> None:
        """The next entry of the queue, None for one that is nothing; `due_ms`: when it was to come."""
        self.next_offset = offset + 1
        self._newest_due_ms = max(self._newest_due_ms, due_ms)
        if offset in self._revived:
            return
        if isinstance(entry, CheckPoint):
            self._add(Pending(entry, offset))
        elif isinstance(entry, Ack):
            known = self._pending.get(entry.key)
            if known is None:
                self._keep_stray(offset, due_ms, entry)
                return
            for pending in list(known):
                _apply(entry, pending.checkpoint)
                if not pending.checkpoint.open_offsets():
                    self.finish(pending)

    def _add(self, pending: Pending) -> None:
        checkpoint = pending.checkpoint
        known = self._pending.get(checkpoint.key, ())
        if any(other.checkpoint.same_messages(checkpoint) for other in known):
            return  # the timer delivers again after a crash
        heapq.heappush(self._open, pending.offset)
        self._pending.setdefault(checkpoint.key, []).append(pending)
        self._count += 1
        for _, _, ack in self._strays.get(checkpoint.key, ()):
            _apply(ack, checkpoint)
        if checkpoint.open_offsets():
            heapq.heappush(self._by_time, (checkpoint.revive_time, pending.offset, pending))
        else:
            self.finish(pending)

    def _keep_stray(self, offset: int, due_ms: int, ack: Ack) -> None:
        """An ack without a checkpoint: the checkpoint may come behind it, as long as the ack's time is not over."""
        self._strays.setdefault(ack.key, []).append((offset, due_ms, ack))
        heapq.heappush(self._stray_times, (due_ms, offset, ack.key))
        heapq.heappush(self._open, offset)

    # --- what is over ------------------------------------------------------------------------------------------------

    def horizon(self, acks_known_ms: int, *, at_end: bool) -> int:
        """Checkpoints up to this time are over. `acks_known_ms`: acks due until then are in the queue.

        While there is more to read, the acks may be among it: then only much newer entries prove that they are not.
        """
        return acks_known_ms if at_end else min(acks_known_ms, self._newest_due_ms - BACKLOG_MARGIN_MS)

    def due(self, horizon_ms: int) -> Iterator[Pending]:
        """The checkpoints that are over, earliest first; each is given until it is finished."""
        while self._by_time:
            revive_time, _, pending = self._by_time[0]
            if pending.over:
                heapq.heappop(self._by_time)
                continue
            if revive_time > horizon_ms:
                return
            yield pending
            if not pending.over:
                return

    def next_due_ms(self) -> int | None:
        """When the first pending checkpoint is over."""
        while self._by_time and self._by_time[0][2].over:
            heapq.heappop(self._by_time)
        return self._by_time[0][0] if self._by_time else None

    def has_read_enough(self, most: int) -> bool:
        """Whether there are so many checkpoints, of which the first is over once its acks are known.

        Then reading on would only take memory: the backlog of a broker that was down may be millions.
        """
        next_ms = self.next_due_ms()
        return len(self) >= most and next_ms is not None and next_ms <= self._newest_due_ms - BACKLOG_MARGIN_MS

    def finish_revived(self, pending: Pending) -> None:
        """Nothing is left to do for a checkpoint, and no ack in the queue says so."""
        self._revived.add(pending.offset)
        self.finish(pending)

    def finish(self, pending: Pending) -> None:
        """Nothing is left to do for a checkpoint."""
        pending.over = True
        self._count -= 1
        self._closed.add(pending.offset)
        key = pending.checkpoint.key
        known = self._pending[key]
        known.remove(pending)
        if not known:
            del self._pending[key]

    def committed(self, horizon_ms: int) -> int:
        """The last entry of which, and of all before it, nothing is needed any more."""
        while self._stray_times and self._stray_times[0][0] <= horizon_ms:
            _, offset, key = heapq.heappop(self._stray_times)
            self._closed.add(offset)
            left = [stray for stray in self._strays[key] if stray[0] != offset]
            if left:
                self._strays[key] = left
            else:
                del self._strays[key]
        while self._open and self._open[0] in self._closed:
            self._closed.remove(heapq.heappop(self._open))
        committed = (self._open[0] if self._open else self.next_offset) - 1
        if committed > self._committed:
            self._committed = committed
            self._revived = {offset for offset in self._revived if offset > committed}
        return committed

    @property
    def revived_ahead(self) -> list[int]:
        """Checkpoints behind the committed offset whose messages were put into the retry topic."""
        return sorted(self._revived)


def _apply(ack: Ack, checkpoint: CheckPoint) -> None:
    for offset in ack.offsets:
        checkpoint.ack(offset)
