"""The client without `await`: the same names, blocking, safe for any number of threads.

    from fastmq.sync import Producer

    with Producer("127.0.0.1:9876") as producer:
        producer.send("topic", b"hello")

Behind it one thread runs an event loop for the whole process, from the first object that is opened to the last that is
closed. What is still open when the interpreter exits is closed in order: offsets are stored, groups are left. A client
does not survive a fork: in the child every call raises ClientClosed; make a new one there.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar, Unpack, overload

import anyio
from anyio.from_thread import BlockingPortal

from fastmq.client import admin as aadmin
from fastmq.client import pop as apop
from fastmq.client import producer as aproducer
from fastmq.client import pull as apull
from fastmq.client import push as apush
from fastmq.client import session as asession
from fastmq.client.errors import ClientClosed
from fastmq.client.messages import Message, ReceivedMessage, SendResult
from fastmq.client.options import ConsumerOptions
from fastmq.client.producer import DEFAULT_GROUP, Selector, TransactionState
from fastmq.client.push import Listener
from fastmq.client.routes import Route
from fastmq.client.session import SessionOptions
from fastmq.client.subscriptions import Filter, Topics
from fastmq.client.views import (
    BrokerView,
    ConsumedDirectly,
    GroupView,
    Member,
    QueueProgress,
    QueueRange,
)
from fastmq.protocol.bodies.config import (
    PERM_READ,
    PERM_WRITE,
    MessageQueue,
    SubscriptionGroupConfig,
    TopicConfig,
)

__all__ = ["Admin", "Consumer", "PopConsumer", "Producer", "PushConsumer", "Receipt", "Session", "Transaction"]

T = TypeVar("T")
A = TypeVar("A", bound=Any)


class _Loop:
    """The event loop of this process and its thread, while somebody uses it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._portal: BlockingPortal | None = None
        self._thread: threading.Thread | None = None
        self._stop: Callable[[], None] | None = None
        self._pid = os.getpid()
        self._open: weakref.WeakSet[_Blocking[Any]] = weakref.WeakSet()

    def after_fork(self) -> None:
        """In the child there is no such thread; its locks may be held by nobody."""
        self.__init__()  # type: ignore[misc]

    def enter(self, user: _Blocking[Any]) -> BlockingPortal:
        """The portal, started for the first user."""
        with self._lock:
            if self._portal is None:
                self._start()
            self._users += 1
            self._open.add(user)
            assert self._portal is not None
            return self._portal

    def _start(self) -> None:
        started: Future[tuple[BlockingPortal, anyio.Event]] = Future()

        async def serve() -> None:
            async with BlockingPortal() as portal:
                stop = anyio.Event()
                started.set_result((portal, stop))
                await stop.wait()

        def run() -> None:
            try:
                # trio's worker threads end with the interpreter; those of asyncio would keep it from exiting
                anyio.run(serve, backend="trio")
            except BaseException as error:
                if not started.done():
                    started.set_exception(error)
                raise

        self._thread = threading.Thread(target=run, name="fastmq.sync", daemon=True)
        self._thread.start()
        portal, stop = started.result()
        self._portal = portal
        self._stop = lambda: portal.call(stop.set)

    def leave(self, user: _Blocking[Any]) -> None:
        """One user less; the thread ends with the last."""
        with self._lock:
            self._open.discard(user)
            self._users -= 1
            if self._users or self._stop is None or self._thread is None:
                return
            self._stop()
            self._thread.join()
            self._portal = self._thread = self._stop = None

    def close_all(self) -> None:
        """The interpreter exits."""
        for user in list(self._open):
            with contextlib.suppress(Exception):  # there is nobody left who could be told
                user.close()


_LOOP: Final = _Loop()
os.register_at_fork(after_in_child=_LOOP.after_fork)
atexit.register(_LOOP.close_all)


