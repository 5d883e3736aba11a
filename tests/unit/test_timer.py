"""Timer messages reach their topic at the very millisecond, at least once, and never when they were taken back."""

import base64
import dataclasses

import pytest

from fastmq.broker.delivery.intake import OutgoingMessage, store_message
from fastmq.protocol.codes import RequestCode
from fastmq.protocol.message import decode_message, decode_properties
from fastmq.store.timer_log import MAGIC_DEFAULT, MAGIC_ROLL
from unit.broker_rig import Rig


@pytest.fixture
def rig(tmp_path):
    rig = Rig(tmp_path, recall_message_enable=True, timer_max_delay_sec=30 * 86_400)
    yield rig
    rig.close()


def due(rig):
    """Do all that is to do now; how many messages were delivered."""
    total = 0
    while True:
        outcome = rig.broker.timers.due(rig.clock.wall_ms())
        total += outcome.delivered
        if outcome.next_ms is None or outcome.next_ms > rig.clock.wall_ms():
            return total


def run_until(rig, wall_ms):
    """Let time pass as the loop does: from one thing to do to the next. When each message was delivered."""
    times = []
    while True:
        now = rig.clock.wall_ms()
        outcome = rig.broker.timers.due(now)
        times += [now] * outcome.delivered
        if outcome.next_ms is not None and outcome.next_ms <= now:
            continue
        if now >= wall_ms:
            return times
        next_ms = min(now + 1000, wall_ms, outcome.next_ms or wall_ms)
        rig.clock.advance_ms(next_ms - now)


def persist(rig):
    rig.broker.timers.take_snapshot()
    rig.flush()
    assert rig.broker.timers.persist()


def send_at(rig, offset_ms, **more):
    """A message for a time from now; that time."""
    at = rig.clock.wall_ms() + offset_ms
    properties = more.pop("properties", "")
    reply = rig.send(properties=f"{properties}TIMER_DELIVER_MS\x01{at}\x02", **more)
    assert reply.code == 0, reply.remark
    return at


def recall(rig, reply_or_handle, topic="topic-a"):
    handle = reply_or_handle if isinstance(reply_or_handle, str) else reply_or_handle.ext["recallHandle"]
    return rig.ask(RequestCode.RECALL_MESSAGE, {"topic": topic, "recallHandle": handle, "producerGroup": "pg"})


