"""Facts about the machine and the running broker: disk use, and the table GET_BROKER_RUNTIME_INFO (28) returns.

Other parts give plain values; nothing here reads a global. mqadmin and the Dashboard parse some of the texts, so
their form is RocketMQ's to the letter: three rates joined by a space, "Total : 1.5 GiB, Free : 700.0 MiB.", durations
as "[ 0 days, 1 hours, 2 minutes, 3 seconds ]".
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

UNLIMITED: Final = 2**31 - 1

# Requests wait in no thread pool here: the queues these keys speak of are always empty, their bound is configuration.
_POOLS: Final = ("send", "pull", "litePull", "query", "ack")


@dataclass(frozen=True, slots=True)
class DiskUsage:
    """Bytes of one file system: all, free, and free for this process (without what is kept for root)."""

    total: int
    free: int
    available: int

    @property
    def used_ratio(self) -> float:
        """Used share in whole hundredths, rounded up: the percentage `df` prints, as a fraction."""
        used = self.total - self.free
        usable = used + self.available
        if usable <= 0:
            return -1.0
        return math.ceil(used * 100 / usable) / 100


DiskUsageOf = Callable[[str], DiskUsage | None]


def disk_usage(path: str) -> DiskUsage | None:
    """Ask the operating system about the file system that holds `path`; None if the path is missing."""
    try:
        stat = os.statvfs(path)
    except OSError:
        return None
    return DiskUsage(stat.f_blocks * stat.f_frsize, stat.f_bfree * stat.f_frsize, stat.f_bavail * stat.f_frsize)


def used_ratio(usage: DiskUsage | None) -> float:
    """-1.0 for a path that is missing (RocketMQ's convention)."""
    return -1.0 if usage is None else usage.used_ratio


def human_bytes(size: int) -> str:
    """1536 -> "1.5 KiB"."""
    if size < 1024:
        return f"{size} B"
    value = float(size)
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        value /= 1024
        if value < 1024:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} EiB"


def uptime_text(elapsed_ms: int) -> str:
    """The `runtime` value: "[ 0 days, 0 hours, 7 minutes, 10 seconds ]"."""
    seconds = max(0, elapsed_ms) // 1000
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"[ {days} days, {hours} hours, {minutes} minutes, {seconds} seconds ]"


def version_text(version: int, names: Mapping[int, str]) -> str:
    """`brokerVersionDesc`: V5_3_3 for 479."""
    return names.get(version, "HIGHER_VERSION")


@dataclass(frozen=True, slots=True)
class RuntimeFacts:
    """Everything the runtime table is made of. Times in ms, sizes and offsets in bytes."""

    now_ms: int
    boot_ms: int
    version: int
    version_desc: str
    active: bool
    rates: Mapping[str, Sequence[float]]
    daily: Mapping[str, int]
    put_messages: int
    put_bytes: int
    put_failures: int
    min_log_offset: int
    max_log_offset: int
    flushed_offset: int
    dispatched_offset: int
    earliest_store_timestamp: int
    commit_log_path: str
    commit_log_disk: DiskUsage | None
    queue_disk: DiskUsage | None
    start_accept_send_ms: int = 0
    queue_capacities: Mapping[str, int] = field(default_factory=dict)
    delay_offsets: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    timer_read_behind_ms: int = 0
    timer_queue_behind: int = 0
    timer_waiting: int = 0
    timer_rates: tuple[float, float] = (0.0, 0.0)  # messages that began to wait, and that were delivered, per second


def runtime_table(facts: RuntimeFacts) -> dict[str, str]:
    """The KVTable of GET_BROKER_RUNTIME_INFO, all values text (AdminBrokerProcessor.prepareRuntimeInfo).

    Put times per bucket are not measured; those keys say 0.
    """
    average = facts.put_bytes / facts.put_messages if facts.put_messages else 0.0
    disk = facts.commit_log_disk
    table = {
        "brokerActive": "true" if facts.active else "false",
        "brokerVersion": str(facts.version),
        "brokerVersionDesc": facts.version_desc,
        "bootTimestamp": str(facts.boot_ms),
        "runtime": uptime_text(facts.now_ms - facts.boot_ms),
        "startAcceptSendRequestTimeStamp": str(facts.start_accept_send_ms),
        "earliestMessageTimeStamp": str(facts.earliest_store_timestamp),
        "putMessageTimesTotal": str(facts.put_messages),
        "putMessageSizeTotal": str(facts.put_bytes),
        "putMessageFailedTimes": str(facts.put_failures),
        "putMessageAverageSize": str(average),
        "putMessageEntireTimeMax": "0",
        "putMessageDistributeTime": "",
        "putLatency99": "0.00",
        "putLatency999": "0.00",
        "getMessageEntireTimeMax": "0",
        "dispatchMaxBuffer": "0",
        "pageCacheLockTimeMills": "0",
        "commitLogMinOffset": str(facts.min_log_offset),
        "commitLogMaxOffset": str(facts.max_log_offset),
        "dispatchBehindBytes": str(max(0, facts.max_log_offset - facts.dispatched_offset)),
        "remainHowManyDataToFlush": human_bytes(max(0, facts.max_log_offset - facts.flushed_offset)),
        "remainTransientStoreBufferNumbs": str(UNLIMITED),
        "commitLogDiskRatio": str(used_ratio(disk)),
        f"commitLogDiskRatio_{facts.commit_log_path}": str(used_ratio(disk)),
        "consumeQueueDiskRatio": str(used_ratio(facts.queue_disk)),
        "commitLogDirCapacity": (
            f"Total : {human_bytes(disk.total if disk else 0)}, Free : {human_bytes(disk.free if disk else 0)}."
        ),
        "timerReadBehind": str(facts.timer_read_behind_ms // 1000),
        "timerOffsetBehind": str(facts.timer_queue_behind),
        "timerCongestNum": str(facts.timer_waiting),
        "timerEnqueueTps": f"{facts.timer_rates[0]:.1f}",
        "timerDequeueTps": f"{facts.timer_rates[1]:.1f}",
        "EndTransactionQueueSize": "0",
        "EndTransactionThreadPoolQueueCapacity": str(facts.queue_capacities.get("EndTransaction", 100_000)),
    }
    for name, triple in facts.rates.items():
        table[name] = " ".join(str(float(value)) for value in triple)
    for name, value in facts.daily.items():
        table[name] = str(value)
    for pool in _POOLS:
        table[f"{pool}ThreadPoolQueueSize"] = "0"
        table[f"{pool}ThreadPoolQueueCapacity"] = str(facts.queue_capacities.get(pool, 100_000))
        table[f"{pool}ThreadPoolQueueHeadWaitTimeMills"] = "0"
    for level, (delivered, end) in sorted(facts.delay_offsets.items()):
        table[f"scheduleMessageOffset_{level}"] = f"{delivered},{end}"
    return table
