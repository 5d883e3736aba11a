"""Waiting for conditions of other processes, with a limit."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], what: str, seconds: float = 90.0, pause: float = 0.02) -> T:
    """Calls `condition` until it is true and returns its value; AssertionError naming `what` after `seconds`.

    OSError and AssertionError inside the condition count as "not yet".
    """
    deadline = time.monotonic() + seconds
    last: Exception | None = None
    while True:
        try:
            value = condition()
        except (OSError, AssertionError) as error:
            last, value = error, None  # type: ignore[assignment]
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(
                f"within {seconds} s it did not come true that {what}" + (f" ({last!r})" if last else "")
            )
        time.sleep(pause)
