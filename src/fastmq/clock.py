"""Time comes in from outside: wall time for what is stored or shown, monotonic time for intervals.

Waiting is not here: it goes through trio, so that trio's own clock covers deadlines in tests.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Where a part of fastmq reads the time."""

    def wall_ms(self) -> int:
        """Milliseconds since the epoch; may jump when the system's clock is set."""

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never goes back."""


class SystemClock:
    """The clocks of the operating system."""

    __slots__ = ()

    def wall_ms(self) -> int:
        """Milliseconds since the epoch, by the system."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """Seconds that no change of the clock moves."""
        return time.monotonic()


class ManualClock:
    """A clock that moves only when told, for tests and simulation. Both times advance together."""

    __slots__ = ("_monotonic_ms", "_wall_ms")

    def __init__(self, wall_ms: int = 1_700_000_000_000) -> None:
        self._wall_ms = wall_ms
        self._monotonic_ms = 0

    def wall_ms(self) -> int:
        """Milliseconds since the epoch, as set."""
        return self._wall_ms

    def monotonic(self) -> float:
        """Seconds, as advanced."""
        return self._monotonic_ms / 1000

    def advance_ms(self, milliseconds: int) -> None:
        """Let time pass. Raises ValueError for a negative step: monotonic time has none."""
        if milliseconds < 0:
            raise ValueError(f"time cannot go back by {-milliseconds} ms")
        self._wall_ms += milliseconds
        self._monotonic_ms += milliseconds

    def set_wall_ms(self, wall_ms: int) -> None:
        """Set the wall clock alone, as an operator or NTP does."""
        self._wall_ms = wall_ms
