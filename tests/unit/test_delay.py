"""Delayed messages reach their topic when they are due, at least once."""

import dataclasses
import json

import pytest
import trio
from trio.testing import MockClock

from fastmq import _store as st
from fastmq.broker.delivery.delay import DelayDelivery
from fastmq.errors import StoreError
from fastmq.protocol.message import decode_properties
from fastmq.store.tables import save_json
from unit.broker_rig import Rig


@pytest.fixture
def rig(tmp_path):
    rig = Rig(tmp_path, message_delay_level="1s 5s 10s")
    yield rig
    rig.close()


def due(rig):
    """Deliver what is due now; how many."""
    return rig.broker.delay.due(rig.clock.wall_ms()).delivered


def test_a_message_waits_for_its_level(rig):
    rig.send(body=b"later", queue=2, properties="DELAY\x012\x02TAGS\x01TagA\x02")
    assert rig.count("topic-a", 2) == 0
    rig.clock.advance_ms(4999)
    assert due(rig) == 0
    rig.clock.advance_ms(1)
    assert due(rig) == 1
    message = rig.stored("topic-a", 2)
    assert message.body == b"later"
    assert rig.pull(queue=2, subscription="TagA").code == 0
    assert rig.pull(queue=2, subscription="TagB").code == 20


def test_the_delivered_message_is_the_one_that_was_sent(rig):
    rig.send(properties="DELAY\x011\x02k\x01v\x02", h=7, g=99, j=3, f=1)
    kept = rig.stored("SCHEDULE_TOPIC_XXXX")
    rig.clock.advance_ms(1000)
    due(rig)
    message = rig.stored("topic-a")
    assert message.properties == kept.properties
    assert decode_properties(message.properties)["REAL_TOPIC"] == "topic-a"
    for name in ("body", "flag", "sys_flag", "born_timestamp", "born_host", "store_host", "reconsume_times"):
        assert getattr(message, name) == getattr(kept, name)
    assert message.flag == 7
    assert message.reconsume_times == 3
    assert message.store_timestamp == kept.store_timestamp + 1000


def test_the_next_time_is_that_of_the_earliest_message(rig):
    start = rig.clock.wall_ms()
    rig.send(properties="DELAY\x013\x02")
    rig.send(properties="DELAY\x012\x02")
    assert rig.broker.delay.due(start).next_ms == start + 5000
    rig.clock.advance_ms(5000)
    assert rig.broker.delay.due(rig.clock.wall_ms()).next_ms == start + 10_000


def test_nothing_delayed_is_nothing_to_wait_for(rig):
    outcome = rig.broker.delay.due(rig.clock.wall_ms())
    assert (outcome.delivered, outcome.next_ms) == (0, None)


def test_a_level_is_delivered_in_order_and_all_of_it(rig):
    for number in range(150):
        rig.send(body=b"%d" % number, properties="DELAY\x011\x02")
    rig.clock.advance_ms(1000)
    total = 0
    while True:
        outcome = rig.broker.delay.due(rig.clock.wall_ms())
        total += outcome.delivered
        if outcome.next_ms is None:
            break
        assert outcome.next_ms <= rig.clock.wall_ms()
    assert total == 150
    assert [rig.stored("topic-a", 0, n).body for n in (0, 64, 149)] == [b"0", b"64", b"149"]


def test_a_clock_that_was_set_back_does_not_hold_messages_for_hours(rig):
    rig.send(properties="DELAY\x011\x02")
    rig.clock.set_wall_ms(rig.clock.wall_ms() - 3_600_000)
    assert due(rig) == 0
    rig.clock.advance_ms(999)
    assert due(rig) == 0
    rig.clock.advance_ms(1)
    assert due(rig) == 1


@pytest.mark.parametrize("back_ms", [1, 500, 3_600_000])
def test_what_comes_while_the_clock_is_behind_has_its_whole_delay(rig, back_ms):
    rig.send()
    rig.clock.set_wall_ms(rig.clock.wall_ms() - back_ms)
    sent = {}
    for number in range(6):
        rig.send(body=b"%d" % number, queue=1, properties="DELAY\x012\x02")
        sent[b"%d" % number] = rig.clock.wall_ms()
        due(rig)
        rig.clock.advance_ms(700)
    delivered = rig.count("topic-a", 1)
    for _ in range(100):
        due(rig)
        for offset in range(delivered, rig.count("topic-a", 1)):
            waited = rig.clock.wall_ms() - sent.pop(rig.stored("topic-a", 1, offset).body)
            assert 5000 <= waited <= 5500
        delivered = rig.count("topic-a", 1)
        rig.clock.advance_ms(100)
    assert not sent


