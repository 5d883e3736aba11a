"""POP and NOTIFICATION requests that found nothing and wait (RocketMQ's PopLongPollingService), without any I/O.

Requests wait under a key: topic, group and queue id, -1 for those that take any queue. What they wait for are queues:
those of the topic and the group's pop retry topics. A message goes to one request, so a queue that moved wakes one
request of each key and not all; whoever serves it wakes the next one while there is more. What ends a wait:

    take_moved               a queue has grown
    take_one                 messages are left, or an ordered queue is free again
    take_due                 time is up
    drop_peer                the connection is gone
    take_topic, take_group   so is what it waits for

A message that arrives between the read and the wait would be missed by both, as in `longpoll.py`; therefore `hold` asks
the store to watch each queue and compares the end it gives back with the end that the read has seen.
"""

from __future__ import annotations

import bisect
import enum
import heapq
import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from fastmq.broker.delivery.longpoll import Watch

ANY_QUEUE: Final = -1

TOO_LATE_MS: Final = 50
"""A request is answered so long before its client gives up; one with no more time than that is not held."""

HEAP_SLACK: Final = 1024  # deadlines of answered requests that are kept before they are swept out

Key = tuple[str, str, int]
"""Topic, group, queue id or ANY_QUEUE."""

Queue = tuple[str, int]
"""Topic, queue id."""


class Hold(enum.Enum):
    """What became of a request that wants to wait."""

    HELD = enum.auto()
    FULL = enum.auto()  # too many wait: POLLING_FULL
    READ_AGAIN = enum.auto()  # a queue has grown meanwhile


@dataclass(frozen=True, slots=True)
class PopWaitLimits:
    """How many may wait under one key, in all, their bytes, and under how many keys (popPollingSize and its kin).

    `force_after`: so many messages that do not match a waiting request wake it nevertheless, so that its group's offset
    passes them (popLongPollingForceNotifyInterval); 0: never.
    """

    per_key: int = 1024
    total: int = 100_000
    total_bytes: int = 64 << 20
    keys: int = 100_000
    force_after: int = 800


@dataclass(slots=True, eq=False)
class HeldPop:
    """One waiting request.

    `queues`: what it waits for, with the end that its read has seen. `again` processes it once more: it answers the
    request or, before `deadline`, lets it wait again. `matches` says whether one of the messages in [begin, end) of a
    queue is for it, None: any is; requests with the same `filter` match the same. `request`, of `size` bytes, is the
    caller's.
    """

    topic: str
    group: str
    queue_id: int
    queues: dict[Queue, int]
    deadline: float  # monotonic seconds
    peer_id: int
    request: Any
    again: Callable[[HeldPop], None]
    matches: Callable[[Queue, int, int], bool] | None = None
    filter: Hashable = None
    size: int = 0
    waiting: bool = field(default=False, init=False)
    passed: int = field(default=0, init=False)  # messages that did not match
    number: int = field(default=0, init=False)

    @property
    def key(self) -> Key:
        """What it waits under."""
        return self.topic, self.group, self.queue_id


def wait_deadline(*, born_ms: int, poll_ms: int, now_ms: int, now: float) -> float | None:
    """Until when a request may wait, in monotonic seconds; None if there is no time to wait.

    `born_ms` is the client's clock. A client whose clock is ahead waits its `poll_ms` and no longer.
    """
    left_ms = min(born_ms + poll_ms - now_ms, poll_ms) - TOO_LATE_MS
    return None if poll_ms <= 0 or left_ms <= 0 else now + left_ms / 1000