class _Blocking(Generic[A]):
    """An async object behind the loop. Subclasses make it in `_make`, which runs in the loop."""

    def __init__(self, make: Callable[[], A]) -> None:
        self._pid = os.getpid()
        self._make = make
        self._async: A | None = None
        self._portal: BlockingPortal | None = None
        self._context: AbstractContextManager[Any] | None = None
        self._state = threading.Lock()

    def _plain(self, call: Callable[..., T], *args: Any) -> T:
        """Call something in the loop that does not wait."""
        self._check()
        assert self._portal is not None
        return self._portal.call(functools.partial(call, *args))

    def _run(self, call: Callable[..., Coroutine[Any, Any, T]], *args: Any, **kwargs: Any) -> T:
        """Do something in the loop and wait for it. Interrupting the wait (Ctrl-C) cancels it."""
        self._check()
        assert self._portal is not None
        future: Future[Any] = self._portal.start_task_soon(functools.partial(call, *args, **kwargs))
        try:
            result: T = future.result()
        except BaseException:
            future.cancel()
            raise
        return result

    def _check(self) -> None:
        if self._pid != os.getpid():
            raise ClientClosed("made in another process; a client does not survive a fork, make a new one")
        if self._portal is None:
            raise ClientClosed("not open: use it inside `with`, or call open()")

    @property
    def _it(self) -> A:
        self._check()
        assert self._async is not None
        return self._async

    def open(self) -> Self:
        """What `with` does at its begin."""
        if self._pid != os.getpid():
            raise ClientClosed("made in another process; a client does not survive a fork, make a new one")
        with self._state:
            if self._portal is not None:
                raise ClientClosed("it is open already")
            portal = _LOOP.enter(self)
            try:
                self._async = portal.call(self._make)
                self._context = portal.wrap_async_context_manager(self._async)
                self._context.__enter__()
            except BaseException:
                _LOOP.leave(self)
                raise
            self._portal = portal
        return self

    def close(self) -> None:
        """What `with` does at its end. Does nothing if it is not open."""
        if self._pid != os.getpid():
            return
        with self._state:
            if self._portal is None:
                return
            self._before_close()
            self._portal = None
            assert self._context is not None
            try:
                self._context.__exit__(None, None, None)
            finally:
                self._context = None
                _LOOP.leave(self)

    def _before_close(self) -> None:
        """The last moment in which calls are possible."""

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Session(_Blocking[asession.Session]):
    """Blocking face of `fastmq.Session`: what several producers and consumers share."""

    def __init__(self, namesrv: str | Sequence[str] | None = None, **options: Unpack[SessionOptions]) -> None:
        super().__init__(lambda: asession.Session(namesrv, **options))

    @property
    def client_id(self) -> str:
        """`ip@instance`."""
        return self._it.client_id


Where = str | Sequence[str] | Session | None


def _where(where: Where) -> str | Sequence[str] | asession.Session | None:
    return where._it if isinstance(where, Session) else where


class Receipt:
    """A send in flight, see `fastmq.Receipt`."""

    def __init__(self, future: Future[SendResult]) -> None:
        self._future = future

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self._future.done()

    def result(self, timeout: float | None = None) -> SendResult:
        """Wait for the result. Raises what the send failed with, TimeoutError after `timeout` seconds."""
        return self._future.result(timeout)


class Producer(_Blocking[aproducer.Producer]):
    """Blocking face of `fastmq.Producer`."""

    def __init__(self, where: Where = None, group: str = DEFAULT_GROUP, **options: Any) -> None:
        super().__init__(lambda: aproducer.Producer(_where(where), group, **options))

    @overload
    def send(
        self, message: Message, /, *, queue: MessageQueue | None = None, selector: Selector | None = None,
        timeout: float | None = None,
    ) -> SendResult: ...  # fmt: skip

    @overload
    def send(
        self, topic: str, body: bytes | str, /, *, tag: str | None = None, keys: str | Sequence[str] = (),
        sharding_key: str | None = None, timeout: float | None = None,
    ) -> SendResult: ...  # fmt: skip

    def send(self, message: Any, body: Any = b"", /, **options: Any) -> SendResult:
        """Send a message and wait until the broker has it."""
        arguments = (message, body) if isinstance(message, str) else (message,)
        return self._run(self._it.send, *arguments, **options)

    def send_async(
        self, message: Message, *, queue: MessageQueue | None = None, selector: Selector | None = None
    ) -> Receipt:
        """Begin a send; waits only while too many are in flight."""
        future: Future[SendResult] = Future()
        future.set_running_or_notify_cancel()

        def ended(receipt: aproducer.Receipt) -> None:
            try:
                future.set_result(receipt.result())
            except Exception as error:
                future.set_exception(error)

        self._run(self._it.send_async, message, queue=queue, selector=selector, callback=ended)
        return Receipt(future)

    def send_batch(
        self, messages: Sequence[Message], *, queue: MessageQueue | None = None, timeout: float | None = None
    ) -> SendResult:
        """Send messages of one topic as one request."""
        return self._run(self._it.send_batch, messages, queue=queue, timeout=timeout)

    def send_oneway(
        self, message: Message, *, queue: MessageQueue | None = None, selector: Selector | None = None
    ) -> None:
        """Send without an answer."""
        self._run(self._it.send_oneway, message, queue=queue, selector=selector)

    def flush(self) -> None:
        """Wait until no send is in flight."""
        self._run(self._it.flush)

    def queues(self, topic: str) -> list[MessageQueue]:
        """The queues of a topic that can be sent to."""
        return self._run(self._it.queues, topic)

    def request(self, message: Message, timeout: float = 3.0) -> ReceivedMessage:
        """Send a message and wait for the message that answers it."""
        return self._run(self._it.request, message, timeout)

    def reply(
        self, request: ReceivedMessage, body: bytes | str, *, timeout: float | None = None, tag: str | None = None
    ) -> SendResult:
        """Answer a message that was sent with `request`."""
        return self._run(self._it.reply, request, body, timeout=timeout, tag=tag)

    def transaction(self, message: Message, *, timeout: float | None = None) -> Transaction:
        """A message that consumers see only if the block ends well."""
        return Transaction(self, message, timeout)

    def send_half(self, message: Message, timeout: float | None = None) -> SendResult:
        """The first half of a transaction."""
        return self._run(self._it.send_half, message, timeout)

    def end_transaction(self, half: SendResult, state: TransactionState, *, remark: str | None = None) -> None:
        """The second half."""
        self._run(self._it.end_transaction, half, state, remark=remark)


