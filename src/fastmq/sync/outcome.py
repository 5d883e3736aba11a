"""What becomes of something that the loop does for a thread, and the wait for it.

Ctrl-C may come between any two calls that the main thread makes in Python. If that is inside of a
concurrent.futures.Future or a threading.Condition, their lock stays taken, and the loop would wait for it for ever. So
what threads and the loop share here is a bare lock, which a thread waits for in one call that is not Python's.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, Generic, TypeVar

import anyio
from anyio.from_thread import BlockingPortal

from fastmq.client.errors import ClientClosed

T = TypeVar("T")

LOOK_SECONDS: Final = 0.5  # a signal that comes just before a wait begins does not end it, and is seen after it


class Outcome(Generic[T]):
    """A result or an exception, once there is one. Set once, by one thread; any thread may wait."""

    __slots__ = ("_done", "_error", "_gate", "_value")

    _value: T

    def __init__(self) -> None:
        self._gate = threading.Lock()
        self._gate.acquire()  # released when it is done
        self._done = False
        self._error: BaseException | None = None

    @property
    def done(self) -> bool:
        """Whether it is set."""
        return self._done

    def set_result(self, value: T) -> None:
        """It went well."""
        self._value = value
        self._done = True
        self._gate.release()

    def set_exception(self, error: BaseException) -> None:
        """It failed."""
        self._error = error
        self._done = True
        self._gate.release()

    def result(self, timeout: float | None = None) -> T:
        """Wait for it. Raises the exception, TimeoutError after `timeout` seconds."""
        if not self._done:
            end = math.inf if timeout is None else time.monotonic() + timeout
            while not self._gate.acquire(timeout=min(max(0.0, end - time.monotonic()), LOOK_SECONDS)):
                if time.monotonic() >= end:
                    raise TimeoutError
            self._gate.release()  # for the next who waits
        if self._error is None:
            return self._value
        try:
            raise self._error
        finally:
            del self  # the error knows this frame


class Call(Outcome[T]):
    """A coroutine function that the loop runs for a thread."""

    __slots__ = ("_abandoned", "_call", "_scope")

    def __init__(self, call: Callable[[], Coroutine[Any, Any, T]]) -> None:
        super().__init__()
        self._call = call
        self._scope: anyio.CancelScope | None = None
        self._abandoned = False

    async def run(self) -> None:
        """In the loop."""
        with anyio.CancelScope() as scope:
            self._scope = scope
            if self._abandoned:
                scope.cancel()
            try:
                value = await self._call()
            except Exception as error:
                self.set_exception(error)
            except BaseException as error:
                cancelled = isinstance(error, anyio.get_cancelled_exc_class())
                self.set_exception(ClientClosed("it was closed meanwhile") if cancelled else error)
                raise
            else:
                self.set_result(value)

    def abandon(self, portal: BlockingPortal) -> None:
        """Cancel it, wherever it is: nobody waits for it any more."""
        self._abandoned = True
        if self._scope is not None and not self.done:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                portal.start_task_soon(self._scope.cancel)
