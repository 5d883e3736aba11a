"""Counters of a broker: what `statsAll`, `clusterList` and the Dashboard show (RocketMQ's BrokerStatsManager).

A counter is touched on every cold send and pull, so a touch is a dictionary look-up and a few additions: changes are
gathered per queue and folded into named items later, by `sample` every ten seconds or by whoever asks. Sends that
the reactor answers itself never come through Python; `sample` finds them by looking at how far the queues have
grown beyond what was counted. Their number is exact, their size is the average of the log's growth in between.

Items are named as in RocketMQ, see `ITEM_KEYS`. Three rings of snapshots (10 s, 10 min, 1 h apart) give the values of
the last minute, hour and day. A ring only takes a snapshot when its item has changed, so idle topics cost nothing.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

import trio

from fastmq.broker.state import nothing
from fastmq.protocol.bodies import BrokerStatsData, BrokerStatsItem

SAMPLE_INTERVAL_MS: Final = 10_000
HOUR_SAMPLE_INTERVAL_MS: Final = 600_000
DAY_SAMPLE_INTERVAL_MS: Final = 3_600_000
MINUTE_MS: Final = 60_000
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 86_400_000
FORGET_AFTER_MS: Final = DAY_MS + HOUR_MS  # an item that did not change for so long says nothing any more
RATE_WINDOWS_S: Final = (10, 60, 600)  # of putTps and its like

# Every item that can be asked for, with the form of its key.
ITEM_KEYS: Final[Mapping[str, str]] = {
    "TOPIC_PUT_NUMS": "topic",
    "TOPIC_PUT_SIZE": "topic",
    "QUEUE_PUT_NUMS": "topic@queueId",
    "QUEUE_PUT_SIZE": "topic@queueId",
    "QUEUE_GET_NUMS": "topic@queueId@group",
    "QUEUE_GET_SIZE": "topic@queueId@group",
    "GROUP_GET_NUMS": "topic@group",
    "GROUP_GET_SIZE": "topic@group",
    "GROUP_ACK_NUMS": "topic@group",
    "GROUP_CK_NUMS": "topic@group",
    "SNDBCK_PUT_NUMS": "topic@group",
    "DLQ_PUT_NUMS": "topic@group",
    "BROKER_PUT_NUMS": "cluster",
    "BROKER_GET_NUMS": "cluster",
    "BROKER_ACK_NUMS": "cluster",
    "BROKER_CK_NUMS": "cluster",
    "BROKER_PUT_NUMS_WITHOUT_SYSTEM_TOPIC": "cluster",
    "BROKER_GET_NUMS_WITHOUT_SYSTEM_TOPIC": "cluster",
}


class _Item:
    """An accumulated value and its snapshots (time, value, calls), oldest first."""

    __slots__ = ("calls", "changed_ms", "day", "hour", "minute", "value")

    def __init__(self, now_ms: int) -> None:
        self.value = 0
        self.calls = 0
        self.changed_ms = now_ms
        # Before it existed an item stood at 0; one sampling interval back, so that a first rate is not absurd.
        start = (now_ms - SAMPLE_INTERVAL_MS, 0, 0)
        self.minute: deque[tuple[int, int, int]] = deque([start])
        self.hour: deque[tuple[int, int, int]] = deque([start])
        self.day: deque[tuple[int, int, int]] = deque([start])

    def take(self, ring: deque[tuple[int, int, int]], now_ms: int, window_ms: int) -> None:
        """Add a snapshot to `ring` if the item moved; keep one snapshot that is older than the window."""
        if ring[-1][1:] != (self.value, self.calls):
            ring.append((now_ms, self.value, self.calls))
        while len(ring) > 1 and ring[1][0] <= now_ms - window_ms:
            ring.popleft()

    def window(self, ring: deque[tuple[int, int, int]], now_ms: int, window_ms: int) -> BrokerStatsItem:
        begin = now_ms - window_ms
        base = ring[0]
        for snapshot in ring:
            if snapshot[0] > begin:
                break
            base = snapshot
        total = self.value - base[1]
        calls = self.calls - base[2]
        elapsed_ms = max(SAMPLE_INTERVAL_MS, min(window_ms, now_ms - base[0]))
        tps = total * 1000.0 / elapsed_ms
        return BrokerStatsItem(sum=total, tps=tps, avgpt=total / calls if calls > 0 else 0.0)


def _local_day(now_ms: int) -> int:
    """A number that changes at local midnight."""
    local = time.localtime(now_ms / 1000)
    return local.tm_year * 1000 + local.tm_yday


class BrokerStats:
    """All counters of one broker. Not thread-safe: it belongs to the trio thread.

    `wall_ms` gives the time in ms since the epoch. `queue_ends` lists (topic, queue id, min, max) of all queues and
    `log_end` the end of the commit log, in bytes; with them sends are counted that no `on_put` told of.
    """

    def __init__(
        self,
        cluster: str,
        wall_ms: Callable[[], int],
        *,
        queue_ends: Callable[[], Iterable[tuple[str, int, int, int]]] = tuple,
        log_end: Callable[[], int] = lambda: 0,
        is_system: Callable[[str, str], bool] = lambda topic, group: False,
        local_day: Callable[[int], int] = _local_day,
    ) -> None:
        self._cluster = cluster
        self._wall_ms = wall_ms
        self._queue_ends = queue_ends
        self._log_end = log_end
        self._is_system = is_system
        self._local_day = local_day
        self._items: dict[tuple[str, str], _Item] = {}
        # what happened since the last fold: (calls, messages, bytes) per queue, or per queue and group
        self._puts: dict[tuple[str, int], list[int]] = {}
        self.before_reading: Callable[[], None] = nothing  # takes over what others counted
        self._gets: dict[tuple[str, int, str], list[int]] = {}
        self._ends: dict[tuple[str, int], int] = {t[:2]: t[3] for t in queue_ends()}
        self._log_accounted = log_end()
        now = wall_ms()
        self.boot_timestamp_ms = now
        self.put_messages = 0
        self.put_bytes = 0
        self.put_failures = 0
        self.get_messages = 0
        self.get_bytes = 0
        self.get_found = 0
        self.get_missed = 0
        self._day = local_day(now)
        self.put_yesterday_morning = self.put_today_morning = 0
        self.get_yesterday_morning = self.get_today_morning = 0
        # (time, puts, pulls that found, pulls that missed, messages handed out)
        self._totals: deque[tuple[int, int, int, int, int]] = deque([(now, 0, 0, 0, 0)])
        self._next_hour_ms = now + HOUR_SAMPLE_INTERVAL_MS
        self._next_day_ms = now + DAY_SAMPLE_INTERVAL_MS

    # --- counting: called on every request -----------------------------------

    def on_put(self, topic: str, queue_id: int, nums: int, size: int) -> None:
        """`nums` messages of `size` bytes (as stored) were appended by one request."""
        counter = self._puts.get((topic, queue_id))
        if counter is None:
            self._puts[topic, queue_id] = [1, nums, size]
        else:
            counter[0] += 1
            counter[1] += nums
            counter[2] += size

    def on_put_failed(self) -> None:
        """A message could not be stored."""
        self.put_failures += 1

    def on_get(self, group: str, topic: str, queue_id: int, nums: int, size: int, pulls: int = 1) -> None:
        """Pulls of `group` were answered with `nums` messages of `size` bytes."""
        counter = self._gets.get((topic, queue_id, group))
        if counter is None:
            self._gets[topic, queue_id, group] = [pulls, nums, size]
        else:
            counter[0] += pulls
            counter[1] += nums
            counter[2] += size
        self.get_found += pulls

    def on_get_missed(self, pulls: int = 1) -> None:
        """Pulls found nothing."""
        self.get_missed += pulls

    def on_send_back(self, group: str, topic: str, nums: int = 1) -> None:
        """A consumer returned messages for another try."""
        self._add("SNDBCK_PUT_NUMS", f"{topic}@{group}", nums, 1)

    def on_checkpoint(self, group: str, topic: str) -> None:
        """A pop of a queue, or a change of an invisible time, made a checkpoint."""
        self._add("GROUP_CK_NUMS", f"{topic}@{group}", 1, 1)
        self._add("BROKER_CK_NUMS", self._cluster, 1, 1)

    def on_ack(self, group: str, topic: str, nums: int) -> None:
        """Popped messages were acknowledged."""
        self._add("GROUP_ACK_NUMS", f"{topic}@{group}", nums, 1)
        self._add("BROKER_ACK_NUMS", self._cluster, nums, 1)

    def on_dead_letter(self, group: str, topic: str, nums: int = 1) -> None:
        """Messages of `topic` were given up for `group` and went to its dead letter topic."""
        self._add("DLQ_PUT_NUMS", f"{topic}@{group}", nums, 1)

    def forget_topic(self, topic: str) -> None:
        """Drop the items of a deleted topic (`autoDeleteUnusedStats`)."""
        self._fold()
        self._drop(lambda name, key: ITEM_KEYS[name].startswith("topic") and key.split("@")[0] == topic)
        for queue in [queue for queue in self._ends if queue[0] == topic]:
            del self._ends[queue]

    def forget_group(self, group: str) -> None:
        """Drop the items of a deleted consumer group."""
        self._fold()
        self._drop(lambda name, key: ITEM_KEYS[name].endswith("@group") and key.split("@")[-1] == group)

    # --- asking ----------------------------------------------------------------

    def view(self, name: str, key: str, *, fresh: bool = True) -> BrokerStatsData | None:
        """The windows of an item up to now, or None if nothing was ever counted under that name and key.

        Who asks for many items calls `catch_up` once and then has them with `fresh=False`.
        """
        if fresh:
            self.catch_up()
        item = self._items.get((name, key))
        if item is None:
            return None
        now = self._wall_ms()
        return BrokerStatsData(
            minute=item.window(item.minute, now, MINUTE_MS),
            hour=item.window(item.hour, now, HOUR_MS),
            day=item.window(item.day, now, DAY_MS),
        )

    def minute_tps(self, name: str, key: str, *, fresh: bool = True) -> float:
        """Events per second over the last minute, 0.0 for an item that does not exist."""
        view = self.view(name, key, fresh=fresh)
        return 0.0 if view is None else view.minute.tps

    def rates(self) -> dict[str, tuple[float, float, float]]:
        """Per second over the last 10, 60 and 600 s, under the names of the runtime table (StoreStatsService)."""
        self.catch_up()
        now = self._wall_ms()
        current = self._total(now)

        def triple(*fields: int) -> tuple[float, float, float]:
            values = []
            for seconds in RATE_WINDOWS_S:
                base = self._totals[0]
                for snapshot in self._totals:
                    if snapshot[0] > now - seconds * 1000:
                        break
                    base = snapshot
                elapsed_ms = max(1000, now - base[0])
                values.append(sum(current[f] - base[f] for f in fields) * 1000.0 / elapsed_ms)
            return values[0], values[1], values[2]

        return {
            "putTps": triple(1),
            "getFoundTps": triple(2),
            "getMissTps": triple(3),
            "getTotalTps": triple(2, 3),
            "getTransferredTps": triple(4),
        }

    def daily(self) -> dict[str, int]:
        """Messages in and out since start: now, and as of this and of yesterday's midnight, by runtime table name."""
        self.catch_up()
        self._turn_day(self._wall_ms())
        return {
            "msgPutTotalYesterdayMorning": self.put_yesterday_morning,
            "msgPutTotalTodayMorning": self.put_today_morning,
            "msgPutTotalTodayNow": self.put_messages,
            "msgGetTotalYesterdayMorning": self.get_yesterday_morning,
            "msgGetTotalTodayMorning": self.get_today_morning,
            "msgGetTotalTodayNow": self.get_messages,
        }

    def statistics(self) -> dict[str, int]:
        """Totals since start, for metrics."""
        self.catch_up()
        return {
            "put_messages": self.put_messages,
            "put_bytes": self.put_bytes,
            "put_failures": self.put_failures,
            "get_messages": self.get_messages,
            "get_bytes": self.get_bytes,
            "get_found": self.get_found,
            "get_missed": self.get_missed,
        }

    # --- time ------------------------------------------------------------------

    async def run(self) -> None:
        """Take snapshots for ever, one every ten seconds."""
        while True:
            await trio.sleep(SAMPLE_INTERVAL_MS / 1000)
            self.sample()

    def sample(self) -> None:
        """Take the snapshots that are due. Meant to be called every `SAMPLE_INTERVAL_MS`."""
        self.catch_up()
        now = self._wall_ms()
        self._turn_day(now)
        self._totals.append(self._total(now))
        horizon = now - RATE_WINDOWS_S[-1] * 1000
        while len(self._totals) > 1 and self._totals[1][0] <= horizon:
            self._totals.popleft()
        hour_due = now >= self._next_hour_ms
        day_due = now >= self._next_day_ms
        for item in self._items.values():
            item.take(item.minute, now, MINUTE_MS)
            if hour_due:
                item.take(item.hour, now, HOUR_MS)
            if day_due:
                item.take(item.day, now, DAY_MS)
        if hour_due:
            self._next_hour_ms = now + HOUR_SAMPLE_INTERVAL_MS
        if day_due:
            self._next_day_ms = now + DAY_SAMPLE_INTERVAL_MS
            for key in [k for k, item in self._items.items() if item.changed_ms < now - FORGET_AFTER_MS]:
                del self._items[key]

    def catch_up(self) -> None:
        """Bring the items up to the present: fold what was counted, then find what was not."""
        self._fold()
        self._count_uncounted()

    # --- inside ------------------------------------------------------------------

    def _add(self, name: str, key: str, value: int, calls: int) -> None:
        item = self._items.get((name, key))
        now = self._wall_ms()
        if item is None:
            item = self._items[name, key] = _Item(now)
        item.value += value
        item.calls += calls
        item.changed_ms = now

    def _fold(self) -> None:
        self.before_reading()
        puts, self._puts = self._puts, {}
        for (topic, queue_id), (calls, nums, size) in puts.items():
            self._ends[topic, queue_id] = self._ends.get((topic, queue_id), 0) + nums
            self._log_accounted += size
            self._record_put(topic, queue_id, calls, nums, size)
        gets, self._gets = self._gets, {}
        for (topic, queue_id, group), (calls, nums, size) in gets.items():
            self._add("QUEUE_GET_NUMS", f"{topic}@{queue_id}@{group}", nums, calls)
            self._add("QUEUE_GET_SIZE", f"{topic}@{queue_id}@{group}", size, calls)
            self._add("GROUP_GET_NUMS", f"{topic}@{group}", nums, calls)
            self._add("GROUP_GET_SIZE", f"{topic}@{group}", size, calls)
            self._add("BROKER_GET_NUMS", self._cluster, nums, calls)
            if not self._is_system(topic, group):
                self._add("BROKER_GET_NUMS_WITHOUT_SYSTEM_TOPIC", self._cluster, nums, calls)
            self.get_messages += nums
            self.get_bytes += size

    def _record_put(self, topic: str, queue_id: int, calls: int, nums: int, size: int) -> None:
        self._add("TOPIC_PUT_NUMS", topic, nums, calls)
        self._add("TOPIC_PUT_SIZE", topic, size, calls)
        self._add("QUEUE_PUT_NUMS", f"{topic}@{queue_id}", nums, calls)
        self._add("QUEUE_PUT_SIZE", f"{topic}@{queue_id}", size, calls)
        self._add("BROKER_PUT_NUMS", self._cluster, nums, calls)
        if not self._is_system(topic, ""):
            self._add("BROKER_PUT_NUMS_WITHOUT_SYSTEM_TOPIC", self._cluster, nums, calls)
        self.put_messages += nums
        self.put_bytes += size

    def _count_uncounted(self) -> None:
        """Messages that lie in the queues beyond what `on_put` told of.

        A queue's visible end may lag behind the puts, never the other way round, so a negative difference only
        means that the dispatcher is not there yet.
        """
        grown: list[tuple[str, int, int]] = []
        for topic, queue_id, _, end in self._queue_ends():
            more = end - self._ends.get((topic, queue_id), 0)
            if more > 0:
                grown.append((topic, queue_id, more))
                self._ends[topic, queue_id] = end
        if not grown:
            return
        log_end = self._log_end()
        total = sum(more for _, _, more in grown)
        average = max(0, log_end - self._log_accounted) / total
        self._log_accounted = max(self._log_accounted, log_end)
        for topic, queue_id, more in grown:
            self._record_put(topic, queue_id, more, more, round(average * more))

    def _total(self, now_ms: int) -> tuple[int, int, int, int, int]:
        return now_ms, self.put_messages, self.get_found, self.get_missed, self.get_messages

    def _turn_day(self, now_ms: int) -> None:
        day = self._local_day(now_ms)
        if day == self._day:
            return
        self._day = day
        self.put_yesterday_morning, self.put_today_morning = self.put_today_morning, self.put_messages
        self.get_yesterday_morning, self.get_today_morning = self.get_today_morning, self.get_messages

    def _drop(self, unwanted: Callable[[str, str], bool]) -> None:
        for name, key in [item for item in self._items if unwanted(*item)]:
            del self._items[name, key]

    def keys(self, name: str) -> Iterator[str]:
        """The keys counted under an item name."""
        return (key for item, key in self._items if item == name)
