"""Transactions: half messages, decisions, op messages, what a restart and a crash leave."""

import json

import pytest
import trio

from fastmq.broker.delivery.transaction import HalfMessage, op_body, read_op
from fastmq.protocol.message import StoredMessage, encode_message
from unit.transaction_rig import COMMIT, HALF, OP, ROLLBACK, UNKNOWN, Transacting, checks


@pytest.fixture
def rig(tmp_path):
    rig = Transacting(tmp_path)
    yield rig
    rig.close()


class TestHalfMessages:
    def test_nobody_sees_a_message_before_its_producer_decides(self, rig):
        rig.begin()
        assert rig.count("topic-a") == 0
        assert rig.pull().code != 0
        assert rig.count(HALF) == 1

    def test_the_answer_points_at_the_half_message(self, rig):
        rig.begin("K0")
        reply = rig.try_to_begin("K1", queue=3)
        assert reply.ext["queueId"] == "3"
        assert reply.ext["queueOffset"] == "1"
        assert reply.ext["transactionId"] == "K1"
        assert rig.stored(HALF, 0, 1).offset_id == reply.ext["msgId"]

    def test_what_is_stored(self, rig):
        rig.begin("K1", b"body", queue=2, more="TAGS\x01a\x02", h=9)
        message = rig.stored(HALF)
        assert (message.body, message.flag, message.sys_flag, message.prepared_offset) == (b"body", 9, 0, 0)
        properties = message.property_map
        assert properties["__transactionId__"] == "K1"
        assert (properties["REAL_TOPIC"], properties["REAL_QID"]) == ("topic-a", "2")
        assert (properties["TRAN_MSG"], properties["PGROUP"], properties["TAGS"]) == ("true", "tg", "a")

    def test_a_client_that_forgot_its_group_is_known_by_the_header(self, rig):
        rig.send(properties="TRAN_MSG\x01true\x02UNIQ_KEY\x01K\x02", a="from-header")
        assert rig.stored(HALF).property_map["PGROUP"] == "from-header"

    def test_they_can_be_refused(self, rig):
        rig.change(reject_transaction_message=True)
        reply = rig.try_to_begin()
        assert reply.code == 16
        assert reply.remark == "the broker[127.0.0.1] sending transaction message is forbidden"
        assert rig.store.written_offset == 0

    def test_what_cannot_be_stored_is_not_counted(self, rig):
        rig.store.set_disk_full(True)
        assert rig.try_to_begin().code == 14
        assert rig.broker.transactions.metrics.counts() == {}


