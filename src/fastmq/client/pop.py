"""PopConsumer: the broker hands out messages of any queue for a while; each is acknowledged by itself.

    async with PopConsumer("127.0.0.1:9876", "group", "topic") as consumer:
        for message in await consumer.receive(max_messages=32, wait=15):
            ...
            await consumer.ack(message)

A message that is neither acknowledged nor given more time within its invisible time comes again. There are no queues to
be shared and nothing to rebalance (RocketMQ 5). Requests run behind `receive`, one for each broker: what they bring
after `receive` gave up waiting is given out by the next call, unless its time is over by then.
"""

from __future__ import annotations

import logging
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from typing import Any, Final, Unpack

import anyio

from fastmq.client.background import Tasks
from fastmq.client.errors import BrokerError, ClientClosed, ClientError, NotSupported, TopicNotFound
from fastmq.client.member import GroupUser, choice
from fastmq.client.messages import ReceivedMessage, decode_page
from fastmq.client.session import Session, SessionOptions, command
from fastmq.client.subscriptions import StartFrom, Topics, read_topics, subscription, takes
from fastmq.client.transport import Connection
from fastmq.errors import ProtocolError, UsageError
from fastmq.protocol import message as m
from fastmq.protocol import names
from fastmq.protocol.bodies import BatchAck, dumps
from fastmq.protocol.bodies.client import ConsumerData, ConsumeType, SubscriptionData
from fastmq.protocol.codes import RequestCode, ResponseCode
from fastmq.protocol.command import Command
from fastmq.protocol.headers.pop import INIT_MODE_MAX, INIT_MODE_MIN

log = logging.getLogger("fastmq.client")

MAX_POP: Final = 32
INVISIBLE_SECONDS: Final = 60.0
MAX_POLL_SECONDS: Final = 15.0
ERROR_SECONDS: Final = 1.0
_CODES: Final = frozenset(
    {
        int(ResponseCode.SUCCESS),
        int(ResponseCode.PULL_NOT_FOUND),
        int(ResponseCode.POLLING_FULL),
        int(ResponseCode.POLLING_TIMEOUT),
    }
)


