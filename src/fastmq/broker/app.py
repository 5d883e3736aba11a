"""The broker: its parts, who is wired to whom, and the services that run beside the requests.

Reading order: `__init__` builds the parts from the bottom up; `handle` and `closed` are all the server calls; `run`
starts the services; `drain` and `finish` are the halves of an orderly stop, before and after the connections end.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import random as random_module
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, cast

import trio

from fastmq.broker.delivery.delay import DelayDelivery
from fastmq.broker.delivery.longpoll import LongPollTable
from fastmq.broker.delivery.notices import Notices
from fastmq.broker.delivery.pop import PopService
from fastmq.broker.delivery.popservice import PopRevive
from fastmq.broker.delivery.popwait import PopWaitLimits, PopWaits
from fastmq.broker.delivery.timer import TimerDelivery
from fastmq.broker.delivery.timer_files import TimerFiles
from fastmq.broker.delivery.timer_rules import roll_window
from fastmq.broker.delivery.transaction_service import Transactions
from fastmq.broker.delivery.watches import QueueWatches
from fastmq.broker.dispatch import Dispatcher, handler_tables
from fastmq.broker.fastfail import FastFailure
from fastmq.broker.filter.service import FilterService
from fastmq.broker.handlers.pull import answer_pulls, resume_pull, wake_pulls
from fastmq.broker.handlers.send import SEND_CODES, TOO_MANY_WAIT, response_ext, store_failures
from fastmq.broker.hot import HotPulls, PullRoad
from fastmq.broker.keeping import StateKeeper
from fastmq.broker.register import BrokerIdentity, Registrar
from fastmq.broker.retention import RetentionService, retention_policy
from fastmq.broker.state.broadcast import BroadcastOffsets, broadcast_group
from fastmq.broker.state.groups import SubscriptionGroupTable
from fastmq.broker.state.locks import QueueLocks
from fastmq.broker.state.offsets import ConsumerOffsetTable
from fastmq.broker.state.order_info import ConsumerOrderTable
from fastmq.broker.state.request_modes import MessageRequestModes
from fastmq.broker.state.sessions import ClientChannel, ClientSessions
from fastmq.broker.state.topics import TopicTable
from fastmq.broker.stats import BrokerStats
from fastmq.broker.steady import keep_running
from fastmq.broker.vip import VipService
from fastmq.net.server import Reply
from fastmq.protocol import names
from fastmq.protocol.bodies import PERM_WRITE
from fastmq.protocol.codes import ResponseCode
from fastmq.protocol.message import create_unique_key
from fastmq.store.timer_wheel import precision_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastmq._store import Appended, Store
    from fastmq.clock import Clock
    from fastmq.config import BrokerConfig
    from fastmq.net.server import Answer, Peer
    from fastmq.protocol.command import Command

log = logging.getLogger("fastmq.broker")

SCAN_INTERVAL_S: Final = 10.0  # expiry of clients, locks; when a start time for sends has come
WALL_CLOCK_CHECK_MS: Final = 1000  # longest wait for a wall time: the clock may have been set meanwhile
WOKEN_QUEUES_A_STEP: Final = 32  # between two steps trio's other tasks have their turn


class HotRoad(PullRoad, Protocol):
    """What the broker tells the reactor about the requests that it may answer itself."""

    def set_send_policy(
        self, *, enabled: bool, service: int, region: str, cluster: str, trace_on: bool, max_message_bytes: int,
        failures: Mapping[int, tuple[int, str]], busy: tuple[int, str] = (2, "busy"), sync_flush_timeout_ms: int = 5000,
    ) -> None: ...  # fmt: skip

    @property
    def overloaded(self) -> bool: ...


def physical_memory_bytes() -> int:
    """The memory of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def unique_keys(host: str, clock: Clock, random: random_module.Random) -> Iterator[str]:
    """Message ids for messages whose client gave none (MessageClientIDSetter)."""
    process = random.getrandbits(32)
    counter = random.getrandbits(16)
    while True:
        counter += 1
        yield create_unique_key(host, os.getpid(), clock.wall_ms(), counter, process)


