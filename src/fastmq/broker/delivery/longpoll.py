"""Pulls that found nothing and wait for a message (RocketMQ's PullRequestHoldService), without any I/O.

A pull waits for one queue to grow beyond the offset it has looked at. Three things end the wait, each with one call:
the queue moved (`take_moved`), time is up (`take_due`), the connection is gone (`drop_peer`).

A message that arrives between the read and the wait would be missed by both:

    handler                              store
    read: nothing at offset 7
                                         message 7 published; nobody watches the queue
    hold                                 -> waits for message 8

Therefore `hold` asks the store to watch the queue and looks at the end that `watch` gives back: if it is beyond the
offset already, the pull is not held and the caller reads again.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

MAX_HELD_PULLS: Final = 100_000
"""Pulls held at once; further ones are answered at once."""

MAX_HELD_BYTES: Final = 64 << 20
"""Bytes of held pulls. When they are reached, further ones are answered at once."""

Watch = Callable[[str, int, bool], int]
"""Asks the store to tell when (topic, queue id) passes its present end, which is returned; False ends it."""


@dataclass(slots=True, eq=False)
class HeldPull:
    """One waiting pull. `offset`: queue offset up to which nothing was found. `request` is the caller's.

    `size`: bytes of the request.
    """

    topic: str
    queue_id: int
    offset: int
    deadline: float  # monotonic seconds
    peer_id: int
    request: Any
    size: int = 0
    waiting: bool = field(default=False, init=False)


class LongPollTable:
    """The waiting pulls by queue, by deadline and by connection."""

    def __init__(self, watch: Watch, *, max_held: int = MAX_HELD_PULLS, max_bytes: int = MAX_HELD_BYTES) -> None:
        self._watch = watch
        self._max_held = max_held
        self._max_bytes = max_bytes
        self._queues: dict[tuple[str, int], dict[int, HeldPull]] = {}
        self._peers: dict[int, dict[int, HeldPull]] = {}
        self._deadlines: list[tuple[float, int, HeldPull]] = []
        self._numbers = itertools.count()
        self._held = 0
        self._bytes = 0

    def __len__(self) -> int:
        return self._held

    def hold(self, pull: HeldPull) -> bool:
        """Let a pull wait. False: do not, the queue has grown meanwhile: read again."""
        key = pull.topic, pull.queue_id
        if self._watch(pull.topic, pull.queue_id, True) > pull.offset:
            return False
        self._queues.setdefault(key, {})[id(pull)] = pull
        self._peers.setdefault(pull.peer_id, {})[id(pull)] = pull
        heapq.heappush(self._deadlines, (pull.deadline, next(self._numbers), pull))
        pull.waiting = True
        self._held += 1
        self._bytes += pull.size
        return True

    @property
    def full(self) -> bool:
        """Whether no further pull should wait."""
        return self._held >= self._max_held or self._bytes >= self._max_bytes

    def next_deadline(self) -> float | None:
        """When the first waiting pull is due."""
        while self._deadlines and not self._deadlines[0][2].waiting:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def take_moved(self, topic: str, queue_id: int, max_offset: int) -> list[HeldPull]:
        """The pulls for which the queue, now ending at `max_offset`, has something new, longest waiting first.

        The store watches a queue only until it has moved once; for those that go on waiting it is asked again.
        """
        pulls = self._queues.get((topic, queue_id))
        if pulls is None:
            return []
        taken = [pull for pull in pulls.values() if pull.offset < max_offset]
        for pull in taken:
            self._remove(pull)
        if (topic, queue_id) in self._queues:
            end = self._watch(topic, queue_id, True)
            if end > max_offset:
                taken += self.take_moved(topic, queue_id, end)
        return taken

    def take_due(self, now: float) -> list[HeldPull]:
        """The pulls whose time is up, in the order of their deadlines."""
        taken: list[HeldPull] = []
        while True:
            deadline = self.next_deadline()
            if deadline is None or deadline > now:
                return taken
            pull = heapq.heappop(self._deadlines)[2]
            self._remove(pull)
            taken.append(pull)

    def take_queue(self, topic: str, queue_id: int | None = None) -> list[HeldPull]:
        """All pulls of a queue, or of all queues of a topic: something else about it has changed."""
        keys = [key for key in self._queues if key[0] == topic and queue_id in (None, key[1])]
        return self._take([pull for key in keys for pull in self._queues[key].values()])

    def take_all(self) -> list[HeldPull]:
        """Everything: the broker stops."""
        return self._take([pull for pulls in self._queues.values() for pull in pulls.values()])

    def drop_peer(self, peer_id: int) -> int:
        """Forget the pulls of a closed connection; how many there were."""
        return len(self._take(list(self._peers.get(peer_id, {}).values())))

    def statistics(self) -> dict[str, int]:
        """Numbers of waiting pulls and of queues they wait for."""
        return {"held_pulls": self._held, "watched_queues": len(self._queues)}

    def _take(self, pulls: list[HeldPull]) -> list[HeldPull]:
        for pull in pulls:
            self._remove(pull)
        return pulls

    def _remove(self, pull: HeldPull) -> None:
        pull.waiting = False
        self._held -= 1
        self._bytes -= pull.size
        pulls = self._queues[pull.topic, pull.queue_id]
        del pulls[id(pull)]
        if not pulls:
            del self._queues[pull.topic, pull.queue_id]
            self._watch(pull.topic, pull.queue_id, False)
        mine = self._peers[pull.peer_id]
        del mine[id(pull)]
        if not mine:
            del self._peers[pull.peer_id]
        # entries in the heap of pulls that no longer wait are dropped when they come up, or all at once
        if len(self._deadlines) > 2 * self._held + 64:
            self._deadlines = [entry for entry in self._deadlines if entry[2].waiting]
            heapq.heapify(self._deadlines)
