"""Signals that end a command in order: Ctrl-C, SIGTERM and SIGHUP."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

HELD_SECONDS = 5.0
"""How long a signal waits for what is not to be torn apart: who reads the output may have stopped reading."""


class Told(KeyboardInterrupt):
    """A signal said that the command is to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Ending:
    """Raises Told where a signal finds the main thread, but never inside of `whole`, unless that takes too long."""

    def __init__(self) -> None:
        self._whole = False
        self._waiting: int | None = None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """While the block runs; in other threads than the main one signals stay what they are."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {
            number: signal.signal(number, self._told)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
            if signal.getsignal(number) != signal.SIG_IGN  # nohup
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """The block is done as a whole: a signal that comes meanwhile is raised at its end."""
        self._whole = True
        try:
            yield
        finally:
            self._whole = False
            if self._waiting is not None:
                signal.setitimer(signal.ITIMER_REAL, 0)
        if self._waiting is not None:
            raise Told(self._waiting)

    def _told(self, number: int, frame: object) -> None:
        if not self._whole:
            raise Told(self._waiting or number)
        if self._waiting is not None:
            self._whole = False
            raise Told(self._waiting)
        self._waiting = number
        signal.setitimer(signal.ITIMER_REAL, HELD_SECONDS)
