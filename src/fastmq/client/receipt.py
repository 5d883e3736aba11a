"""What a pipelined send leaves in the hands of its caller."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator

import anyio

from fastmq.client.messages import SendResult
from fastmq.errors import UsageError

log = logging.getLogger("fastmq.client")


class Receipt:
    """A send in flight: await it for its SendResult. Its failure is raised there and nowhere else."""

    __slots__ = ("_callback", "_error", "_event", "_result", "size")

    def __init__(self, size: int, callback: Callable[[Receipt], None] | None = None) -> None:
        self.size = size
        self._result: SendResult | None = None
        self._error: BaseException | None = None
        self._event: anyio.Event | None = None
        self._callback = callback

    def __repr__(self) -> str:
        outcome = self._error or self._result
        return f"<Receipt {'in flight' if outcome is None else repr(outcome)}>"

    @property
    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return self._result is not None or self._error is not None

    def result(self) -> SendResult:
        """The result of a send that has ended. Raises what it failed with."""
        if self._error is not None:
            raise self._error
        if self._result is None:
            raise UsageError("the send has not ended yet")
        return self._result

    def __await__(self) -> Generator[object, object, SendResult]:
        return self._wait().__await__()

    async def _wait(self) -> SendResult:
        if not self.done:
            if self._event is None:
                self._event = anyio.Event()
            await self._event.wait()
        return self.result()

    def settle(self, result: SendResult | None, error: BaseException | None = None) -> None:
        """The send has ended (for the producer)."""
        self._result = result
        self._error = error
        if self._event is not None:
            self._event.set()
        if self._callback is not None:
            try:
                self._callback(self)
            except Exception:  # it is called by whoever reads the connection, which is not to blame
                log.exception("the callback of a send failed")
