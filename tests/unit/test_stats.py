"""What an operator reads from `statsAll` and `clusterList` after messages went in and out."""

from __future__ import annotations

import pytest

from fastmq.broker.stats import SAMPLE_INTERVAL_MS, BrokerStats

MINUTE = 60_000
HOUR = 3_600_000


class Time:
    """A wall clock that a test moves; days begin at multiples of 24 h."""

    def __init__(self) -> None:
        self.ms = 1_000 * 24 * HOUR + 12 * HOUR

    def now(self) -> int:
        return self.ms

    def day(self, now_ms: int) -> int:
        return now_ms // (24 * HOUR)


class Queues:
    def __init__(self) -> None:
        self.ends: dict[tuple[str, int], int] = {}
        self.log_end = 0

    def list(self) -> list[tuple[str, int, int, int]]:
        return [(topic, queue, 0, end) for (topic, queue), end in self.ends.items()]


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture
def stats(clock: Time) -> BrokerStats:
    return BrokerStats("DefaultCluster", clock.now, local_day=clock.day)


def advance(stats: BrokerStats, clock: Time, ms: int) -> None:
    """Let `ms` pass as the broker's loop does, a sample every ten seconds."""
    end = clock.ms + ms
    while clock.ms + SAMPLE_INTERVAL_MS <= end:
        clock.ms += SAMPLE_INTERVAL_MS
        stats.sample()
    clock.ms = end


def test_put_shows_under_topic_queue_and_broker(stats: BrokerStats) -> None:
    stats.on_put("orders", 2, nums=3, size=900)
    stats.on_put("orders", 0, nums=1, size=300)
    assert stats.view("TOPIC_PUT_NUMS", "orders").minute.sum == 4  # type: ignore[union-attr]
    assert stats.view("TOPIC_PUT_SIZE", "orders").minute.sum == 1200  # type: ignore[union-attr]
    assert stats.view("QUEUE_PUT_NUMS", "orders@2").minute.sum == 3  # type: ignore[union-attr]
    assert stats.view("BROKER_PUT_NUMS", "DefaultCluster").minute.sum == 4  # type: ignore[union-attr]
    assert stats.view("TOPIC_PUT_NUMS", "orders").minute.avgpt == 2.0  # type: ignore[union-attr]


def test_get_shows_under_group(stats: BrokerStats) -> None:
    stats.on_get("billing", "orders", 0, nums=5, size=1000)
    view = stats.view("GROUP_GET_NUMS", "orders@billing")
    assert view is not None
    assert view.minute.sum == 5
    assert stats.view("QUEUE_GET_SIZE", "orders@0@billing").minute.sum == 1000  # type: ignore[union-attr]
    assert stats.view("GROUP_GET_NUMS", "orders@other") is None


def test_minute_forgets_hour_and_day_remember(stats: BrokerStats, clock: Time) -> None:
    stats.on_put("orders", 0, 6, 600)
    advance(stats, clock, 2 * MINUTE)
    view = stats.view("TOPIC_PUT_NUMS", "orders")
    assert view is not None
    assert (view.minute.sum, view.hour.sum, view.day.sum) == (0, 6, 6)
    advance(stats, clock, 2 * HOUR)
    view = stats.view("TOPIC_PUT_NUMS", "orders")
    assert view is not None
    assert (view.hour.sum, view.day.sum) == (0, 6)
    advance(stats, clock, 26 * HOUR)
    assert stats.view("TOPIC_PUT_NUMS", "orders") is None, "an item idle for more than a day is dropped"


def test_rate_over_a_full_minute(stats: BrokerStats, clock: Time) -> None:
    for _ in range(12):
        stats.on_put("orders", 0, 20, 2000)
        advance(stats, clock, SAMPLE_INTERVAL_MS)
    view = stats.view("TOPIC_PUT_NUMS", "orders")
    assert view is not None
    assert view.minute.sum == pytest.approx(120)
    assert view.minute.tps == pytest.approx(2.0)


def test_first_rate_is_not_absurd(stats: BrokerStats, clock: Time) -> None:
    stats.on_put("orders", 0, 1, 100)
    assert stats.minute_tps("TOPIC_PUT_NUMS", "orders") == pytest.approx(0.1)


def test_triples_always_hold_three_numbers(stats: BrokerStats, clock: Time) -> None:
    for _ in range(7):
        stats.on_put("orders", 0, 10, 1000)
        stats.on_get("g", "orders", 0, 4, 400)
        stats.on_get_missed()
        advance(stats, clock, SAMPLE_INTERVAL_MS)
    rates = stats.rates()
    assert rates["putTps"] == pytest.approx((1.0, 1.0, 1.0))
    assert rates["getFoundTps"][0] == pytest.approx(0.1)
    assert rates["getTotalTps"][0] == pytest.approx(0.2)
    assert rates["getTransferredTps"][0] == pytest.approx(0.4)