class TestDelivery:
    @pytest.mark.parametrize("delay_ms", [1, 999, 1000, 1001, 5432, 86_400_123])
    @pytest.mark.parametrize("start_ms", [0, 1, 500, 999])
    def test_a_message_comes_at_its_millisecond(self, rig, delay_ms, start_ms):
        rig.clock.advance_ms(start_ms)
        at = send_at(rig, delay_ms, body=b"later", queue=2)
        assert rig.count("topic-a", 2) == 0
        assert run_until(rig, at - 1) == []
        rig.clock.advance_ms(1)
        assert due(rig) == 1
        assert rig.stored("topic-a", 2).body == b"later"

    def test_a_topic_that_has_fewer_queues_by_now_gets_the_message_in_one_of_them(self, rig):
        at = send_at(rig, 1000, queue=3)
        topic = rig.broker.topics.get("topic-a")
        rig.broker.topics.put(dataclasses.replace(topic, read_queue_nums=2, write_queue_nums=2))
        assert run_until(rig, at) == [at]
        assert (rig.count("topic-a", 3), rig.count("topic-a", 1)) == (0, 1)

    def test_a_message_is_stored_anew_before_its_segment_may_be_removed(self, rig):
        rig.close()
        rig.config = dataclasses.replace(rig.config, file_reserved_time=2)
        rig.open()
        at = send_at(rig, 6 * 3_600_000)
        assert len(run_until(rig, at - 1)) >= 3
        (log_offset, _, _) = rig.store.queue_entries("rmq_sys_wheel_timer", 0, 3, 1)[0]
        assert at - decode_message(rig.store.read_record(log_offset))[0].store_timestamp < 2 * 3_600_000
        assert run_until(rig, at) == [at]

    @pytest.mark.parametrize("text", ["TIMER_DELAY_SEC\x012\x02", "TIMER_DELAY_MS\x012000\x02"])
    def test_a_delay_counts_from_the_send(self, rig, text):
        rig.clock.advance_ms(123)
        start = rig.clock.wall_ms()
        rig.send(properties=text)
        assert run_until(rig, start + 3000) == [start + 2000]

    def test_the_delivered_message_is_the_one_that_was_sent(self, rig):
        at = send_at(rig, 1500, properties="k\x01v\x02TAGS\x01TagA\x02", h=7, g=99, j=3, f=1)
        kept = rig.stored("rmq_sys_wheel_timer")
        run_until(rig, at)
        message = rig.stored("topic-a")
        for name in ("body", "flag", "sys_flag", "born_timestamp", "born_host", "store_host", "reconsume_times"):
            assert getattr(message, name) == getattr(kept, name)
        properties = decode_properties(message.properties)
        assert properties["REAL_TOPIC"] == "topic-a"
        assert properties["TIMER_DEQUEUE_MS"] == str(at)
        assert int(properties["TIMER_ENQUEUE_MS"]) <= at
        assert message.properties.startswith(kept.properties)
        assert rig.pull(subscription="TagA").code == 0
        assert rig.pull(subscription="TagB").code == 20

    def test_messages_come_in_the_order_of_their_times(self, rig):
        start = rig.clock.wall_ms()
        offsets = [700, 100, 2500, 900, 100, 999, 1000, 1001, 2499]
        for number, offset in enumerate(offsets):
            send_at(rig, offset, body=b"%d" % number)
        assert run_until(rig, start + 4000) == [start + offset for offset in sorted(offsets)]
        order = [int(rig.stored("topic-a", 0, at).body) for at in range(len(offsets))]
        assert order == sorted(range(len(offsets)), key=lambda number: (offsets[number], number))

    @pytest.mark.parametrize(("sys_flag", "waits"), [(0, True), (8, True), (4, False), (12, False)])
    def test_a_committed_message_waits_an_open_one_does_not(self, rig, sys_flag, waits):
        at = rig.clock.wall_ms() + 1500
        properties = {"TIMER_DELIVER_MS": str(at), "UNIQ_KEY": "U"}
        message = OutgoingMessage("topic-a", 1, b"m", properties, sys_flag=sys_flag)
        assert store_message(rig.broker, message).status == 0
        assert message.timer_due_ms == (at if waits else None)
        assert rig.count("rmq_sys_wheel_timer") == waits
        assert len(run_until(rig, at)) == waits
        if waits:
            assert rig.stored("topic-a", 1).sys_flag == sys_flag

    def test_what_has_waited_is_not_put_aside_again(self, rig):
        at = send_at(rig, 1500)
        run_until(rig, at)
        message = OutgoingMessage("topic-b", 0, b"m", decode_properties(rig.stored("topic-a").properties))
        store_message(rig.broker, message)
        assert message.topic == "topic-b"

    @pytest.mark.parametrize(
        "properties",
        [
            b"",
            b"TIMER_OUT_MS\x01soon\x02REAL_TOPIC\x01t\x02REAL_QID\x010\x02",
            b"TIMER_OUT_MS\x011\x02REAL_TOPIC\x01t\x02REAL_QID\x01-1\x02",
            b"TIMER_OUT_MS\x011\x02REAL_TOPIC\x01t\x02REAL_QID\x012000000000\x02",
            b"TIMER_OUT_MS\x011\x02REAL_TOPIC\x01../t\x02REAL_QID\x010\x02",
            b"TIMER_OUT_MS\x011\x02REAL_TOPIC\x01rmq_sys_wheel_timer\x02REAL_QID\x010\x02",
        ],
    )
    def test_what_can_go_nowhere_is_passed_over(self, rig, properties):
        rig.store.put("rmq_sys_wheel_timer", 0, b"x", properties)
        at = send_at(rig, 1500)
        assert run_until(rig, at + 100)[-1] == at
        assert rig.count("topic-a") == 1
        assert rig.count("rmq_sys_wheel_timer") == 2
        assert rig.broker.timers.files.metrics.total == 0

    def test_properties_that_grow_too_long_are_stored_as_they_were(self, rig):
        start = len("TIMER_DELIVER_MS\x011700000001500\x02k\x01\x02UNIQ_KEY\x01U\x02")
        at = send_at(rig, 1500, properties=f"UNIQ_KEY\x01U\x02k\x01{'v' * (32_600 - start)}\x02")
        kept = rig.stored("rmq_sys_wheel_timer").properties
        assert len(kept) > 32_767 - 70
        run_until(rig, at)
        assert rig.stored("topic-a").properties == kept

    def test_many_in_one_slot(self, rig):
        at = send_at(rig, 1234)
        for _ in range(299):
            rig.send(properties=f"TIMER_DELIVER_MS\x01{at}\x02")
        assert run_until(rig, at + 10) == [at] * 300

    def test_a_time_that_has_come_is_now(self, rig):
        for text in ("TIMER_DELIVER_MS\x011\x02", "TIMER_DELAY_SEC\x010\x02", "TIMER_DELAY_MS\x01-5\x02"):
            reply = rig.send(properties=text)
            assert reply.code == 0
            assert "recallHandle" not in reply.ext
        assert rig.count("topic-a") == 3
        assert rig.count("rmq_sys_wheel_timer") == 0

    def test_a_message_that_is_followed_too_late_comes_at_once(self, rig):
        send_at(rig, 5000)
        rig.clock.advance_ms(60_000)
        assert due(rig) == 1
        assert decode_properties(rig.stored("topic-a").properties)["TIMER_ENQUEUE_MS"] == str(2**63 - 1)

    def test_a_message_that_cannot_be_stored_is_tried_again(self, rig):
        at = send_at(rig, 1000)
        due(rig)
        rig.clock.advance_ms(1000)
        rig.store.set_disk_full(True)
        outcome = rig.broker.timers.due(at)
        assert (outcome.delivered, outcome.next_ms) == (0, at + 100)
        rig.store.set_disk_full(False)
        assert due(rig) == 1

    def test_counts_and_progress(self, rig):
        send_at(rig, 1000)
        send_at(rig, 2000)
        due(rig)
        metrics = rig.broker.timers.files.metrics
        assert metrics.count("topic-a") == 2
        run_until(rig, rig.clock.wall_ms() + 1500)
        assert metrics.count("topic-a") == 1
        body = rig.ask(RequestCode.GET_TIMER_METRICS).body
        assert b'"topic-a":{"count":1,' in body
        check = rig.ask(RequestCode.GET_TIMER_CHECK_POINT).body
        assert len(check) == 56
        assert int.from_bytes(check[16:24]) == 2

    def test_a_far_time_is_reached_in_several_steps(self, rig):
        rig.change(timer_max_delay_sec=30 * 86_400)
        start = rig.clock.wall_ms()
        at = send_at(rig, 5 * 86_400_000 + 123)
        rig.send(properties=f"TIMER_DELAY_MS\x01{5 * 86_400_000 + 456}\x02")
        due(rig)
        assert rig.broker.timers.files.log.read(0).magic == MAGIC_DEFAULT | MAGIC_ROLL
        for _ in range(5):
            rig.clock.advance_ms(86_400_000 - 1000)
            due(rig)
        assert rig.count("topic-a") == 0
        assert run_until(rig, start + 5 * 86_400_000 + 1000)[-2:] == [at, start + 5 * 86_400_000 + 456]
        delivered = [rig.stored("topic-a", 0, number) for number in range(2)]
        assert [message.body for message in delivered] == [b"hello"] * 2
        assert "TIMER_ROLL_TIMES" in decode_properties(delivered[0].properties)
        assert rig.broker.timers.files.metrics.total == 0