def test_a_message_that_cannot_be_stored_is_tried_again(rig):
    rig.send(properties="DELAY\x011\x02")
    rig.send(body=b"second", properties="DELAY\x011\x02")
    rig.clock.advance_ms(1000)
    rig.store.set_disk_full(True)
    outcome = rig.broker.delay.due(rig.clock.wall_ms())
    assert (outcome.delivered, outcome.next_ms) == (0, rig.clock.wall_ms() + 100)
    rig.store.set_disk_full(False)
    assert due(rig) == 2


def test_after_a_restart_delivery_goes_on_where_it_was(rig):
    for body in (b"1", b"2"):
        rig.send(body=body, properties="DELAY\x011\x02")
        rig.clock.advance_ms(1000)
    rig.send(body=b"3", properties="DELAY\x011\x02")
    assert due(rig) == 2
    rig.flush()
    assert rig.broker.delay.persist()
    rig.reopen()
    assert rig.broker.delay.offsets() == {1: 2}
    rig.clock.advance_ms(1000)
    assert due(rig) == 1
    assert rig.stored("topic-a", 0, 2).body == b"3"


def test_offsets_are_written_only_when_the_delivered_messages_are_on_disk(rig):
    rig.send(properties="DELAY\x011\x02")
    rig.clock.advance_ms(1000)
    due(rig)
    assert rig.store.flushed_offset < rig.store.written_offset
    assert rig.broker.delay.take_snapshot() is None
    assert rig.broker.delay.take_snapshot() is None
    rig.flush()
    assert json.loads(rig.broker.delay.take_snapshot())["offsetTable"] == {"1": 1}
    assert rig.broker.delay.take_snapshot() is None


def test_without_the_file_everything_is_delivered_again(rig):
    rig.send(properties="DELAY\x011\x02")
    rig.clock.advance_ms(1000)
    assert due(rig) == 1
    rig.reopen()
    assert due(rig) == 1
    assert rig.count("topic-a") == 2


def test_an_offset_beyond_the_queue_is_brought_back(rig):
    save_json(
        str(rig.folder / "store" / "config" / "delayOffset.json"),
        '{"dataVersion":{"counter":0,"stateVersion":0,"timestamp":1},"offsetTable":{1:99}}',
    )
    rig.send(properties="DELAY\x011\x02")
    rig.reopen()
    rig.clock.advance_ms(1000)
    due(rig)
    assert rig.broker.delay.offsets() == {1: 1}
    rig.send(body=b"next", properties="DELAY\x011\x02")
    rig.clock.advance_ms(1000)
    assert due(rig) == 1


@pytest.mark.parametrize("table", ['{"x":1}', '{1:"a"}', "[1]"])
def test_a_file_that_makes_no_sense_stops_the_start(rig, table):
    path = str(rig.folder / "delayOffset.json")
    save_json(path, f'{{"offsetTable":{table}}}')
    with pytest.raises(StoreError, match="delayOffset"):
        DelayDelivery(path, store=rig.store, levels_ms=(1000,), clock=rig.clock)


@pytest.mark.parametrize(
    "properties",
    [
        b"",
        b"REAL_TOPIC\x01t\x02REAL_QID\x01-1\x02",
        b"REAL_TOPIC\x01t\x02REAL_QID\x01nine\x02",
        b"REAL_TOPIC\x01t\x02REAL_QID\x012000000000\x02",
        b"REAL_TOPIC\x01../t\x02REAL_QID\x010\x02",
        b"REAL_TOPIC\x01RMQ_SYS_TRANS_HALF_TOPIC\x02REAL_QID\x010\x02",
    ],
)
def test_what_can_go_nowhere_is_passed_over(rig, properties):
    rig.store.put("SCHEDULE_TOPIC_XXXX", 0, b"x", b"DELAY\x011\x02" + properties)
    rig.send(properties="DELAY\x011\x02")
    rig.clock.advance_ms(1000)
    due(rig)
    assert rig.count("topic-a") == 1
    assert rig.count("RMQ_SYS_TRANS_HALF_TOPIC") == 0
    assert rig.broker.delay.offsets() == {1: 2}


class TrioClock:
    """Wall and monotonic time of trio's own clock: jumps when nothing else is to do."""

    def __init__(self, start_ms):
        self.start_ms = start_ms

    def wall_ms(self):
        return self.start_ms + round(trio.current_time() * 1000)

    def monotonic(self):
        return trio.current_time()


