"""What the broker knows goes to its state files: in rounds while it runs, all of it at a stop.

Topics, groups and request modes are written when they change (`state.saving.TableFile`); what changes with every
message (`state.saving.LaggingFile`: offsets, orderly pops, counts; progress of delays and timers) is written here at
the intervals of RocketMQ's settings. A snapshot is taken on the trio thread and written in a worker thread. A disk that
refuses is logged once and tried again next round.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Final

import trio

from fastmq.errors import StoreError

if TYPE_CHECKING:
    from fastmq.broker.app import Broker

log = logging.getLogger("fastmq.broker")

FILTER_INTERVAL_S: Final = 10.0
TIMER_CLEAN_INTERVAL_S: Final = 30.0


class StateKeeper:
    """The rounds of one broker."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._failing: set[str] = set()
        self._writing: dict[str, trio.Lock] = {}
        self._timers_lock = trio.Lock()
        broker.offsets.file.durable = broker.pop_revive.file.durable = self._flush_log

    def services(self) -> Iterator[tuple[str, Callable[[], Awaitable[None]]]]:
        """The rounds, each with the name of what it writes. They run until they are cancelled."""
        broker = self._broker
        yield "topics.json", broker.topics.file.run
        yield "subscriptionGroup.json", broker.groups.file.run
        yield "messageRequestMode.json", broker.request_modes.file.run
        if broker.timers is not None:
            yield "timer files", self._timer_rounds
        yield "consumerOffset.json", self._offset_rounds
        yield "delayOffset.json", self._delay_rounds
        yield "transactionMetrics", self._transaction_rounds
        yield "consumerFilter.json", self._filter_rounds

    async def finish(self) -> None:
        """The last state of everything, when the connections are gone and the deliveries have stopped."""
        broker = self._broker
        for table in (broker.topics, broker.groups, broker.request_modes):
            try:
                await table.file.finish()
            except (OSError, StoreError) as error:
                log.error("%s", error)
        broker.transactions.write_ops()
        while not broker.transactions.publish() and await trio.to_thread.run_sync(broker.store.flush_step) >= 0:
            pass
        for file in (
            broker.offsets.file, broker.order.file, broker.transactions.metrics.file, broker.filters.consumers.file,
            broker.pop_revive.file,
        ):  # fmt: skip
            await file.try_to_save()
        for _ in range(3):  # what waits from before the stop, the last state, and its files
            # what was delivered must be on disk before the files say that it was
            await trio.to_thread.run_sync(broker.store.flush_step)
            await self._save_delays()
            await self._save_timers()

    async def save_moved_offsets(self) -> None:
        """Write what a tool has moved: offsets, and what orderly pops go by. StoreError if that is not possible now.

        Without the second a crash would bring the batch of before back, and an ack for it would undo a reset.
        """
        await self._broker.order.file.save()
        await self._broker.offsets.file.save()

    def _flush_log(self) -> None:
        """Offsets stand for checkpoints of pops and for messages that were revived: those must be on disk before."""
        store = self._broker.store
        until = store.written_offset
        if store.flushed_offset < until:
            store.flush_step()
        if store.flushed_offset < until:
            raise StoreError("the commit log cannot be flushed")

    async def save(self, what: str, snapshot: bytes | None, save: Callable[[bytes], None]) -> None:
        """Write a snapshot in a thread, one after the other of the same thing. None: nothing changed."""
        if snapshot is None:
            return
        try:
            async with self._writing.setdefault(what, trio.Lock()):  # a stop must not be overtaken by an older state
                await trio.to_thread.run_sync(save, snapshot)
        except OSError as error:
            self._failed(what, error)
        else:
            self._failing.discard(what)

    def _failed(self, what: str, error: OSError) -> None:
        if what not in self._failing:
            log.error("the %s cannot be saved: %s", what, error)
        self._failing.add(what)

    async def _offset_rounds(self) -> None:
        broker = self._broker
        while True:
            await trio.sleep(broker.config.flush_consumer_offset_interval / 1000)
            broker.transactions.publish()
            await broker.offsets.file.try_to_save()
            self._clean_order()
            await broker.order.file.try_to_save()

    def _clean_order(self) -> None:
        """Forget the orderly pops of topics, groups and queues that are gone."""
        broker = self._broker

        def read_queues(name: str) -> int:
            topic = broker.topics.get(name)
            return 0 if topic is None else topic.read_queue_nums

        broker.order.clean(read_queues=read_queues, has_group=broker.groups.__contains__, now_ms=broker.clock.wall_ms())

    async def _delay_rounds(self) -> None:
        while True:
            await trio.sleep(self._broker.config.flush_delay_offset_interval / 1000)
            await self._save_delays()

    async def _save_delays(self) -> None:
        delay = self._broker.delay
        await self.save("delay offsets", delay.take_snapshot(), delay.save)

    async def _transaction_rounds(self) -> None:
        while True:
            await trio.sleep(self._broker.config.transaction_metric_flush_interval / 1000)
            await self._broker.transactions.metrics.file.try_to_save()

    async def _filter_rounds(self) -> None:
        while True:
            await trio.sleep(FILTER_INTERVAL_S)
            await self._broker.filters.consumers.file.try_to_save()

    async def _timer_rounds(self) -> None:
        broker = self._broker
        cleaned = broker.clock.monotonic()
        while True:
            await trio.sleep(broker.config.timer_flush_interval_ms / 1000)
            await self._save_timers()
            if broker.timers is not None and broker.clock.monotonic() - cleaned >= TIMER_CLEAN_INTERVAL_S:
                cleaned = broker.clock.monotonic()
                broker.timers.files.clean()
                broker.timers.files.metrics.keep(broker.topics)

    async def _save_timers(self) -> None:
        """Write how far the timers are, one write at a time."""
        timers = self._broker.timers
        if timers is None:
            return
        async with self._timers_lock:
            snapshot = timers.take_snapshot()
            if snapshot is None:
                return
            try:
                await trio.to_thread.run_sync(timers.files.save, snapshot)
            except OSError as error:
                self._failed("timers", error)
                timers.files.failed(snapshot)
            else:
                self._failing.discard("timers")
                timers.files.saved(snapshot)
