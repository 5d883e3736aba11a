"""What a pipelined send leaves in the hands of its caller."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from typing import Protocol

import anyio

from fastmq.client.errors import ConnectionLost, RequestTimeout
from fastmq.client.messages import SendResult
from fastmq.client.prepared import Lane, Prepared
from fastmq.client.transport import Connection
from fastmq.errors import UsageError
from fastmq.protocol.command import Command

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
        if self._result is None and self._error is None:
            if self._event is None:
                self._event = anyio.Event()
            yield from self._event.wait().__await__()
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


class Sending(Protocol):
    """Who goes on with a pipelined send when its answer is there."""

    def on_reply(
        self, flight: Flight, reply: Command | None, error: ConnectionLost | RequestTimeout | None
    ) -> None: ...


class Flight(Receipt):
    """A receipt that is also what waits for the answer in the connection (`transport.Pending`): one object a send."""

    __slots__ = ("_sending", "connection", "deadline", "lane", "prepared", "sent_at")

    sent_at: float
    deadline: float
    lane: Lane
    connection: Connection

    def __init__(self, sending: Sending, prepared: Prepared, callback: Callable[[Receipt], None] | None) -> None:
        self.size = prepared.size
        self._result = None
        self._error = None
        self._event = None
        self._callback = callback
        self._sending = sending
        self.prepared: Prepared | None = prepared

    def complete(self, reply: Command | None, error: ConnectionLost | RequestTimeout | None = None) -> None:
        """The outcome of the request (for the connection)."""
        self._sending.on_reply(self, reply, error)