class ScheduleQueue:
    """A store with one level and messages that are due at given times."""

    written_offset = flushed_offset = 0

    def __init__(self, clock, record):
        self.clock = clock
        self.record = record
        self.stamps = []
        self.delivered = []

    def watch(self, topic, queue_id, on=True):
        return len(self.stamps)

    def queue_offsets(self, topic, queue_id):
        return (0, len(self.stamps)) if queue_id == 0 else None

    def queue_entries(self, topic, queue_id, offset, count):
        return [(0, len(self.record), stamp) for stamp in self.stamps[offset : offset + count]]

    def read_record(self, log_offset):
        return self.record

    def put(self, *message, **facts):
        self.delivered.append(self.clock.wall_ms())
        return _Stored()


class _Stored:
    status = st.ST_OK
    size = 1


def test_the_loop_sleeps_until_the_very_millisecond(rig):
    rig.send(properties="DELAY\x011\x02")
    ((log_offset, _, _),) = rig.store.queue_entries("SCHEDULE_TOPIC_XXXX", 0, 0, 1)
    record = rig.store.read_record(log_offset)

    async def main():
        clock = TrioClock(rig.clock.wall_ms())
        queue = ScheduleQueue(clock, record)
        delay = DelayDelivery(None, store=queue, levels_ms=(1000,), clock=clock)
        start = clock.wall_ms()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(delay.run)
            for pause in (0.1234, 2.5, 0.0007):
                await trio.sleep(pause)
                queue.stamps.append(clock.wall_ms() + 1000)
                delay.moved()
            await trio.sleep(5)
            nursery.cancel_scope.cancel()
        assert len(queue.delivered) == 3
        for delivered, stamp in zip(queue.delivered, queue.stamps, strict=True):
            assert 0 <= delivered - stamp <= 10
        assert start < queue.delivered[0]

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_offsets_that_a_full_disk_refused_are_written_later(rig, tmp_path):
    rig.send(properties="DELAY\x011\x02")
    rig.clock.advance_ms(1000)
    assert due(rig) == 1
    rig.flush()
    config = tmp_path / "store" / "config"
    blocker = config / "delayOffset.json"
    blocker.unlink(missing_ok=True)
    blocker.mkdir(parents=True)
    (config / "delayOffset.json.bak").unlink(missing_ok=True)
    (config / "delayOffset.json.bak").touch()
    with pytest.raises(OSError, match="delayOffset"):
        rig.broker.delay.persist()
    blocker.rmdir()
    assert rig.broker.delay.persist()
    assert json.loads(blocker.read_text())["offsetTable"] == {"1": 1}


def change_levels(rig, text):
    """Stop, and start with other delays."""
    rig.flush()
    rig.broker.delay.persist()
    rig.close()
    rig.config = dataclasses.replace(rig.config, message_delay_level=text)
    rig.open()


def test_a_topic_that_has_fewer_queues_by_now_gets_the_message_in_one_of_them(rig):
    rig.send(queue=3, properties="DELAY\x011\x02")
    rig.broker.topics.put(dataclasses.replace(rig.broker.topics.get("topic-a"), read_queue_nums=2, write_queue_nums=2))
    rig.clock.advance_ms(1000)
    assert due(rig) == 1
    assert (rig.count("topic-a", 3), rig.count("topic-a", 1)) == (0, 1)


def test_levels_that_are_gone_still_deliver(rig):
    rig.send(body=b"long", properties="DELAY\x013\x02")
    rig.send(body=b"short", properties="DELAY\x011\x02")
    change_levels(rig, "1s")
    rig.clock.advance_ms(9999)
    assert due(rig) == 1
    rig.clock.advance_ms(1)
    assert due(rig) == 1
    assert rig.stored("topic-a", 0, 1).body == b"long"
    change_levels(rig, "1s")
    assert due(rig) == 0


def test_a_level_that_became_shorter_delivers_nothing_early(rig):
    rig.send(body=b"before", properties="DELAY\x013\x02")
    change_levels(rig, "1s 5s 6s")
    rig.clock.advance_ms(2000)
    rig.send(body=b"after", properties="DELAY\x013\x02")
    rig.clock.advance_ms(7999)
    assert due(rig) == 0
    rig.clock.advance_ms(1)
    assert due(rig) == 2
    assert [rig.stored("topic-a", 0, offset).body for offset in (0, 1)] == [b"before", b"after"]