class Transaction:
    """A transaction in progress; see `fastmq.Transaction`."""

    def __init__(self, producer: Producer, message: Message, timeout: float | None) -> None:
        self.state = TransactionState.COMMIT
        self.message = message
        self._producer = producer
        self._timeout = timeout
        self._half: SendResult | None = None

    @property
    def half(self) -> SendResult:
        """Where the half message is."""
        if self._half is None:
            raise ClientClosed("the transaction has not begun")
        return self._half

    @property
    def message_id(self) -> str:
        """The id that consumers will see."""
        return self.half.message_id

    def __enter__(self) -> Self:
        self._half = self._producer.send_half(self.message, self._timeout)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        state = self.state if error is None else TransactionState.ROLLBACK
        self._producer.end_transaction(self.half, state, remark=None if error is None else repr(error))


class _Steered(_Blocking[A]):
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

    def __init__(self, where: Where, group: str, listener: Listener, topics: Topics = (), **options: Any) -> None:
        super().__init__(lambda: apush.PushConsumer(_where(where), group, listener, topics, **options))


class PopConsumer(_Blocking[apop.PopConsumer]):
    """Blocking face of `fastmq.PopConsumer`."""

    def __init__(self, where: Where, group: str, topics: Topics, **options: Any) -> None:
        super().__init__(lambda: apop.PopConsumer(_where(where), group, topics, **options))

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
        super().__init__(lambda: apull.Consumer(_where(where), group, topics, auto_commit=False, **options))
        self.auto_commit = auto_commit
        self._batch: deque[ReceivedMessage] = deque()
        self._taken: list[ReceivedMessage] = []

    def __iter__(self) -> Iterator[ReceivedMessage]:
        return self

    def __next__(self) -> ReceivedMessage:
        if not self._batch:
            self._batch.extend(self._poll(32, None))
        message = self._batch.popleft()
        self._taken.append(message)
        return message

    def poll(self, max_messages: int = 32, timeout: float | None = None) -> list[ReceivedMessage]:
        """Up to `max_messages` messages; empty after `timeout` seconds."""
        messages = [self._batch.popleft() for _ in range(min(max_messages, len(self._batch)))]
        if not messages:
            messages = self._poll(max_messages, timeout)
        self._taken.extend(messages)
        return messages

    def _poll(self, max_messages: int, timeout: float | None) -> list[ReceivedMessage]:
        self._settle()
        return self._run(self._it.poll, max_messages, timeout)

    def _settle(self) -> None:
        if self.auto_commit and self._taken:
            self._plain(self._it.done, self._taken)
            self._taken = []

    def _before_close(self) -> None:
        # the last message taken may not have been worked on
        if self._taken:
            self._taken.pop()
        self._settle()

    def commit(self, message: ReceivedMessage | None = None) -> None:
        """Everything taken so far is done, or everything up to `message` in its queue. Stores it at once."""
        if message is None:
            self._plain(self._it.done, self._taken)
            self._taken = []
            self._run(self._it.store)
        else:
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


