"""Runs a load in a thread, so that Ctrl-C ends it in order and a terminal sees how it goes."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

from fastmq._load import Load

PAUSE_S = 0.25


def run_watched(load: Load, seconds: float, count: int, what: str, stream: TextIO | None = None) -> bool:
    """Run a load to its end, with a line on `stream` (stderr) while that is a terminal.

    Ctrl-C stops sending and waits for what is in flight; a second one ends at once. Returns whether it ran undisturbed.
    """
    out = sys.stderr if stream is None else stream
    failure: list[BaseException] = []
    # not Thread.join: interrupted by Ctrl-C it takes the thread for ended, up to Python 3.12
    finished = threading.Event()

    def work() -> None:
        try:
            load.run(seconds, count)
        except BaseException as error:
            failure.append(error)
        finally:
            finished.set()

    threading.Thread(target=work, name="load", daemon=True).start()
    disturbed = False
    line = _Line(load, what, out) if out.isatty() else None
    while not finished.is_set():
        try:
            finished.wait(PAUSE_S)
            if line is not None:
                line.show()
        except KeyboardInterrupt:
            if disturbed:
                raise
            disturbed = True
            load.stop()
    if line is not None:
        line.clear()
    if failure:
        raise failure[0]
    return not disturbed


class _Line:
    def __init__(self, load: Load, what: str, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._load, self._what, self._out, self._clock = load, what, out, clock
        self._start = self._last_time = clock()
        self._last = (0, 0)

    def show(self) -> None:
        now, load = self._clock(), self._load
        gap = now - self._last_time
        if gap < PAUSE_S / 2:
            return
        current = (load.done or load.sent * load.per_request, load.received)
        rates = [(new - old) / gap for new, old in zip(current, self._last, strict=True)]
        bad = load.lost + load.timed_out + load.connection_errors + load.order_errors + load.checksum_errors
        text = f"{self._what}  {now - self._start:5.1f} s"
        text += "".join(f"  {name} {rate:,.0f}/s" for name, rate in zip(("sent", "read"), rates, strict=True) if rate)
        self._write(text + (f"  failures {bad:,}" if bad else ""))
        self._last, self._last_time = current, now

    def clear(self) -> None:
        self._write("")

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._out.write(f"\r\x1b[K{text}")
            self._out.flush()
