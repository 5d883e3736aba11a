"""Sending: one by one, pipelined, in batches, in order, delayed, in transactions, and requests with a reply.

A send is prepared once (body packed, properties encoded) and then tried: on the queue whose turn it is, and after a
failure that may pass on another broker, until tries or time are used up. A pipelined send makes its first try at once,
without a task; only when that fails a task takes over.
"""

from __future__ import annotations

import inspect
import logging
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Generator, Sequence
from enum import IntEnum
from types import TracebackType
from typing import Final, Self, Unpack, overload

import anyio
import anyio.lowlevel

from fastmq.client.compress import Compression, compress, require
from fastmq.client.errors import (
    BrokerError,
    ClientError,
    ConnectionLost,
    MessageTooLarge,
    PipelineFull,
    RequestReplyTimeout,
    RequestTimeout,
    RouteError,
    SendFailed,
    TopicNotFound,
    broker_error,
)
from fastmq.client.latency import Latencies
from fastmq.client.member import SessionUser
from fastmq.client.messages import Message, ReceivedMessage, SendResult, SendStatus
from fastmq.client.routes import NEW_TOPIC_QUEUES, Route
from fastmq.client.session import Session, SessionOptions, command
from fastmq.client.transport import Connection, Waiter
from fastmq.errors import UsageError
from fastmq.limits import MAX_MESSAGE_BYTES, MAX_PROPERTIES_BYTES, MIB
from fastmq.protocol import message as m
from fastmq.protocol import names
from fastmq.protocol.bodies.client import ProducerData
from fastmq.protocol.bodies.config import MessageQueue
from fastmq.protocol.codes import RequestCode, ResponseCode
from fastmq.protocol.command import Command

log = logging.getLogger("fastmq.client")

DEFAULT_GROUP: Final = "fastmq-producer"
STORED: Final = frozenset(int(status) for status in SendStatus)
_STATUSES: Final = {int(status): status for status in SendStatus}
YIELD_EVERY: Final = 64  # pipelined sends between two turns of the event loop

Selector = Callable[[Sequence[MessageQueue], Message], MessageQueue]


class TransactionState(IntEnum):
    """What is to become of a half message; the numbers are those of the wire."""

    COMMIT = m.TRANSACTION_COMMIT_TYPE
    ROLLBACK = m.TRANSACTION_ROLLBACK_TYPE
    UNKNOWN = m.TRANSACTION_NOT_TYPE


CheckListener = Callable[[ReceivedMessage], TransactionState | Awaitable[TransactionState]]


class _Prepared:
    """A message or batch, ready to be sent to any queue."""

    __slots__ = (
        "body", "born_ms", "code", "fixed_queue", "flag", "message", "message_id", "properties", "selector", "size",
        "sys_flag", "topic",
    )  # fmt: skip

    topic: str
    body: bytes
    properties: str
    flag: int
    sys_flag: int
    code: int
    message: Message
    message_id: str
    born_ms: int
    size: int
    fixed_queue: MessageQueue | None
    selector: Selector | None


class Receipt:
    """A send in flight: await it for its SendResult. Its failure is raised there and nowhere else."""

    __slots__ = ("_callback", "_error", "_event", "_result", "size")

    def __init__(self, size: int, callback: Callable[[Receipt], None] | None = None) -> None:
        self.size = size
        self._result: SendResult | None = None
        self._error: BaseException | None = None
        self._event: anyio.Event | None = None
        self._callback = callback

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
            self._callback(self)


