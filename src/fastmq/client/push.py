"""PushConsumer: a listener gets the messages, many at a time or queue by queue in order.

What the listener raises (or False, which it returns) means "later": the broker brings the message again after a while
that grows, and after `max_retries` puts it aside for good (`%DLQ%group`). In order, the queue waits instead.
"""

from __future__ import annotations

import inspect
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Unpack

import anyio
import anyio.lowlevel
import anyio.to_thread

from fastmq.client import interrupts
from fastmq.client.assigned import Assigned
from fastmq.client.background import Tasks, is_stray
from fastmq.client.consuming import QueueConsumer
from fastmq.client.errors import ClientError
from fastmq.client.locks import QueueLocks
from fastmq.client.messages import ReceivedMessage
from fastmq.client.options import ConsumerOptions
from fastmq.client.otel import Telemetry
from fastmq.client.sending import Sender
from fastmq.client.session import Session, command
from fastmq.client.subscriptions import Topics
from fastmq.client.trace import Tracer, trace_group
from fastmq.errors import UsageError
from fastmq.protocol import message as m
from fastmq.protocol import names
from fastmq.protocol.bodies import CMResult, dumps
from fastmq.protocol.bodies.config import MessageQueue
from fastmq.protocol.codes import RequestCode, ResponseCode
from fastmq.protocol.command import Command

log = logging.getLogger("fastmq.client")

WORKERS: Final = 20
MAX_RETRIES: Final = 16
CONSUME_SECONDS: Final = 15 * 60.0
DRAIN_SECONDS: Final = 10.0
ORDERLY_PAUSE_SECONDS: Final = 1.0
SEND_BACK_SECONDS: Final = 5.0
TRACE_CLOSE_SECONDS: Final = 5.0
YIELD_EVERY: Final = 32  # listener calls of one worker between two turns of the event loop

Listener = Callable[[ReceivedMessage], Any] | Callable[[list[ReceivedMessage]], Any]


class RetryLater(Exception):
    """For listeners: bring the message again. `delay_level` 1 to 18 says when, 0 leaves it to the broker, -1 gives the
    message up at once (it goes to the dead letters).
    """

    def __init__(self, delay_level: int = 0) -> None:
        super().__init__(f"later, delay level {delay_level}")
        self.delay_level = delay_level


class _Call:
    """What a worker does now."""

    __slots__ = ("assigned", "messages", "scope", "since")

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.assigned: Assigned | None = None
        self.messages: list[ReceivedMessage] = []
        self.since = 0.0

    def begin(self, assigned: Assigned, messages: list[ReceivedMessage], now: float) -> None:
        """A listener is called."""
        self.assigned = assigned
        self.messages = messages
        self.since = now