class Broker:
    """One broker over one open store. All of it belongs to the trio thread.

    `config` is replaced as a whole; tell `config_changed` afterwards. `hot_service` is the number of the service whose
    plain sends the reactor may answer itself. Raises StoreError if a state file cannot be read.
    """

    def __init__(
        self,
        config: BrokerConfig,
        store: Store,
        clock: Clock,
        *,
        reactor: HotRoad | None = None,
        hot_service: int = 0,
        random: random_module.Random | None = None,
        memory_bytes: int | None = None,
    ) -> None:
        self.config = config
        self.store = store
        self.clock = clock
        self.random = random or random_module.Random()  # noqa: S311  (queue choice, not a secret)
        self.memory_bytes = physical_memory_bytes() if memory_bytes is None else memory_bytes
        self.store_host = config.broker_ip1, config.listen_port
        self.draining = False
        self._reactor = reactor
        self._hot_service = hot_service
        self._hot_enabled: bool | None = None
        self._unique_keys = unique_keys(config.broker_ip1, clock, self.random)
        self._opaque = 0

        folder = os.path.join(config.store_path_root_dir, "config")
        self.topics = TopicTable(
            os.path.join(folder, "topics.json"), config=self._config, store=store, wall_ms=clock.wall_ms
        )
        self.groups = SubscriptionGroupTable(
            os.path.join(folder, "subscriptionGroup.json"), config=self._config, wall_ms=clock.wall_ms
        )
        self.offsets = ConsumerOffsetTable(
            os.path.join(folder, "consumerOffset.json"), config=self._config, wall_ms=clock.wall_ms
        )
        self.notices = Notices(self)
        self.request_modes = MessageRequestModes(os.path.join(folder, "messageRequestMode.json"))
        self.sessions = ClientSessions(self.notices.group_changed)
        self.filters = FilterService(
            os.path.join(folder, "consumerFilter.json"), config=self._config, wall_ms=clock.wall_ms
        )
        self.filters.consumers.on_change = self.topics.refresh
        self.topics.is_cold = self.filters.wants_bit_maps
        for name in self.filters.consumers.topics():
            self.topics.refresh(name)
        store.bit_maps = self.filters.bit_map
        self.sessions.on_subscriptions = self.filters.consumers.register
        self.sessions.on_group_gone = self.filters.consumers.unregister
        self.broadcast = BroadcastOffsets()
        self.locks = QueueLocks(lambda: self.config.rebalance_lock_max_live_time / 1000)
        self.stats = BrokerStats(
            config.broker_cluster_name,
            clock.wall_ms,
            queue_ends=store.queues,
            log_end=lambda: store.written_offset,
            is_system=lambda topic, group: self.topics.is_system(topic) or names.is_system_group(group),
        )
        self.order = ConsumerOrderTable(
            os.path.join(folder, "consumerOrderInfo.json"),
            notify=lambda: self.config.enable_notify_after_pop_order_lock_release,
        )
        self.watches = QueueWatches(store.watch)
        self.longpoll = LongPollTable(self.watches.part())
        self.popwaits = PopWaits(self.watches.part, limits=self._pop_wait_limits)
        self.pop = PopService(self)
        self.pop_revive = PopRevive(self, os.path.join(folder, "revivedAhead.json"), watch=self.watches.part())
        self._deadline = trio.Event()
        self._awaited_deadline = math.inf
        self.delay = DelayDelivery(
            os.path.join(folder, "delayOffset.json"),
            store=store,
            levels_ms=config.delay_levels_ms,
            clock=clock,
            version_step=lambda: self.config.delay_offset_update_version_step,
            on_delivered=self._count_delivered,
            queue_to_read=self.topics.queue_to_read,
        )
        self.transactions = Transactions(self, os.path.join(folder, "transactionMetrics"))
        self.timers = self._open_timers() if config.timer_wheel_enable else None
        self.registrar = Registrar(
            config=self._config,
            identity=self._identity,
            servers=lambda: self.config.namesrv_addresses,
            topics=lambda: [topic for _, topic in self.topics.items()],
            data_version=lambda: self.topics.data_version,
            on_order_topics=self._mark_ordered,
        )
        self.topics.on_change = self._topics_changed
        self.retention = RetentionService(
            store,
            policy=lambda: retention_policy(self.config),
            paths=lambda: (self.config.store_path_root_dir, self.config.store_path_commit_log),
            interval_s=lambda: self.config.clean_resource_interval / 1000,
        )
        self.hot = HotPulls(self, reactor)
        self.fast_failure = FastFailure(self._config)
        self.offsets.before = self.stats.before_reading = self.hot.sync
        self.offsets.on_commit = self.hot.committed
        self.offsets.on_reset = self.groups.on_change = self.sessions.on_change = self.hot.revoke
        self.keeper = StateKeeper(self)
        self._dispatcher = Dispatcher(self, handler_tables())
        self.vip = VipService(self)
        self._set_send_policy()

    # --- what the server calls ---------------------------------------------------------------------------------------

    def handle(self, peer: Peer, request: Command) -> Answer:
        """A request on the main port."""
        return self._dispatcher.dispatch(peer, request)

    def resume(self, peer: Peer, request: Command) -> Answer:
        """A pull that the reactor held and hands over."""
        return resume_pull(self, peer, request)

    def refuse(self, request: Command, waited_ms: int, behind: int) -> Reply | None:
        """SYSTEM_BUSY for a request that comes too late to be served, or a send while too many wait for the disk."""
        if self._reactor is not None and self._reactor.overloaded and request.code in SEND_CODES:
            return Reply(*TOO_MANY_WAIT, response_ext(self.config))
        remark = self.fast_failure.judge(request.code, waited_ms, int(self.clock.monotonic() * 1000), behind)
        return None if remark is None else Reply(ResponseCode.SYSTEM_BUSY, remark)

    def handle_vip(self, peer: Peer, request: Command) -> Answer:
        """A request on the port for old clients' VIP channel."""
        return self._dispatcher.dispatch(peer, request, vip=True)

    def closed(self, peer: Peer) -> None:
        """A connection is gone: its pulls are dropped, its clients have left."""
        self.longpoll.drop_peer(peer.id)
        self.popwaits.drop_peer(peer.id)
        self.sessions.closed(peer.id)

    # --- what handlers call ------------------------------------------------------------------------------------------

    def new_unique_key(self) -> str:
        """An id for a message that came without one."""
        return next(self._unique_keys)

    def next_opaque(self) -> int:
        """The number of a oneway request to a client."""
        self._opaque = (self._opaque + 1) & 0x7FFFFFFF
        return self._opaque

    def peer_of(self, channel: ClientChannel | None) -> Peer | None:
        """The connection of a client as long as it lives."""
        if channel is None:
            return None
        peer = cast("Peer", channel.peer)
        return peer if peer.alive else None

    async def save_consumer_offsets(self) -> None:
        """Write what a tool has moved: it is told so afterwards. StoreError: that counts, but is not on disk yet."""
        await self.keeper.save_moved_offsets()

    def longpoll_changed(self) -> None:
        """A pull or pop is held, or an ordered queue blocked: its deadline may be the next one."""
        if self._next_deadline() < self._awaited_deadline:
            self._deadline.set()

    def config_changed(self, old: BrokerConfig) -> None:
        """`config` was replaced: pass on what others have a copy of."""
        self._set_send_policy()
        self.hot.revoke()
        if old.enable_calc_filter_bit_map != self.config.enable_calc_filter_bit_map:
            for name in self.filters.consumers.topics():
                self.topics.refresh(name)

    # --- services ----------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the services until cancelled; started once every name server was tried."""
        async with trio.open_nursery() as nursery:
            for what, service in self._services():
                nursery.start_soon(keep_running, what, service)
            await nursery.start(self.registrar.run)
            task_status.started()

    def _services(self) -> Iterator[tuple[str, Callable[[], Awaitable[None]]]]:
        yield "waiting pulls and pops", self._follow_queues
        yield "deadlines of pulls and pops", self._answer_due_pulls
        yield "delay levels", self.delay.run
        yield "pops", self.pop.run
        yield "revival of popped messages", self.pop_revive.run
        yield "transactions", self.transactions.run
        if self.timers is not None:
            yield "timers", self.timers.run
        yield from self.keeper.services()
        if self.config.enable_property_filter:
            yield "filters", partial(trio.to_thread.run_sync, self.filters.warm_up)
        yield "expiry", self._scan
        yield "notices", self.notices.run
        yield "retention", self.retention.run
        yield "statistics", self.stats.run

    async def drain(self) -> None:
        """First half of a stop: no more sends, and every held pull is answered."""
        self.draining = True
        self._set_send_policy()
        self.hot.answer_held()
        self.hot.revoke()
        answer_pulls(self, self.longpoll.take_all())
        self.popwaits.answer_all()
        await self.registrar.unregister()

    async def finish(self) -> None:
        """Second half, when the connections are gone: everything that is kept in memory goes to disk."""
        self.draining = True
        self.delay.stop()
        if self.timers is not None:
            self.timers.stop()
        with trio.CancelScope(shield=True):
            await self.keeper.finish()

    async def _follow_queues(self) -> None:
        """Wake the pulls, and the delivery of delayed messages, whose queue has grown."""
        while True:
            await trio.lowlevel.wait_readable(self.store.moved_event_fd)
            # emptied before the list is taken: what moves from here on makes it readable again
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self.store.moved_event_fd)
            for count, (topic, queue_id, max_offset) in enumerate(self.store.take_moved(), 1):
                if topic == names.SCHEDULE_TOPIC:
                    self.delay.moved()
                elif topic.startswith(names.REVIVE_TOPIC_PREFIX):
                    self.pop_revive.moved()
                elif topic == names.TIMER_TOPIC and self.timers is not None:
                    self.timers.moved()
                wake_pulls(self, topic, queue_id, max_offset)
                self.popwaits.moved(topic, queue_id, max_offset)
                if count % WOKEN_QUEUES_A_STEP == 0:
                    await trio.lowlevel.checkpoint()

    async def _answer_due_pulls(self) -> None:
        while True:
            self._deadline = trio.Event()
            self.answer_due()
            self._awaited_deadline = self._next_deadline()
            with trio.move_on_after(max(0.0, self._awaited_deadline - self.clock.monotonic())):
                await self._deadline.wait()

    def answer_due(self) -> None:
        """Answer the pulls and pops whose time is up; wake those that wait for ordered queues which are free now."""
        now = self.clock.monotonic()
        answer_pulls(self, self.longpoll.take_due(now))
        self.popwaits.answer_due(now)
        for topic, group, queue_id in self.order.take_free(self.clock.wall_ms()):
            self.popwaits.wake(topic, group, queue_id)

    def _next_deadline(self) -> float:
        """When `answer_due` has something to do, in monotonic seconds."""
        deadlines = [self.longpoll.next_deadline(), self.popwaits.next_deadline()]
        free_ms = self.order.next_free_ms()
        if free_ms is not None:
            # no later than that: the wall clock may be set meanwhile
            left_ms = min(max(0, free_ms - self.clock.wall_ms()), WALL_CLOCK_CHECK_MS)
            deadlines.append(self.clock.monotonic() + left_ms / 1000)
        return min((deadline for deadline in deadlines if deadline is not None), default=math.inf)

    async def _scan(self) -> None:
        while True:
            await trio.sleep(SCAN_INTERVAL_S)
            self.expire_clients()
            self.commit_broadcast()
            self._set_send_policy()

    def commit_broadcast(self) -> None:
        """Commit how far all members of each broadcasting group have come; forget those that fell silent."""
        config = self.config
        least = self.broadcast.scan(
            self.clock.monotonic(),
            online=lambda group, client_id: self.sessions.find_consumer_channel(group, client_id) is not None,
            expire_s=config.broadcast_offset_expire_second,
            expire_online_s=config.broadcast_offset_expire_max_second,
        )
        for topic, group, queue_id, offset in least:
            if self.offsets.query(broadcast_group(group), topic, queue_id) != offset:
                self.offsets.commit(broadcast_group(group), topic, queue_id, offset)

    def expire_clients(self) -> None:
        """Close the connections of clients that fell silent, forget expired locks."""
        config = self.config
        self.hot.sync()
        now = self.clock.monotonic()
        silent = self.sessions.expire(
            now,
            consumer_timeout_s=config.channel_expired_timeout / 1000,
            compensation_timeout_s=config.subscription_expired_timeout / 1000,
        )
        for client in silent:
            log.info("closing the connection of %s: no heartbeat", client.address)
            client.close()
        self.locks.expire(now)

    # --- wiring ------------------------------------------------------------------------------------------------------

    def _open_timers(self) -> TimerDelivery:
        config = self.config
        precision_ms = precision_of(config.timer_precision_ms)
        files = TimerFiles(
            config.store_path_root_dir,
            store=self.store,
            precision_ms=precision_ms,
            log_file_bytes=config.mapped_file_size_timer_log,
            clock=self.clock,
        )
        return TimerDelivery(
            files,
            store=self.store,
            clock=self.clock,
            # a message is stored anew before its segment may be removed
            window_slots=min(
                roll_window(config.timer_roll_window_slot), config.file_reserved_time * 2_700_000 // precision_ms
            ),
            on_delivered=self._count_delivered,
            queue_to_read=self.topics.queue_to_read,
        )

    def _config(self) -> BrokerConfig:
        return self.config

    def _identity(self) -> BrokerIdentity:
        config = self.config
        return BrokerIdentity(
            cluster=config.broker_cluster_name,
            name=config.broker_name,
            broker_id=config.broker_id,
            address=f"{config.broker_ip1}:{config.listen_port}",
            ha_address=f"{config.broker_ip2}:{config.ha_listen_port}",
        )

    def _pop_wait_limits(self) -> PopWaitLimits:
        config = self.config
        return PopWaitLimits(
            per_key=config.pop_polling_size,
            total=config.max_pop_polling_size,
            keys=config.pop_polling_map_size,
            force_after=config.pop_long_polling_force_notify_interval,
        )

    def _topics_changed(self, changed: list[str]) -> None:
        self.hot.revoke()
        self.registrar.changed(changed)

    def _mark_ordered(self, ordered: frozenset[str]) -> None:
        """Name servers call these topics ordered; others keep what they have, as in RocketMQ."""
        changed = [
            replace(topic, order=True) for name, topic in self.topics.items() if name in ordered and not topic.order
        ]
        self.topics.put_many(changed)

    def _count_delivered(self, topic: str, queue_id: int, appended: Appended) -> None:
        self.stats.on_put(topic, queue_id, 1, appended.size)

    def _set_send_policy(self) -> None:
        """Tell the reactor whether and how it may answer plain sends itself."""
        if self._reactor is None:
            return
        config = self.config
        enabled = (
            config.hot_road_enable
            and not self.draining
            and config.broker_permission & PERM_WRITE != 0
            and self.clock.wall_ms() >= config.start_accept_send_request_time_stamp
        )
        self._reactor.set_send_policy(
            enabled=enabled,
            service=self._hot_service,
            region=config.region_id,
            cluster=config.broker_cluster_name,
            trace_on=config.trace_on,
            max_message_bytes=config.max_message_size,
            failures=store_failures(config),
            busy=TOO_MANY_WAIT,
            sync_flush_timeout_ms=config.sync_flush_timeout,
        )
