"""Numbers about the running broker: the runtime table and single statistics items (AdminBrokerProcessor)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from fastmq.broker.system import DiskUsage, RuntimeFacts, disk_usage, runtime_table
from fastmq.net.server import Reply
from fastmq.protocol import names
from fastmq.protocol.bodies import KVTable, dumps
from fastmq.protocol.codes import RequestCode, ResponseCode
from fastmq.protocol.command import VERSION
from fastmq.protocol.headers import ViewBrokerStatsDataRequest

if TYPE_CHECKING:
    from fastmq.broker.app import Broker
    from fastmq.broker.dispatch import Handler
    from fastmq.net.server import Peer
    from fastmq.protocol.command import Command

VERSION_TEXT: Final = "V5_3_3"  # the name of RocketMQ's version number 479, which fastmq answers with


async def get_runtime_info(broker: Broker, peer: Peer, request: Command) -> Reply:
    """GET_BROKER_RUNTIME_INFO (28)."""
    config = broker.config
    paths = (config.store_path_commit_log, config.store_path_root_dir)
    commit_log_disk, queue_disk = await trio.to_thread.run_sync(_ask_disks, paths)
    earliest = await trio.to_thread.run_sync(broker.store.earliest_store_timestamp)
    stats, store, timers = broker.stats, broker.store, broker.timers
    rates, daily = stats.rates(), stats.daily()
    facts = RuntimeFacts(
        now_ms=broker.clock.wall_ms(),
        boot_ms=stats.boot_timestamp_ms,
        version=VERSION,
        version_desc=VERSION_TEXT,
        active=True,
        rates=rates,
        daily=daily,
        put_messages=stats.put_messages,
        put_bytes=stats.put_bytes,
        put_failures=stats.put_failures,
        min_log_offset=store.min_log_offset,
        max_log_offset=store.written_offset,
        flushed_offset=store.flushed_offset,
        dispatched_offset=store.dispatched_offset,
        earliest_store_timestamp=earliest,
        commit_log_path=config.store_path_commit_log,
        commit_log_disk=commit_log_disk,
        queue_disk=queue_disk,
        start_accept_send_ms=config.start_accept_send_request_time_stamp,
        queue_capacities={
            "send": config.send_thread_pool_queue_capacity,
            "pull": config.pull_thread_pool_queue_capacity,
            "query": 20_000,
        },
        delay_offsets=_delay_offsets(broker),
        timer_read_behind_ms=0 if timers is None else timers.read_behind_ms,
        timer_queue_behind=0 if timers is None else timers.queue_behind,
        timer_waiting=0 if timers is None else timers.files.metrics.total,
        timer_rates=(0.0, 0.0) if timers is None else timers.rates(),
    )
    return Reply(body=dumps(KVTable(runtime_table(facts))))


def _ask_disks(paths: tuple[str, str]) -> tuple[DiskUsage | None, DiskUsage | None]:
    return disk_usage(paths[0]), disk_usage(paths[1])


def _delay_offsets(broker: Broker) -> dict[int, tuple[int, int]]:
    """Level -> (delivered up to, end of its queue), for levels that ever had a message."""
    levels = {}
    for level, delivered in broker.delay.offsets().items():
        end = (broker.store.queue_offsets(names.SCHEDULE_TOPIC, level - 1) or (0, 0))[1]
        levels[level] = (delivered, max(delivered, end))
    return levels


def view_broker_stats(broker: Broker, peer: Peer, request: Command) -> Reply:
    """VIEW_BROKER_STATS_DATA (315): one item, e.g. TOPIC_PUT_NUMS of a topic, over minute, hour and day."""
    header = ViewBrokerStatsDataRequest.decode(request.ext)
    view = broker.stats.view(header.stats_name, header.stats_key)
    if view is None:
        return Reply(ResponseCode.SYSTEM_ERROR, f"The stats <{header.stats_name}> <{header.stats_key}> not exist")
    return Reply(body=dumps(view))


HANDLERS: Final[dict[int, Handler]] = {
    RequestCode.GET_BROKER_RUNTIME_INFO: get_runtime_info,
    RequestCode.VIEW_BROKER_STATS_DATA: view_broker_stats,
}