class TestDecisions:
    def test_a_commit_puts_the_message_into_its_topic(self, rig):
        half = rig.begin("K1", b"body", queue=1, more="TAGS\x01a\x02", h=9)
        assert rig.end(half, COMMIT).code == 0
        message = rig.stored("topic-a", 1)
        kept = rig.stored(HALF)
        assert (message.body, message.flag, message.sys_flag) == (b"body", 9, 8)
        assert message.prepared_offset == half.log_offset
        assert message.properties == kept.properties
        for name in ("born_timestamp", "born_host", "store_host", "reconsume_times"):
            assert getattr(message, name) == getattr(kept, name)
        assert rig.pull(queue=1, subscription="a").code == 0

    def test_a_rollback_delivers_nothing(self, rig):
        half = rig.begin()
        assert rig.end(half, ROLLBACK).code == 0
        assert rig.count("topic-a") == 0
        assert rig.op_text() == "0,"

    @pytest.mark.parametrize("decision", [UNKNOWN, 4, -1])
    def test_a_producer_that_does_not_know_is_not_answered(self, rig, decision):
        half = rig.begin()
        assert rig.end(half, decision) is None
        assert rig.op_text() == ""

    def test_old_clients_leave_fields_out(self, rig):
        half = rig.begin()
        assert rig.end(half, COMMIT, fromTransactionCheck=None, transactionId=None).code == 0
        assert rig.count("topic-a") == 1

    @pytest.mark.parametrize(
        ("changes", "remark"),
        [
            ({"commitLogOffset": 1 << 40}, "Find prepared transaction message failed"),
            ({"commitLogOffset": -1}, "Find prepared transaction message failed"),
            ({"commitLogOffset": 7}, "Find prepared transaction message failed"),
            ({"producerGroup": "other"}, "The producer group wrong"),
            ({"tranStateTableOffset": 1}, "The transaction state table offset wrong"),
        ],
    )
    @pytest.mark.parametrize("decision", [COMMIT, ROLLBACK])
    def test_a_decision_about_something_else(self, rig, changes, remark, decision):
        half = rig.begin()
        reply = rig.end(half, decision, **changes)
        assert (reply.code, reply.remark) == (1, remark)
        assert rig.count("topic-a") == 0
        assert rig.op_text() == ""

    def test_a_plain_message_is_no_half_message(self, rig):
        rig.send(properties="PGROUP\x01tg\x02REAL_TOPIC\x01topic-b\x02REAL_QID\x010\x02")
        half = rig.begin()
        reply = rig.end(half, COMMIT, commitLogOffset=0, tranStateTableOffset=0)
        assert (reply.code, reply.remark) == (1, "Find prepared transaction message failed")

    def test_a_record_inside_a_body_is_no_half_message(self, rig):
        """A client that knows where its body will lie cannot pass one off as a half message."""
        first = rig.begin()
        fake_at = rig.store.written_offset + 88  # behind the fixed fields of the next record
        properties = b"PGROUP\x01tg\x02REAL_TOPIC\x01topic-b\x02REAL_QID\x010\x02"
        fake = StoredMessage(topic=HALF, body=b"x", properties=properties, queue_offset=0, log_offset=fake_at)
        rig.send(body=encode_message(fake))
        assert rig.store.read_record(fake_at) is not None
        assert rig.end(first, COMMIT, commitLogOffset=fake_at).code == 1
        assert rig.op_text() == ""

    def test_the_first_decision_counts(self, rig):
        half = rig.begin()
        assert rig.end(half, ROLLBACK).code == 0
        assert rig.end(half, COMMIT).code == 0
        assert rig.count("topic-a") == 0
        other = rig.begin("K2")
        for _ in range(3):
            assert rig.end(other, COMMIT).code == 0
        assert rig.count("topic-a") == 1
        assert rig.broker.transactions.metrics.counts() == {"topic-a": 0}

    def test_what_cannot_be_stored_stays_open(self, rig):
        half = rig.begin()
        rig.store.set_disk_full(True)
        assert rig.end(half, COMMIT).code == 14
        rig.store.set_disk_full(False)
        assert rig.op_text() == ""
        assert rig.end(half, COMMIT).code == 0
        assert rig.count("topic-a") == 1

    def test_a_delay_counts_from_the_commit(self, rig):
        half = rig.begin(more="DELAY\x011\x02")
        rig.clock.advance_ms(5000)
        assert rig.end(half, COMMIT).code == 0
        assert rig.count("topic-a") == 0
        assert rig.broker.delay.due(rig.clock.wall_ms()).delivered == 0
        rig.clock.advance_ms(1000)
        assert rig.broker.delay.due(rig.clock.wall_ms()).delivered == 1
        message = rig.stored("topic-a")
        assert (message.body, message.sys_flag) == (b"half", 8)

    def test_a_time_to_be_delivered_at_counts_from_the_commit(self, rig):
        half = rig.begin(more="TIMER_DELAY_SEC\x0130\x02")
        assert rig.count(HALF) == 1
        rig.clock.advance_ms(3000)
        assert rig.end(half, COMMIT).code == 0
        assert rig.count("topic-a") == 0
        waiting = rig.stored("rmq_sys_wheel_timer")
        assert (waiting.body, waiting.sys_flag) == (b"half", 8)
        due_ms = int(waiting.property_map["TIMER_OUT_MS"])
        assert due_ms - rig.clock.wall_ms() in range(28_000, 30_001)

    def test_a_delay_that_could_not_be_kept_is_refused_before_the_transaction_begins(self, rig):
        assert rig.try_to_begin(more="DELAY\x01soon\x02").code == 1
        assert rig.try_to_begin(more="TIMER_DELAY_SEC\x0199999999\x02").code == 13
        assert rig.count(HALF) == 0