class Producer(SessionUser):
    """Sends messages. Use it inside `async with`; safe for any number of tasks of one event loop.

    `where`: addresses of name servers, or a Session that is shared. `timeout` (seconds) is for a whole send with all
    its tries, `try_timeout` for one of them. A failed try is repeated `retries` times on another broker if that may
    help. Bodies of `compress_over` bytes and more are packed. `check` answers brokers that ask what became of a
    transaction. Sends in flight are limited to `max_in_flight` and `max_in_flight_bytes`.
    """

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
        compress_level: int = 5,
        max_message_size: int = MAX_MESSAGE_BYTES,
        max_in_flight: int = 10_000,
        max_in_flight_bytes: int = 64 * MIB,
        avoid_slow_brokers: bool = True,
        check: CheckListener | None = None,
        **options: Unpack[SessionOptions],
    ) -> None:
        super().__init__(where, options)
        wrong = names.validate_group(group)
        if wrong:
            raise UsageError(wrong)
        self.group = group
        self._timeout = timeout
        self._try_timeout = try_timeout
        self._retries = retries
        self._retry_not_stored_ok = retry_not_stored_ok
        self._compression = Compression(compression)
        require(self._compression)
        self._compress_over = compress_over
        self._compress_level = compress_level
        self._max_message_size = max_message_size
        self._max_in_flight = max_in_flight
        self._max_in_flight_bytes = max_in_flight_bytes
        self._latencies = Latencies() if avoid_slow_brokers else None
        self._check = check
        self._turns: dict[str, int] = {}
        self._in_flight = 0
        self._in_flight_bytes = 0
        self._room: anyio.Event | None = None
        self._backlogs: dict[str, deque[tuple[_Prepared, Receipt]]] = {}
        self._posted = 0
        self._wire_group = group

    # --- life --------------------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        session = self.session
        self._wire_group = session.wrap(self.group)
        session.add_producer(self._wire_group, self)
        await session.heartbeat_now()

    async def _close(self) -> None:
        with anyio.move_on_after(self._timeout):
            await self.flush()
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
        if isinstance(message, str):
            message = Message(message, body, tag, keys, sharding_key=sharding_key)
        return await self._deliver(self._prepare(message, queue, selector), timeout)

    async def send_batch(
        self, messages: Sequence[Message], *, queue: MessageQueue | None = None, timeout: float | None = None
    ) -> SendResult:
        """Send messages of one topic as one request; they are stored together or not at all, in one queue, in order.

        The result has the ids joined by commas. Raises UsageError for an empty batch, different topics or delays.
        """
        return await self._deliver(self._prepare_batch(messages, queue), timeout)

    async def send_oneway(
        self, message: Message, *, queue: MessageQueue | None = None, selector: Selector | None = None
    ) -> None:
        """Send without an answer: nobody knows whether it was stored. Raises RouteError, ConnectError."""
        prepared = self._prepare(message, queue, selector)
        route = await self._route(prepared)
        chosen = self._choose(prepared, route, ())
        request = self._request(prepared, chosen)
        await self.session.oneway(self.session.broker_address(chosen.broker_name), request)

    def send_nowait(
        self,
        message: Message,
        *,
        queue: MessageQueue | None = None,
        selector: Selector | None = None,
        callback: Callable[[Receipt], None] | None = None,
    ) -> Receipt:
        """Begin a send and go on: the Receipt can be awaited, or `callback` gets it when it has ended.

        Sends to one queue arrive in their order as long as none of them has to be tried again. Raises PipelineFull
        when too many are in flight, and UsageError or MessageTooLarge at once.
        """
        self.session.check_open()
        prepared = self._prepare(message, queue, selector)
        if self._in_flight >= self._max_in_flight or self._in_flight_bytes >= self._max_in_flight_bytes:
            raise PipelineFull(f"{self._in_flight} sends are in flight")
        receipt = Receipt(prepared.size, callback)
        self._in_flight += 1
        self._in_flight_bytes += prepared.size
        backlog = self._backlogs.get(prepared.topic)
        if backlog is not None:
            backlog.append((prepared, receipt))
        elif not self._post(prepared, receipt):
            self._backlogs[prepared.topic] = deque([(prepared, receipt)])
            self.session.background.spawn(self._work_off, prepared.topic)
        return receipt

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

    # --- preparing ---------------------------------------------------------------------------------------------------

    def _prepare(self, message: Message, queue: MessageQueue | None, selector: Selector | None) -> _Prepared:
        prepared = _Prepared()
        prepared.message = message
        prepared.topic = self._wire_topic(message.topic)
        now_ms = self.session.clock.wall_ms()
        prepared.message_id = unique_key = self.session.unique_keys.next(now_ms)
        properties = message.wire_properties(unique_key)
        if self.session.namespace:
            properties[m.PROPERTY_INSTANCE_ID] = self.session.namespace
        body = message.encoded_body()
        self._check_size(body)
        sys_flag = 0
        if len(body) >= self._compress_over and self._compression is not Compression.NONE:
            body, sys_flag = compress(body, self._compression, self._compress_level)
        prepared.body = body
        prepared.sys_flag = sys_flag
        prepared.properties = _properties_text(properties)
        prepared.flag = message.flag
        prepared.code = RequestCode.SEND_MESSAGE_V2
        prepared.born_ms = now_ms
        prepared.fixed_queue = queue
        prepared.selector = selector
        prepared.size = len(body) + len(prepared.properties) + 200
        return prepared

    def _prepare_batch(self, messages: Sequence[Message], queue: MessageQueue | None) -> _Prepared:
        if not messages:
            raise UsageError("a batch needs a message")
        first = messages[0]
        now_ms = self.session.clock.wall_ms()
        ids: list[str] = []
        entries: list[m.BatchEntry] = []
        for message in messages:
            if message.topic != first.topic or message.wait_stored != first.wait_stored:
                raise UsageError("the messages of a batch have one topic and one wait_stored")
            if message.is_delayed:
                raise UsageError("a message of a batch cannot be delayed")
            ids.append(self.session.unique_keys.next(now_ms))
            properties = message.wire_properties(ids[-1])
            if self.session.namespace:
                properties[m.PROPERTY_INSTANCE_ID] = self.session.namespace
            entries.append(m.BatchEntry(message.encoded_body(), _properties_text(properties).encode(), message.flag))
        try:
            body = m.encode_batch(entries)
        except ValueError as error:
            raise UsageError(str(error)) from None
        self._check_size(body)
        prepared = _Prepared()
        prepared.message = first
        prepared.topic = self._wire_topic(first.topic)
        if names.is_retry_topic(prepared.topic):
            raise UsageError("a batch cannot be sent to a retry topic")
        prepared.body = body
        prepared.sys_flag = 0
        prepared.properties = _properties_text(
            {
                m.PROPERTY_UNIQUE_KEY: self.session.unique_keys.next(now_ms),
                m.PROPERTY_WAIT_STORE_MSG_OK: "true" if first.wait_stored else "false",
            }
        )
        prepared.flag = 0
        prepared.code = RequestCode.SEND_BATCH_MESSAGE
        prepared.message_id = ",".join(ids)
        prepared.born_ms = now_ms
        prepared.fixed_queue = queue
        prepared.selector = None
        prepared.size = len(body) + 200
        return prepared

    def _wire_topic(self, name: str) -> str:
        topic = self.session.wrap(name)
        wrong = None if topic in self._turns else names.validate_topic(topic)
        if wrong:
            raise UsageError(wrong)
        if names.is_not_allowed_send_topic(topic):
            raise UsageError(f"topic {topic} belongs to the system")
        return topic

    def _check_size(self, body: bytes) -> None:
        if not body:
            raise UsageError("a message needs a body")
        if len(body) > self._max_message_size:
            raise MessageTooLarge(f"a body of {len(body)} bytes, the limit is {self._max_message_size}")

    def _request(self, prepared: _Prepared, queue: MessageQueue) -> Command:
        ext = {
            "a": self._wire_group,
            "b": prepared.topic,
            "c": names.AUTO_CREATE_TOPIC,
            "d": str(NEW_TOPIC_QUEUES),
            "e": str(queue.queue_id),
            "f": str(prepared.sys_flag),
            "g": str(prepared.born_ms),
            "h": str(prepared.flag),
            "i": prepared.properties,
            "j": "0",
            "k": "false",
            "m": "true" if prepared.code == RequestCode.SEND_BATCH_MESSAGE else "false",
            "n": queue.broker_name,
        }
        return Command(prepared.code, 0, 0, "PYTHON", ext=ext, body=prepared.body)

    # --- trying ------------------------------------------------------------------------------------------------------

    async def _route(self, prepared: _Prepared) -> Route:
        route = await self.session.route(prepared.topic, borrow=True)
        if not route.write_queues:
            route = await self.session.route(prepared.topic, refresh=True, borrow=True)
        return route

    def _choose(self, prepared: _Prepared, route: Route, avoid: Collection[str]) -> MessageQueue:
        """The queue of the next try. Raises RouteError if the topic has none."""
        queues = route.write_queues
        if prepared.fixed_queue is not None:
            return prepared.fixed_queue
        if not queues:
            raise RouteError(f"topic {prepared.topic} has no queue that can be written")
        message = prepared.message
        if prepared.selector is not None:
            shown = [MessageQueue(message.topic, one.broker_name, one.queue_id) for one in queues]
            return prepared.selector(shown, message)
        if message.sharding_key is not None:
            return queues[abs(m.java_hash(message.sharding_key)) % len(queues)]
        turn = self._turns[prepared.topic] = self._turns.get(prepared.topic, -1) + 1
        if self._latencies is None and not avoid:
            return queues[turn % len(queues)]
        return (self._latencies or Latencies()).choose(
            queues, turn, self.session.clock.monotonic(), avoid.__contains__ if avoid else None
        )

    async def _deliver(
        self, prepared: _Prepared, timeout: float | None = None, attempts: Sequence[ClientError] = ()
    ) -> SendResult:
        """Try until it is stored or there is no more hope."""
        session = self.session
        session.check_open()
        failures = list(attempts)
        avoid: set[str] = set()
        deadline = session.clock.monotonic() + (self._timeout if timeout is None else timeout)
        stored: SendResult | None = None
        while len(failures) <= self._retries:
            left = deadline - session.clock.monotonic()
            if left <= 0:
                break
            queue: MessageQueue | None = None
            try:
                with anyio.fail_after(left):
                    queue = self._choose(prepared, await self._route(prepared), avoid)
                    stored = await self._try(prepared, queue, min(left, self._try_timeout))
                if stored.status is SendStatus.SEND_OK or not self._retry_not_stored_ok:
                    return stored
                failures.append(broker_error(stored.status, "stored, but not as safely as it should be"))
            except ClientError as error:
                failures.append(error)
                if not error.retryable:
                    break
                if isinstance(error, TopicNotFound | BrokerError) and error.retryable:
                    await self._refresh_quietly(prepared.topic)
            except TimeoutError:
                failures.append(RequestTimeout(f"the send to {prepared.topic} took longer than {left:.3g} s"))
            if queue is not None:
                avoid.add(queue.broker_name)
        if stored is not None:
            return stored
        return self._give_up(prepared, failures)

    async def _refresh_quietly(self, topic: str) -> None:
        try:
            await self.session.route(topic, refresh=True, borrow=True)
        except ClientError as error:
            log.debug("the route of %s cannot be refreshed: %s", topic, error)

    def _give_up(self, prepared: _Prepared, failures: list[ClientError]) -> SendResult:
        if not failures:
            raise RequestTimeout(f"no time was left to send to {prepared.topic}")
        last = failures[-1]
        if isinstance(last, BrokerError) and last.code == ResponseCode.TOPIC_NOT_EXIST:
            raise TopicNotFound(prepared.topic, last.remark) from last
        if len(failures) == 1:
            raise last
        raise SendFailed(prepared.topic, failures) from last

    async def _try(self, prepared: _Prepared, queue: MessageQueue, timeout: float) -> SendResult:
        session = self.session
        begin = session.clock.monotonic()
        try:
            reply = await session.call_broker(
                queue.broker_name, self._request(prepared, queue), timeout=timeout, accept=STORED
            )
        except BrokerError:
            self._note(queue.broker_name, begin)
            raise
        except ClientError:
            if self._latencies is not None:
                self._latencies.record_failure(queue.broker_name, session.clock.monotonic())
            raise
        self._note(queue.broker_name, begin)
        return self._result(prepared, queue, reply)

    def _note(self, broker_name: str, begin: float) -> None:
        if self._latencies is not None:
            now = self.session.clock.monotonic()
            self._latencies.record(broker_name, now - begin, now)

    def _result(self, prepared: _Prepared, queue: MessageQueue, reply: Command) -> SendResult:
        ext = reply.ext
        try:
            return SendResult(
                prepared.message_id,
                ext["msgId"],
                MessageQueue(prepared.message.topic, queue.broker_name, int(ext["queueId"])),
                int(ext["queueOffset"]),
                _STATUSES[reply.code],
                ext.get("transactionId"),
                ext.get("recallHandle"),
                ext.get("MSG_REGION"),
                ext.get("TRACE_ON") != "false",
            )
        except (KeyError, ValueError) as error:
            raise BrokerError(reply.code, f"the answer to a send cannot be read: {error!r}") from None

    # --- pipelined ---------------------------------------------------------------------------------------------------

    def _post(self, prepared: _Prepared, receipt: Receipt) -> bool:
        """Make the first try if route and connection are there. False if they have to be waited for."""
        session = self.session
        route = session.routes.get(prepared.topic)
        if route is None or route.provisional or not route.write_queues:
            return False
        try:
            queue = self._choose(prepared, route, ())
            connection = session.open_connection(session.broker_address(queue.broker_name))
            if connection is None:
                return False
            request = session.sign(self._request(prepared, queue))
            connection.post(request, self._try_timeout, lambda waiter: self._on_reply(prepared, receipt, queue, waiter))
        except (ConnectionLost, RouteError):
            return False
        return True

    def _on_reply(self, prepared: _Prepared, receipt: Receipt, queue: MessageQueue, waiter: Waiter) -> None:
        reply = waiter.reply
        error: ClientError
        if reply is not None:
            self._note(queue.broker_name, waiter.sent_at)
            if reply.code in STORED:
                try:
                    return self._settle(receipt, self._result(prepared, queue, reply))
                except BrokerError as unreadable:
                    return self._settle(receipt, None, unreadable)
            error = broker_error(reply.code, reply.remark, queue.broker_name)
        else:
            assert waiter.error is not None
            error = waiter.error
            if self._latencies is not None:
                self._latencies.record_failure(queue.broker_name, self.session.clock.monotonic())
        if not error.retryable or self._retries == 0 or not self.session.background.is_open:
            return self._settle(receipt, None, error)
        self.session.background.spawn(self._retry, prepared, receipt, error)
        return None

    async def _retry(self, prepared: _Prepared, receipt: Receipt, error: ClientError | None) -> None:
        result: SendResult | None = None
        failure: BaseException | None = ConnectionLost("the client was closed before the send ended")
        try:
            result = await self._deliver(prepared, None, () if error is None else (error,))
            failure = None
        except ClientError as caught:
            failure = caught
        except Exception as caught:  # a selector's
            failure = caught
        finally:
            self._settle(receipt, result, failure)

    async def _work_off(self, topic: str) -> None:
        """Send what gathered while the route or the connection was not there, in its order."""
        backlog = self._backlogs[topic]
        try:
            while backlog:
                prepared, receipt = backlog[0]
                if not self._post(prepared, receipt):
                    await self._retry(prepared, receipt, None)
                backlog.popleft()
        finally:
            del self._backlogs[topic]
            for _, receipt in backlog:
                if not receipt.done:
                    self._settle(receipt, None, ConnectionLost("the client was closed before the send ended"))

    def _settle(self, receipt: Receipt, result: SendResult | None, error: BaseException | None = None) -> None:
        self._in_flight -= 1
        self._in_flight_bytes -= receipt.size
        if self._room is not None:
            self._room.set()
            self._room = None
        receipt.settle(result, error)

    async def _wait_for_room(self) -> None:
        if self._room is None:
            self._room = anyio.Event()
        await self._room.wait()

    # --- requests with a reply ---------------------------------------------------------------------------------------

    async def request(self, message: Message, timeout: float = 3.0) -> ReceivedMessage:
        """Send a message and wait for the message that answers it. Raises RequestReplyTimeout, and as `send`."""
        session = self.session
        correlation_id = str(uuid.uuid4())
        prepared = self._prepare(message, None, None)
        prepared.properties += _properties_text(
            {
                m.PROPERTY_CORRELATION_ID: correlation_id,
                m.PROPERTY_MESSAGE_REPLY_TO_CLIENT: session.client_id,
                m.PROPERTY_MESSAGE_TTL: str(round(timeout * 1000)),
            }
        )
        waiter = session.replies.expect(correlation_id)
        try:
            with anyio.fail_after(timeout):
                if session.routes.get(prepared.topic) is None:
                    # the reply may come through any broker: each has to know us
                    await self._route(prepared)
                    await session.heartbeat_now()
                await self._deliver(prepared, timeout)
                return await waiter.wait()
        except TimeoutError:
            raise RequestReplyTimeout(f"no reply to {prepared.message_id} within {timeout} s") from None
        finally:
            session.replies.forget(correlation_id)

    async def reply(
        self, request: ReceivedMessage, body: bytes | str, *, timeout: float | None = None, tag: str | None = None
    ) -> SendResult:
        """Answer a message that was sent with `request`. Raises UsageError if it was not.

        Raises BrokerError if nobody waits for it any more.
        """
        properties = request.properties
        try:
            cluster = properties[m.PROPERTY_CLUSTER]
            back = {
                m.PROPERTY_MESSAGE_TYPE: "reply",
                m.PROPERTY_CORRELATION_ID: properties[m.PROPERTY_CORRELATION_ID],
                m.PROPERTY_MESSAGE_REPLY_TO_CLIENT: properties[m.PROPERTY_MESSAGE_REPLY_TO_CLIENT],
                m.PROPERTY_MESSAGE_TTL: properties.get(m.PROPERTY_MESSAGE_TTL, "3000"),
            }
        except KeyError as missing:
            raise UsageError(f"the message is no request: it has no {missing.args[0]}") from None
        prepared = self._prepare(Message(names.reply_topic(cluster), body, tag), None, None)
        prepared.topic = names.reply_topic(cluster)
        prepared.properties += _properties_text(back)
        prepared.code = RequestCode.SEND_REPLY_MESSAGE_V2
        route = await self._route(prepared)
        # the broker that brought the request knows who waits
        same = [one for one in route.write_queues if one.broker_name == request.queue.broker_name]
        queue = same[0] if same else self._choose(prepared, route, ())
        return await self._try(prepared, queue, self._timeout if timeout is None else timeout)

    # --- transactions ------------------------------------------------------------------------------------------------

    def transaction(self, message: Message, *, timeout: float | None = None) -> Transaction:
        """A message that consumers see only if the block ends well:

            async with producer.transaction(Message("orders", b"...")) as transaction:
                await write_to_the_database(transaction.message_id)

        An exception rolls it back. `transaction.state = TransactionState.UNKNOWN` leaves it to the check listener.
        """
        return Transaction(self, message, timeout)

    async def send_half(self, message: Message, timeout: float | None = None) -> SendResult:
        """The first half of a transaction: stored, seen by nobody. `transaction` is the easier way."""
        if message.is_delayed:
            raise UsageError("a message of a transaction cannot be delayed")
        prepared = self._prepare(message, None, None)
        prepared.sys_flag |= m.TRANSACTION_PREPARED_TYPE
        prepared.properties += _properties_text(
            {m.PROPERTY_TRANSACTION_PREPARED: "true", m.PROPERTY_PRODUCER_GROUP: self._wire_group}
        )
        return await self._deliver(prepared, timeout)

    async def end_transaction(self, half: SendResult, state: TransactionState, *, remark: str | None = None) -> None:
        """The second half. Returns when it is on its way; if it gets lost the broker asks the check listener."""
        _, _, log_offset = m.parse_message_id(half.offset_id)
        request = self._end_request(
            {
                "topic": self.session.wrap(half.topic),
                "tranStateTableOffset": str(half.queue_offset),
                "commitLogOffset": str(log_offset),
                "msgId": half.message_id,
                "transactionId": half.transaction_id or half.message_id,
                "bname": half.queue.broker_name,
            },
            state,
            remark,
        )
        await self.session.oneway(self.session.broker_address(half.queue.broker_name), request)

    def _end_request(self, ext: dict[str, str], state: TransactionState, remark: str | None) -> Command:
        request = command(
            RequestCode.END_TRANSACTION,
            {
                **ext,
                "producerGroup": self._wire_group,
                "commitOrRollback": str(int(state)),
                "fromTransactionCheck": ext.get("fromTransactionCheck", "false"),
            },
        )
        request.remark = remark
        return request

    async def on_server_request(self, connection: Connection, request: Command) -> Command | None:
        """A broker asks what became of a transaction (39)."""
        if request.code != RequestCode.CHECK_TRANSACTION_STATE:
            return request.reply(ResponseCode.REQUEST_CODE_NOT_SUPPORTED, f"code {request.code} is not served here")
        if self._check is None:
            log.warning("a transaction of group %s is checked, but the producer has no check listener", self.group)
            return None
        stored, _ = m.decode_message(request.body)
        message = ReceivedMessage.from_stored(
            stored, self.session.routes.name_of(connection.address), self.session.namespace
        )
        state = TransactionState.UNKNOWN
        remark: str | None = None
        try:
            answer = self._check(message)
            state = TransactionState(await answer if inspect.isawaitable(answer) else answer)
        except Exception as error:
            log.exception("the check listener of group %s failed", self.group)
            remark = f"{type(error).__name__}: {error}"
        ext = request.ext
        end = self._end_request(
            {
                "topic": stored.topic,
                "tranStateTableOffset": ext.get("tranStateTableOffset", ""),
                "commitLogOffset": ext.get("commitLogOffset", ""),
                "msgId": message.message_id,
                "transactionId": ext.get("transactionId", message.message_id),
                "fromTransactionCheck": "true",
                "bname": ext.get("bname", message.queue.broker_name),
            },
            state,
            remark,
        )
        connection.send(self.session.sign(end))
        return None


