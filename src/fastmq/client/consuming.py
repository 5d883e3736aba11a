"""What all consumers with rebalancing share: membership, assignment of queues, a pull loop per queue, offsets.

    rebalance loop ─ who is in the group, which queues are mine ─► take / drop
    per queue: pull loop ─► window (what is in work) ─► `_deliver`, which the kind of consumer provides
    offsets: what windows say is done, stored every few seconds and when a queue is given up

After RocketMQ's RebalanceImpl, PullMessageService and OffsetStore.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final, Unpack

import anyio

from fastmq.client import running
from fastmq.client.assigned import Assigned, Settings
from fastmq.client.background import Tasks
from fastmq.client.errors import ClientError, RouteError, TopicNotFound
from fastmq.client.member import choice
from fastmq.client.offsets import LocalOffsets, RemoteOffsets
from fastmq.client.pulling import Puller
from fastmq.client.rebalance import Strategy, averagely
from fastmq.client.session import Session, SessionOptions, command
from fastmq.client.subscriptions import Filter, StartFrom, Topics, read_topics, subscription, to_ms
from fastmq.client.transport import Connection
from fastmq.client.window import DEFAULT_LIMITS, FlowLimits
from fastmq.errors import ProtocolError, UsageError
from fastmq.protocol import names
from fastmq.protocol.bodies import dumps
from fastmq.protocol.bodies._read import as_list, as_str, read_object
from fastmq.protocol.bodies.client import ConsumerData, ConsumeType, MessageModel, SubscriptionData, is_tag_type
from fastmq.protocol.bodies.config import MessageQueue
from fastmq.protocol.codes import RequestCode, ResponseCode
from fastmq.protocol.command import Command

log = logging.getLogger("fastmq.client")

REBALANCE_SECONDS: Final = 20.0
UNBALANCED_SECONDS: Final = 1.0
PERSIST_SECONDS: Final = 5.0
CLOSE_SECONDS: Final = 6.0  # for the last offsets and for leaving the group
SUSPEND_SECONDS: Final = 15.0


class QueueConsumer(Puller):
    """Base of consumers that pull from queues. Names of topics and groups inside are those on the wire."""

    consume_type = ConsumeType.CONSUME_PASSIVELY
    takes_retries = True
    in_order = False

    def __init__(
        self,
        where: str | Sequence[str] | Session | None,
        group: str,
        topics: Topics = (),
        *,
        broadcasting: bool = False,
        start_from: StartFrom | str = StartFrom.LAST,
        start_time: datetime | float | None = None,
        strategy: Strategy = averagely,
        pull_batch: int = 32,
        limits: FlowLimits = DEFAULT_LIMITS,
        suspend_seconds: float = SUSPEND_SECONDS,
        persist_seconds: float = PERSIST_SECONDS,
        rebalance_seconds: float = REBALANCE_SECONDS,
        offset_folder: Path | str | None = None,
        **options: Unpack[SessionOptions],
    ) -> None:
        super().__init__(
            where, options, group, Settings(pull_batch, limits, suspend_seconds, persist_seconds, rebalance_seconds)
        )
        self.broadcasting = broadcasting
        self._start_from = StartFrom.TIME if start_time is not None else choice(StartFrom, start_from, "start_from")
        if self._start_from is StartFrom.TIME and start_time is None:
            raise UsageError("start_from='time' needs start_time")
        self._start_ms = 0 if start_time is None else to_ms(start_time)
        self._strategy = strategy
        if not 1 <= pull_batch <= 1024:
            raise UsageError(f"a pull brings 1 to 1024 messages, not {pull_batch}")
        self._filters = read_topics(topics)
        self._offset_folder = Path(offset_folder) if offset_folder is not None else Path.home() / ".rocketmq_offsets"
        self._subscriptions: dict[str, SubscriptionData] = {}
        self._wake_rebalance = anyio.Event()
        self._rebalanced = anyio.Event()
        self._fixed: list[MessageQueue] | None = None
        self._draining = False
        self._started_ms = 0

    # --- life --------------------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        session = self.session
        self._started_ms = session.clock.wall_ms()
        if self.broadcasting:
            folder = self._offset_folder / session.client_id.partition("@")[0] / self._wire_group
            self._offsets = LocalOffsets(folder / "offsets.json")
        else:
            self._offsets = RemoteOffsets(session, self._wire_group)
        self._tasks = Tasks(session.background)
        for topic, one in self._filters.items():
            wire = session.wrap(topic)
            self._subscriptions[wire] = self._subscription(wire, one)
        if self.takes_retries and not self.broadcasting:
            retry = names.retry_topic(self._wire_group)
            self._subscriptions[retry] = subscription(retry, Filter(), self._started_ms)
        session.add_consumer(self._wire_group, self)
        for topic in self._subscriptions:
            await self._fetch_route(topic)
        await session.heartbeat_now()
        for data in self._subscriptions.values():
            await self._check_filter(data)
        self._start_tasks()
        self._tasks.spawn(self._rebalance_forever)
        self._tasks.spawn(self._persist_forever)

    def _start_tasks(self) -> None:
        """Start what the kind of consumer needs."""

    async def _fetch_route(self, topic: str) -> None:
        try:
            await self.session.route(topic)
        except TopicNotFound:
            if not names.is_retry_topic(topic):  # that one is made by and by
                log.warning("%s consumes topic %s, which does not exist yet", self.group, topic)

    async def _check_filter(self, data: SubscriptionData) -> None:
        """Let a broker judge a filter that only it can read. Raises SubscriptionError for a wrong one."""
        if is_tag_type(data.expression_type):
            return
        body = {"clientId": self.session.client_id, "group": self._wire_group, "subscriptionData": data}
        for address in self.session.routes.broker_addresses(masters_only=True)[:1]:
            await self.session.call(address, command(RequestCode.CHECK_CLIENT_CONFIG, body=dumps(body)))

    async def _close(self) -> None:
        if not hasattr(self, "_tasks"):
            return
        self._draining = True
        await self._drain()
        await self._tasks.stop()
        self._note_offsets()
        with anyio.move_on_after(CLOSE_SECONDS):
            failure = await self._offsets.persist()
            if failure is not None:
                log.warning("messages of %s will come again, not all offsets are stored: %s", self.group, failure)
            await self._leave()
            await self.session.remove_consumer(self._wire_group, self)
        self._assigned.clear()

    async def _drain(self) -> None:
        """No more pulls; what has begun may end."""

    async def _leave(self) -> None:
        """Give back what brokers keep for us beside membership."""

    # --- subscriptions -----------------------------------------------------------------------------------------------

    def _subscription(self, wire: str, one: Filter) -> SubscriptionData:
        wrong = names.validate_topic(wire)
        if wrong:
            raise UsageError(wrong)
        return subscription(wire, one, self.session.clock.wall_ms())

    async def subscribe(self, topic: str, filter: Filter | str = "*") -> None:
        """Take a topic from now on, or take other messages of it. What was taken stays as it was if this raises.

        Raises SubscriptionError for a filter that the broker refuses.
        """
        wire = self.session.wrap(topic)
        wanted = self._subscription(wire, filter if isinstance(filter, Filter) else Filter(filter))
        await self._fetch_route(wire)
        await self._check_filter(wanted)
        self._subscriptions[wire] = wanted
        await self.session.heartbeat_now()
        for assigned in list(self._assigned.values()):
            assigned.subscription = self._subscriptions.get(assigned.queue.topic, assigned.subscription)
        self._rebalance_soon()

    async def unsubscribe(self, topic: str) -> None:
        """Take no more messages of a topic."""
        wire = self.session.wrap(topic)
        self._subscriptions.pop(wire, None)
        await self._drop([one for one in self._assigned.values() if one.queue.topic == wire])
        await self.session.heartbeat_now()
        self._rebalance_soon()  # which may just have taken one

    def heartbeat_part(self) -> ConsumerData:
        """What heartbeats say of it."""
        return ConsumerData(
            group_name=self._wire_group,
            consume_type=self.consume_type,
            message_model=MessageModel.BROADCASTING if self.broadcasting else MessageModel.CLUSTERING,
            consume_from_where=self._start_from.wire,
            subscription_data_set=tuple(self._subscriptions.values()),
        )

    def routes_changed(self, topics: Collection[str]) -> None:
        """Some topics have other queues than before."""
        if any(topic in self._subscriptions for topic in topics):
            self._rebalance_soon()

    # --- rebalancing -------------------------------------------------------------------------------------------------

    def _rebalance_soon(self) -> None:
        self._wake_rebalance.set()

    async def _rebalance_forever(self) -> None:
        while not self._draining:
            self._wake_rebalance = anyio.Event()
            balanced = await self._rebalance()
            if balanced:
                self._rebalanced.set()
            with anyio.move_on_after(self._settings.rebalance if balanced else UNBALANCED_SECONDS):
                await self._wake_rebalance.wait()

    async def _rebalance(self) -> bool:
        """Take and drop queues so that they are those we should have. False if it has to be tried again soon."""
        if self._fixed is not None:
            return await self._balance_topic(None, self._fixed)
        balanced = True
        for topic in list(self._subscriptions):
            try:
                mine = await self._my_queues(topic)
            except ClientError as error:
                log.info("the queues of %s for %s stay as they are: %s", topic, self.group, error)
                balanced = False
                continue
            balanced = await self._balance_topic(topic, mine) and balanced
        await self._drop([one for one in self._assigned.values() if one.queue.topic not in self._subscriptions])
        return balanced

    async def _my_queues(self, topic: str) -> list[MessageQueue]:
        session = self.session
        known = session.routes.get(topic)
        route = await session.route(topic, refresh=known is None or not known.read_queues)
        queues = sorted(route.read_queues)
        if self.broadcasting:
            return queues
        clients = await self._members_of(route.brokers)
        return self._strategy(self._wire_group, session.client_id, queues, clients)

    async def _members_of(self, brokers: Iterable[str]) -> list[str]:
        request = {"consumerGroup": self._wire_group}
        failure: ClientError = RouteError("no broker knows the topic")
        for broker_name in brokers:
            try:
                reply = await self.session.call_broker(
                    broker_name, command(RequestCode.GET_CONSUMER_LIST_BY_GROUP, request), any_other=True
                )
                members = as_list(read_object(reply.body, "a member list").get("consumerIdList"), as_str)
            except ProtocolError as error:
                failure = RouteError(f"the members of {self.group} cannot be read: {error}")
            except ClientError as error:
                failure = error
            else:
                if self.session.client_id in members:
                    return sorted(members)
                # the broker lost us (it was restarted): giving up everything would help nobody
                await self.session.heartbeat_now()
                failure = RouteError("the broker does not know us yet")
        raise failure

    async def _balance_topic(self, topic: str | None, mine: Sequence[MessageQueue]) -> bool:
        wanted = set(mine)
        ours = [one for one in self._assigned.values() if topic is None or one.queue.topic == topic]
        await self._drop([one for one in ours if one.queue not in wanted])
        balanced = True
        for queue in mine:
            if queue not in self._assigned and not self._draining:
                balanced = await self._take(queue) and balanced
        return balanced

    async def _take(self, queue: MessageQueue) -> bool:
        """A queue becomes ours."""
        data = self._subscriptions.get(queue.topic)
        if data is None:
            data = subscription(queue.topic, Filter(), self._started_ms)
        try:
            lock = await self._acquire(queue)
            if not lock:
                return False
            offset = await self._first_offset(queue)
        except ClientError as error:
            log.info("%s cannot be taken yet: %s", queue, error)
            return False
        if queue in self._assigned or self._draining:
            return True
        assigned = Assigned(queue, data, offset)
        assigned.locked_until = lock
        assigned.last_lock_ms = self.session.clock.wall_ms()
        self._begin(assigned)
        return True

    async def _acquire(self, queue: MessageQueue) -> float:
        """Until when we may hold the queue (monotonic seconds); 0 if somebody else has it."""
        return float("inf")

    async def _drop(self, several: Sequence[Assigned]) -> None:
        """Give queues up; what is done of them is stored."""
        if not several:
            return
        for assigned in several:
            self._end(assigned)
            self._offsets.update(assigned.queue, assigned.window.commit_offset)
            self._on_dropped(assigned)
        await self._offsets.persist([one.queue for one in several])
        for assigned in several:
            if assigned.queue not in self._assigned:
                self._offsets.forget(assigned.queue)
            self._after_drop(assigned)

    def _on_dropped(self, assigned: Assigned) -> None:
        """A queue was given up."""

    def _after_drop(self, assigned: Assigned) -> None:
        """Where somebody else goes on in a queue that was given up is stored, or cannot be."""

    async def _first_offset(self, queue: MessageQueue) -> int:
        """Where to begin in a queue (computePullFromWhere). Raises ClientError."""
        stored = await self._offsets.load(queue)
        if stored is not None and stored >= 0:
            self._offsets.update(queue, stored)
            return stored
        if names.is_retry_topic(queue.topic):
            return 0
        if self._start_from is StartFrom.FIRST:
            offset = await self._queue_offset(RequestCode.GET_MIN_OFFSET, queue)
        elif self._start_from is StartFrom.TIME:
            offset = await self._queue_offset(RequestCode.SEARCH_OFFSET_BY_TIMESTAMP, queue, self._start_ms)
        else:
            offset = await self._queue_offset(RequestCode.GET_MAX_OFFSET, queue)
        self._offsets.update(queue, offset)
        return offset

    # --- offsets -----------------------------------------------------------------------------------------------------

    def _note_offsets(self) -> None:
        for assigned in self._assigned.values():
            self._offsets.update(assigned.queue, assigned.window.commit_offset)

    async def _persist_forever(self) -> None:
        while True:
            await anyio.sleep(self._settings.persist)
            self._note_offsets()
            await self._offsets.persist()

    # --- requests of brokers -----------------------------------------------------------------------------------------

    async def on_server_request(self, connection: Connection, request: Command) -> Command | None:
        """Members changed (40), offsets are reset (220), somebody asks how we are (221, 307) or tries us (309)."""
        if request.code == RequestCode.NOTIFY_CONSUMER_IDS_CHANGED:
            self._rebalance_soon()
            return None
        if request.code == RequestCode.RESET_CONSUMER_CLIENT_OFFSET:
            await self._reset(running.read_reset(request))
            return None
        if request.code == RequestCode.GET_CONSUMER_STATUS_FROM_CLIENT:
            topic = request.ext.get("topic", "")
            return running.status_reply(request, self._assigned.values(), topic)
        if request.code == RequestCode.GET_CONSUMER_RUNNING_INFO:
            return running.info_reply(
                request,
                consume_type=self.consume_type,
                in_order=self.in_order,
                workers=self._worker_count,
                started_ms=self._started_ms,
                name_servers=self.session.name_servers.addresses,
                assigned=list(self._assigned.values()),
                subscriptions=list(self._subscriptions.values()),
                statistics=self.statistics,
                now=self.session.clock.monotonic(),
            )
        if request.code == RequestCode.CONSUME_MESSAGE_DIRECTLY:
            return await self._consume_directly(request)
        return request.reply(ResponseCode.REQUEST_CODE_NOT_SUPPORTED, f"code {request.code} is not served here")

    @property
    def _worker_count(self) -> int:
        return 1

    async def _consume_directly(self, request: Command) -> Command:
        return request.reply(ResponseCode.REQUEST_CODE_NOT_SUPPORTED, "this consumer has no listener")

    async def _reset(self, offsets: dict[MessageQueue, int]) -> None:
        for queue, offset in offsets.items():
            assigned = self._assigned.get(queue)
            if assigned is not None:
                self._restart(assigned, offset)
        await self._offsets.persist(list(offsets))

    # --- what users may look at and steer ----------------------------------------------------------------------------

    def _shown(self, queue: MessageQueue) -> MessageQueue:
        return MessageQueue(self.session.unwrap(queue.topic), queue.broker_name, queue.queue_id)

    def _wire(self, queue: MessageQueue) -> MessageQueue:
        return MessageQueue(self.session.wrap(queue.topic), queue.broker_name, queue.queue_id)

    @property
    def assignment(self) -> list[MessageQueue]:
        """The queues that are ours now, retry queues included."""
        return sorted(map(self._shown, self._assigned))

    async def wait_assigned(self) -> None:
        """Wait until the first assignment is complete."""
        await self._rebalanced.wait()

    def pause(self, queues: Iterable[MessageQueue] | None = None) -> None:
        """Pull no more from some queues, or from all that are ours. They stay ours."""
        for queue in list(self._assigned) if queues is None else list(map(self._wire, queues)):
            self._paused.add(queue)
            if queue in self._assigned:
                self._assigned[queue].paused = True

    def resume(self, queues: Iterable[MessageQueue] | None = None) -> None:
        """Pull again."""
        for queue in list(self._paused) if queues is None else list(map(self._wire, queues)):
            self._paused.discard(queue)
            if queue in self._assigned:
                self._assigned[queue].paused = False
                self._assigned[queue].wake()