class TestOwnTimeOfFirstCheck:
    def test_a_decision_after_it_has_to_wait_for_the_check(self, rig):
        half = rig.begin(more="CHECK_IMMUNITY_TIME_IN_SECONDS\x0110\x02")
        rig.clock.advance_ms(10_001)
        for decision in (COMMIT, ROLLBACK):
            reply = rig.end(half, decision)
            assert reply.code == 604
            assert reply.remark
        assert rig.end(half, COMMIT, fromTransactionCheck=True).code == 0

    @pytest.mark.parametrize("text", ["1", "-1", "ten"])
    def test_it_is_at_least_the_time_of_all(self, rig, text):
        half = rig.begin(more=f"CHECK_IMMUNITY_TIME_IN_SECONDS\x01{text}\x02")
        rig.clock.advance_ms(6000)
        assert rig.end(half, COMMIT).code == 0

    def test_without_one_a_decision_is_never_too_late(self, rig):
        half = rig.begin()
        rig.clock.advance_ms(3_600_000)
        assert rig.end(half, COMMIT).code == 0


class TestOpMessages:
    def test_they_are_bytes_of_apache(self):
        """As in the golden store `clean`."""
        assert op_body([0, 1, 2, 3, 5, 4]) == b"0,1,2,3,5,4,"

    @pytest.mark.parametrize(
        ("body", "offsets"),
        [(b"12", [12]), (b"1,2,", [1, 2]), (b"1,,x,-4, 3,", [1, 3]), (b"\xff\xfe", []), (b"", [])],
    )
    def test_reading_is_lenient(self, body, offsets):
        message = StoredMessage(topic=OP, body=body, properties=b"TAGS\x01d\x02")
        assert read_op(encode_message(message)) == offsets

    def test_other_tags_say_nothing(self):
        assert read_op(encode_message(StoredMessage(topic=OP, body=b"1,", properties=b"TAGS\x01x\x02"))) == []
        assert read_op(b"\0" * 100) == read_op(None) == []

    def test_what_they_are_made_of(self, rig):
        rig.end(rig.begin(), COMMIT)
        message = rig.stored(OP)
        assert (message.body, message.properties) == (b"0,", b"WAIT\x01true\x02TAGS\x01d\x02")
        assert (message.sys_flag, message.flag) == (0, 0)
        assert message.born_host == message.store_host == ("127.0.0.1", 10911)
        assert message.born_timestamp == rig.clock.wall_ms()

    def test_decisions_that_follow_closely_share_one(self, rig):
        halves = [rig.begin(f"K{n}") for n in range(5)]
        for half in halves[:4]:
            rig.end(half, COMMIT)
        assert rig.bodies(OP) == [b"0,"]
        rig.clock.advance_ms(20)
        rig.end(halves[4], COMMIT)
        assert rig.bodies(OP) == [b"0,", b"1,2,3,4,"]

    def test_a_long_one_is_written_at_once(self, rig):
        rig.change(transaction_op_msg_max_size=10)
        for half in [rig.begin(f"K{n}") for n in range(12)]:
            rig.end(half, ROLLBACK)
        assert rig.bodies(OP) == [b"0,", b"1,2,3,4,5,", b"6,7,8,9,10,"]

    def test_one_that_cannot_be_stored_is_tried_again(self, rig):
        halves = [rig.begin(f"K{n}") for n in range(3)]
        rig.store.set_disk_full(True)
        assert rig.end(halves[0], ROLLBACK).code == 0
        assert rig.end(halves[1], ROLLBACK).code == 0
        rig.store.set_disk_full(False)
        rig.clock.advance_ms(999)
        rig.end(halves[2], ROLLBACK)
        assert rig.op_text() == ""
        assert rig.broker.transactions.write_ops()
        assert rig.op_text() == "0,1,2,"