class TestRefusals:
    @pytest.mark.parametrize("name", ["TIMER_DELIVER_MS", "TIMER_DELAY_SEC", "TIMER_DELAY_MS"])
    @pytest.mark.parametrize("text", ["soon", "9" * 30, "1.5", "9223372036854775807"])
    def test_what_is_no_time_or_too_far(self, rig, name, text):
        reply = rig.send(properties=f"{name}\x01{text}\x02")
        assert (reply.code, reply.ext["MSG_REGION"]) == (13, "DefaultRegion")
        assert reply.remark.startswith("timer message illegal, the delay time should not be bigger than the max delay ")
        assert rig.store.written_offset == 0

    def test_the_horizon(self, rig):
        rig.change(timer_max_delay_sec=10)
        assert rig.send(properties="TIMER_DELAY_SEC\x0110\x02").code == 0
        assert rig.send(properties="TIMER_DELAY_MS\x0110001\x02").code == 13

    def test_without_a_wheel(self, tmp_path):
        rig = Rig(tmp_path / "off", timer_wheel_enable=False)
        reply = rig.send(properties="TIMER_DELAY_SEC\x0110\x02")
        assert (reply.code, reply.remark) == (1, "accurate timer message is not enabled, timerWheelEnable is false")
        assert rig.ask(RequestCode.GET_TIMER_CHECK_POINT).code == 1
        assert rig.ask(RequestCode.GET_TIMER_METRICS).code == 0
        assert not (tmp_path / "off" / "store" / "timerwheel").exists()
        rig.close()

    def test_a_crowded_slot(self, rig):
        rig.change(timer_congest_num_each_slot=3)
        at = rig.clock.wall_ms() + 60_000
        codes = []
        for _ in range(12):
            reply = rig.send(properties=f"TIMER_DELIVER_MS\x01{at}\x02")
            codes.append(reply.code)
            due(rig)
        assert codes[:4] == [0] * 4
        assert codes[-1] == 1
        assert reply.remark.startswith("timer message is under flow control, max num limit is 6 ")