class PopConsumer(GroupUser):
    """Takes messages by `receive` (or `async for`) and acknowledges each by itself.

    `invisible_seconds`: how long nobody else gets a message that was received. `orderly`: messages of a queue one
    after the other; those behind an unacknowledged one wait for it. `start_from`: where a new group begins, the first
    message there is or what is sent from now on.
    """

    def __init__(
        self,
        where: str | Sequence[str] | Session | None,
        group: str,
        topics: Topics,
        *,
        invisible_seconds: float = INVISIBLE_SECONDS,
        orderly: bool = False,
        start_from: StartFrom | str = StartFrom.LAST,
        **options: Unpack[SessionOptions],
    ) -> None:
        super().__init__(where, options, group)
        self._filters = read_topics(topics)
        if not self._filters:
            raise UsageError("a topic is needed")
        self._invisible_ms = round(invisible_seconds * 1000)
        self._orderly = orderly
        self._start_from = choice(StartFrom, start_from, "start_from")
        if self._start_from is StartFrom.TIME:
            raise UsageError("a pop consumer starts from the first message or the last")
        self._subscriptions: dict[str, SubscriptionData] = {}
        self._ready: deque[tuple[ReceivedMessage, float]] = deque()
        self._asking: set[tuple[str, str]] = set()
        self._arrived = anyio.Event()
        self._leaving = False
        self._failure: ClientError | None = None
        self._no_batch_acks: set[str] = set()
        self._tasks: Tasks

    # --- life --------------------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        session = self.session
        for topic, one in self._filters.items():
            wire = session.wrap(topic)
            self._subscriptions[wire] = subscription(wire, one, session.clock.wall_ms())
        self._tasks = Tasks(session.background)
        session.add_consumer(self._wire_group, self)
        for topic in self._subscriptions:
            try:
                await session.route(topic)
            except TopicNotFound:
                log.warning("%s consumes topic %s, which does not exist yet", self.group, topic)
        await session.heartbeat_now()

    async def _close(self) -> None:
        self._leaving = True
        if hasattr(self, "_tasks"):
            await self._tasks.stop()
            self._arrived.set()
            with anyio.move_on_after(5):
                await self.session.remove_consumer(self._wire_group, self)

    def heartbeat_part(self) -> ConsumerData:
        """What heartbeats say of it."""
        return ConsumerData(
            group_name=self._wire_group,
            consume_type=ConsumeType.CONSUME_POP,
            consume_from_where=self._start_from.wire,
            subscription_data_set=tuple(self._subscriptions.values()),
        )

    def routes_changed(self, topics: Collection[str]) -> None:
        """Nothing to do: each `receive` looks at the routes."""

    async def on_server_request(self, connection: Connection, request: Command) -> Command | None:
        """There is nothing a broker could ask of it."""
        if request.code == RequestCode.NOTIFY_CONSUMER_IDS_CHANGED:
            return None
        return request.reply(ResponseCode.REQUEST_CODE_NOT_SUPPORTED, f"code {request.code} is not served here")

    # --- receiving ---------------------------------------------------------------------------------------------------

    async def receive(self, max_messages: int = MAX_POP, wait: float = MAX_POLL_SECONDS) -> list[ReceivedMessage]:
        """Up to `max_messages` (at most 32) messages. Waits up to `wait` seconds for the first; empty after that.

        Raises what a broker refused with, when all of them did.
        """
        if not 1 <= max_messages <= MAX_POP:
            raise UsageError(f"receive takes 1 to {MAX_POP} messages, not {max_messages}")
        clock = self.session.clock
        deadline = clock.monotonic() + wait
        while True:
            if self._leaving:
                raise ClientClosed("it is closed")
            messages = self._take(max_messages)
            left = deadline - clock.monotonic()
            if messages:
                return messages
            self._raise_failure()
            await self._ask(max_messages, max(0.0, left))
            if self._ready:
                continue
            if not self._asking:  # there is nobody to ask, and some time has passed
                if clock.monotonic() >= deadline:
                    return []
                continue
            if self._arrived.is_set():  # who waits already hears of it, too
                self._arrived = anyio.Event()
            # a request that was sent with the last of our time is answered a little later
            with anyio.move_on_after(max(0.0, left) + 0.5) as scope:
                await self._arrived.wait()
            if scope.cancelled_caught and clock.monotonic() >= deadline:
                return self._take(max_messages)
            if clock.monotonic() >= deadline and not self._ready and not self._asking:
                self._raise_failure()
                return []

    def _raise_failure(self) -> None:
        """What the last broker that was asked failed with, unless trying again is all there is to do."""
        if self._failure is not None and not self._asking:
            failure, self._failure = self._failure, None
            if not failure.retryable:
                raise failure

    def __aiter__(self) -> AsyncIterator[ReceivedMessage]:
        return self._iterate()

    async def _iterate(self) -> AsyncIterator[ReceivedMessage]:
        while True:
            for message in await self.receive():
                yield message

    def _take(self, max_messages: int) -> list[ReceivedMessage]:
        now = self.session.clock.monotonic()
        messages: list[ReceivedMessage] = []
        while self._ready and len(messages) < max_messages:
            message, until = self._ready.popleft()
            if until > now:  # otherwise somebody else may have it already
                messages.append(message)
        return messages

    async def _ask(self, max_messages: int, wait: float) -> None:
        """Begin a request at each broker that has none; where there is no broker, wait a little."""
        for topic in self._subscriptions:
            try:
                known = self.session.routes.get(topic)
                route = await self.session.route(topic, refresh=known is None)
            except TopicNotFound:
                continue
            for broker_name in sorted({queue.broker_name for queue in route.read_queues}):
                if (topic, broker_name) not in self._asking:
                    self._asking.add((topic, broker_name))
                    self._tasks.spawn(self._pop, topic, broker_name, max_messages, min(wait, MAX_POLL_SECONDS))
        if not self._asking and not self._ready:
            await anyio.sleep(min(wait, ERROR_SECONDS))

    async def _pop(self, topic: str, broker_name: str, max_messages: int, wait: float) -> None:
        session = self.session
        data = self._subscriptions[topic]
        ext = {
            "consumerGroup": self._wire_group,
            "topic": topic,
            "queueId": "-1",
            "maxMsgNums": str(max_messages),
            "invisibleTime": str(self._invisible_ms),
            "pollTime": str(round(wait * 1000)),
            "bornTime": str(session.clock.wall_ms()),
            "initMode": str(INIT_MODE_MIN if self._start_from is StartFrom.FIRST else INIT_MODE_MAX),
            "expType": data.expression_type,
            "exp": data.sub_string,
            "order": "true" if self._orderly else "false",
            "bname": broker_name,
        }
        if self._orderly:
            ext["attemptId"] = str(uuid.uuid4())
        asked_at = session.clock.monotonic()
        try:
            reply = await session.call_broker(
                broker_name, command(RequestCode.POP_MESSAGE, ext), timeout=wait + 10, accept=_CODES
            )
            if reply.code == ResponseCode.SUCCESS:
                until = asked_at + self._invisible_ms / 1000
                for message in popped(reply, broker_name, session.namespace):
                    if takes(data, message):
                        self._ready.append((message, until))
                    else:
                        self._tasks.spawn(self._ack_quietly, message)
        except NotSupported as error:
            remark = "it does not serve POP, which came with RocketMQ 5.0: Consumer and PushConsumer work with it"
            self._failure = NotSupported(error.code, f"{remark} ({error.remark})", error.address)
        except (ClientError, ProtocolError) as error:
            log.info("receiving from %s failed: %s", broker_name, error)
            self._failure = (
                error if isinstance(error, ClientError) else BrokerError(ResponseCode.SYSTEM_ERROR, str(error))
            )
            if not isinstance(error, BrokerError):
                await session.refresh_routes([topic])
            await anyio.sleep(min(wait, ERROR_SECONDS))
        finally:
            self._asking.discard((topic, broker_name))
            self._arrived.set()

    # --- acknowledging -----------------------------------------------------------------------------------------------

    async def ack(self, message: ReceivedMessage | Iterable[ReceivedMessage]) -> None:
        """The message is done, or several are: those of a broker in one request, if it is one that knows how (5.1.3 and
        later). Raises UsageError for one that was not received by a pop consumer, and BrokerError or an error of the
        connection; whether it was acknowledged is then not known.
        """
        if isinstance(message, ReceivedMessage):
            await self._ack(message)
            return
        by_broker: dict[str, list[ReceivedMessage]] = {}
        for one in message:
            by_broker.setdefault(self._checkpoint(one)[5], []).append(one)
        await self._all(self._ack_at, list(by_broker.items()))

    async def _all(self, call: Callable[[Any], Awaitable[None]], arguments: Sequence[object]) -> None:
        """A call for each argument, at the same time. Raises the first failure when all have ended."""
        failures: list[ClientError] = []

        async def one(argument: object) -> None:
            try:
                await call(argument)
            except ClientError as error:
                failures.append(error)

        await self.session.each([(one, argument) for argument in arguments])
        if failures:
            raise failures[0]

    async def _ack_at(self, item: tuple[str, list[ReceivedMessage]]) -> None:
        """Acknowledge messages of one broker."""
        broker_name, messages = item
        if len(messages) > 1 and broker_name not in self._no_batch_acks:
            body = {"acks": self._batch(messages), "brokerName": broker_name}
            try:
                await self.session.call_broker(
                    broker_name, command(RequestCode.BATCH_ACK_MESSAGE, {"bname": broker_name}, dumps(body))
                )
                return
            except NotSupported:
                self._no_batch_acks.add(broker_name)
        await self._all(self._ack, messages)

    def _batch(self, messages: Iterable[ReceivedMessage]) -> list[BatchAck]:
        """An item for each checkpoint, in which a bit stands for each message."""
        offsets: dict[tuple[str, ...], list[int]] = {}
        for message in messages:
            start, popped_at, invisible, revive, retry, _, queue_id, offset = self._checkpoint(message)
            key = (self.session.wrap(message.topic), retry, start, queue_id, revive, popped_at, invisible)
            offsets.setdefault(key, []).append(int(offset) - int(start))
        acks: list[BatchAck] = []
        for (topic, retry, start, queue_id, revive, popped_at, invisible), places in offsets.items():
            bits = bytearray(max(places) // 8 + 1)
            for place in places:
                bits[place // 8] |= 1 << place % 8
            acks.append(
                BatchAck(
                    consumer_group=self._wire_group,
                    topic=topic,
                    retry=retry,
                    start_offset=int(start),
                    queue_id=int(queue_id),
                    revive_queue_id=int(revive),
                    pop_time=int(popped_at),
                    invisible_time=int(invisible),
                    acked=bytes(bits),
                )
            )
        return acks

    async def _ack(self, message: ReceivedMessage) -> None:
        broker_name, ext = self._handle(message)
        await self.session.call_broker(broker_name, command(RequestCode.ACK_MESSAGE, ext))

    async def _ack_quietly(self, message: ReceivedMessage) -> None:
        try:
            await self._ack(message)
        except ClientError as error:
            log.info("%r, which the filter does not mean, is not acknowledged: %s", message, error)

    async def change_invisible(self, message: ReceivedMessage, seconds: float) -> None:
        """The message comes again in so many seconds from now, if it is not acknowledged before."""
        broker_name, ext = self._handle(message)
        ext["invisibleTime"] = str(round(seconds * 1000))
        reply = await self.session.call_broker(broker_name, command(RequestCode.CHANGE_MESSAGE_INVISIBLETIME, ext))
        fields = message.properties[m.PROPERTY_POP_CK].split(" ")
        try:
            fields[1:4] = [reply.ext["popTime"], reply.ext["invisibleTime"], reply.ext["reviveQid"]]
            fields[0] = fields[7]  # the new checkpoint is for this message alone
        except (KeyError, IndexError) as error:
            raise BrokerError(ResponseCode.SYSTEM_ERROR, f"the answer cannot be read: {error!r}") from None
        message.properties[m.PROPERTY_POP_CK] = " ".join(fields)

    def _checkpoint(self, message: ReceivedMessage) -> list[str]:
        """Start offset, pop time, invisible time, revive queue, retry flag, broker, queue, offset."""
        fields = message.properties.get(m.PROPERTY_POP_CK, "").split(" ")
        if len(fields) != 8:
            raise UsageError(f"{message!r} was not received by a pop consumer")
        return fields

    def _handle(self, message: ReceivedMessage) -> tuple[str, dict[str, str]]:
        fields = self._checkpoint(message)
        _, _, _, _, retry, broker_name, queue_id, offset = fields
        topic = self.session.wrap(message.topic)
        if retry != "0":
            topic = names.pop_retry_topic(self._wire_group, topic, v2=retry == "2")
        return broker_name, {
            "consumerGroup": self._wire_group,
            "topic": topic,
            "queueId": queue_id,
            "extraInfo": " ".join(fields),
            "offset": offset,
            "bname": broker_name,
        }


def popped(reply: Command, broker_name: str, namespace: str = "") -> list[ReceivedMessage]:
    """The messages of the answer to a pop, each with its checkpoint (POP_CK). Raises ProtocolError."""
    ext = reply.ext
    messages = decode_page(reply.body, broker_name, namespace)
    starts: dict[int, str] = {}
    for item in (ext.get("startOffsetInfo") or "").split(";"):
        fields = item.split(" ")
        if len(fields) == 3 and fields[0] == "0" and fields[1].isdigit():
            starts[int(fields[1])] = fields[2]
    try:
        when = f"{ext['popTime']} {ext['invisibleTime']} {ext['reviveQid']}"
    except KeyError as missing:
        raise ProtocolError(f"the answer to a pop has no {missing.args[0]}") from None
    for message in messages:
        properties = message.properties
        if m.PROPERTY_POP_CK not in properties:
            queue_id = message.queue.queue_id
            start = starts.setdefault(queue_id, str(message.queue_offset))
            properties[m.PROPERTY_POP_CK] = f"{start} {when} 0 {broker_name} {queue_id} {message.queue_offset}"
        properties.setdefault(m.PROPERTY_FIRST_POP_TIME, ext["popTime"])
    return messages