class PushConsumer(QueueConsumer):
    """Calls `listener` with each message, or with lists of up to `batch` messages.

    An async listener runs in the event loop, up to `workers` at a time; a plain function in a thread, as many threads
    at a time. `orderly`: one message of a queue at a time, in order, and no other member of the group has the queue
    meanwhile. An async listener that runs longer than `consume_seconds` is cancelled, and the message comes again.

    Use it inside `async with`; on leaving, listeners that run may end for up to `drain_seconds`, and what they did is
    stored. `trace` writes message traces, to RocketMQ's topic or to the one named;
    `telemetry` makes OpenTelemetry spans.
    """

    def __init__(
        self,
        where: str | Sequence[str] | Session | None,
        group: str,
        listener: Listener,
        topics: Topics = (),
        *,
        orderly: bool = False,
        workers: int = WORKERS,
        batch: int = 1,
        max_retries: int | None = None,
        consume_seconds: float = CONSUME_SECONDS,
        drain_seconds: float = DRAIN_SECONDS,
        orderly_pause_seconds: float = ORDERLY_PAUSE_SECONDS,
        trace: bool | str = False,
        telemetry: bool = False,
        **options: Unpack[ConsumerOptions],
    ) -> None:
        super().__init__(where, group, topics, **options)
        if workers < 1 or batch < 1:
            raise UsageError("workers and batch are at least 1")
        if not callable(listener):
            raise UsageError(f"a listener is called with each message, but {listener!r} cannot be called")
        self.in_order = orderly
        self._listener = listener
        self._is_async = inspect.iscoroutinefunction(listener) or inspect.iscoroutinefunction(
            getattr(listener, "__call__", None)  # noqa: B004  (the method itself, not whether there is one)
        )
        self._workers = workers
        self._batch = batch
        self._max_retries = max_retries
        self._consume_seconds = consume_seconds
        self._drain_seconds = drain_seconds
        self._pause_seconds = orderly_pause_seconds
        self._telemetry = Telemetry(group) if telemetry else None
        self._trace_topic = names.TRACE_TOPIC if trace is True else trace or ""
        self._tracer: Tracer | None = None
        self._trace_sender: Sender | None = None
        self._trace_tasks: Tasks
        self._ready: deque[tuple[Assigned, list[ReceivedMessage]]] = deque()
        self._parked: list[anyio.Event] = []
        self._calls: set[_Call] = set()
        self._running = 0
        self._drained: anyio.Event | None = None
        self._limiter: anyio.CapacityLimiter
        self._slots: anyio.Semaphore
        self._locks: QueueLocks | None = None
        self._leaving: set[MessageQueue] = set()

    # --- life --------------------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        if self._is_async:
            self._listener = interrupts.exposed(self._listener)
        if self._trace_topic:
            self._trace_sender = Sender(self.session, trace_group(self.group, "CONSUME"))
            await self._trace_sender.__aenter__()
            self._tracer = Tracer(self._trace_topic, self._trace_sender.send)
            self._trace_tasks = Tasks(self.session.background)
            self._trace_tasks.spawn(self._tracer.run)
        await super()._open()

    async def _close(self) -> None:
        await super()._close()
        if self._tracer is not None and self._trace_sender is not None:
            with anyio.move_on_after(TRACE_CLOSE_SECONDS):
                await self._tracer.flush()
            await self._trace_tasks.stop()
            await self._trace_sender.__aexit__(None, None, None)

    def _start_tasks(self) -> None:
        self._limiter = anyio.CapacityLimiter(self._workers)
        self._slots = anyio.Semaphore(self._workers)
        if self.in_order:
            if not self.broadcasting:
                self._locks = QueueLocks(self.session, self._wire_group, self._assigned)
                self._tasks.spawn(self._locks.renew_forever)
        else:
            for _ in range(self._workers):
                self._tasks.spawn(self._work)
            if self._is_async:
                self._tasks.spawn(self._watch)

    async def _drain(self) -> None:
        for assigned in self._assigned.values():
            if assigned.scope is not None:
                assigned.scope.cancel()
        self._ready.clear()
        with anyio.move_on_after(self._drain_seconds) as scope:
            while self._running:
                self._drained = anyio.Event()
                await self._drained.wait()
        if scope.cancelled_caught:
            log.warning("%d listeners of %s did not end in time and are cancelled", self._running, self.group)

    async def _leave(self) -> None:
        if self._locks is not None:
            await self._locks.release_all()

    @property
    def _worker_count(self) -> int:
        return self._workers

    # --- concurrently ------------------------------------------------------------------------------------------------

    def _deliver(self, assigned: Assigned, messages: list[ReceivedMessage]) -> None:
        if self.in_order:
            assigned.waiting.extend(messages)
            assigned.wake_runner()
            return
        size = self._batch
        for start in range(0, len(messages), size):
            self._ready.append((assigned, messages[start : start + size]))
        for _ in range(min(len(self._parked), len(self._ready))):
            self._parked.pop().set()

    async def _work(self) -> None:
        """One worker. A time limit around each call would cost more than the call: a watchdog has an eye on them."""
        while True:
            call = _Call()
            self._calls.add(call)
            try:
                with call.scope:
                    await self._work_on(call)
            finally:
                self._calls.discard(call)
            if call.assigned is not None:  # ended by the watchdog, in the middle of a listener
                seconds = self._consume_seconds
                log.warning("the listener of %s took longer than %s s with %r", self.group, seconds, call.messages[0])
                self.statistics.consumed(call.assigned.queue.topic, False, seconds, self.session.clock.monotonic())
                await self._settle(call.assigned, call.messages, TimeoutError(f"longer than {seconds} s"))

    async def _work_on(self, call: _Call) -> None:
        ready = self._ready
        clock = self.session.clock
        calls = 0
        while True:
            while ready and not self._draining:
                assigned, messages = ready.popleft()
                if assigned.dropped:
                    continue
                call.begin(assigned, messages, clock.monotonic())
                failure = await self._call(assigned, messages)
                if failure is not None and call.scope.cancel_called:
                    return  # what the listener made of being ended by the watchdog; here nothing can be awaited
                call.assigned = None
                await self._settle(assigned, messages, failure)
                calls += 1
                if calls % YIELD_EVERY == 0:
                    await anyio.lowlevel.checkpoint()
            event = anyio.Event()
            self._parked.append(event)
            await event.wait()

    async def _watch(self) -> None:
        """End calls that take too long."""
        while True:
            await anyio.sleep(min(1.0, self._consume_seconds / 4))
            late = self.session.clock.monotonic() - self._consume_seconds
            for call in self._calls:
                if call.assigned is not None and call.since < late:
                    call.scope.cancel()

    async def _settle(self, assigned: Assigned, messages: list[ReceivedMessage], failure: BaseException | None) -> None:
        """A listener ended, well or not."""
        if assigned.dropped:
            return
        if failure is not None and not self.broadcasting:
            self._running += 1
            try:
                kept = await self._send_back_all(assigned, messages, failure)
            finally:
                self._ended_one()
            if kept:
                self._tasks.spawn(self._again, assigned, kept)
                messages = [one for one in messages if one not in kept]
        window = assigned.window
        for message in messages:
            window.done(message.queue_offset)
        assigned.wake()

    async def _call(self, assigned: Assigned, messages: list[ReceivedMessage]) -> BaseException | None:
        """Call the listener; what went wrong, or None."""
        if self._telemetry is None:
            return await self._listen(assigned, messages)
        with self._telemetry.processing(messages) as span:
            failure = await self._listen(assigned, messages)
            if failure is not None:
                self._telemetry.failed(span, failure)
            return failure

    async def _listen(self, assigned: Assigned, messages: list[ReceivedMessage]) -> BaseException | None:
        clock = self.session.clock
        begin = clock.monotonic()
        assigned.last_consume_ms = clock.wall_ms()
        argument: Any = messages if self._batch > 1 else messages[0]
        listener: Callable[[Any], Any] = self._listener
        failure: BaseException | None = None
        traced: str | None = None
        if self._tracer is not None:
            traced = self._tracer.consumption(messages, self.group, clock.wall_ms())
        self._running += 1
        try:
            if self._is_async and not self.in_order:
                outcome = await listener(argument)
            elif self._is_async:
                with anyio.fail_after(self._consume_seconds):
                    outcome = await listener(argument)
            else:
                # a thread cannot be ended: who closes the consumer waits for it no longer than `drain_seconds`
                outcome = await anyio.to_thread.run_sync(
                    listener, argument, abandon_on_cancel=True, limiter=self._limiter
                )
                if isinstance(outcome, Awaitable):
                    outcome = await outcome
            if outcome is False:
                failure = RetryLater()
        except Exception as error:
            failure = error
            if not isinstance(error, RetryLater):
                log.warning("the listener of %s failed with %r", self.group, messages[0], exc_info=error)
        except anyio.get_cancelled_exc_class() as error:
            if not is_stray(error):
                raise
            failure = error
            log.warning("the listener of %s was cancelled with %r", self.group, messages[0], exc_info=error)
        except (KeyboardInterrupt, SystemExit):
            self._draining = True  # the program ends: no other listener is begun
            raise
        finally:
            self._ended_one()
        now = clock.monotonic()
        if self._tracer is not None and traced is not None:
            code = 0 if failure is None else 1 if isinstance(failure, TimeoutError) else 2
            code = 4 if isinstance(failure, RetryLater) else code
            cost_ms = round((now - begin) * 1000)
            self._tracer.consumed(traced, messages, self.group, clock.wall_ms(), cost_ms, code)
        self.statistics.consumed(assigned.queue.topic, failure is None, now - begin, now, len(messages))
        return failure

    def _ended_one(self) -> None:
        """A listener, or what followed from it, is over; `_drain` waits for the last."""
        self._running -= 1
        if not self._running and self._drained is not None:
            self._drained.set()

    # --- again -------------------------------------------------------------------------------------------------------

    async def _send_back_all(
        self, assigned: Assigned, messages: Sequence[ReceivedMessage], failure: BaseException
    ) -> list[ReceivedMessage]:
        """Give messages back to the broker; those it did not take."""
        level = failure.delay_level if isinstance(failure, RetryLater) else 0
        kept: list[ReceivedMessage] = []
        for message in messages:
            try:
                await self._send_back(message, level)
            except ClientError as error:
                log.warning("%r cannot be sent back, it is tried again here: %s", message, error)
                kept.append(message)
        return kept

    async def _send_back(self, message: ReceivedMessage, level: int) -> None:
        session = self.session
        await session.call_broker(
            message.queue.broker_name,
            command(
                RequestCode.CONSUMER_SEND_MSG_BACK,
                {
                    "offset": str(message.log_offset),
                    "group": self._wire_group,
                    "delayLevel": str(level),
                    "originMsgId": message.message_id,
                    "originTopic": session.wrap(message.topic),
                    "unitMode": "false",
                    "maxReconsumeTimes": str(MAX_RETRIES if self._max_retries is None else self._max_retries),
                    "bname": message.queue.broker_name,
                },
            ),
            timeout=SEND_BACK_SECONDS,
        )

    async def _again(self, assigned: Assigned, messages: list[ReceivedMessage]) -> None:
        await anyio.sleep(SEND_BACK_SECONDS)
        if not assigned.dropped:
            self._deliver(assigned, messages)

    # --- in order ----------------------------------------------------------------------------------------------------

    async def _acquire(self, queue: MessageQueue) -> float:
        if queue in self._leaving:
            return 0.0  # a listener still has a message of it, and the lock is given back after that
        if self._locks is None:
            return float("inf")
        return await self._locks.acquire(queue)

    def _on_taken(self, assigned: Assigned) -> None:
        if self.in_order:
            self._tasks.spawn(self._run_in_order, assigned)

    def _on_dropped(self, assigned: Assigned) -> None:
        if self.in_order:
            self._leaving.add(assigned.queue)
            assigned.wake_runner()

    def _after_drop(self, assigned: Assigned) -> None:
        if self.in_order:
            # not here: the other queues must not wait for a slow listener
            self._tasks.spawn(self._leave_when_idle, assigned)

    async def _leave_when_idle(self, assigned: Assigned) -> None:
        """The next owner, which may be we, must not begin before our listener has ended."""
        await assigned.wait_idle()
        if self._locks is not None:
            await self._locks.release([assigned.queue])
        self._leaving.discard(assigned.queue)
        self._rebalance_soon()

    async def _run_in_order(self, assigned: Assigned) -> None:
        """Consume one queue, one call at a time, while we hold its lock."""
        waiting = assigned.waiting
        await assigned.wait_idle()
        while not assigned.dropped:
            if not waiting:
                await assigned.wait_for_messages()
                continue
            if self._locks is not None and not self._locks.holds(assigned):
                await self._locks.wait_for_lock(assigned)
                continue
            messages = [waiting.popleft() for _ in range(min(self._batch, len(waiting)))]
            await self._consume_in_order(assigned, messages)

    async def _consume_in_order(self, assigned: Assigned, messages: list[ReceivedMessage]) -> None:
        tries = 0
        while not assigned.dropped and not self._draining:
            if self._locks is not None and not self._locks.holds(assigned):
                await self._locks.wait_for_lock(assigned)
                continue
            async with self._slots:
                lost = self._locks is not None and not self._locks.holds(assigned)
                if lost or assigned.dropped or self._draining:
                    continue  # while it waited for a slot
                assigned.begin_one()
                try:
                    failure = await self._call(assigned, messages)
                finally:
                    assigned.end_one()
            if assigned.dropped:
                # nobody else can have it before we unlock, but where it goes on is stored already
                return
            if failure is None or self.broadcasting:
                break
            tries += 1
            for message in messages:
                message.reconsume_times += 1
            limit = self._max_retries
            gives_up = isinstance(failure, RetryLater) and failure.delay_level < 0
            if (gives_up or (limit is not None and tries > limit)) and not await self._bury(messages):
                break
            await anyio.sleep(self._pause_seconds)
        else:
            return
        for message in messages:
            assigned.window.done(message.queue_offset)
        assigned.wake()

    async def _bury(self, messages: list[ReceivedMessage]) -> list[ReceivedMessage]:
        """Put messages aside for good; those the broker did not take."""
        kept: list[ReceivedMessage] = []
        for message in messages:
            try:
                await self._send_back(message, -1)
            except ClientError as error:
                log.warning("%r cannot be given up, it is tried again: %s", message, error)
                kept.append(message)
        return kept

    # --- on request --------------------------------------------------------------------------------------------------

    async def _consume_directly(self, request: Command) -> Command:
        """Consume one message because an administrator asks (309)."""
        message = ReceivedMessage.from_stored(
            m.decode_message(request.body)[0], request.ext.get("brokerName", ""), self.session.namespace
        )
        if names.is_retry_topic(message.stored_topic):
            message.topic = self.session.unwrap(message.properties.get(m.PROPERTY_RETRY_TOPIC) or message.topic)
        begin = self.session.clock.monotonic()
        assigned = Assigned(message.queue, next(iter(self._subscriptions.values())), message.queue_offset)
        failure = await self._call(assigned, [message])
        result = CMResult.CR_SUCCESS
        if isinstance(failure, RetryLater):
            result = CMResult.CR_LATER
        elif failure is not None:
            result = CMResult.CR_THROW_EXCEPTION
        body = {
            "autoCommit": True,
            "consumeResult": result,
            "order": self.in_order,
            "remark": None if failure is None else repr(failure),
            "spentTimeMills": round((self.session.clock.monotonic() - begin) * 1000),
        }
        return request.reply(ResponseCode.SUCCESS, body=dumps(body))