class TestRecall:
    def test_a_message_is_taken_back(self, rig):
        reply = rig.send(properties="UNIQ_KEY\x01U1\x02TIMER_DELAY_MS\x011500\x02")
        rig.send(properties="UNIQ_KEY\x01U2\x02TIMER_DELAY_MS\x011500\x02")
        handle = base64.urlsafe_b64decode(reply.ext["recallHandle"]).decode().split(" ")
        assert handle == ["v1", "topic-a", rig.config.broker_name, str(rig.clock.wall_ms() + 1500), "U1"]
        rig.clock.advance_ms(1499)
        answer = recall(rig, reply)
        assert (answer.code, answer.ext) == (0, {"msgId": "U1", "MSG_REGION": "DefaultRegion"})
        assert len(run_until(rig, rig.clock.wall_ms() + 3000)) == 2
        assert rig.count("topic-a") == 1
        assert decode_properties(rig.stored("topic-a").properties)["UNIQ_KEY"] == "U2"
        assert rig.broker.timers.files.metrics.total == 0

    def test_after_its_time_it_cannot_be(self, rig):
        reply = rig.send(properties="TIMER_DELAY_MS\x011500\x02")
        rig.clock.advance_ms(1500)
        answer = recall(rig, reply)
        assert (answer.code, answer.remark) == (604, "recall failed, timestamp invalid")
        assert due(rig) == 1

    def test_the_loop_may_be_late_but_a_recall_in_time_counts(self, rig):
        reply = rig.send(properties="TIMER_DELAY_MS\x011500\x02")
        rig.clock.advance_ms(1000)
        assert recall(rig, reply).code == 0
        rig.clock.advance_ms(60_000)
        due(rig)
        assert rig.count("topic-a") == 0

    def test_a_recall_of_nothing_changes_nothing(self, rig):
        reply = rig.send(properties="UNIQ_KEY\x01U1\x02TIMER_DELAY_MS\x011500\x02")
        for _ in range(3):
            recall(rig, reply)
        run_until(rig, rig.clock.wall_ms() + 5000)
        assert rig.count("topic-a") == 0
        assert rig.broker.timers.files.metrics.total == 0

    def test_refusals(self, rig):
        handle = rig.send(properties="TIMER_DELAY_SEC\x0160\x02").ext["recallHandle"]
        assert recall(rig, handle, "nope").code == 17
        rig.send("topic-b")
        answers = [
            recall(rig, handle, "topic-b"),
            recall(rig, "!"),
            recall(rig, base64.b64encode(b"v2 a b 1 c").decode()),
        ]
        assert [(one.code, one.remark) for one in answers] == [
            (604, "recall failed, topic not match"),
            (604, "recall handle is invalid"),
            (604, "recall handle is invalid"),
        ]
        rig.change(broker_permission=4, allow_recall_when_broker_not_writeable=False)
        assert recall(rig, handle).code == 14
        rig.change(recall_message_enable=False)
        reply = recall(rig, handle)
        assert (reply.code, reply.remark) == (16, "recall failed, operation is forbidden")
        assert reply.ext == {"MSG_REGION": "DefaultRegion"}

    def test_a_far_message_is_taken_back(self, rig):
        reply = rig.send(properties=f"TIMER_DELAY_MS\x01{5 * 86_400_000 + 456}\x02")
        due(rig)
        rig.clock.advance_ms(3_600_000)
        assert recall(rig, reply).code == 0
        for _ in range(6):
            rig.clock.advance_ms(86_400_000)
            due(rig)
        assert rig.count("topic-a") == 0
        assert rig.broker.timers.files.metrics.total == 0


