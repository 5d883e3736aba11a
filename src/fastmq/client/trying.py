"""The road of a message from a producer to a broker: choice of queue, tries, results.

A send is prepared once and then tried: on the queue whose turn it is, and after a failure that may pass on another
broker, until tries or time are used up.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Final

import anyio

from fastmq.client.background import Tasks
from fastmq.client.errors import (
    BrokerError,
    ClientError,
    NotSupported,
    RequestTimeout,
    RouteError,
    SendFailed,
    TopicNotFound,
    broker_error,
)
from fastmq.client.latency import Latencies
from fastmq.client.member import GroupUser
from fastmq.client.messages import SendResult, SendStatus
from fastmq.client.otel import Telemetry
from fastmq.client.prepared import Lane, Prepared, Preparer
from fastmq.client.routes import Route
from fastmq.client.session import Session, SessionOptions
from fastmq.client.trace import DEFAULT_REGION, Tracer, kind_of, publication
from fastmq.errors import UsageError
from fastmq.protocol import message as m
from fastmq.protocol.bodies.config import MessageQueue
from fastmq.protocol.codes import ResponseCode
from fastmq.protocol.command import Command

log = logging.getLogger("fastmq.client")

STORED: Final = frozenset(int(status) for status in SendStatus)
_STATUSES: Final = {int(status): status for status in SendStatus}
FIRST_WITH_TIMERS: Final = 413  # RocketMQ 5.0.0; older brokers would deliver at once


class Trier(GroupUser):
    """What tries to get messages to brokers. Subclasses prepare them."""

    _preparer: Preparer
    _telemetry: Telemetry | None
    _tasks: Tasks

    def __init__(
        self,
        where: str | Sequence[str] | Session | None,
        options: SessionOptions,
        group: str,
        *,
        timeout: float,
        try_timeout: float,
        retries: int,
        retry_not_stored_ok: bool,
        avoid_slow_brokers: bool,
    ) -> None:
        super().__init__(where, options, group)
        self._timeout = timeout
        self._try_timeout = try_timeout
        self._retries = retries
        self._retry_not_stored_ok = retry_not_stored_ok
        self._latencies = Latencies() if avoid_slow_brokers else None
        self._tracer: Tracer | None = None
        self._turns: dict[str, int] = {}
        # many producers of one message each are not to take the same queue
        self._first_turn = self._session.random.getrandbits(15)

    async def _route(self, prepared: Prepared) -> Route:
        route = await self.session.route(prepared.topic, borrow=True)
        if not route.write_queues:
            route = await self.session.route(prepared.topic, refresh=True, borrow=True)
        return route

    def _choose(self, prepared: Prepared, route: Route, avoid: Collection[str]) -> MessageQueue:
        """The queue of the next try. Raises RouteError if the topic has none."""
        queues = route.write_queues
        if prepared.fixed_queue is not None:
            return prepared.fixed_queue
        if not queues:
            raise RouteError(f"topic {prepared.topic} has no queue that can be written")
        message = prepared.message
        if prepared.selector is not None:
            shown = [MessageQueue(message.topic, one.broker_name, one.queue_id) for one in queues]
            chosen = prepared.selector(shown, message)
            if chosen not in shown:
                raise UsageError(f"the selector chose {chosen!r}, which is none of the queues that it was given")
            return chosen
        if message.sharding_key is not None:
            return queues[abs(m.java_hash(message.sharding_key)) % len(queues)]
        turn = self._turns[prepared.topic] = self._turns.get(prepared.topic, self._first_turn) + 1
        if not avoid and (self._latencies is None or self._latencies.all_well):
            return queues[turn % len(queues)]
        return (self._latencies or Latencies()).choose(
            queues, turn, self.session.clock.monotonic(), avoid.__contains__ if avoid else None
        )

    async def _deliver(
        self, prepared: Prepared, timeout: float | None = None, attempts: Sequence[ClientError] = ()
    ) -> SendResult:
        """Try until it is stored or there is no more hope."""
        if prepared.span is None or self._telemetry is None:
            return await self._try_on(prepared, timeout, attempts)
        try:
            result = await self._try_on(prepared, timeout, attempts)
        except BaseException as error:
            self._telemetry.sent(prepared.span, None, error)
            raise
        self._telemetry.sent(prepared.span, result)
        return result

    async def _try_on(self, prepared: Prepared, timeout: float | None, attempts: Sequence[ClientError]) -> SendResult:
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
                    route = await self._route(prepared)
                    queue = self._choose(prepared, route, avoid)
                    stored = await self._try(prepared, queue, min(left, self._try_timeout))
                if route.provisional:
                    # the topic exists now, with queues that are its own
                    self._tasks.spawn(self._refresh_quietly, prepared.topic)
                if stored.status is SendStatus.SEND_OK or not self._retry_not_stored_ok:
                    return stored
                failures.append(broker_error(stored.status, "stored, but not as safely as it should be"))
            except ClientError as error:
                failures.append(error)
                if not error.retryable:
                    break
                if isinstance(error, TopicNotFound | BrokerError):
                    with anyio.move_on_after(deadline - session.clock.monotonic()):
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

    def _give_up(self, prepared: Prepared, failures: list[ClientError]) -> SendResult:
        if not failures:
            raise RequestTimeout(f"no time was left to send to {prepared.topic}")
        last = failures[-1]
        if isinstance(last, BrokerError) and last.code == ResponseCode.TOPIC_NOT_EXIST:
            raise TopicNotFound(prepared.topic, last.remark) from last
        if len(failures) == 1:
            raise last
        raise SendFailed(prepared.topic, failures) from last

    async def _try(self, prepared: Prepared, queue: MessageQueue, timeout: float) -> SendResult:
        session = self.session
        begin = session.clock.monotonic()
        if prepared.message.is_timer:
            await self._check_timers(queue.broker_name)
        try:
            reply = await session.call_broker(
                queue.broker_name, self._preparer.request(prepared, queue), timeout=timeout, accept=STORED
            )
        except BrokerError:
            self._note(queue.broker_name, begin)
            self._trace(prepared, queue, None, begin)
            raise
        except ClientError:
            if self._latencies is not None:
                self._latencies.record_failure(queue.broker_name, session.clock.monotonic())
            self._trace(prepared, queue, None, begin)
            raise
        self._note(queue.broker_name, begin)
        result = self._result(prepared, queue, reply)
        self._trace(prepared, queue, result, begin)
        return result

    async def _check_timers(self, broker_name: str) -> None:
        """Raises NotSupported if a broker does not know timer messages."""
        version = await self.session.broker_version(broker_name)
        if 0 < version < FIRST_WITH_TIMERS:
            raise NotSupported(
                ResponseCode.VERSION_NOT_SUPPORTED,
                "a broker before RocketMQ 5.0 would deliver it at once: it knows delay_level, not delay and deliver_at",
                broker_name,
            )

    def _trace(self, prepared: Prepared, queue: MessageQueue, result: SendResult | None, begin: float) -> None:
        if self._tracer is None or (result is not None and not result.traced):
            return
        session = self._session
        message = prepared.message
        self._tracer.add(
            publication(
                now_ms=prepared.born_ms,
                region=(result.region if result is not None else None) or DEFAULT_REGION,
                group=self.group,
                topic=message.topic,
                message_id=prepared.message_id,
                tags=message.tag,
                keys=message.keys_text,
                store_host=session.routes.address(queue.broker_name, any_other=True) or "",
                body_length=len(prepared.body),
                cost_ms=round((session.clock.monotonic() - begin) * 1000),
                kind=kind_of(message, prepared.sys_flag),
                offset_id=None if result is None else result.offset_id,
                ok=result is not None,
            )
        )

    def _note(self, broker_name: str, begin: float) -> None:
        if self._latencies is not None:
            now = self.session.clock.monotonic()
            self._latencies.record(broker_name, now - begin, now)

    def _result(self, prepared: Prepared, queue: MessageQueue, reply: Command, lane: Lane | None = None) -> SendResult:
        ext = reply.ext
        get = ext.get
        try:
            stored_in = ext["queueId"]
            if lane is not None and lane.queue_id == stored_in:
                shown = lane.queue
            else:
                shown = MessageQueue(prepared.message.topic, queue.broker_name, int(stored_in))
            return SendResult._make(
                (
                    prepared.message_id,
                    ext["msgId"],
                    shown,
                    int(ext["queueOffset"]),
                    _STATUSES[reply.code],
                    get("transactionId"),
                    get("recallHandle"),
                    get("MSG_REGION"),
                    get("TRACE_ON") != "false",
                )
            )
        except (KeyError, ValueError) as error:
            raise BrokerError(reply.code, f"the answer to a send cannot be read: {error!r}") from None