class PopWaitTable:
    """The waiting requests by key, by queue, by deadline and by connection.

    `newest_first`: whom to wake of those that wait under one key; else it is the one whose time is up first.
    """

    def __init__(
        self, watch: Watch, *, limits: Callable[[], PopWaitLimits] = PopWaitLimits, newest_first: bool = False
    ) -> None:
        self._watch = watch
        self._limits = limits
        self._newest_first = newest_first
        self._keys: dict[Key, list[tuple[float, int, HeldPop]]] = {}  # ascending
        self._queues: dict[Queue, dict[Key, int]] = {}  # how many of a key wait for a queue
        self._peers: dict[int, dict[int, HeldPop]] = {}
        self._deadlines: list[tuple[float, int, HeldPop]] = []
        self._numbers = itertools.count(1)
        self._held = 0
        self._bytes = 0

    def __len__(self) -> int:
        return self._held

    # --- in ----------------------------------------------------------------------------------------------------------

    def hold(self, pop: HeldPop) -> Hold:
        """Let a request wait if there is room, and nothing new in its queues."""
        limits = self._limits()
        held = self._keys.get(pop.key)
        if (
            self._held >= limits.total
            or self._bytes >= limits.total_bytes
            or (len(self._keys) >= limits.keys if held is None else len(held) >= limits.per_key)
        ):
            return Hold.FULL
        grown = False
        for topic, queue_id in pop.queues:
            grown |= self._watch(topic, queue_id, True) > pop.queues[topic, queue_id]
        if grown:
            for queue in pop.queues:
                if queue not in self._queues:
                    self._watch(*queue, False)
            return Hold.READ_AGAIN
        pop.number = next(self._numbers)
        pop.waiting = True
        entry = pop.deadline, pop.number, pop
        bisect.insort(self._keys.setdefault(pop.key, []), entry)
        for queue in pop.queues:
            keys = self._queues.setdefault(queue, {})
            keys[pop.key] = keys.get(pop.key, 0) + 1
        self._peers.setdefault(pop.peer_id, {})[pop.number] = pop
        heapq.heappush(self._deadlines, entry)
        self._held += 1
        self._bytes += pop.size
        return Hold.HELD

    # --- out ---------------------------------------------------------------------------------------------------------

    def take_moved(self, topic: str, queue_id: int, max_offset: int) -> list[HeldPop]:
        """Whom to wake because the queue now ends at `max_offset`: of each group one that waits for any queue and one
        that waits for this one. A retry topic wakes one of its group.

        The store watches a queue only until it has moved once; for those that go on waiting it is asked again.
        """
        queue = topic, queue_id
        taken: list[HeldPop] = []
        while queue in self._queues:
            for key in self._keys_to_wake(queue):
                pop = self._first_for(key, queue, max_offset)
                if pop is not None:
                    self._remove(pop)
                    taken.append(pop)
            if queue not in self._queues:
                break
            end = self._watch(topic, queue_id, True)
            if end <= max_offset:
                break
            max_offset = end
        return taken

    def take_one(self, topic: str, group: str, *queue_ids: int) -> HeldPop | None:
        """The first request of the group that waits under the first of these queue ids for which any does."""
        for queue_id in queue_ids:
            for pop in self._in_turn((topic, group, queue_id)):
                self._remove(pop)
                return pop
        return None

    def next_deadline(self) -> float | None:
        """When the first waiting request is due."""
        while self._deadlines and not self._is_current(self._deadlines[0]):
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def take_due(self, now: float) -> list[HeldPop]:
        """The requests whose time is up, in the order of their deadlines."""
        taken: list[HeldPop] = []
        while (deadline := self.next_deadline()) is not None and deadline <= now:
            pop = heapq.heappop(self._deadlines)[2]
            self._remove(pop)
            taken.append(pop)
        return taken

    def take_topic(self, topic: str) -> list[HeldPop]:
        """Everything that waits for a topic: it is gone."""
        return self._take_keys(lambda key: key[0] == topic)

    def take_group(self, group: str) -> list[HeldPop]:
        """Everything of a group: it is gone."""
        return self._take_keys(lambda key: key[1] == group)

    def take_all(self) -> list[HeldPop]:
        """Everything: the broker stops."""
        return self._take_keys(lambda _key: True)

    def drop_peer(self, peer_id: int) -> list[HeldPop]:
        """Forget the requests of a closed connection."""
        return self._take(list(self._peers.get(peer_id, {}).values()))

    # --- look --------------------------------------------------------------------------------------------------------

    def count(self, topic: str, group: str, queue_id: int) -> int:
        """How many wait under a key."""
        return len(self._keys.get((topic, group, queue_id), ()))

    def statistics(self) -> dict[str, int]:
        """Numbers of waiting requests, of their keys and of the queues they wait for."""
        return {"held_pops": self._held, "pop_keys": len(self._keys), "watched_queues": len(self._queues)}

    # --- inside ------------------------------------------------------------------------------------------------------

    def _keys_to_wake(self, queue: Queue) -> list[Key]:
        topic, _ = queue
        chosen: list[Key] = []
        retried: dict[tuple[str, str], Key] = {}
        for key in self._queues[queue]:
            if key[0] == topic:
                chosen.append(key)
            elif key[:2] not in retried or key[2] == ANY_QUEUE:
                retried[key[:2]] = key
        return chosen + list(retried.values())

    def _in_turn(self, key: Key) -> Iterator[HeldPop]:
        """Those that wait under a key, the one to wake first."""
        held = self._keys.get(key, [])
        return (entry[2] for entry in (sorted(held, key=_newest) if self._newest_first else held))

    def _first_for(self, key: Key, queue: Queue, end: int) -> HeldPop | None:
        """The first request under a key that a queue's new messages wake; one of each filter is asked."""
        asked = set()
        for pop in self._in_turn(key):
            begin = pop.queues.get(queue, end)
            if begin >= end or pop.filter in asked:
                continue
            asked.add(pop.filter)
            pop.queues[queue] = end  # what did not match is not looked at again
            pop.passed += end - begin
            if 0 < self._limits().force_after <= pop.passed or pop.matches is None or pop.matches(queue, begin, end):
                return pop
        return None

    def _is_current(self, entry: tuple[float, int, HeldPop]) -> bool:
        return entry[2].waiting and entry[2].number == entry[1]

    def _take_keys(self, chosen: Callable[[Key], bool]) -> list[HeldPop]:
        return self._take([entry[2] for key, held in self._keys.items() if chosen(key) for entry in held])

    def _take(self, pops: Iterable[HeldPop]) -> list[HeldPop]:
        taken = list(pops)
        for pop in taken:
            self._remove(pop)
        return taken

    def _remove(self, pop: HeldPop) -> None:
        pop.waiting = False
        self._held -= 1
        self._bytes -= pop.size
        held = self._keys[pop.key]
        del held[bisect.bisect_left(held, (pop.deadline, pop.number))]
        if not held:
            del self._keys[pop.key]
        for queue in pop.queues:
            keys = self._queues[queue]
            keys[pop.key] -= 1
            if not keys[pop.key]:
                del keys[pop.key]
                if not keys:
                    del self._queues[queue]
                    self._watch(*queue, False)
        of_peer = self._peers[pop.peer_id]
        del of_peer[pop.number]
        if not of_peer:
            del self._peers[pop.peer_id]
        if len(self._deadlines) > 2 * self._held + HEAP_SLACK:
            self._deadlines = [entry for entry in self._deadlines if self._is_current(entry)]
            heapq.heapify(self._deadlines)


