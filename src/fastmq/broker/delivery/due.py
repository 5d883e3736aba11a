"""What the deliveries of delay levels and timers share: a core that says when it has something to do, and its loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Final

import trio

from fastmq.clock import Clock

RETRY_MS: Final = 100  # after a message could not be stored
CLOCK_CHECK_MS: Final = 1000  # longest sleep: the wall clock may have been set meanwhile


@dataclass(slots=True)
class Due:
    """Outcome of a round. `next_ms`: wall time at which there is something to do again; None: not before a wake-up."""

    delivered: int = 0
    next_ms: int | None = None

    def at(self, wall_ms: int) -> None:
        """There is something to do at that time."""
        self.next_ms = wall_ms if self.next_ms is None else min(self.next_ms, wall_ms)


class DueLoop(ABC):
    """Calls `due` at the very millisecond it asked for, and when `moved` says that there is something new."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._wake = trio.Event()
        self._stopped = False

    @abstractmethod
    def due(self, now_ms: int) -> Due:
        """Do what is to do at a wall time, a bounded part of it; waits for nothing."""

    def moved(self) -> None:
        """The topic of what waits has new messages."""
        self._wake.set()

    def stop(self) -> None:
        """Deliver nothing more: what is written from now on is the last word."""
        self._stopped = True
        self._wake.set()

    async def run(self) -> None:
        """Deliver until cancelled or stopped."""
        while not self._stopped:
            self._wake = trio.Event()
            now_ms = self._clock.wall_ms()
            outcome = self.due(now_ms)
            if outcome.next_ms is not None and outcome.next_ms <= now_ms:
                await trio.lowlevel.checkpoint()
                continue
            wait_ms = CLOCK_CHECK_MS if outcome.next_ms is None else min(CLOCK_CHECK_MS, outcome.next_ms - now_ms)
            with trio.move_on_after(wait_ms / 1000):
                await self._wake.wait()