def test_day_totals_turn_at_midnight(stats: BrokerStats, clock: Time) -> None:
    stats.on_put("orders", 0, 7, 700)
    stats.on_get("g", "orders", 0, 2, 200)
    assert stats.daily()["msgPutTotalTodayNow"] == 7
    advance(stats, clock, 24 * HOUR)
    stats.on_put("orders", 0, 1, 100)
    daily = stats.daily()
    assert daily["msgPutTotalYesterdayMorning"] == 0
    assert daily["msgPutTotalTodayMorning"] == 7
    assert daily["msgPutTotalTodayNow"] == 8
    assert daily["msgGetTotalTodayMorning"] == 2
    advance(stats, clock, 24 * HOUR)
    assert stats.daily()["msgPutTotalYesterdayMorning"] == 7


def test_sends_answered_by_the_reactor_are_counted(clock: Time) -> None:
    queues = Queues()
    queues.ends["orders", 0] = 100  # from an earlier run
    queues.log_end = 50_000
    stats = BrokerStats("c", clock.now, queue_ends=queues.list, log_end=lambda: queues.log_end, local_day=clock.day)
    assert stats.view("TOPIC_PUT_NUMS", "orders") is None
    stats.on_put("orders", 0, 1, 200)
    queues.ends["orders", 0] = 104  # one counted, three not
    queues.ends["new", 1] = 1
    queues.log_end = 50_000 + 200 + 4 * 250
    assert stats.view("TOPIC_PUT_NUMS", "orders").day.sum == 4  # type: ignore[union-attr]
    assert stats.view("TOPIC_PUT_SIZE", "orders").day.sum == 200 + 750  # type: ignore[union-attr]
    assert stats.view("TOPIC_PUT_NUMS", "new").day.sum == 1  # type: ignore[union-attr]
    assert stats.daily()["msgPutTotalTodayNow"] == 5


def test_a_put_that_is_not_dispatched_yet_is_counted_once(clock: Time) -> None:
    queues = Queues()
    stats = BrokerStats("c", clock.now, queue_ends=queues.list, log_end=lambda: queues.log_end, local_day=clock.day)
    stats.on_put("orders", 0, 2, 200)
    assert stats.view("TOPIC_PUT_NUMS", "orders").day.sum == 2  # type: ignore[union-attr]
    queues.ends["orders", 0] = 2
    queues.log_end = 200
    assert stats.view("TOPIC_PUT_NUMS", "orders").day.sum == 2  # type: ignore[union-attr]


def test_deleted_topic_and_group_disappear(stats: BrokerStats) -> None:
    stats.on_put("orders", 0, 1, 1)
    stats.on_get("g1", "orders", 0, 1, 1)
    stats.on_get("g1", "other", 0, 1, 1)
    stats.forget_topic("orders")
    assert stats.view("TOPIC_PUT_NUMS", "orders") is None
    assert stats.view("GROUP_GET_NUMS", "orders@g1") is None
    assert stats.view("GROUP_GET_NUMS", "other@g1") is not None
    stats.forget_group("g1")
    assert stats.view("GROUP_GET_NUMS", "other@g1") is None
    assert stats.view("BROKER_PUT_NUMS", "DefaultCluster") is not None


def test_send_back_and_dead_letters(stats: BrokerStats) -> None:
    stats.on_send_back("g", "orders")
    stats.on_dead_letter("g", "orders")
    assert stats.view("SNDBCK_PUT_NUMS", "orders@g").minute.sum == 1  # type: ignore[union-attr]
    assert stats.view("DLQ_PUT_NUMS", "orders@g").minute.sum == 1  # type: ignore[union-attr]


def test_system_topics_do_not_count_as_business(clock: Time) -> None:
    stats = BrokerStats("c", clock.now, is_system=lambda topic, group: topic.startswith("rmq_sys_"))
    stats.on_put("rmq_sys_x", 0, 5, 5)
    stats.on_put("orders", 0, 2, 2)
    assert stats.view("BROKER_PUT_NUMS", "c").minute.sum == 7  # type: ignore[union-attr]
    assert stats.view("BROKER_PUT_NUMS_WITHOUT_SYSTEM_TOPIC", "c").minute.sum == 2  # type: ignore[union-attr]
