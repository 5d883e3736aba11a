"""Locks of queues for consumption in order (RocketMQ's RebalanceImpl.lock, ConsumeMessageOrderlyService)."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Final

import anyio

from fastmq.client.assigned import Assigned
from fastmq.client.errors import ClientError
from fastmq.client.session import Session, command
from fastmq.errors import ProtocolError
from fastmq.protocol.bodies import LockBatchBody, LockBatchResponseBody, dumps
from fastmq.protocol.bodies.config import MessageQueue
from fastmq.protocol.codes import RequestCode
from fastmq.protocol.command import Command

log = logging.getLogger("fastmq.client")

LOCK_SECONDS: Final = 30.0  # how long we believe in a lock; brokers keep it for 60
RENEW_SECONDS: Final = 20.0
RETRY_SECONDS: Final = 3.0
ASK_SECONDS: Final = 5.0  # who leaves waits no longer for a lock that is under way


class QueueLocks:
    """The locks of one consumer. A lock is held while `assigned.locked_until` lies ahead.

    A broker is asked one thing after the other, also when whoever asked is cancelled: it serves requests side by side,
    and a lock that comes behind the unlock sent after it would be nobody's for a minute.
    """

    def __init__(self, session: Session, group: str, assigned: Mapping[MessageQueue, Assigned]) -> None:
        self._session = session
        self._group = group
        self._assigned = assigned
        self._turns: dict[str, anyio.Lock] = {}
        self._held: set[MessageQueue] = set()  # also what a broker may have given us, though we do not know it

    def holds(self, assigned: Assigned) -> bool:
        """Whether we may consume the queue now."""
        return assigned.locked_until > self._session.clock.monotonic()

    async def acquire(self, queue: MessageQueue) -> float:
        """Until when we hold a queue; 0 if somebody else has it. Raises ClientError."""
        async with self._turn(queue.broker_name):
            begin = self._session.clock.monotonic()
            self._held.add(queue)
            granted = await self._ask(queue.broker_name, [queue])
            if queue in granted:
                return begin + LOCK_SECONDS
            self._held.discard(queue)
            return 0.0

    def _turn(self, broker_name: str) -> anyio.Lock:
        return self._turns.setdefault(broker_name, anyio.Lock())

    async def _ask(self, broker_name: str, queues: Collection[MessageQueue]) -> Collection[MessageQueue]:
        request = self._request(RequestCode.LOCK_BATCH_MQ, queues)
        seconds = min(self._session.request_timeout, ASK_SECONDS)
        with anyio.CancelScope(shield=True):
            reply = await self._session.call_broker(broker_name, request, timeout=seconds)
        try:
            return LockBatchResponseBody.from_json(reply.body).lock_ok_mq_set
        except ProtocolError as error:
            raise ClientError(f"the answer to a lock cannot be read: {error}") from error

    def _request(self, code: int, queues: Collection[MessageQueue]) -> Command:
        body = LockBatchBody(
            consumer_group=self._group, client_id=self._session.client_id, mq_set=tuple(sorted(queues))
        )
        return command(code, body=dumps(body))

    async def renew(self) -> None:
        """Ask again for all queues that are ours. A broker that does not answer changes nothing: locks run out."""
        for broker_name in dict.fromkeys(queue.broker_name for queue in self._assigned):
            async with self._turn(broker_name):
                await self._renew_at(broker_name)

    async def _renew_at(self, broker_name: str) -> None:
        ours = [one for one in self._assigned.values() if one.queue.broker_name == broker_name]
        begin = self._session.clock.monotonic()
        try:
            granted = await self._ask(broker_name, [one.queue for one in ours])
        except ClientError as error:
            log.info("the locks at %s are not renewed: %s", broker_name, error)
            return
        for one in ours:
            one.locked_until = begin + LOCK_SECONDS if one.queue in granted else 0.0
            one.last_lock_ms = self._session.clock.wall_ms()
            if one.queue in granted:
                one.wake_runner()

    async def renew_forever(self) -> None:
        """Keep the locks."""
        while True:
            lost = any(not self.holds(one) for one in self._assigned.values())
            await anyio.sleep(RETRY_SECONDS if lost else RENEW_SECONDS)
            await self.renew()

    async def wait_for_lock(self, assigned: Assigned) -> None:
        """Wait until we hold the lock again, or the queue is given up."""
        while not assigned.dropped and not self.holds(assigned):
            with anyio.move_on_after(RETRY_SECONDS):
                await assigned.wait_for_messages()
            if not assigned.dropped and not self.holds(assigned):
                with suppress(ClientError):
                    assigned.locked_until = await self.acquire(assigned.queue)

    async def release_all(self) -> None:
        """Give back whatever we hold."""
        await self.release(self._held)

    async def release(self, queues: Collection[MessageQueue]) -> None:
        """Give locks back. What cannot be told runs out by itself."""
        by_broker: dict[str, list[MessageQueue]] = {}
        for queue in queues:
            by_broker.setdefault(queue.broker_name, []).append(queue)
        for broker_name, ours in by_broker.items():
            async with self._turn(broker_name):
                with suppress(ClientError):
                    await self._session.call_broker(
                        broker_name, self._request(RequestCode.UNLOCK_BATCH_MQ, ours), timeout=1.0
                    )
            self._held.difference_update(ours)