class TestRestart:
    def test_a_normal_stop_loses_and_doubles_nothing(self, rig):
        start = rig.clock.wall_ms()
        for offset in range(100, 3000, 100):
            send_at(rig, offset, body=b"%d" % offset)
        times = []
        for until in (50, 450, 1000, 1001, 2333, 2900, 5000):
            times += run_until(rig, start + until)
            persist(rig)
            rig.reopen()
        assert times == [start + offset for offset in range(100, 3000, 100)]
        assert rig.count("topic-a") == 29
        assert rig.broker.timers.files.metrics.total == 0

    def test_a_crash_loses_nothing(self, rig):
        start = rig.clock.wall_ms()
        for offset in range(100, 3000, 100):
            send_at(rig, offset, body=b"%d" % offset)
        run_until(rig, start + 450)
        persist(rig)
        run_until(rig, start + 1234)
        rig.reopen()
        times = run_until(rig, start + 4000)
        assert len(times) == 25
        bodies = [rig.stored("topic-a", 0, at).body for at in range(rig.count("topic-a"))]
        assert set(bodies) == {b"%d" % offset for offset in range(100, 3000, 100)}
        assert len(bodies) == 12 + 25

    def test_nothing_is_written_before_the_messages_are_on_disk(self, rig):
        send_at(rig, 1000)
        due(rig)
        assert rig.broker.timers.take_snapshot() is None
        assert rig.broker.timers.take_snapshot() is None
        rig.flush()
        assert rig.broker.timers.take_snapshot() is not None
        assert rig.broker.timers.take_snapshot() is None

    def test_a_store_of_long_ago_is_served_late(self, rig):
        send_at(rig, 10_000)
        due(rig)
        persist(rig)
        rig.clock.advance_ms(400 * 86_400_000)
        rig.reopen()
        assert due(rig) == 1

    def test_without_the_wheel_it_is_made_from_the_log(self, rig):
        at = send_at(rig, 10_000)
        due(rig)
        persist(rig)
        rig.close()
        (rig.folder / "store" / "timerwheel").unlink()
        rig.open()
        assert run_until(rig, at) == [at]

    def test_without_the_log_it_is_made_from_the_queue(self, rig):
        first = send_at(rig, 10_000)
        second = send_at(rig, 20_000)
        run_until(rig, first + 1000)
        persist(rig)
        rig.close()
        for path in (rig.folder / "store" / "timerlog").iterdir():
            path.unlink()
        rig.open()
        assert run_until(rig, second) == [second]

    def test_another_precision(self, rig):
        times = [send_at(rig, offset) for offset in (1500, 2345, 61_001)]
        run_until(rig, times[0])
        persist(rig)
        rig.close()
        rig.change(timer_precision_ms=100)
        rig.config = rig.broker.config
        rig.open()
        assert run_until(rig, times[-1]) == times[1:]


