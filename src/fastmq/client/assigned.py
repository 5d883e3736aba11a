"""A queue that a consumer has: what was pulled of it, and who waits for what."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import anyio

from fastmq.client.messages import ReceivedMessage
from fastmq.client.window import FlowLimits, Window
from fastmq.protocol.bodies.client import SubscriptionData
from fastmq.protocol.bodies.config import MessageQueue


class Assigned:
    """A queue that is ours now. Once `dropped`, what is left of it is nobody's business any more."""

    def __init__(self, queue: MessageQueue, data: SubscriptionData, offset: int) -> None:
        self.queue = queue
        self.subscription = data
        self.window = Window(offset)
        self.dropped = False
        self.paused = False
        self.broker_id = 0
        self.scope: anyio.CancelScope | None = None
        self.room: anyio.Event | None = None
        self.running = 0
        self.last_pull_ms = 0
        self.last_consume_ms = 0
        self.locked_until = 0.0
        self.last_lock_ms = 0
        self.max_offset = 0
        self.waiting: deque[ReceivedMessage] = deque()
        """In order: pulled, and not yet with the listener."""
        self.before: Assigned | None = None
        """In order: what the queue was begun anew from, while a listener still has a message of it."""
        self.complained = False
        """Whether it was said that it cannot be pulled."""
        self._idle = anyio.Event()
        self._runner: anyio.Event | None = None

    def __repr__(self) -> str:
        return f"<Assigned {self.queue} at {self.window.next_offset}, {len(self.window)} in work>"

    def wake(self) -> None:
        """There may be room for the next pull."""
        if self.room is not None:
            self.room.set()
            self.room = None

    def wake_runner(self) -> None:
        """In order: there is something to do."""
        if self._runner is not None:
            self._runner.set()
            self._runner = None

    def begin_one(self) -> None:
        """In order: a listener gets a message."""
        self.running += 1

    def end_one(self) -> None:
        """In order: the listener has ended."""
        self.running -= 1
        if not self.running:
            self._idle.set()
            self._idle = anyio.Event()

    async def wait_idle(self) -> None:
        """In order: wait until no listener has a message of it, or of what it was begun anew from."""
        if self.before is not None:
            await self.before.wait_idle()
            self.before = None
        while self.running:
            await self._idle.wait()

    async def wait_for_messages(self) -> None:
        """In order: wait for `wake_runner`."""
        self._runner = anyio.Event()
        await self._runner.wait()


class Settings(NamedTuple):
    """What a consumer was told about pulling."""

    batch: int
    limits: FlowLimits
    suspend: float
    persist: float
    rebalance: float