class PopWaits:
    """Both kinds of requests that wait, POP and NOTIFICATION: what happens, happens to both."""

    def __init__(self, watches: Callable[[], Watch], *, limits: Callable[[], PopWaitLimits] = PopWaitLimits) -> None:
        self.pops = PopWaitTable(watches(), limits=limits)
        self.notifications = PopWaitTable(watches(), limits=limits, newest_first=True)
        self._tables = self.pops, self.notifications

    def __len__(self) -> int:
        return sum(map(len, self._tables))

    def moved(self, topic: str, queue_id: int, max_offset: int) -> None:
        """A queue has grown."""
        for table in self._tables:
            _again(table.take_moved(topic, queue_id, max_offset))

    def wake(self, topic: str, group: str, *queue_ids: int) -> None:
        """Messages are left in one of these queues, or one of them is free again: somebody else may have it."""
        for table in self._tables:
            held = table.take_one(topic, group, ANY_QUEUE, *queue_ids)
            if held is not None:
                held.again(held)

    def topic_gone(self, topic: str) -> None:
        """Answer those that wait for a topic that was deleted."""
        for table in self._tables:
            _again(table.take_topic(topic))

    def group_gone(self, group: str) -> None:
        """Answer those that wait for a group that was deleted."""
        for table in self._tables:
            _again(table.take_group(group))

    def answer_due(self, now: float) -> None:
        """Answer those whose time is up."""
        for table in self._tables:
            _again(table.take_due(now))

    def answer_all(self) -> None:
        """Answer everybody: the broker stops."""
        for table in self._tables:
            _again(table.take_all())

    def drop_peer(self, peer_id: int) -> None:
        """A connection is gone."""
        for table in self._tables:
            table.drop_peer(peer_id)

    def next_deadline(self) -> float | None:
        """When the first one is due, in monotonic seconds."""
        deadlines = [table.next_deadline() for table in self._tables]
        return min((deadline for deadline in deadlines if deadline is not None), default=None)


def _again(pops: Iterable[HeldPop]) -> None:
    for pop in pops:
        pop.again(pop)


def _newest(entry: tuple[float, int, HeldPop]) -> int:
    return -entry[1]
