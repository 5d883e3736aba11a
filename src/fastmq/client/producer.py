"""Producer: sending, requests with a reply, transactions."""

from __future__ import annotations

import functools
import inspect
import logging
import uuid
from collections.abc import Awaitable, Callable, Sequence
from enum import IntEnum
from types import TracebackType
from typing import Self, Unpack

import anyio

from fastmq.client import interrupts
from fastmq.client.errors import ClientError, RequestReplyTimeout, RequestTimeout
from fastmq.client.messages import Message, ReceivedMessage, SendResult
from fastmq.client.prepared import Selector, properties_text
from fastmq.client.receipt import Receipt
from fastmq.client.sending import DEFAULT_GROUP, Sender, SenderOptions
from fastmq.client.session import Session, command
from fastmq.client.trace import DEFAULT_REGION, end_of_transaction
from fastmq.client.transport import Connection
from fastmq.errors import UsageError
from fastmq.protocol import message as m
from fastmq.protocol import names
from fastmq.protocol.codes import RequestCode
from fastmq.protocol.command import Command
from fastmq.protocol.recall import RecallHandle

__all__ = ["DEFAULT_GROUP", "CheckListener", "Producer", "Receipt", "Selector", "Transaction", "TransactionState"]

log = logging.getLogger("fastmq.client")


class TransactionState(IntEnum):
    """What is to become of a half message; the numbers are those of the wire."""

    COMMIT = m.TRANSACTION_COMMIT_TYPE
    ROLLBACK = m.TRANSACTION_ROLLBACK_TYPE
    UNKNOWN = m.TRANSACTION_NOT_TYPE


CheckListener = Callable[[ReceivedMessage], TransactionState | Awaitable[TransactionState]]


async def _ask(check: CheckListener, message: ReceivedMessage) -> TransactionState:
    answer = check(message)
    return await answer if inspect.isawaitable(answer) else answer


class ProducerOptions(SenderOptions, total=False):
    """What Producer takes by name, beside SenderOptions; it says what they do."""

    check: CheckListener | None


