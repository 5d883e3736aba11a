"""The way of pipelined sends from the threads that begin them into the loop."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final

import anyio.lowlevel

from fastmq.client import producer as aproducer
from fastmq.client.errors import ClientClosed
from fastmq.client.messages import Message, SendResult
from fastmq.client.producer import Selector
from fastmq.protocol.bodies.config import MessageQueue
from fastmq.sync.outcome import Outcome

MOST_WAITING: Final = 1_000

_Start = Callable[[Callable[[], Coroutine[Any, Any, None]]], object]


class Put:
    """A send on its way into the loop; without a message a mark, which ends when all before it have begun."""

    __slots__ = ("message", "outcome", "queue", "selector")

    def __init__(self, message: Message | None, queue: MessageQueue | None, selector: Selector | None) -> None:
        self.message = message
        self.queue = queue
        self.selector = selector
        self.outcome: Outcome[Any] = Outcome()

    def ended(self, receipt: aproducer.Receipt) -> None:
        """The producer's callback."""
        try:
            self.outcome.set_result(receipt.result())
        except Exception as error:
            self.outcome.set_exception(error)


class Pipe:
    """Threads put sends in, one task of the loop takes all that are there at once, in their order.

    A thread waits while `MOST_WAITING` of them are there: then the producer has as many in flight as it may. Ctrl-C may
    come into any call here of the main thread, but not into the task: what a thread left half done is made good by
    whoever puts something in next, or waits.
    """

    def __init__(self, producer: aproducer.Producer, start: _Start) -> None:
        self._producer = producer
        self._start = start
        self._lock = threading.Lock()
        self._room: list[Outcome[None]] = []  # who waits until fewer wait
        self._waiting: deque[Put] = deque()
        self._taken: deque[Put] = deque()
        self._started = False  # a task was asked for and will look again
        self._working = False  # a task of the loop is at it

    def put(self, message: Message, queue: MessageQueue | None, selector: Selector | None) -> Outcome[SendResult]:
        """Begin a send. The outcome is known when the send does, also if the message cannot be sent at all."""
        one = Put(message, queue, selector)
        self._add(one)
        return one.outcome

    def wait(self) -> None:
        """Wait until the producer has begun all that was put in before."""
        with self._lock:
            if not self._working and not self._waiting:
                return
        mark = Put(None, None, None)
        with contextlib.suppress(ClientClosed):  # then nothing waits any more
            self._add(mark)
            mark.outcome.result()

    def _add(self, one: Put) -> None:
        try:
            while True:
                with self._lock:
                    if one.message is None or len(self._waiting) < MOST_WAITING:
                        self._waiting.append(one)
                        start, self._started = not self._started, True
                        break
                    room: Outcome[None] = Outcome()
                    self._room.append(room)
                room.result()
            if start:  # not under the lock: it waits for the loop, which may be waiting for the lock
                self._start(self._work_off)
        except RuntimeError as error:
            self._give_up()
            raise ClientClosed("it is closed") from error
        except BaseException:
            self._started = False  # perhaps one was; a second one ends at once
            raise

    async def _work_off(self) -> None:
        if self._working:
            return
        self._working = True
        try:
            while self._take():
                while self._taken:
                    await self._begin(self._taken[0])
                    self._taken.popleft()
                await anyio.lowlevel.checkpoint()  # the answers have to be read meanwhile
        except BaseException:
            self._give_up()
            raise

    def _take(self) -> bool:
        with self._lock:
            self._taken, self._waiting = self._waiting, self._taken
            self._started = self._working = bool(self._taken)
            self._tell_of_room()
            return self._working

    def _tell_of_room(self) -> None:
        """Under the lock."""
        for one in self._room:
            one.set_result(None)
        self._room.clear()

    async def _begin(self, one: Put) -> None:
        if one.message is None:
            one.outcome.set_result(None)
            return
        begin = functools.partial(self._producer.send_async, one.message, queue=one.queue, selector=one.selector)
        try:
            await begin(callback=one.ended)
        except Exception as error:
            one.outcome.set_exception(error)

    def _give_up(self) -> None:
        """The loop has ended: nothing that waits is sent any more."""
        with self._lock:
            left = [*self._taken, *self._waiting]
            self._taken.clear()
            self._waiting.clear()
            self._started = self._working = False
            self._tell_of_room()
        for one in left:
            if one.message is None:
                one.outcome.set_result(None)
            else:
                one.outcome.set_exception(ClientClosed("closed before it was sent"))
