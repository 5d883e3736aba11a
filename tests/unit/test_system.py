"""The runtime table, as mqadmin and the Dashboard parse it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastmq.broker.system import (
    DiskUsage,
    RuntimeFacts,
    disk_usage,
    human_bytes,
    runtime_table,
    uptime_text,
    used_ratio,
)

# From a recorded answer of Apache's broker 5.3.3; the three levels had been used, the path is its own.
RECORDED_KEYS = {
    "msgPutTotalTodayNow", "scheduleMessageOffset_1", "scheduleMessageOffset_2", "brokerActive",
    "sendThreadPoolQueueHeadWaitTimeMills", "putMessageDistributeTime", "queryThreadPoolQueueHeadWaitTimeMills",
    "remainHowManyDataToFlush", "msgGetTotalTodayNow", "timerEnqueueTps", "queryThreadPoolQueueSize",
    "timerOffsetBehind", "bootTimestamp", "msgPutTotalYesterdayMorning", "msgGetTotalYesterdayMorning",
    "pullThreadPoolQueueSize", "commitLogMinOffset", "pullThreadPoolQueueHeadWaitTimeMills", "runtime",
    "dispatchMaxBuffer", "brokerVersion", "putTps", "getTransferredTps", "getMissTps",
    "litePullThreadPoolQueueHeadWaitTimeMills", "EndTransactionQueueSize", "getTotalTps", "consumeQueueDiskRatio",
    "litePullThreadPoolQueueSize", "pageCacheLockTimeMills", "ackThreadPoolQueueSize", "commitLogDiskRatio",
    "getFoundTps", "scheduleMessageOffset_18", "EndTransactionThreadPoolQueueCapacity",
    "ackThreadPoolQueueHeadWaitTimeMills", "putMessageFailedTimes", "putLatency999", "timerReadBehind",
    "commitLogMaxOffset", "getMessageEntireTimeMax", "msgPutTotalTodayMorning", "putMessageTimesTotal",
    "putLatency99", "msgGetTotalTodayMorning", "brokerVersionDesc", "startAcceptSendRequestTimeStamp",
    "sendThreadPoolQueueSize", "putMessageEntireTimeMax", "earliestMessageTimeStamp", "commitLogDirCapacity",
    "timerCongestNum", "remainTransientStoreBufferNumbs", "ackThreadPoolQueueCapacity",
    "queryThreadPoolQueueCapacity", "commitLogDiskRatio_/data/commitlog", "putMessageAverageSize",
    "dispatchBehindBytes", "putMessageSizeTotal", "sendThreadPoolQueueCapacity", "timerDequeueTps",
    "pullThreadPoolQueueCapacity", "litePullThreadPoolQueueCapacity",
}  # fmt: skip

FACTS = RuntimeFacts(
    now_ms=1_700_000_430_500,
    boot_ms=1_700_000_000_000,
    version=479,
    version_desc="V5_3_3",
    active=True,
    rates={
        "putTps": (1.5, 2.0, 3.0),
        "getFoundTps": (0.0, 0.0, 0.0),
        "getMissTps": (0.0, 0.0, 0.0),
        "getTotalTps": (1.0, 1.0, 1.0),
        "getTransferredTps": (9.0, 0.0, 0.0),
    },
    daily={
        "msgPutTotalYesterdayMorning": 1,
        "msgPutTotalTodayMorning": 2,
        "msgPutTotalTodayNow": 3,
        "msgGetTotalYesterdayMorning": 4,
        "msgGetTotalTodayMorning": 5,
        "msgGetTotalTodayNow": 6,
    },
    put_messages=4,
    put_bytes=1000,
    put_failures=1,
    min_log_offset=0,
    max_log_offset=31_048,
    flushed_offset=31_048 - 2970,
    dispatched_offset=31_048,
    earliest_store_timestamp=1_700_000_000_123,
    commit_log_path="/data/commitlog",
    commit_log_disk=DiskUsage(252 << 30, 240 << 30, 240 << 30),
    queue_disk=None,
    delay_offsets={1: (3, 3), 2: (1, 1), 18: (0, 1)},
)


def test_every_key_of_apache_is_there() -> None:
    assert sorted(runtime_table(FACTS)) == sorted(RECORDED_KEYS)


def test_what_the_tools_parse_is_a_number() -> None:
    table = runtime_table(FACTS)
    assert all(isinstance(value, str) for value in table.values())
    int(table["earliestMessageTimeStamp"])
    float(table["commitLogDiskRatio"])
    assert [float(part) for part in table["getTotalTps"].split(" ")] == [1.0, 1.0, 1.0]
    assert float(table["putTps"].split(" ")[0]) == 1.5
    assert float(table["getTransferredTps"].split(" ")[0]) == 9.0
    for key in ("timerReadBehind", "timerOffsetBehind", "timerCongestNum"):
        int(table[key])
    for key in ("timerEnqueueTps", "timerDequeueTps"):
        float(table[key])
    assert int(table["msgPutTotalTodayNow"]) == 3


def test_readable_values() -> None:
    table = runtime_table(FACTS)
    assert table["runtime"] == "[ 0 days, 0 hours, 7 minutes, 10 seconds ]"
    assert table["commitLogDirCapacity"] == "Total : 252.0 GiB, Free : 240.0 GiB."
    assert table["remainHowManyDataToFlush"] == "2.9 KiB"
    assert table["scheduleMessageOffset_18"] == "0,1"
    assert table["commitLogDiskRatio"] == "0.05"
    assert table["consumeQueueDiskRatio"] == "-1.0"
    assert table["putMessageAverageSize"] == "250.0"


@pytest.mark.parametrize(
    ("usage", "ratio"),
    [
        (DiskUsage(1000, 500, 450), 0.53),  # root's reserve counts as neither: df says 53 %
        (DiskUsage(1000, 1000, 1000), 0.0),
        (DiskUsage(1000, 999, 999), 0.01),
        (DiskUsage(1000, 0, 0), 1.0),
        (DiskUsage(0, 0, 0), -1.0),
        (None, -1.0),
    ],
)
def test_used_ratio_is_what_df_prints(usage: DiskUsage | None, ratio: float) -> None:
    assert used_ratio(usage) == ratio


def test_real_disk(tmp_path: Path) -> None:
    usage = disk_usage(str(tmp_path))
    assert usage is not None
    assert 0 <= usage.used_ratio <= 1
    assert disk_usage(str(tmp_path / "missing")) is None


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 20, "5.0 MiB"), (1 << 70, "1024.0 EiB")]
)
def test_human_bytes(size: int, text: str) -> None:
    assert human_bytes(size) == text


def test_uptime() -> None:
    assert uptime_text(((26 * 60 + 3) * 60 + 4) * 1000) == "[ 1 days, 2 hours, 3 minutes, 4 seconds ]"
    assert uptime_text(-5) == "[ 0 days, 0 hours, 0 minutes, 0 seconds ]"