class Producer(Sender):
    """Sends messages. Use it inside `async with`; safe for any number of tasks of one event loop.

    `where`: addresses of name servers, or a Session that is shared. `timeout` (seconds) is for a whole send with all
    its tries, `try_timeout` for one of them. A failed try is repeated `retries` times on another broker if that may
    help; `retry_not_stored_ok` repeats also what was stored, but not as safely as the broker wanted. Bodies of
    `compress_over` bytes and more are packed. Sends in flight are limited to `max_in_flight` and
    `max_in_flight_bytes`. `trace` writes message traces, to RocketMQ's topic or to the one named;
    `telemetry` makes OpenTelemetry spans. `check` answers brokers that ask what became of a transaction.
    """

    def __init__(
        self,
        where: str | Sequence[str] | Session | None = None,
        group: str = DEFAULT_GROUP,
        *,
        check: CheckListener | None = None,
        **options: Unpack[SenderOptions],
    ) -> None:
        super().__init__(where, group, **options)
        if check is not None and not callable(check):
            raise UsageError(f"check is called with a message, but {check!r} cannot be called")
        self._check = check

    async def _open(self) -> None:
        if self._check is not None:
            # a broker asks those it knows: also before the first send, for what members of the group left open
            await self.session.know_cluster()
        await super()._open()

    # --- requests with a reply ---------------------------------------------------------------------------------------

    async def request(self, message: Message, timeout: float = 3.0) -> ReceivedMessage:
        """Send a message and wait for the message that answers it. Raises RequestReplyTimeout, and as `send`."""
        session = self.session
        session.check_open()
        correlation_id = str(uuid.uuid4())
        prepared = self._preparer.single(message)
        prepared.properties += properties_text(
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
        self.session.check_open()
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
        prepared = self._preparer.single(Message(names.reply_topic(cluster), body, tag))
        prepared.topic = names.reply_topic(cluster)
        prepared.properties += properties_text(back)
        prepared.code = RequestCode.SEND_REPLY_MESSAGE_V2
        with self._span(prepared):
            route = await self._route(prepared)
            # the broker that brought the request knows who waits
            same = [one for one in route.write_queues if one.broker_name == request.queue.broker_name]
            queue = same[0] if same else self._choose(prepared, route, ())
            return await self._try(prepared, queue, self._timeout if timeout is None else timeout)

    # --- taking back -------------------------------------------------------------------------------------------------

    async def recall(self, sent: SendResult | str, *, timeout: float | None = None) -> str:
        """Take a message with `delay` or `deliver_at` back before it is delivered: by what its send gave, or by its
        `recall_handle`. Returns its id. Raises UsageError for one that has no handle; BrokerError if it is too late or
        the broker has this switched off, NotSupported if it is older than RocketMQ 5.3.2.
        """
        session = self.session
        session.check_open()
        text = sent if isinstance(sent, str) else sent.recall_handle
        if not text:
            raise UsageError(
                "the message has no recall handle: it is none with delay or deliver_at, or the broker is old"
            )
        try:
            handle = RecallHandle.decode(text)
        except ValueError:
            raise UsageError(f"{text!r} is no recall handle") from None
        await session.route(handle.topic)
        ext = {
            "producerGroup": self._wire_group,
            "topic": handle.topic,
            "recallHandle": text,
            "bname": handle.broker_name,
        }
        reply = await session.call_broker(
            handle.broker_name, command(RequestCode.RECALL_MESSAGE, ext), timeout=timeout or self._try_timeout
        )
        return reply.ext.get("msgId", handle.unique_key)

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
        self.session.check_open()
        prepared = self._preparer.single(message)
        prepared.sys_flag |= m.TRANSACTION_PREPARED_TYPE
        prepared.properties += properties_text(
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
        address = self.session.broker_address(half.queue.broker_name)
        await self.session.oneway(address, request)
        self._trace_end(half.topic, half.message_id, half.transaction_id, state, address, from_check=False)

    def _trace_end(
        self, topic: str, message_id: str, transaction_id: str | None, state: TransactionState, address: str,
        *, from_check: bool,
    ) -> None:  # fmt: skip
        if self._tracer is None:
            return
        texts = {TransactionState.COMMIT: "COMMIT_MESSAGE", TransactionState.ROLLBACK: "ROLLBACK_MESSAGE"}
        self._tracer.add(
            end_of_transaction(
                now_ms=self.session.clock.wall_ms(),
                region=DEFAULT_REGION,
                group=self.group,
                topic=topic,
                message_id=message_id,
                tags=None,
                keys=None,
                store_host=address,
                transaction_id=transaction_id or message_id,
                state=texts.get(state, "UNKNOW"),
                from_check=from_check,
            )
        )

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
            return await super().on_server_request(connection, request)
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
            state = TransactionState(await interrupts.exposed(functools.partial(_ask, self._check))(message))
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
        self._trace_end(
            message.topic, message.message_id, ext.get("transactionId"), state, connection.address, from_check=True
        )
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

    def __repr__(self) -> str:
        state = "not begun" if self._half is None else f"{self._half.message_id}, {self.state.name}"
        return f"<Transaction of topic {self.message.topic}, {state}>"

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
        producer = self._producer
        state = self.state if error is None else TransactionState.ROLLBACK
        try:
            with anyio.fail_after(producer.session.request_timeout, shield=True):
                await producer.end_transaction(self.half, state, remark=None if error is None else repr(error))
        except TimeoutError:
            failure: ClientError = RequestTimeout(f"the end of {self!r} could not be sent in time")
        except ClientError as caught:
            failure = caught
        else:
            return
        if error is None:
            raise failure
        # what ended the block is what its user has to see; the broker will ask what became of it
        log.warning("%r is not rolled back yet: %s", self, failure)