class TestAnotherPrecision:
    """What waits belongs to other slots then: none is lost, early, or there twice."""

    def change(self, rig, precision_ms, *, save=True):
        due(rig)
        if save:
            persist(rig)
        self.reopen(rig, precision_ms)

    def reopen(self, rig, precision_ms):
        rig.close()
        rig.change(timer_precision_ms=precision_ms)
        rig.config = rig.broker.config
        rig.open()

    def delivered_until(self, rig, wall_ms):
        """When each message came to its topic: no recalled ones, none that were sent on."""
        timers = rig.broker.timers
        times = []
        while True:
            now, before = rig.clock.wall_ms(), timers.delivered
            outcome = timers.due(now)
            times += [now] * (timers.delivered - before)
            if outcome.next_ms is not None and outcome.next_ms <= now:
                continue
            if now >= wall_ms:
                return times
            rig.clock.advance_ms(min(now + 1000, wall_ms, outcome.next_ms or wall_ms) - now)

    @pytest.fixture
    def rig(self, tmp_path):
        rig = Rig(tmp_path, recall_message_enable=True, timer_max_delay_sec=30 * 86_400, timer_precision_ms=100)
        yield rig
        rig.close()

    @pytest.mark.parametrize("offsets", [(1250, 61_050, 61_250, 61_420, 61_950), (1350, 1360, 1450, 1850)])
    def test_several_slots_become_one(self, rig, offsets):
        times = [send_at(rig, offset) for offset in offsets]
        assert self.delivered_until(rig, times[0]) == times[:1]
        self.change(rig, 1000)
        assert rig.broker.timers.files.metrics.count("topic-a") == len(times) - 1
        assert self.delivered_until(rig, times[-1]) == times[1:]
        assert rig.broker.timers.files.metrics.count("topic-a") == 0

    def test_there_and_back_without_a_save(self, rig):
        times = [send_at(rig, offset) for offset in (1250, 61_050, 61_250)]
        self.change(rig, 1000)
        self.change(rig, 100, save=False)
        assert self.delivered_until(rig, times[-1]) == times

    def test_the_old_log_is_not_used_again(self, rig):
        times = [send_at(rig, offset) for offset in (1250, 61_050, 61_250)]
        self.change(rig, 1000)
        assert self.delivered_until(rig, times[0]) == times[:1]
        persist(rig)
        rig.close()
        (rig.folder / "store" / "timerwheel").unlink()
        rig.open()
        assert self.delivered_until(rig, times[-1]) == times[1:]

    @pytest.mark.parametrize("precision", [200, 1000])
    def test_recalls(self, rig, precision):
        start = rig.clock.wall_ms()
        handles = [
            rig.send(properties=f"UNIQ_KEY\x01{n}\x02TIMER_DELIVER_MS\x01{start + at}\x02").ext["recallHandle"]
            for n, at in enumerate((1240, 61_250, 61_350, 61_450))
        ]
        recall(rig, handles[0])
        recall(rig, handles[1])
        assert self.delivered_until(rig, start + 1250) == []
        self.change(rig, precision)
        recall(rig, handles[3])
        assert self.delivered_until(rig, start + 63_000) == [start + 61_350]
        assert rig.broker.timers.files.metrics.count("topic-a") == 0

    def test_messages_that_waited_in_the_queue_are_not_early(self, rig):
        self.change(rig, 1000)
        times = [send_at(rig, offset) for offset in (1950, 61_990)]
        assert rig.send(properties="TIMER_DELAY_MS\x0162950\x02").code == 0
        times.append(rig.clock.wall_ms() + 62_950)
        self.reopen(rig, 100)
        assert self.delivered_until(rig, times[-1]) == times

    @pytest.mark.parametrize("followed", [False, True])
    @pytest.mark.parametrize("window", [10, 40])
    def test_a_recall_that_was_stored_with_longer_slots_than_its_message(self, rig, window, followed):
        """With nothing saved, whether the two reached the timer log or not."""
        rig.config = dataclasses.replace(rig.config, timer_roll_window_slot=window)
        rig.reopen()
        due_ms = rig.clock.wall_ms() + 2401
        handle = rig.send(properties=f"UNIQ_KEY\x01K\x02TIMER_DELIVER_MS\x01{due_ms}\x02").ext["recallHandle"]
        if followed:
            due(rig)
        self.reopen(rig, 1000)
        assert recall(rig, handle).code == 0
        if followed:
            due(rig)
        self.reopen(rig, 100)
        assert self.delivered_until(rig, due_ms + 1000) == []
        assert rig.broker.timers.files.metrics.count("topic-a") == 0

    def test_a_message_and_its_recall_at_the_edge_of_what_is_in_memory(self, rig):
        self.reopen(rig, 1000)
        rig.clock.advance_ms(1700)
        due_ms = rig.clock.wall_ms() // 1000 * 1000 + 1101
        handle = rig.send(properties=f"UNIQ_KEY\x01K\x02TIMER_DELIVER_MS\x01{due_ms}\x02").ext["recallHandle"]
        assert recall(rig, handle).code == 0
        rig.clock.set_wall_ms(due_ms)
        self.reopen(rig, 100)
        assert self.delivered_until(rig, due_ms + 1000) == []

    def test_a_delay_that_began_while_the_clock_was_set_back(self, rig):
        self.change(rig, 1000)
        start = rig.clock.wall_ms()
        assert self.delivered_until(rig, send_at(rig, 1)) == [start + 1]
        rig.clock.set_wall_ms(start)
        assert rig.send(properties="TIMER_DELAY_MS\x011000\x02").code == 0
        self.change(rig, 100)
        assert self.delivered_until(rig, start + 2000) == [start + 1000]

    def test_a_time_beyond_the_turn_of_the_wheel(self, rig):
        self.change(rig, 1000)
        turn = 1_209_600 * 100
        times = [send_at(rig, offset) for offset in (5000, 5000 + turn, 6000 + turn, 5000 + 2 * turn)]
        self.change(rig, 100)
        assert self.delivered_until(rig, times[-1]) == times


