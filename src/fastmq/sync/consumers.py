"""Blocking consumers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator
from datetime import datetime
from typing import Any, Unpack

from fastmq.client import pop as apop
from fastmq.client import pull as apull
from fastmq.client import push as apush
from fastmq.client.messages import ReceivedMessage
from fastmq.client.options import ConsumerOptions, PopOptions, PushOptions
from fastmq.client.push import Listener
from fastmq.client.subscriptions import Filter, Topics
from fastmq.protocol.bodies.config import (
    MessageQueue,
)
from fastmq.sync.loop import A, Blocking, Where, inner_where


class _Steered(Blocking[A]):
    """What consumers with rebalancing have in common."""

    @property
    def assignment(self) -> list[MessageQueue]:
        """The queues that are ours now."""
        return self._plain(lambda: self._it.assignment)

    def wait_assigned(self) -> None:
        """Wait until the first assignment is complete."""
        self._run(self._it.wait_assigned)

    def pause(self, queues: Iterable[MessageQueue] | None = None) -> None:
        """Pull no more from some queues, or from all."""
        self._plain(self._it.pause, queues)

    def resume(self, queues: Iterable[MessageQueue] | None = None) -> None:
        """Pull again."""
        self._plain(self._it.resume, queues)

    def subscribe(self, topic: str, filter: Filter | str = "*") -> None:
        """Take a topic from now on, or take other messages of it."""
        self._run(self._it.subscribe, topic, filter)

    def unsubscribe(self, topic: str) -> None:
        """Take no more messages of a topic."""
        self._run(self._it.unsubscribe, topic)


class PushConsumer(_Steered[apush.PushConsumer]):
    """Blocking face of `fastmq.PushConsumer`: the listener, a plain function, runs in threads."""

    def __init__(
        self, where: Where, group: str, listener: Listener, topics: Topics = (), **options: Unpack[PushOptions]
    ) -> None:
        super().__init__(lambda: apush.PushConsumer(inner_where(where), group, listener, topics, **options))


class PopConsumer(Blocking[apop.PopConsumer]):
    """Blocking face of `fastmq.PopConsumer`."""

    def __init__(self, where: Where, group: str, topics: Topics, **options: Unpack[PopOptions]) -> None:
        super().__init__(lambda: apop.PopConsumer(inner_where(where), group, topics, **options))

    def receive(self, max_messages: int = apop.MAX_POP, wait: float = apop.MAX_POLL_SECONDS) -> list[ReceivedMessage]:
        """Up to `max_messages` messages; empty after `wait` seconds."""
        return self._run(self._it.receive, max_messages, wait)

    def __iter__(self) -> Iterator[ReceivedMessage]:
        while True:
            yield from self.receive()

    def ack(self, message: ReceivedMessage | Iterable[ReceivedMessage]) -> None:
        """The message is done, or several are."""
        self._run(self._it.ack, message)

    def change_invisible(self, message: ReceivedMessage, seconds: float) -> None:
        """The message comes again in so many seconds from now, if it is not acknowledged before."""
        self._run(self._it.change_invisible, message, seconds)


class Consumer(_Steered[apull.Consumer]):
    """Blocking face of `fastmq.Consumer`: `for message in consumer`, or `poll`."""

    def __init__(
        self,
        where: Where,
        group: str,
        topics: Topics = (),
        *,
        auto_commit: bool = True,
        **options: Unpack[ConsumerOptions],
    ) -> None:
        super().__init__(lambda: apull.Consumer(inner_where(where), group, topics, auto_commit=False, **options))
        self.auto_commit = auto_commit
        self._batch: deque[ReceivedMessage] = deque()
        self._last: list[ReceivedMessage] = []  # what the last call gave: it may not have been worked on yet
        self._taken: list[ReceivedMessage] = []  # what was given before

    def __iter__(self) -> Iterator[ReceivedMessage]:
        return self

    def __next__(self) -> ReceivedMessage:
        self._pass_on()
        if not self._batch:
            self._batch.extend(self._poll(32, None))
        message = self._batch.popleft()
        self._last = [message]
        return message

    def poll(self, max_messages: int = 32, timeout: float | None = None) -> list[ReceivedMessage]:
        """Up to `max_messages` messages; empty after `timeout` seconds."""
        self._pass_on()
        messages = [self._batch.popleft() for _ in range(min(max_messages, len(self._batch)))]
        if not messages:
            messages = self._poll(max_messages, timeout)
        self._last = messages[:]
        return messages

    def _pass_on(self) -> None:
        """The next message is asked for: those given before are done, if that is what it means."""
        self._taken.extend(self._last)
        self._last = []

    def _poll(self, max_messages: int, timeout: float | None) -> list[ReceivedMessage]:
        self._settle()
        return self._run(self._it.poll, max_messages, timeout)

    def _settle(self) -> None:
        if self.auto_commit and self._taken:
            self._plain(self._it.done, self._taken)
            self._taken = []

    def _before_close(self) -> None:
        self._settle()

    def commit(self, message: ReceivedMessage | None = None) -> None:
        """Everything taken so far is done, or everything up to `message` in its queue. Stores it at once."""
        if message is None:
            self._pass_on()
            self._plain(self._it.done, self._taken)
            self._taken = []
            self._run(self._it.store)
        else:
            self._taken = _behind(message, self._taken)
            self._last = _behind(message, self._last)
            self._run(self._it.commit, message)

    def committed(self, queue: MessageQueue) -> int | None:
        """The offset that is stored for a queue."""
        return self._run(self._it.committed, queue)

    def position(self, queue: MessageQueue) -> int:
        """The offset of the next message of a queue."""
        ahead = next((one.queue_offset for one in self._batch if one.queue == queue), None)
        return self._plain(self._it.position, queue) if ahead is None else ahead

    def seek(self, queue: MessageQueue, offset: int) -> None:
        """Go on at an offset of a queue that is ours."""
        self._plain(self._it.seek, queue, offset)
        self._batch = deque(one for one in self._batch if one.queue != queue)

    def seek_to_time(self, at: datetime | float, queues: Iterable[MessageQueue] | None = None) -> None:
        """Go on with the first messages stored at a time or later."""
        self._seek_many(self._it.seek_to_time, at, queues)

    def seek_to_begin(self, queues: Iterable[MessageQueue] | None = None) -> None:
        """Go on with the oldest messages there are."""
        self._seek_many(self._it.seek_to_begin, queues)

    def seek_to_end(self, queues: Iterable[MessageQueue] | None = None) -> None:
        """Go on with messages that are sent from now on."""
        self._seek_many(self._it.seek_to_end, queues)

    def _seek_many(self, call: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        queues = args[-1]
        chosen = None if queues is None else list(queues)
        self._run(call, *args[:-1], chosen)
        self._batch = deque(one for one in self._batch if chosen is not None and one.queue not in chosen)

    def queues(self, topic: str) -> list[MessageQueue]:
        """All queues of a topic that can be read."""
        return self._run(self._it.queues, topic)

    def assign(self, queues: Iterable[MessageQueue]) -> None:
        """Take exactly these queues from now on."""
        self._run(self._it.assign, list(queues))


def _behind(message: ReceivedMessage, messages: list[ReceivedMessage]) -> list[ReceivedMessage]:
    """Those that are not done if everything up to a message in its queue is."""
    queue, offset = message.queue, message.queue_offset
    return [one for one in messages if one.queue != queue or one.queue_offset > offset]
