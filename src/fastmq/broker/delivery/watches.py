"""Several parts of the broker that watch the same queues.

The store keeps one mark per queue for the trio thread: whoever takes it away takes it from everybody. Here each part
has a mark of its own, and the store's goes when the last of them does.
"""

from __future__ import annotations

import itertools

from fastmq.broker.delivery.longpoll import Watch


class QueueWatches:
    """The marks of all parts. Once a queue has moved the store forgets it; whoever goes on waiting asks again."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._bits = (1 << number for number in itertools.count())
        self._wanted: dict[tuple[str, int], int] = {}

    def __len__(self) -> int:
        return len(self._wanted)

    def part(self) -> Watch:
        """The `watch` of one part."""
        bit = next(self._bits)

        def watch(topic: str, queue_id: int, on: bool) -> int:
            queue = topic, queue_id
            if on:
                self._wanted[queue] = self._wanted.get(queue, 0) | bit
                return self._watch(topic, queue_id, True)
            left = self._wanted.get(queue, 0) & ~bit
            if left:
                self._wanted[queue] = left
                return self._watch(topic, queue_id, True)
            self._wanted.pop(queue, None)
            return self._watch(topic, queue_id, False)

        return watch
