"""The messages of one queue that were pulled and are not done yet (RocketMQ's ProcessQueue), without any I/O.

Messages are done in any order; what may be committed is the offset of the first that is not.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fastmq.client.messages import ReceivedMessage
from fastmq.limits import MIB


@dataclass(frozen=True, slots=True)
class FlowLimits:
    """How much of one queue may be in memory: messages, bytes, and how far apart the first and last offset."""

    count: int = 1000
    size: int = 100 * MIB
    span: int = 2000


DEFAULT_LIMITS: Final = FlowLimits()


class Window:
    """Offsets in work. `next_offset` is where the next pull goes on."""

    __slots__ = ("_open", "next_offset", "size")

    def __init__(self, next_offset: int) -> None:
        self.next_offset = next_offset
        self.size = 0
        self._open: OrderedDict[int, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, offset: int) -> bool:
        return offset in self._open

    @property
    def commit_offset(self) -> int:
        """Everything below is done."""
        return next(iter(self._open)) if self._open else self.next_offset

    @property
    def first(self) -> int | None:
        """The lowest offset in work."""
        return next(iter(self._open), None)

    @property
    def last(self) -> int | None:
        """The highest offset in work."""
        return next(reversed(self._open), None)

    @property
    def span(self) -> int:
        """How far the offsets in work are apart."""
        return next(reversed(self._open)) - next(iter(self._open)) if self._open else 0

    def add(self, messages: Sequence[ReceivedMessage], next_offset: int) -> None:
        """Messages were pulled, in the order of their offsets; the pull goes on at `next_offset`."""
        for message in messages:
            size = self._open[message.queue_offset] = message.stored_size
            self.size += size
        self.next_offset = next_offset

    def done(self, offset: int) -> bool:
        """A message is done. False if it was not in work."""
        size = self._open.pop(offset, None)
        if size is None:
            return False
        self.size -= size
        return True

    def done_through(self, offset: int) -> None:
        """All messages up to one are done."""
        while self._open:
            first = next(iter(self._open))
            if first > offset:
                break
            self.done(first)

    def is_full(self, limits: FlowLimits) -> bool:
        """Whether the next pull has to wait."""
        return len(self._open) >= limits.count or self.size >= limits.size or self.span >= limits.span