class TestClock:
    def test_set_back_delivers_nothing_early_or_twice(self, rig):
        start = rig.clock.wall_ms()
        first = send_at(rig, 3000)
        assert run_until(rig, first + 500) == [first]
        rig.clock.set_wall_ms(start)
        second = send_at(rig, 1000)
        third = send_at(rig, 3200)
        assert run_until(rig, start + 10_000) == [second, third]
        assert rig.count("topic-a") == 3

    def test_set_back_and_restarted(self, rig):
        start = rig.clock.wall_ms()
        first = send_at(rig, 3000)
        assert run_until(rig, first + 500) == [first]
        persist(rig)
        rig.clock.set_wall_ms(start)
        rig.reopen()
        second = send_at(rig, 1000)
        third = send_at(rig, 3200)
        assert run_until(rig, start + 1500) == [second]
        persist(rig)
        rig.reopen()
        assert run_until(rig, start + 10_000) == [third]
        assert rig.count("topic-a") == 3

    def test_set_forward_makes_messages_due(self, rig):
        send_at(rig, 3_600_000)
        due(rig)
        rig.clock.set_wall_ms(rig.clock.wall_ms() + 3_600_000)
        assert due(rig) == 1


def test_a_stop_while_a_state_waits_for_the_disk_doubles_nothing(rig):
    send_at(rig, 500, body=b"one")
    send_at(rig, 1000, body=b"two")
    run_until(rig, rig.clock.wall_ms() + 500)
    assert rig.broker.timers.take_snapshot() is None  # waits: nothing is flushed yet
    run_until(rig, rig.clock.wall_ms() + 500)
    assert rig.count("topic-a") == 2
    rig.stop()
    run_until(rig, rig.clock.wall_ms() + 3000)
    assert rig.count("topic-a") == 2
