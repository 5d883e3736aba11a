"""What a consumer tells of itself: rates, running info (307), status (221); and reading a reset (220)."""

from __future__ import annotations

import sys
import traceback
from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from fastmq.protocol.bodies import dumps
from fastmq.protocol.bodies._read import as_int, read_object
from fastmq.protocol.bodies.client import ConsumeType, SubscriptionData
from fastmq.protocol.bodies.config import MessageQueue, queue_map
from fastmq.protocol.command import VERSION, Command

if TYPE_CHECKING:
    from fastmq.client.assigned import Assigned

RATE_SECONDS: Final = 60.0


class _Rate:
    """Count and time of what happened in the last minute."""

    __slots__ = ("_slots", "total")

    def __init__(self) -> None:
        self._slots: deque[list[float]] = deque()  # second, count, seconds spent
        self.total = 0

    def add(self, now: float, count: int, seconds: float) -> None:
        slot = float(int(now))
        self.total += count
        if self._slots and self._slots[-1][0] == slot:
            self._slots[-1][1] += count
            self._slots[-1][2] += seconds
            return
        self._slots.append([slot, count, seconds])
        while self._slots[0][0] < slot - RATE_SECONDS:
            self._slots.popleft()

    def read(self, now: float) -> tuple[float, float]:
        """(per second, mean ms) over the last minute."""
        recent = [slot for slot in self._slots if slot[0] >= now - RATE_SECONDS]
        count = sum(slot[1] for slot in recent)
        spent = sum(slot[2] for slot in recent)
        return count / RATE_SECONDS, spent / count * 1000 if count else 0.0


def _of(rates: dict[str, _Rate], topic: str) -> _Rate:
    rate = rates.get(topic)
    if rate is None:
        rate = rates[topic] = _Rate()
    return rate


class ConsumeStatistics:
    """How a consumer did, by topic."""

    def __init__(self) -> None:
        self._pulls: dict[str, _Rate] = {}
        self._well: dict[str, _Rate] = {}
        self._failed: dict[str, _Rate] = {}

    def pulled(self, topic: str, count: int, seconds: float, now: float) -> None:
        """A pull brought messages."""
        _of(self._pulls, topic).add(now, count, seconds)

    def consumed(self, topic: str, ok: bool, seconds: float, now: float, count: int = 1) -> None:
        """A listener ended."""
        _of(self._well if ok else self._failed, topic).add(now, count, seconds)

    def read(self, topic: str, now: float) -> dict[str, Any]:
        """The numbers as running info has them."""
        nothing = _Rate()
        pull_rate, pull_ms = self._pulls.get(topic, nothing).read(now)
        well = self._well.get(topic, nothing)
        failed = self._failed.get(topic, nothing)
        well_rate, consume_ms = well.read(now)
        return {
            "consumeFailedMsgs": failed.total,
            "consumeFailedTPS": failed.read(now)[0],
            "consumeOKTPS": well_rate,
            "consumeRT": consume_ms,
            "pullRT": pull_ms,
            "pullTPS": pull_rate,
        }


def info_reply(
    request: Command,
    *,
    consume_type: ConsumeType,
    in_order: bool,
    workers: int,
    started_ms: int,
    name_servers: Sequence[str],
    assigned: Sequence[Assigned],
    subscriptions: Sequence[SubscriptionData],
    statistics: ConsumeStatistics,
    now: float,
) -> Command:
    """The answer to GET_CONSUMER_RUNNING_INFO (ConsumerRunningInfo)."""
    body = {
        "jstack": _stacks() if request.ext.get("jstackEnable") == "true" else None,
        "mqPopTable": {},
        "mqTable": {one.queue: _queue_info(one, now) for one in assigned},
        "properties": {
            "PROP_CLIENT_VERSION": "V5_3_3",
            "PROP_CONSUMEORDERLY": "true" if in_order else "false",
            "PROP_CONSUMER_START_TIMESTAMP": str(started_ms),
            "PROP_CONSUME_TYPE": consume_type.name,
            "PROP_NAMESERVER_ADDR": ";".join(f"{one};" for one in name_servers).rstrip(";") + ";",
            "PROP_THREADPOOL_CORE_SIZE": str(workers),
        },
        "statusTable": {one.topic: statistics.read(one.topic, now) for one in subscriptions},
        "subscriptionSet": list(subscriptions),
        "userConsumerInfo": {},
    }
    reply = request.reply(body=dumps(body))
    reply.version = VERSION
    return reply


def _queue_info(one: Assigned, now: float) -> dict[str, Any]:
    window = one.window
    return {
        "cachedMsgCount": len(window),
        "cachedMsgMaxOffset": window.last or 0,
        "cachedMsgMinOffset": window.first or 0,
        "cachedMsgSizeInMiB": window.size >> 20,
        "commitOffset": window.commit_offset,
        "droped": one.dropped,
        "lastConsumeTimestamp": one.last_consume_ms,
        "lastLockTimestamp": one.last_lock_ms,
        "lastPullTimestamp": one.last_pull_ms,
        "locked": one.locked_until > now,
        "transactionMsgCount": 0,
        "transactionMsgMaxOffset": 0,
        "transactionMsgMinOffset": 0,
        "tryUnlockTimes": 0,
    }


def _stacks() -> str:
    """Where the threads of this process are."""
    return "\n".join(
        f"TID: {number}\n{''.join(traceback.format_stack(frame))}" for number, frame in sys._current_frames().items()
    )


def status_reply(request: Command, assigned: Iterable[Assigned], topic: str) -> Command:
    """The answer to GET_CONSUMER_STATUS_FROM_CLIENT."""
    table = {one.queue: one.window.commit_offset for one in assigned if one.queue.topic == topic}
    return request.reply(body=dumps({"consumerTable": {}, "messageQueueTable": table}))


def read_reset(request: Command) -> dict[MessageQueue, int]:
    """The offsets of RESET_CONSUMER_CLIENT_OFFSET, in either form. Raises ProtocolError."""
    table = read_object(request.body, "a reset").get("offsetTable")
    if isinstance(table, list):
        return {MessageQueue.from_json(item): as_int(item.get("offset")) for item in table}
    return {queue: as_int(offset) for queue, offset in queue_map(table).items()}