class Admin(_Blocking[aadmin.Admin]):
    """Blocking face of `fastmq.Admin`."""

    def __init__(self, where: Where = None, **options: Unpack[SessionOptions]) -> None:
        super().__init__(lambda: aadmin.Admin(_where(where), **options))

    def brokers(self) -> list[BrokerView]:
        """All brokers that the name server knows."""
        return self._run(self._it.brokers)

    def clusters(self) -> dict[str, list[str]]:
        """The clusters and the names of their brokers."""
        return self._run(self._it.clusters)

    def topics(self, *, system: bool = False) -> list[str]:
        """All topics; with `system` also those of the system and of groups (retry, dead letters)."""
        return self._run(self._it.topics, system=system)

    def route(self, topic: str) -> Route:
        """Where a topic is."""
        return self._run(self._it.route, topic)

    def create_topic(
        self,
        topic: str,
        *,
        queues: int = 8,
        read_queues: int | None = None,
        write_queues: int | None = None,
        perm: int = PERM_READ | PERM_WRITE,
        ordered: bool = False,
        attributes: Mapping[str, str] | None = None,
        broker: str | None = None,
        cluster: str | None = None,
    ) -> None:
        """Make a topic, or change it, on all brokers, those of a cluster, or one."""
        self._run(
            self._it.create_topic,
            topic,
            queues=queues,
            read_queues=read_queues,
            write_queues=write_queues,
            perm=perm,
            ordered=ordered,
            attributes=attributes,
            broker=broker,
            cluster=cluster,
        )

    def topic_config(self, topic: str) -> dict[str, TopicConfig]:
        """Broker name → the topic's settings there."""
        return self._run(self._it.topic_config, topic)

    def delete_topic(self, topic: str) -> None:
        """Delete a topic with its messages, on all brokers and name servers."""
        self._run(self._it.delete_topic, topic)

    def topic_stats(self, topic: str) -> dict[MessageQueue, QueueRange]:
        """The offsets of each queue."""
        return self._run(self._it.topic_stats, topic)

    def topic_groups(self, topic: str) -> list[str]:
        """The groups that consume a topic, or did."""
        return self._run(self._it.topic_groups, topic)

    def groups(self, *, system: bool = False) -> list[str]:
        """All consumer groups; with `system` also those of the system."""
        return self._run(self._it.groups, system=system)

    def group_config(self, group: str) -> dict[str, SubscriptionGroupConfig]:
        """Broker name → the group's settings there."""
        return self._run(self._it.group_config, group)

    def create_group(
        self,
        group: str,
        *,
        max_retries: int = 16,
        ordered: bool = False,
        enabled: bool = True,
        broadcasting: bool = True,
        broker: str | None = None,
        cluster: str | None = None,
    ) -> None:
        """Make a consumer group, or change it, on all brokers, those of a cluster, or one."""
        self._run(
            self._it.create_group,
            group,
            max_retries=max_retries,
            ordered=ordered,
            enabled=enabled,
            broadcasting=broadcasting,
            broker=broker,
            cluster=cluster,
        )

    def delete_group(self, group: str, *, offsets: bool = True) -> None:
        """Delete a consumer group on all brokers, with its offsets unless they are to stay."""
        self._run(self._it.delete_group, group, offsets=offsets)

    def group_members(self, group: str) -> GroupView:
        """Who is in a consumer group now."""
        return self._run(self._it.group_members, group)

    def producer_members(self, group: str) -> list[Member]:
        """Who is in a producer group now."""
        return self._run(self._it.producer_members, group)

    def progress(self, group: str, topic: str | None = None) -> dict[MessageQueue, QueueProgress]:
        """How far a group is in each queue of a topic, or of all it has offsets for."""
        return self._run(self._it.progress, group, topic)

    def reset_offsets(self, group: str, topic: str, to: datetime | float | None) -> dict[MessageQueue, int]:
        """Let a group go on with messages stored at a time, or with None at the end."""
        return self._run(self._it.reset_offsets, group, topic, to)

    def set_offset(self, group: str, queue: MessageQueue, offset: int) -> None:
        """Store an offset of a group that has no running members."""
        self._run(self._it.set_offset, group, queue, offset)

    def message(self, message_id: str, topic: str | None = None) -> ReceivedMessage | None:
        """A message by either of its ids: that of the stored record, or, with its topic, the one of its producer."""
        return self._run(self._it.message, message_id, topic)

    def messages_by_key(
        self,
        topic: str,
        key: str,
        *,
        limit: int = 64,
        begin: datetime | float | None = None,
        end: datetime | float | None = None,
        unique: bool = False,
    ) -> list[ReceivedMessage]:
        """The messages of a topic with a key, oldest first; with `unique` the one with that id of its producer."""
        return self._run(self._it.messages_by_key, topic, key, limit=limit, begin=begin, end=end, unique=unique)

    def running_info(self, group: str, client_id: str, *, stacks: bool = False) -> dict[str, Any]:
        """What a consumer tells of itself, as RocketMQ's ConsumerRunningInfo."""
        return self._run(self._it.running_info, group, client_id, stacks=stacks)

    def consume_directly(self, group: str, client_id: str, message: ReceivedMessage) -> ConsumedDirectly:
        """Let a consumer consume a message now, whatever its offsets."""
        return self._run(self._it.consume_directly, group, client_id, message)

    def broker_runtime(self, broker: str) -> dict[str, str]:
        """Numbers about a broker, by the names of GET_BROKER_RUNTIME_INFO."""
        return self._run(self._it.broker_runtime, broker)

    def broker_config(self, broker: str) -> dict[str, str]:
        """The settings of a broker."""
        return self._run(self._it.broker_config, broker)

    def update_broker_config(self, broker: str, settings: Mapping[str, str]) -> None:
        """Change settings of a broker that runs."""
        self._run(self._it.update_broker_config, broker, settings)
