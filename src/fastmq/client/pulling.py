"""Pulling from queues that are ours: one loop for each, which waits while enough is in work.

After RocketMQ's PullMessageService and DefaultMQPushConsumerImpl.pullMessage.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

import anyio

from fastmq.client import running
from fastmq.client.assigned import Assigned, Settings
from fastmq.client.background import Tasks
from fastmq.client.errors import BrokerError, ClientError, RouteError, SubscriptionError
from fastmq.client.member import GroupUser
from fastmq.client.messages import ReceivedMessage, decode_page
from fastmq.client.offsets import Offsets
from fastmq.client.session import Session, SessionOptions, command
from fastmq.client.subscriptions import takes
from fastmq.errors import ProtocolError
from fastmq.protocol import message as m
from fastmq.protocol import names
from fastmq.protocol.bodies.client import is_tag_type
from fastmq.protocol.bodies.config import MessageQueue
from fastmq.protocol.codes import RequestCode, ResponseCode
from fastmq.protocol.headers.pull import PULL_SUBSCRIPTION, PULL_SUSPEND

log = logging.getLogger("fastmq.client")

ERROR_SECONDS: Final = 1.0
BUSY_SECONDS: Final = 0.02
PULL_CODES: Final = frozenset(
    {
        int(ResponseCode.SUCCESS),
        int(ResponseCode.PULL_NOT_FOUND),
        int(ResponseCode.PULL_RETRY_IMMEDIATELY),
        int(ResponseCode.PULL_OFFSET_MOVED),
    }
)


class Puller(GroupUser):
    """What pulls from queues. Subclasses say which queues are ours, and what becomes of messages."""

    _offsets: Offsets
    _tasks: Tasks

    def __init__(
        self, where: str | Sequence[str] | Session | None, options: SessionOptions, group: str, settings: Settings
    ) -> None:
        super().__init__(where, options, group)
        self.statistics = running.ConsumeStatistics()
        self._settings = settings
        self._assigned: dict[MessageQueue, Assigned] = {}
        self._paused: set[MessageQueue] = set()

    # --- beginning and ending ----------------------------------------------------------------------------------------

    def _begin(self, assigned: Assigned) -> None:
        assigned.paused = assigned.queue in self._paused
        self._assigned[assigned.queue] = assigned
        self._on_taken(assigned)
        assigned.scope = self._tasks.spawn(self._pull_forever, assigned)

    def _on_taken(self, assigned: Assigned) -> None:
        """A queue was taken."""

    def _end(self, assigned: Assigned) -> None:
        assigned.dropped = True
        if self._assigned.get(assigned.queue) is assigned:
            del self._assigned[assigned.queue]
        if assigned.scope is not None:
            assigned.scope.cancel()

    def _restart(self, assigned: Assigned, offset: int) -> Assigned:
        """Go on elsewhere in a queue; what was pulled of it is forgotten."""
        self._end(assigned)
        self._offsets.update(assigned.queue, offset)
        fresh = Assigned(assigned.queue, assigned.subscription, offset)
        fresh.locked_until, fresh.last_lock_ms = assigned.locked_until, assigned.last_lock_ms
        fresh.before = assigned if assigned.running else assigned.before
        self._begin(fresh)
        return fresh

    # --- pulling -----------------------------------------------------------------------------------------------------

    async def _pull_forever(self, assigned: Assigned) -> None:
        while not assigned.dropped:
            await self._wait_for_room(assigned)
            try:
                page = await self._pull(assigned)
            except ClientError as error:
                await self._after_pull_error(assigned, error)
                continue
            except ProtocolError as error:
                log.error("%s at %d cannot be read: %s", assigned.queue, assigned.window.next_offset, error)
                await anyio.sleep(ERROR_SECONDS)
                continue
            if assigned.dropped:
                return
            if page is None:
                return
            messages, next_offset = page
            assigned.window.add(messages, next_offset)
            if messages:
                self._deliver(assigned, messages)

    async def _wait_for_room(self, assigned: Assigned) -> None:
        while assigned.paused or assigned.window.is_full(self._settings.limits) or not self._may_pull(assigned):
            assigned.room = anyio.Event()
            await assigned.room.wait()

    def _may_pull(self, assigned: Assigned) -> bool:
        return True

    async def _pull(self, assigned: Assigned) -> tuple[list[ReceivedMessage], int] | None:
        """The next messages and where to go on; None if the queue was begun anew elsewhere."""
        session = self.session
        queue = assigned.queue
        data = assigned.subscription
        settings = self._settings
        by_tag = is_tag_type(data.expression_type)
        request = command(
            RequestCode.PULL_MESSAGE,
            {
                "consumerGroup": self._wire_group,
                "topic": queue.topic,
                "queueId": str(queue.queue_id),
                "queueOffset": str(assigned.window.next_offset),
                "maxMsgNums": str(settings.batch),
                "sysFlag": str(PULL_SUSPEND | PULL_SUBSCRIPTION if by_tag else PULL_SUSPEND),
                "commitOffset": "0",
                "suspendTimeoutMillis": str(round(settings.suspend * 1000)),
                "subscription": data.sub_string if by_tag else "",
                "subVersion": str(data.sub_version),
                "expressionType": data.expression_type,
                "bname": queue.broker_name,
            },
        )
        address = session.routes.address(queue.broker_name, assigned.broker_id, any_other=True)
        if address is None:
            raise RouteError(f"broker {queue.broker_name} has no address")
        assigned.last_pull_ms = session.clock.wall_ms()
        begin = session.clock.monotonic()
        reply = await session.call(address, request, timeout=settings.suspend + 15, accept=PULL_CODES)
        try:
            next_offset = int(reply.ext["nextBeginOffset"])
            assigned.broker_id = int(reply.ext.get("suggestWhichBrokerId") or 0)
            assigned.max_offset = int(reply.ext.get("maxOffset") or 0)
        except (KeyError, ValueError) as error:
            raise BrokerError(reply.code, f"the answer to a pull cannot be read: {error!r}", address) from None
        if reply.code == ResponseCode.PULL_OFFSET_MOVED:
            if assigned.dropped:
                return None
            log.warning("%s: offset %d becomes %d", queue, assigned.window.next_offset, next_offset)
            self._restart(assigned, next_offset)
            return None
        if reply.code != ResponseCode.SUCCESS:
            return [], next_offset
        messages = decode_page(reply.body, queue.broker_name, session.namespace)
        now = session.clock.monotonic()
        self.statistics.pulled(queue.topic, len(messages), now - begin, now)
        if data.tags_set:
            messages = [one for one in messages if takes(data, one)]
        if names.is_retry_topic(queue.topic):
            for one in messages:
                one.topic = session.unwrap(one.properties.get(m.PROPERTY_RETRY_TOPIC) or one.topic)
        return messages, next_offset

    async def _after_pull_error(self, assigned: Assigned, error: ClientError) -> None:
        if assigned.dropped:
            return
        if isinstance(error, BrokerError) and error.code == ResponseCode.FLOW_CONTROL:
            await anyio.sleep(BUSY_SECONDS)
            return
        hopeless = not error.retryable and not isinstance(error, SubscriptionError)
        log.log(
            logging.WARNING if hopeless and not assigned.complained else logging.INFO,
            "pulling %s failed: %s", assigned.queue, error,
        )  # fmt: skip
        assigned.complained = hopeless
        if isinstance(error, SubscriptionError):
            await self.session.heartbeat_now()
        elif not isinstance(error, BrokerError) or error.code == ResponseCode.TOPIC_NOT_EXIST:
            assigned.broker_id = 0
            await self.session.refresh_routes([assigned.queue.topic])
        await anyio.sleep(ERROR_SECONDS)

    def _deliver(self, assigned: Assigned, messages: list[ReceivedMessage]) -> None:
        """Messages were pulled and are in the window. Must not block."""
        raise NotImplementedError

    async def _queue_offset(self, code: int, queue: MessageQueue, timestamp_ms: int | None = None) -> int:
        ext = {"topic": queue.topic, "queueId": str(queue.queue_id), "bname": queue.broker_name}
        if timestamp_ms is not None:
            ext["timestamp"] = str(timestamp_ms)
        reply = await self.session.call_broker(queue.broker_name, command(code, ext), any_other=True)
        try:
            return max(0, int(reply.ext["offset"]))
        except (KeyError, ValueError) as error:
            raise BrokerError(ResponseCode.SYSTEM_ERROR, f"no offset in the answer: {error!r}") from None