class TestRestart:
    def test_what_is_done_is_noted_in_the_consumer_offsets(self, rig):
        halves = [rig.begin(f"K{n}") for n in range(4)]
        for half in (halves[0], halves[1], halves[3]):
            rig.end(half, COMMIT)
        assert rig.offsets() == (-1, -1)
        rig.restart()
        # the second op message speaks of 1 and 3, and 2 is open
        assert rig.offsets() == (2, 1)
        assert rig.op_text() == "0,1,3,"

    def test_an_orderly_stop_leaves_nothing_in_memory(self, rig):
        for half in [rig.begin(f"K{n}") for n in range(3)]:
            rig.end(half, COMMIT)
        assert rig.op_text() == "0,"
        trio.run(rig.broker.finish)
        assert rig.op_text() == "0,1,2,"
        config = rig.folder / "store" / "config"
        offsets = json.loads((config / "consumerOffset.json").read_text())["offsetTable"]
        assert offsets[f"{HALF}@CID_RMQ_SYS_TRANS"] == {"0": 3}
        assert offsets[f"{OP}@CID_RMQ_SYS_TRANS"] == {"0": 2}
        counts = json.loads((config / "transactionMetrics").read_text())["transactionCount"]
        assert counts["topic-a"]["count"] == 0

    def test_offsets_wait_for_the_disk(self, rig):
        rig.end(rig.begin(), COMMIT)
        transactions = rig.broker.transactions
        assert not transactions.publish()
        assert not transactions.publish()
        assert rig.offsets() == (-1, -1)
        rig.flush()
        assert transactions.publish()
        assert rig.offsets() == (1, 1)

    def test_after_a_restart_a_transaction_goes_on(self, rig):
        first, second = rig.begin("K1"), rig.begin("K2", b"second")
        rig.end(first, COMMIT)
        rig.restart()
        assert rig.end(second, COMMIT).code == 0
        assert rig.bodies() == [b"half", b"second"]
        assert rig.end(second, COMMIT).code == 0
        assert rig.count("topic-a") == 2

    def test_after_a_crash_decisions_are_known_from_the_op_messages(self, rig):
        half = rig.begin()
        rig.end(half, COMMIT)
        rig.crash()
        assert rig.offsets() == (-1, -1)
        peer = rig.producer()
        rig.check(60_000)
        assert checks(peer) == []
        assert rig.end(half, COMMIT).code == 0
        assert rig.count("topic-a") == 1

    @pytest.mark.parametrize("indexed", [True, False])
    def test_a_crash_before_the_op_message_asks_again(self, rig, indexed):
        halves = [rig.begin(f"K{n}") for n in range(2)]
        for half in halves:
            rig.end(half, COMMIT)
        assert rig.op_text() == "0,"
        rig.crash()
        if indexed:
            rig.index()
        peer = rig.producer()
        rig.check(60_000)
        ((asked, _),) = checks(peer)
        assert asked.key == "K1"
        assert rig.end(asked, COMMIT).code == 0
        # what is committed is found by its key, else it is delivered at least once
        assert rig.count("topic-a") == (2 if indexed else 3)
        rig.check(60_000)
        assert checks(peer) == []

    def test_a_producers_commit_after_a_restart_is_no_second_one(self, rig):
        """It crossed the answer to a check."""
        half = rig.begin()
        peer = rig.producer()
        rig.check(60_000)
        ((asked, _),) = checks(peer)
        rig.end(asked, COMMIT)
        rig.restart()
        rig.index()
        assert rig.end(half, COMMIT).code == 0
        assert rig.count("topic-a") == 1

    def test_a_file_of_offsets_from_another_log_is_brought_within_the_queue(self, rig):
        rig.broker.offsets.commit("CID_RMQ_SYS_TRANS", HALF, 0, 900)
        rig.broker.offsets.commit("CID_RMQ_SYS_TRANS", OP, 0, 900)
        half = rig.begin()
        assert rig.end(half, COMMIT).code == 0
        assert rig.count("topic-a") == 1