class Transaction:
    """A transaction in progress; see `Producer.transaction`."""

    def __init__(self, producer: Producer, message: Message, timeout: float | None) -> None:
        self.state = TransactionState.COMMIT
        """What the end of the block does; an exception makes it ROLLBACK."""
        self.message = message
        self._producer = producer
        self._timeout = timeout
        self._half: SendResult | None = None

    @property
    def half(self) -> SendResult:
        """Where the half message is."""
        if self._half is None:
            raise UsageError("the transaction has not begun")
        return self._half

    @property
    def message_id(self) -> str:
        """The id that consumers will see."""
        return self.half.message_id

    async def __aenter__(self) -> Self:
        self._half = await self._producer.send_half(self.message, self._timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        state = self.state if error is None else TransactionState.ROLLBACK
        with anyio.move_on_after(self._producer.session.request_timeout, shield=True):
            await self._producer.end_transaction(self.half, state, remark=None if error is None else repr(error))


def _properties_text(properties: dict[str, str]) -> str:
    """The text of the properties. Raises UsageError for a separator inside, and for more than fits."""
    try:
        text = m.encode_properties(properties)
    except (ValueError, TypeError) as error:
        raise UsageError(str(error)) from None
    if len(text) > MAX_PROPERTIES_BYTES:
        raise UsageError(f"properties of {len(text)} bytes, the limit is {MAX_PROPERTIES_BYTES}")
    return text.decode()
