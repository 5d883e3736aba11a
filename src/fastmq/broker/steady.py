"""Services that go on after a failure: one record that nobody foresaw must not take the whole broker down.

What is known to go wrong (a disk that refuses, a damaged record) is dealt with where it happens. This is for the rest:
it is told in the log with its traceback, and the service begins again after a pause that grows while it keeps failing.
A service that goes through records has `Patience`: one that fails again and again must not hold up those behind it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Hashable
from typing import Final

import trio

from fastmq.errors import StoreError

log = logging.getLogger("fastmq.broker")

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0
TRIES: Final = 3


async def keep_running(what: str, service: Callable[[], Awaitable[None]]) -> None:
    """Run a service until it ends or is cancelled; one that fails begins again, from the state its objects have."""
    pause_s = FIRST_PAUSE_S
    while True:
        begun = trio.current_time()
        try:
            await service()
        except Exception:
            if trio.current_time() - begun > LONGEST_PAUSE_S:
                pause_s = FIRST_PAUSE_S
            log.exception("the service of %s failed, it goes on in %g s", what, pause_s)
            await trio.sleep(pause_s)
            pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)
        else:
            return


class Patience:
    """How often a record of a queue has failed for a reason that nobody foresaw."""

    def __init__(self) -> None:
        self._where: Hashable = None
        self._failures = 0

    def is_over(self, where: Hashable, error: Exception) -> bool:
        """It failed now; whether to pass it over. A full memory or a closed store says nothing about the record."""
        if isinstance(error, MemoryError | StoreError):
            return False
        self._failures = self._failures + 1 if where == self._where else 1
        self._where = where
        return self._failures >= TRIES