class TestSyncFlush:
    @pytest.fixture
    def rig(self, tmp_path):
        rig = Transacting(tmp_path, flush_disk_type="SYNC_FLUSH")
        yield rig
        rig.close()

    def test_the_half_message_is_on_disk_before_the_answer_leaves(self, rig):
        reply = rig.try_to_begin()
        assert reply.after_flush == rig.store.written_offset

    def test_a_decision_may_come_before_the_flush(self, rig):
        """The client did not wait for it (WAIT=false)."""
        half = rig.begin(more="WAIT\x01false\x02")
        assert rig.end(half, COMMIT).code == 0
        rig.flush()
        assert rig.bodies() == [b"half"]
        peer = rig.producer()
        rig.check(60_000)
        assert checks(peer) == []

    @pytest.mark.parametrize("shown_meanwhile", [False, True])
    def test_a_decision_may_come_while_the_flush_ends(self, rig, shown_meanwhile):
        """The record is on disk, the queue does not show it yet, or does so while the decision is looked at."""

        class Flushing:
            def __getattr__(self, name):
                return getattr(rig.store, name)

            @property
            def flushed_offset(self):
                return rig.store.written_offset

            @property
            def dispatched_offset(self):
                offset = rig.store.dispatched_offset
                if shown_meanwhile:
                    rig.flush()
                return offset

        half = rig.begin(more="WAIT\x01false\x02")
        rig.broker.transactions.queue()._store = Flushing()
        assert rig.end(half, COMMIT).code == 0
        rig.flush()
        assert rig.bodies() == [b"half"]

    def test_a_restart(self, rig):
        first, second = rig.begin("K1"), rig.begin("K2")
        rig.end(first, COMMIT)
        rig.flush()
        rig.restart()
        assert rig.offsets() == (1, 1)
        assert rig.end(second, ROLLBACK).code == 0
        rig.flush()
        assert rig.op_text() == "0,1,"


class TestCounts:
    def test_open_transactions_are_counted(self, rig):
        halves = [rig.begin(f"K{n}") for n in range(3)]
        rig.begin("K9", topic="topic-b")
        rig.end(halves[0], COMMIT)
        rig.end(halves[1], ROLLBACK)
        metrics = rig.broker.transactions.metrics
        assert metrics.counts() == {"topic-a": 1, "topic-b": 1}
        rig.restart()
        assert rig.broker.transactions.metrics.counts() == {"topic-a": 1, "topic-b": 1}

    def test_a_deleted_topic_is_not_counted_any_more(self, rig):
        rig.begin()
        rig.broker.transactions.metrics.forget("topic-a")
        rig.broker.transactions.metrics.forget("topic-a")
        assert rig.broker.transactions.metrics.counts() == {}

    def test_the_file_is_that_of_apache(self, rig):
        rig.begin()
        content = json.loads(rig.broker.transactions.metrics.file.take_snapshot()())
        now_ms = rig.clock.wall_ms()
        assert list(content) == ["dataVersion", "transactionCount"]
        assert content["dataVersion"] == {"stateVersion": 0, "timestamp": now_ms, "counter": 1}
        assert content["transactionCount"] == {"topic-a": {"count": 1, "timeStamp": now_ms}}
        assert rig.broker.transactions.metrics.file.take_snapshot() is None

    @pytest.mark.parametrize(
        "text", ["not json", '{"transactionCount": 7}', '{"transactionCount": {"t": {"count": "x"}}}']
    )
    def test_a_file_that_cannot_be_read_stops_nothing(self, rig, text):
        rig.begin()
        rig.stop()
        (rig.folder / "store" / "config" / "transactionMetrics").write_text(text)
        rig.open()
        assert rig.broker.transactions.metrics.counts() == {}


def test_a_record_that_is_no_half_message():
    for properties in (b"", b"REAL_TOPIC\x01t\x02", b"REAL_QID\x010\x02", b"REAL_TOPIC\x01t\x02REAL_QID\x01-1\x02"):
        assert HalfMessage.decode(encode_message(StoredMessage(topic=HALF, body=b"x", properties=properties))) is None
    assert HalfMessage.decode(None) is None
    assert HalfMessage.decode(b"\0" * 200) is None
