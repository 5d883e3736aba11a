"""Sends of a producer, one at a time or pipelined.

A pipelined send makes its first try at once, without a task; only when that fails a task takes over (`trying`).
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Final, Unpack, overload

import anyio
import anyio.lowlevel

from fastmq.client.background import Tasks
from fastmq.client.compress import Compression
from fastmq.client.errors import (
    BrokerError,
    ClientError,
    ConnectionLost,
    PipelineFull,
    RequestTimeout,
    RouteError,
    broker_error,
)
from fastmq.client.latency import LATE_SECONDS
from fastmq.client.member import choice
from fastmq.client.messages import Message, SendResult
from fastmq.client.otel import Telemetry
from fastmq.client.prepared import Prepared, Preparer, Selector
from fastmq.client.receipt import Flight, Receipt
from fastmq.client.session import Session, SessionOptions
from fastmq.client.trace import Tracer, trace_group
from fastmq.client.transport import Connection
from fastmq.client.trying import FIRST_WITH_TIMERS, STORED, Trier
from fastmq.errors import UsageError
from fastmq.limits import MAX_MESSAGE_BYTES, MIB
from fastmq.protocol import names
from fastmq.protocol.bodies.client import ProducerData
from fastmq.protocol.bodies.config import MessageQueue
from fastmq.protocol.codes import ResponseCode
from fastmq.protocol.command import Command, encode_frame

log = logging.getLogger("fastmq.client")

__all__ = ["DEFAULT_GROUP", "FIRST_WITH_TIMERS", "STORED", "YIELD_EVERY", "Sender", "SenderOptions"]

DEFAULT_GROUP: Final = "fastmq-producer"
YIELD_EVERY: Final = 64  # pipelined sends between two turns of the event loop


class SenderOptions(SessionOptions, total=False):
    """What a producer takes by name, beside SessionOptions; Producer says what they do."""

    timeout: float
    try_timeout: float
    retries: int
    retry_not_stored_ok: bool
    compression: Compression | str
    compress_over: int
    max_message_size: int
    max_in_flight: int
    max_in_flight_bytes: int
    avoid_slow_brokers: bool
    trace: bool | str
    telemetry: bool


class Sender(Trier):
    """What a producer needs to send; see Producer for the settings."""

    def __init__(
        self,
        where: str | Sequence[str] | Session | None = None,
        group: str = DEFAULT_GROUP,
        *,
        timeout: float = 5.0,
        try_timeout: float = 3.0,
        retries: int = 2,
        retry_not_stored_ok: bool = False,
        compression: Compression | str = Compression.ZLIB,
        compress_over: int = 4096,
        max_message_size: int = MAX_MESSAGE_BYTES,
        max_in_flight: int = 10_000,
        max_in_flight_bytes: int = 64 * MIB,
        avoid_slow_brokers: bool = True,
        trace: bool | str = False,
        telemetry: bool = False,
        **options: Unpack[SessionOptions],
    ) -> None:
        super().__init__(
            where,
            options,
            group,
            timeout=timeout,
            try_timeout=try_timeout,
            retries=retries,
            retry_not_stored_ok=retry_not_stored_ok,
            avoid_slow_brokers=avoid_slow_brokers,
        )
        self._telemetry = Telemetry(group) if telemetry else None
        kind = choice(Compression, compression, "compression")
        self._preparer = Preparer(
            self._session, self._wire_group, kind, compress_over, max_message_size, self._telemetry
        )
        self._first_timeout = min(timeout, try_timeout)
        self._max_in_flight = max_in_flight
        self._max_in_flight_bytes = max_in_flight_bytes
        self._trace_topic = names.TRACE_TOPIC if trace is True else trace or ""
        self._trace_sender: Sender | None = None
        self._in_flight = 0
        self._in_flight_bytes = 0
        self._room: anyio.Event | None = None
        self._backlogs: dict[str, deque[Flight]] = {}
        self._posted = 0

    # --- life --------------------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        session = self.session
        self._tasks = Tasks(session.background)
        session.add_producer(self._wire_group, self)
        if self._trace_topic:
            self._trace_sender = Sender(
                session, trace_group(self.group, "PRODUCE"), timeout=self._timeout, try_timeout=self._try_timeout
            )
            await self._trace_sender.__aenter__()
            self._tracer = Tracer(self._trace_topic, self._trace_sender.send)
            self._tasks.spawn(self._tracer.run)
        await session.heartbeat_now()

    async def _close(self) -> None:
        with anyio.move_on_after(self._timeout):
            await self.flush()
        if self._tracer is not None:
            with anyio.move_on_after(self._timeout):
                await self._tracer.flush()
        if hasattr(self, "_tasks"):
            await self._tasks.stop()
        if self._trace_sender is not None:
            await self._trace_sender.__aexit__(None, None, None)
        await self.session.remove_producer(self._wire_group, self)

    async def flush(self) -> None:
        """Wait until no pipelined send is in flight."""
        while self._in_flight:
            await self._wait_for_room()

    def heartbeat_part(self) -> ProducerData:
        """What heartbeats say of it."""
        return ProducerData(self._wire_group)

    def routes_changed(self, topics: Collection[str]) -> None:
        """Nothing to do: each send looks at the route."""

    async def on_server_request(self, connection: Connection, request: Command) -> Command | None:
        """A request of a broker."""
        return request.reply(ResponseCode.REQUEST_CODE_NOT_SUPPORTED, f"code {request.code} is not served here")

    # --- sending -----------------------------------------------------------------------------------------------------

    @overload
    async def send(
        self, message: Message, /, *, queue: MessageQueue | None = None, selector: Selector | None = None,
        timeout: float | None = None,
    ) -> SendResult: ...  # fmt: skip

    @overload
    async def send(
        self, topic: str, body: bytes | str, /, *, tag: str | None = None, keys: str | Sequence[str] = (),
        sharding_key: str | None = None, timeout: float | None = None,
    ) -> SendResult: ...  # fmt: skip

    async def send(
        self,
        message: Message | str,
        body: bytes | str = b"",
        /,
        *,
        queue: MessageQueue | None = None,
        selector: Selector | None = None,
        timeout: float | None = None,
        tag: str | None = None,
        keys: str | Sequence[str] = (),
        sharding_key: str | None = None,
    ) -> SendResult:
        """Send a message and wait until the broker has it. `send(Message(...))` or `send(topic, body)`.

        `queue` names the queue; `selector` chooses one of the topic's; otherwise the sharding key does, or it is the
        next one's turn. Raises SendFailed when several tries failed, else the error itself: TopicNotFound,
        MessageTooLarge, MessageRejected, PermissionDenied, RouteError, ConnectError, RequestTimeout ...
        """
        self.session.check_open()
        if isinstance(message, str):
            message = Message(message, body, tag, keys, sharding_key=sharding_key)
        elif not isinstance(message, Message):
            raise UsageError(f"send takes a Message, or a topic and a body, not {type(message).__name__}")
        return await self._deliver(self._preparer.single(message, queue, selector), timeout)

    async def send_batch(
        self, messages: Sequence[Message], *, queue: MessageQueue | None = None, timeout: float | None = None
    ) -> SendResult:
        """Send messages of one topic as one request; they are stored together or not at all, in one queue, in order.

        The result has the ids joined by commas. Raises UsageError for an empty batch, different topics or delays.
        """
        self.session.check_open()
        return await self._deliver(self._preparer.batch(messages, queue), timeout)

    async def send_oneway(
        self, message: Message, *, queue: MessageQueue | None = None, selector: Selector | None = None
    ) -> None:
        """Send without an answer: nobody knows whether it was stored. Raises RouteError, ConnectError."""
        self.session.check_open()
        prepared = self._preparer.single(message, queue, selector)
        with self._span(prepared):
            route = await self._route(prepared)
            chosen = self._choose(prepared, route, ())
            if prepared.message.is_timer:
                await self._check_timers(chosen.broker_name)
            request = self._preparer.request(prepared, chosen)
            await self.session.oneway(self.session.broker_address(chosen.broker_name), request)

    @contextlib.contextmanager
    def _span(self, prepared: Prepared) -> Iterator[None]:
        """The span of a send, if it has one, ends with the block."""
        failure: BaseException | None = None
        try:
            yield
        except BaseException as error:
            failure = error
            raise
        finally:
            if prepared.span is not None and self._telemetry is not None:
                self._telemetry.sent(prepared.span, None, failure)

    def send_nowait(
        self,
        message: Message,
        *,
        queue: MessageQueue | None = None,
        selector: Selector | None = None,
        callback: Callable[[Receipt], None] | None = None,
    ) -> Receipt:
        """Begin a send and go on: the Receipt can be awaited, or `callback` gets it when it has ended.

        fastmq stores sends to one queue in their order as long as none of them has to be tried again; Apache's broker
        takes them by several threads: for order there, await each before the next. Raises PipelineFull when too many
        are in flight, and UsageError or MessageTooLarge at once.
        """
        session = self.session
        session.check_open()
        if self._in_flight >= self._max_in_flight or self._in_flight_bytes >= self._max_in_flight_bytes:
            raise PipelineFull(f"{self._in_flight} sends are in flight")
        prepared = self._preparer.single(message, queue, selector)
        flight = Flight(self, prepared, callback)
        self._in_flight += 1
        self._in_flight_bytes += prepared.size
        backlog = self._backlogs.get(prepared.topic) if self._backlogs else None
        if backlog is not None:
            flight.sent_at = session.clock.monotonic()
            backlog.append(flight)
        elif not self._post(session, prepared, flight):
            flight.sent_at = session.clock.monotonic()
            self._backlogs[prepared.topic] = deque([flight])
            session.background.spawn(self._work_off, prepared.topic)
        return flight

    async def send_async(
        self,
        message: Message,
        *,
        queue: MessageQueue | None = None,
        selector: Selector | None = None,
        callback: Callable[[Receipt], None] | None = None,
    ) -> Receipt:
        """As `send_nowait`, but waits while too many sends are in flight."""
        while self._in_flight >= self._max_in_flight or self._in_flight_bytes >= self._max_in_flight_bytes:
            await self._wait_for_room()
        self._posted += 1
        if self._posted % YIELD_EVERY == 0:
            await anyio.lowlevel.checkpoint()
        return self.send_nowait(message, queue=queue, selector=selector, callback=callback)

    async def queues(self, topic: str) -> list[MessageQueue]:
        """The queues of a topic that can be sent to."""
        route = await self.session.route(self.session.wrap(topic), borrow=True)
        return [MessageQueue(topic, one.broker_name, one.queue_id) for one in route.write_queues]

    # --- pipelined ---------------------------------------------------------------------------------------------------

    def _post(self, session: Session, prepared: Prepared, flight: Flight) -> bool:
        """Make the first try if route and connection are there. False if they have to be waited for."""
        route = session.routes.get(prepared.topic)
        if route is None or route.provisional or not route.write_queues:
            return False
        try:
            queue = self._choose(prepared, route, ())
            connection = session.open_master(queue.broker_name)
            if connection is None:
                return False
            if connection.server_version < FIRST_WITH_TIMERS and prepared.message.is_timer:
                return False  # it may be too old: `_try` looks, and says so
            flight.connection = connection
            flight.lane = lane = self._preparer.lane(prepared, queue)
            opaque = connection.next_opaque()
            if session.signs:
                request = session.sign(self._preparer.request(prepared, queue))
                request.opaque = opaque
                frame = encode_frame(request)
            else:
                frame = self._preparer.frame(prepared, lane, opaque)
            connection.post_frame(opaque, frame, flight, self._first_timeout)
        except (ConnectionLost, RouteError):
            return False
        except Exception as error:  # a selector's: it is told where all failures of this send are
            self._finish(prepared, flight, None, error)
        return True

    def on_reply(self, flight: Flight, reply: Command | None, failure: ConnectionLost | RequestTimeout | None) -> None:
        """The first try of a pipelined send has ended (for its Flight)."""
        prepared = flight.prepared
        assert prepared is not None
        lane = flight.lane
        session = self._session  # the producer may be closed by now
        error: ClientError
        if reply is not None:
            latency = flight.connection.last_received - flight.sent_at
            if self._latencies is not None and (latency >= LATE_SECONDS or not self._latencies.all_well):
                self._latencies.record(lane.queue.broker_name, latency, session.clock.monotonic())
            if reply.code in STORED:
                try:
                    result = self._result(prepared, lane.queue, reply, lane)
                except BrokerError as unreadable:
                    return self._finish(prepared, flight, None, unreadable)
                if self._tracer is not None:
                    self._trace(prepared, lane.queue, result, flight.sent_at)
                if prepared.span is not None:
                    return self._finish(prepared, flight, result)
                return self._settle(flight, result)
            error = broker_error(reply.code, reply.remark, lane.queue.broker_name)
            if reply.code == ResponseCode.GO_AWAY:
                # the server shuts down and said so before it did anything: that was no try
                session.retire(flight.connection)
                if self._opened and session.background.is_open:
                    left = self._timeout - flight.connection.age(flight.sent_at)
                    session.background.spawn(self._retry, prepared, flight, left)
                    return None
        else:
            assert failure is not None
            error = failure
            if self._latencies is not None:
                self._latencies.record_failure(lane.queue.broker_name, session.clock.monotonic())
        self._trace(prepared, lane.queue, None, flight.sent_at)
        if not error.retryable or self._retries == 0 or not self._opened or not session.background.is_open:
            return self._finish(prepared, flight, None, error)
        left = self._timeout - flight.connection.age(flight.sent_at)
        session.background.spawn(self._retry, prepared, flight, left, error)
        return None

    async def _retry(self, prepared: Prepared, flight: Flight, left: float, error: ClientError | None = None) -> None:
        result: SendResult | None = None
        failure: BaseException | None = ConnectionLost("the client was closed before the send ended")
        try:
            result = await self._deliver(prepared, left, () if error is None else (error,))
            failure = None
        except ClientError as caught:
            failure = caught
        except Exception as caught:  # a selector's
            failure = caught
        finally:
            self._settle(flight, result, failure)

    async def _work_off(self, topic: str) -> None:
        """Send what gathered while the route or the connection was not there, in its order."""
        backlog = self._backlogs[topic]
        try:
            while backlog:
                flight = backlog[0]
                prepared = flight.prepared
                assert prepared is not None
                if not self._post(self._session, prepared, flight):
                    # it has waited for those before it
                    left = self._timeout - (self._session.clock.monotonic() - flight.sent_at)
                    await self._retry(prepared, flight, left)
                backlog.popleft()
        finally:
            del self._backlogs[topic]
            for flight in backlog:
                if not flight.done:
                    self._settle(flight, None, ConnectionLost("the client was closed before the send ended"))

    def _finish(
        self, prepared: Prepared, flight: Flight, result: SendResult | None, error: Exception | None = None
    ) -> None:
        """The first try was the last."""
        if prepared.span is not None and self._telemetry is not None:
            self._telemetry.sent(prepared.span, result, error)
        self._settle(flight, result, error)

    def _settle(self, flight: Flight, result: SendResult | None, error: BaseException | None = None) -> None:
        flight.prepared = None  # the body may go, who has the receipt does not need it
        self._in_flight -= 1
        self._in_flight_bytes -= flight.size
        if self._room is not None:
            self._room.set()
            self._room = None
        flight.settle(result, error)

    async def _wait_for_room(self) -> None:
        if self._room is None:
            self._room = anyio.Event()
        await self._room.wait()
