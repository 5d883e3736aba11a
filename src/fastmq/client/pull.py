"""Consumer: the program asks for messages, by `async for` or `poll`, and says itself how far it has come.

    async with Consumer("127.0.0.1:9876", "group", "topic") as consumer:
        async for message in consumer:
            ...

With `auto_commit` a message is done when the next one is asked for; otherwise when `commit` says so. Queues are shared
with the other members of the group, or chosen by `assign` (RocketMQ's lite pull consumer).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Self, Unpack

import anyio

from fastmq.client.assigned import Assigned
from fastmq.client.consuming import QueueConsumer
from fastmq.client.errors import ClientClosed
from fastmq.client.messages import ReceivedMessage
from fastmq.client.options import ConsumerOptions
from fastmq.client.session import Session
from fastmq.client.subscriptions import Topics, to_ms
from fastmq.errors import UsageError
from fastmq.protocol.bodies.client import ConsumeType
from fastmq.protocol.bodies.config import MessageQueue
from fastmq.protocol.codes import RequestCode


class Consumer(QueueConsumer):
    """Messages by `async for` or `poll`. Use it inside `async with`, from one task at a time."""

    consume_type = ConsumeType.CONSUME_ACTIVELY
    takes_retries = False

    def __init__(
        self,
        where: str | Sequence[str] | Session | None,
        group: str,
        topics: Topics = (),
        *,
        auto_commit: bool = True,
        **options: Unpack[ConsumerOptions],
    ) -> None:
        super().__init__(where, group, topics, **options)
        self.auto_commit = auto_commit
        self._ready: deque[tuple[Assigned, ReceivedMessage]] = deque()
        self._given: list[tuple[Assigned, ReceivedMessage]] = []
        self._arrived: anyio.Event | None = None

    # --- taking ------------------------------------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ReceivedMessage:
        """The next message; waits for it as long as it takes."""
        self.session.check_open()
        self._settle_given()
        while True:
            message = self._take_ready()
            if message is not None:
                return message
            await self._wait_arrival()

    async def poll(self, max_messages: int = 32, timeout: float | None = None) -> list[ReceivedMessage]:
        """Up to `max_messages` messages: those that are there, else it waits for the first. Empty after `timeout`
        seconds; None waits as long as it takes, 0 not at all.
        """
        self.session.check_open()
        self._settle_given()
        messages: list[ReceivedMessage] = []
        with anyio.move_on_after(timeout):
            while True:
                while len(messages) < max_messages:
                    message = self._take_ready()
                    if message is None:
                        break
                    messages.append(message)
                if messages or timeout == 0:
                    break
                await self._wait_arrival()
        return messages

    def _take_ready(self) -> ReceivedMessage | None:
        ready = self._ready
        while ready:
            assigned, message = ready.popleft()
            if not assigned.dropped:
                self._given.append((assigned, message))
                return message
        return None

    async def _wait_arrival(self) -> None:
        self.session.check_open()
        if self._arrived is not None:
            raise UsageError("two tasks take messages from one consumer")
        self._arrived = anyio.Event()
        try:
            await self._arrived.wait()
        finally:
            self._arrived = None
        if self._draining:
            raise ClientClosed("it is closed")

    def _deliver(self, assigned: Assigned, messages: list[ReceivedMessage]) -> None:
        self._ready.extend([(assigned, message) for message in messages])
        if self._arrived is not None:
            self._arrived.set()

    async def _drain(self) -> None:
        if self._arrived is not None:
            self._arrived.set()

    # --- committing --------------------------------------------------------------------------------------------------

    def _settle_given(self) -> None:
        """With auto commit: what was given out before is done now."""
        if self.auto_commit and self._given:
            for assigned, message in self._given:
                assigned.window.done(message.queue_offset)
                if assigned.room is not None:
                    assigned.wake()
            self._given.clear()

    def done(self, messages: Iterable[ReceivedMessage]) -> None:
        """Some of the messages given out are done; the next store of offsets takes account of it."""
        finished = {id(message) for message in messages}
        kept: list[tuple[Assigned, ReceivedMessage]] = []
        for assigned, message in self._given:
            if id(message) in finished:
                assigned.window.done(message.queue_offset)
                assigned.wake()
            else:
                kept.append((assigned, message))
        self._given = kept

    async def commit(self, message: ReceivedMessage | None = None) -> None:
        """Everything given out so far is done, or everything up to `message` in its queue. Stores it at once, and
        raises ClientError if it is not all stored; it is tried again every few seconds then.
        """
        self.session.check_open()
        if message is None:
            for assigned, one in self._given:
                assigned.window.done(one.queue_offset)
                assigned.wake()
            self._given.clear()
        else:
            wire = MessageQueue(message.stored_topic, message.queue.broker_name, message.queue.queue_id)
            assigned_now = self._assigned.get(wire)
            if assigned_now is not None:
                assigned_now.window.done_through(message.queue_offset)
                assigned_now.wake()
            self._given = [
                item for item in self._given if not item[0].dropped and item[1].queue_offset in item[0].window
            ]
        await self.store()

    async def store(self) -> None:
        """Store how far it has come, now instead of in a few seconds. Raises as `commit` does."""
        self._note_offsets()
        failure = await self._offsets.persist()
        if failure is not None:
            raise failure

    async def committed(self, queue: MessageQueue) -> int | None:
        """The offset that is stored for a queue, None without one."""
        return (
            await self._offsets.load(self._wire(queue))
            if self._wire(queue) not in self._assigned
            else (self._offsets.known(self._wire(queue)))
        )

    # --- where -------------------------------------------------------------------------------------------------------

    def position(self, queue: MessageQueue) -> int:
        """The offset of the next message of a queue that is given out. Raises UsageError if the queue is not ours."""
        assigned = self._ours(queue)
        return next(
            (message.queue_offset for owner, message in self._ready if owner is assigned), assigned.window.next_offset
        )

    def _ours(self, queue: MessageQueue) -> Assigned:
        assigned = self._assigned.get(self._wire(queue))
        if assigned is None:
            raise UsageError(f"{queue} is not assigned to this consumer")
        return assigned

    def seek(self, queue: MessageQueue, offset: int) -> None:
        """Go on at an offset of a queue that is ours."""
        if offset < 0:
            raise UsageError(f"offset {offset} is below 0")
        old = self._ours(queue)
        self._given = [item for item in self._given if item[0] is not old]
        self._ready = deque(item for item in self._ready if item[0] is not old)
        self._restart(old, offset)

    async def seek_to_time(self, at: datetime | float, queues: Iterable[MessageQueue] | None = None) -> None:
        """Go on with the first messages stored at a time (seconds since the epoch, or a datetime) or later."""
        await self._seek_each(queues, RequestCode.SEARCH_OFFSET_BY_TIMESTAMP, to_ms(at))

    async def seek_to_begin(self, queues: Iterable[MessageQueue] | None = None) -> None:
        """Go on with the oldest messages there are."""
        await self._seek_each(queues, RequestCode.GET_MIN_OFFSET)

    async def seek_to_end(self, queues: Iterable[MessageQueue] | None = None) -> None:
        """Go on with messages that are sent from now on."""
        await self._seek_each(queues, RequestCode.GET_MAX_OFFSET)

    async def _seek_each(
        self, queues: Iterable[MessageQueue] | None, code: int, timestamp_ms: int | None = None
    ) -> None:
        self.session.check_open()
        for queue in self.assignment if queues is None else list(queues):
            offset = await self._queue_offset(code, self._wire(queue), timestamp_ms)
            # of all that are ours one may have gone to another member meanwhile
            if queues is not None or self._wire(queue) in self._assigned:
                self.seek(queue, offset)

    async def queues(self, topic: str) -> list[MessageQueue]:
        """All queues of a topic that can be read."""
        route = await self.session.route(self.session.wrap(topic), refresh=True)
        return [self._shown(queue) for queue in route.read_queues]

    async def assign(self, queues: Iterable[MessageQueue]) -> None:
        """Take exactly these queues from now on, whatever other members of the group have."""
        self._fixed = sorted(map(self._wire, queues))
        for topic in {queue.topic for queue in self._fixed}:
            await self.session.route(topic)
        await self._balance_topic(None, self._fixed)
        self._rebalance_soon()
