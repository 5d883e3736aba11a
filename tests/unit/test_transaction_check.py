"""Undecided transactions: who is asked, when, how often, and what becomes of those nobody knows about."""

import dataclasses

import pytest
import trio
from trio.testing import MockClock

from fastmq.broker.delivery import transaction_queue
from fastmq.protocol.codes import RequestCode
from fastmq.protocol.message import decode_message
from unit.transaction_rig import COMMIT, HALF, MAX_TIME, OP, ROLLBACK, Transacting, checks

TIMEOUT_MS = 6000
DAY_MS = 86_400_000
OWN_TIME = "CHECK_IMMUNITY_TIME_IN_SECONDS\x0136000\x02"


@pytest.fixture
def rig(tmp_path):
    rig = Transacting(tmp_path)
    yield rig
    rig.close()


@pytest.fixture
def peer(rig):
    return rig.producer()


def go_on(rig, between):
    """Nothing, a restart or a crash happens; the index follows."""
    if between != "nothing":
        getattr(rig, between)()
    rig.index()


class TestRequest:
    def test_the_producer_gets_its_message_and_where_to_answer(self, rig, peer):
        half = rig.begin("K1", b"body", queue=3, more="TAGS\x01a\x02", h=9)
        kept = rig.stored(HALF)
        rig.check(TIMEOUT_MS + 1)
        command = peer.sent[0]
        assert (command.code, command.is_oneway) == (RequestCode.CHECK_TRANSACTION_STATE, True)
        copy = rig.stored(HALF, 0, 1)
        assert command.ext == {
            "topic": HALF, "tranStateTableOffset": "1", "commitLogOffset": str(copy.log_offset), "msgId": "K1",
            "transactionId": "K1", "offsetMsgId": copy.offset_id, "bname": rig.config.broker_name,
        }  # fmt: skip
        message, end = decode_message(command.body)
        assert end == len(command.body)
        assert (message.topic, message.queue_id, message.body, message.flag) == ("topic-a", 3, b"body", 9)
        assert (message.queue_offset, message.log_offset) == (1, copy.log_offset)
        assert (message.born_timestamp, message.store_timestamp) == (kept.born_timestamp, kept.store_timestamp)
        properties = message.property_map
        assert (properties["PGROUP"], properties["UNIQ_KEY"], properties["TRAN_MSG"]) == (half.group, "K1", "true")
        assert (properties["TRANSACTION_CHECK_TIMES"], properties["WAIT"]) == ("1", "false")

    def test_the_record_is_stored_again_with_its_count(self, rig, peer):
        rig.begin(more="TAGS\x01a\x02", h=9)
        first = rig.stored(HALF)
        rig.check(TIMEOUT_MS + 1)
        rig.check()
        assert rig.count(HALF) == 3
        for count in (1, 2):
            copy = rig.stored(HALF, 0, count)
            assert copy.property_map == {**first.property_map, "TRANSACTION_CHECK_TIMES": str(count)}
            for name in ("body", "flag", "sys_flag", "born_timestamp", "born_host", "reconsume_times"):
                assert getattr(copy, name) == getattr(first, name)
        assert rig.op_text() == "0,1,"

    def test_its_answer_decides(self, rig, peer):
        rig.begin("K1", b"one")
        rig.begin("K2", b"two")
        rig.check(TIMEOUT_MS + 1)
        (one, _), (two, _) = checks(peer)
        assert rig.end(one, COMMIT).code == 0
        assert rig.end(two, ROLLBACK).code == 0
        assert rig.bodies() == [b"one"]
        assert rig.stored("topic-a").prepared_offset == one.log_offset
        rig.check(60_000)
        assert checks(peer) == []
        assert rig.count(HALF) == 4


class TestWhen:
    def test_not_before_its_time(self, rig, peer):
        rig.begin()
        rig.check(TIMEOUT_MS)
        assert checks(peer) == []
        rig.check(1)
        assert len(checks(peer)) == 1

    def test_a_decided_one_is_never_asked_for(self, rig, peer):
        for decision in (COMMIT, ROLLBACK):
            rig.end(rig.begin(f"K{decision}"), decision)
        rig.check(DAY_MS)
        assert checks(peer) == []
        assert rig.count(HALF) == 2

    def test_each_round_asks_once(self, rig, peer):
        rig.begin()
        for _ in range(4):
            rig.check(TIMEOUT_MS + 1)
            assert len(checks(peer)) == 1
        assert rig.count(HALF) == 5

    def test_a_younger_one_ends_the_round(self, rig, peer):
        rig.begin("old")
        rig.clock.advance_ms(TIMEOUT_MS)
        rig.begin("young")
        rig.check(1)
        assert [half.key for half, _ in checks(peer)] == ["old"]

    def test_the_time_can_be_set(self, rig, peer):
        rig.change(transaction_time_out=100)
        rig.begin()
        rig.check(101)
        assert len(checks(peer)) == 1

    def test_a_client_with_a_clock_ahead_is_asked_in_its_time(self, rig, peer):
        rig.begin(born=rig.clock.wall_ms() + DAY_MS)
        rig.check(TIMEOUT_MS)
        assert checks(peer) == []
        rig.check(1)
        assert len(checks(peer)) == 1

    @pytest.mark.parametrize(("text", "first_ms"), [("60", 60_000), ("2", 2000), ("-1", 6000), ("x", 6000)])
    def test_a_message_may_bring_its_own_time(self, rig, peer, text, first_ms):
        rig.begin(more=f"CHECK_IMMUNITY_TIME_IN_SECONDS\x01{text}\x02")
        rig.check(first_ms)
        assert checks(peer) == []
        rig.check(1)
        assert len(checks(peer)) == 1

    def test_a_long_time_of_its_own_holds_up_no_other(self, rig, peer):
        patient = rig.begin("patient", more="CHECK_IMMUNITY_TIME_IN_SECONDS\x01600\x02")
        rig.begin("other")
        rig.check(TIMEOUT_MS + 1)
        assert [half.key for half, _ in checks(peer)] == ["other"]
        assert rig.end(patient, COMMIT).code == 0
        rig.check(700_000)
        assert [half.key for half, _ in checks(peer)] == ["other"]
        assert rig.count("topic-a") == 1

    def test_many_are_looked_at_in_steps(self, rig, peer):
        while rig.broker.transactions.queue().learn():  # as at the start
            pass
        for number in range(200):
            rig.begin(f"K{number}")
        rig.clock.advance_ms(TIMEOUT_MS + 1)
        assert sum(1 for _ in rig.broker.transactions.check_steps()) == 3
        assert [half.key for half, _ in checks(peer)] == [f"K{number}" for number in range(200)]

    def test_a_full_disk_loses_nothing(self, rig, peer):
        rig.begin()
        rig.store.set_disk_full(True)
        rig.check(TIMEOUT_MS + 1)
        assert checks(peer) == []
        rig.store.set_disk_full(False)
        rig.check()
        assert len(checks(peer)) == 1


class TestWho:
    def test_producers_of_the_group_in_turn(self, rig):
        one, two, other = rig.producer(51), rig.producer(52), rig.producer(53, "other")
        rig.begin()
        for _ in range(4):
            rig.check(TIMEOUT_MS + 1)
        assert (len(checks(one)), len(checks(two)), checks(other)) == (2, 2, [])

    def test_a_dead_connection_is_passed_over(self, rig):
        dead, alive = rig.producer(51), rig.producer(52)
        dead.alive = False
        for number in range(3):
            rig.begin(f"K{number}")
        rig.check(TIMEOUT_MS + 1)
        assert (len(checks(dead)), len(checks(alive))) == (0, 3)

    def test_with_nobody_there_it_waits_and_is_not_counted(self, rig):
        rig.begin()
        for _ in range(20):
            rig.check(60_000)
        assert rig.count(HALF) == 1
        peer = rig.producer()
        rig.check()
        ((_, message),) = checks(peer)
        assert message.property_map["TRANSACTION_CHECK_TIMES"] == "1"

    def test_a_group_without_producers_holds_up_no_other(self, rig, peer):
        gone = rig.begin("gone", group="gone")
        rig.begin("here")
        rig.check(TIMEOUT_MS + 1)
        assert [half.key for half, _ in checks(peer)] == ["here"]
        assert rig.end(gone, COMMIT).code == 0
        assert rig.count("topic-a") == 1


class TestGivingUp:
    def test_after_the_last_check_it_is_put_aside(self, rig, peer):
        rig.change(transaction_check_max=3)
        rig.begin("K1", b"body", h=9)
        for _ in range(3):
            rig.check(TIMEOUT_MS + 1)
        assert len(checks(peer)) == 3
        assert rig.count(MAX_TIME) == 0
        rig.check(TIMEOUT_MS + 1)
        rig.check(TIMEOUT_MS + 1)
        assert checks(peer) == []
        assert rig.count(MAX_TIME) == 1
        assert rig.count("topic-a") == 0
        message = rig.stored(MAX_TIME)
        assert message.property_map == rig.stored(HALF, 0, 3).property_map
        assert (message.body, message.flag) == (b"body", 9)
        topic = rig.broker.topics.get(MAX_TIME)
        assert (topic.read_queue_nums, topic.write_queue_nums, topic.perm) == (1, 1, 6)
        assert rig.broker.transactions.metrics.counts() == {"topic-a": 0}

    def test_a_very_old_one_too(self, rig, peer):
        rig.change(file_reserved_time=72)
        rig.begin(group="gone")
        rig.check(3 * DAY_MS)
        assert rig.count(MAX_TIME) == 0
        rig.check(1)
        assert rig.count(MAX_TIME) == 1

    def test_not_while_the_disk_is_full(self, rig):
        rig.begin()
        rig.store.set_disk_full(True)
        rig.check(4 * DAY_MS)
        rig.store.set_disk_full(False)
        assert rig.count(MAX_TIME) == 0
        rig.check()
        rig.check()
        assert rig.count(MAX_TIME) == 1

    def test_a_producer_may_still_decide_about_it(self, rig, peer):
        half = rig.begin(born=rig.clock.wall_ms() - 4 * DAY_MS)
        rig.check()
        assert rig.count(MAX_TIME) == 1
        assert rig.end(half, COMMIT).code == 0
        assert rig.count("topic-a") == 1

    @pytest.mark.parametrize("which", [0, 3])
    @pytest.mark.parametrize("between", ["nothing", "restart", "crash"])
    def test_also_after_a_start_and_whichever_record_is_named(self, rig, peer, which, between):
        rig.change(transaction_check_max=3)
        rig.begin("held", more=OWN_TIME)  # so that the half offset stays before the other
        records = [rig.begin("K1", b"late")]
        for _ in range(4):
            rig.check(TIMEOUT_MS + 1)
            records += [half for half, _ in checks(peer)]
        assert (len(records), rig.count(MAX_TIME)) == (4, 1)
        go_on(rig, between)
        assert rig.end(records[which], COMMIT).code == 0
        assert rig.bodies() == [b"late"]
        for half in records:
            assert rig.end(half, ROLLBACK).code == 0
            assert rig.end(half, COMMIT).code == 0
        assert rig.bodies() == [b"late"]

    def test_a_late_rollback_counts_too(self, rig, peer):
        rig.change(transaction_check_max=1)
        half = rig.begin()
        rig.check(TIMEOUT_MS + 1)
        ((asked, _),) = checks(peer)
        rig.check(TIMEOUT_MS + 1)
        assert rig.count(MAX_TIME) == 1
        for decision in (ROLLBACK, COMMIT):
            assert rig.end(half, decision).code == 0
            assert rig.end(asked, decision).code == 0
        assert rig.count("topic-a") == 0

    def test_nobody_is_asked_about_a_copy_that_a_crash_left(self, rig, peer, monkeypatch):
        """Killed before the op message that says the last but one record is done."""
        rig.change(transaction_check_max=2)
        rig.begin()
        rig.check(TIMEOUT_MS + 1)
        monkeypatch.setattr(rig.broker.transactions, "write_ops", lambda: False)
        rig.check(TIMEOUT_MS + 1)
        assert len(checks(peer)) == 2
        rig.crash()
        rig.change(transaction_check_max=2)
        rig.check(TIMEOUT_MS + 1)  # with nobody connected
        assert rig.count(MAX_TIME) == 1
        peer = rig.producer()
        for _ in range(3):
            rig.check(TIMEOUT_MS + 1)
        assert checks(peer) == []
        assert rig.count(MAX_TIME) == 1

    def test_killed_before_its_op_message_it_is_put_aside_once(self, rig, monkeypatch):
        rig.begin(born=rig.clock.wall_ms() - 4 * DAY_MS)
        monkeypatch.setattr(rig.broker.transactions, "write_ops", lambda: False)
        rig.check()
        rig.crash()
        rig.check()
        rig.check()
        assert rig.count(MAX_TIME) == 1
        assert rig.op_text() == "0,"


class TestOneTransactionManyRecords:
    @pytest.mark.parametrize("between", ["nothing", "restart", "crash"])
    def test_a_commit_that_names_an_earlier_record_is_not_swallowed(self, rig, peer, between):
        """The op message of that record says that it is done, not that it was stored again."""
        rig.begin("held", more=OWN_TIME)  # so that the half offset stays before the other
        half = rig.begin("K1", b"one")
        rig.check(TIMEOUT_MS + 1)
        ((asked, _),) = checks(peer)
        go_on(rig, between)
        assert rig.end(half, COMMIT).code == 0
        assert rig.bodies() == [b"one"]
        for decision in (ROLLBACK, COMMIT):
            assert rig.end(half, decision).code == 0
            assert rig.end(asked, decision).code == 0
        peer = rig.producer()
        rig.check(TIMEOUT_MS + 1)
        assert checks(peer) == []
        assert rig.bodies() == [b"one"]

    @pytest.mark.parametrize("between", ["nothing", "restart", "crash"])
    def test_a_rollback_that_names_an_earlier_record(self, rig, peer, between):
        rig.begin("held", more=OWN_TIME)
        half = rig.begin()
        rig.check(TIMEOUT_MS + 1)
        go_on(rig, between)
        assert rig.end(half, ROLLBACK).code == 0
        peer = rig.producer()
        rig.check(TIMEOUT_MS + 1)
        assert checks(peer) == []
        assert rig.end(half, COMMIT).code == 0
        assert rig.count("topic-a") == 0

    def test_a_decision_of_before_a_start_still_counts(self, rig, peer):
        rig.begin("held", more=OWN_TIME)
        half = rig.begin()
        rig.check(TIMEOUT_MS + 1)
        assert rig.end(half, ROLLBACK).code == 0
        rig.restart()
        assert rig.end(half, COMMIT).code == 0
        assert rig.count("topic-a") == 0

    def test_what_earlier_processes_left_is_learned_in_steps(self, rig, peer):
        rig.begin("held", more=OWN_TIME)
        halves = [rig.begin(f"K{number}", b"%d" % number) for number in range(100)]
        rig.check(TIMEOUT_MS + 1)
        rig.crash()
        queue = rig.broker.transactions.queue()
        while queue.read_ops():
            pass
        steps = 0
        while queue.learn():
            steps += 1
        assert steps > 1
        for half in halves:
            assert rig.end(half, COMMIT).code == 0
        assert len(set(rig.bodies())) == rig.count("topic-a") == 100

    def test_what_is_learned_is_bounded(self, rig, peer, monkeypatch):
        monkeypatch.setattr(transaction_queue, "KNOWN_RECORDS", 5)
        rig.begin("held", more=OWN_TIME)
        halves = [rig.begin(f"K{number}", b"%d" % number) for number in range(20)]
        rig.check(TIMEOUT_MS + 1)
        rig.crash()
        assert rig.end(halves[-1], COMMIT).code == 0
        assert rig.bodies() == [b"19"], "the newest are known"

    def test_a_decision_about_an_earlier_record_counts_for_all(self, rig, peer):
        """Apache RocketMQ asks again, and commits a second time."""
        half = rig.begin()
        rig.check(TIMEOUT_MS + 1)
        rig.check(TIMEOUT_MS + 1)
        assert rig.end(half, COMMIT).code == 0
        rig.clock.advance_ms(100)
        for asked, _ in checks(peer):
            assert rig.end(asked, COMMIT).code == 0
        rig.check(TIMEOUT_MS + 1)
        assert checks(peer) == []
        assert rig.count("topic-a") == 1

    def test_the_producers_own_late_commit_is_no_second_one(self, rig, peer):
        half = rig.begin()
        rig.check(TIMEOUT_MS + 1)
        ((asked, _),) = checks(peer)
        assert rig.end(asked, COMMIT).code == 0
        assert rig.end(half, COMMIT).code == 0
        assert rig.end(half, ROLLBACK).code == 0
        assert rig.count("topic-a") == 1

    def test_one_message_object_sent_twice_makes_two_transactions(self, rig, peer):
        rig.begin("K", b"one")
        rig.clock.advance_ms(1)
        rig.begin("K", b"two")
        rig.check(TIMEOUT_MS + 1)
        (one, _), (two, _) = checks(peer)
        assert rig.end(one, COMMIT).code == 0
        assert rig.end(two, COMMIT).code == 0
        assert rig.bodies() == [b"one", b"two"]

    @pytest.mark.parametrize("other", [{"body": b"other"}, {"queue": 1}, {"topic": "topic-b"}])
    @pytest.mark.parametrize("key", ["", "K1"])  # some clients give their messages no key
    def test_two_of_one_millisecond_are_two(self, rig, peer, key, other):
        rig.begin(key, born=rig.clock.wall_ms())
        second = rig.begin(key, born=rig.clock.wall_ms(), **other)
        rig.check(TIMEOUT_MS + 1)
        (first, _), (again, _) = checks(peer)
        assert rig.end(first, COMMIT).code == 0
        assert rig.end(again, COMMIT).code == 0
        topic, queue = other.get("topic", "topic-a"), other.get("queue", 0)
        assert rig.stored(topic, queue, rig.count(topic, queue) - 1).body == other.get("body", b"half")
        assert rig.count("topic-a") + rig.count("topic-a", 1) + rig.count("topic-b") == 2
        assert rig.end(second, COMMIT).code == 0
        assert rig.count("topic-a") + rig.count("topic-a", 1) + rig.count("topic-b") == 2

    def test_copies_that_a_crash_doubled_are_asked_for_once(self, rig, peer):
        """Killed between the copy and the op message that replaces the first record by it."""
        rig.begin()
        rig.check(TIMEOUT_MS + 1)
        first, second = rig.stored(HALF, 0, 0), rig.stored(HALF, 0, 1)
        # the same queue, with no op message
        rig.stop()
        fresh = Transacting(rig.folder / "other")
        for message in (first, second):
            fresh.store.put(HALF, 0, message.body, message.properties, born_timestamp_ms=message.born_timestamp)
        fresh.clock.set_wall_ms(rig.clock.wall_ms())
        peer = fresh.producer()
        for _ in range(3):
            fresh.check(TIMEOUT_MS + 1)
            assert len(checks(peer)) == 1
        fresh.close()
        rig.open()

    def test_after_a_restart_the_live_record_is_the_last_one(self, rig, peer):
        half = rig.begin()
        rig.check(TIMEOUT_MS + 1)
        rig.restart()
        peer = rig.producer()
        rig.check(TIMEOUT_MS + 1)
        ((asked, _),) = checks(peer)
        assert asked.queue_offset == 2
        assert rig.end(half, COMMIT).code == 0, "of the first record"
        rig.check(TIMEOUT_MS + 1)
        assert checks(peer) == []
        assert rig.end(asked, COMMIT).code == 0
        assert rig.count("topic-a") == 1


class TestLongWaits:
    @pytest.fixture(autouse=True)
    def short(self, monkeypatch):
        monkeypatch.setattr(transaction_queue, "MOVE_AFTER", 10)

    def test_what_waits_is_stored_again_when_many_others_follow(self, rig, peer):
        rig.begin("gone", group="gone")
        rig.begin("patient", more="CHECK_IMMUNITY_TIME_IN_SECONDS\x0136000\x02")
        for number in range(30):
            rig.end(rig.begin(f"K{number}"), COMMIT)
        rig.check(TIMEOUT_MS + 1)
        assert rig.count(HALF) == 34
        moved = [rig.stored(HALF, 0, offset).property_map for offset in (32, 33)]
        assert [properties["TRAN_PREPARED_QUEUE_OFFSET"] for properties in moved] == ["0", "1"]
        assert not any("TRANSACTION_CHECK_TIMES" in properties for properties in moved)
        rig.check(TIMEOUT_MS + 1)
        assert rig.count(HALF) == 34, "and only then"
        rig.restart()
        assert rig.offsets()[0] == 32, "so that the past can be forgotten"

    def test_it_is_the_same_transaction(self, rig, peer):
        half = rig.begin("gone", group="gone")
        for number in range(30):
            rig.end(rig.begin(f"K{number}"), COMMIT)
        rig.check(TIMEOUT_MS + 1)
        assert rig.end(half, COMMIT).code == 0
        other = rig.producer(60, "gone")
        rig.check(TIMEOUT_MS + 1)
        assert checks(other) == []
        assert rig.count("topic-a") == 31

    def test_the_first_offset_is_kept(self, rig):
        rig.begin("gone", group="gone")
        for round_number in range(3):
            for number in range(12):
                rig.end(rig.begin(f"K{round_number}-{number}"), COMMIT)
            rig.check(TIMEOUT_MS + 1)
        last = rig.stored(HALF, 0, rig.count(HALF) - 1)
        assert last.property_map["TRAN_PREPARED_QUEUE_OFFSET"] == "0"


class TestResume:
    def resume(self, rig, message_id):
        return rig.ask(RequestCode.RESUME_CHECK_HALF_MESSAGE, {"topic": "topic-a", "msgId": message_id})

    def test_one_that_was_given_up(self, rig, peer):
        rig.change(transaction_check_max=1)
        rig.begin()
        rig.check(TIMEOUT_MS + 1)
        rig.check()
        assert len(checks(peer)) == 1
        assert self.resume(rig, rig.stored(MAX_TIME).offset_id).code == 0
        assert rig.broker.transactions.metrics.counts() == {"topic-a": 1}
        rig.check()
        ((asked, message),) = checks(peer)
        assert message.property_map["TRANSACTION_CHECK_TIMES"] == "1"
        assert rig.end(asked, COMMIT).code == 0
        assert rig.bodies() == [b"half"]
        assert rig.broker.transactions.metrics.counts() == {"topic-a": 0}

    def test_after_a_start_it_is_open_again(self, rig, peer):
        rig.change(transaction_check_max=1)
        half = rig.begin()
        rig.check(TIMEOUT_MS + 1)
        rig.check()
        assert self.resume(rig, rig.stored(MAX_TIME).offset_id).code == 0
        rig.crash()
        assert rig.end(half, ROLLBACK).code == 0
        peer = rig.producer()
        rig.check(TIMEOUT_MS + 1)
        assert checks(peer) == []
        assert rig.end(half, COMMIT).code == 0
        assert rig.count("topic-a") == 0

    def test_one_that_is_open_is_not_doubled(self, rig, peer):
        rig.begin()
        for _ in range(3):
            rig.check(TIMEOUT_MS + 1)
        checks(peer)
        assert self.resume(rig, rig.stored(HALF).offset_id).code == 0
        rig.check()
        ((_, message),) = checks(peer)
        assert message.property_map["TRANSACTION_CHECK_TIMES"] == "1"

    def test_one_that_is_decided(self, rig):
        half = rig.begin()
        rig.end(half, ROLLBACK)
        reply = self.resume(rig, rig.stored(HALF).offset_id)
        assert (reply.code, "decided" in reply.remark) == (1, True)

    @pytest.mark.parametrize("text", ["", "zz", "7F00000100002A9F00000000000F4240", "0" * 56])
    def test_what_is_no_half_message(self, rig, text):
        rig.send()
        reply = self.resume(rig, text)
        assert reply.code == 1
        assert reply.remark

    def test_a_plain_message(self, rig):
        rig.send()
        assert self.resume(rig, rig.stored("topic-a").offset_id).code == 1

    def test_a_full_disk(self, rig):
        rig.begin()
        rig.store.set_disk_full(True)
        assert self.resume(rig, rig.stored(HALF).offset_id).code == 1


def test_a_damaged_record_holds_up_no_other(rig, peer):
    rig.store.put(HALF, 0, b"who put this here", b"")
    rig.begin()
    rig.check(TIMEOUT_MS + 1)
    assert len(checks(peer)) == 1
    assert rig.op_text() == "0,1,"


def test_what_was_in_removed_segments_holds_up_nothing(rig, peer):
    rig.begin("gone")
    rig.end(rig.begin("done"), COMMIT)
    while len(rig.store.segments()) < 3:
        rig.store.put("topic-b", 0, bytes(900_000), b"")
    rig.begin("here")
    rig.begin("too")
    rig.store.delete_segments(2)
    assert rig.store.queue_offsets(HALF, 0) == (2, 4)
    rig.check(TIMEOUT_MS + 1)
    assert [half.key for half, _ in checks(peer)] == ["here", "too"]
    assert rig.broker.transactions.queue().half_offset == 4
    assert rig.broker.transactions.queue().op_offset == rig.count(OP) == 2


def test_op_messages_of_old_brokers_hold_one_offset(rig, peer):
    rig.begin("K0")
    rig.begin("K1")
    rig.store.put(OP, 0, b"0", b"TAGS\x01d\x02")
    rig.check(TIMEOUT_MS + 1)
    assert [half.key for half, _ in checks(peer)] == ["K1"]


def test_several_half_queues(rig, peer):
    """Apache RocketMQ reads as many queues as the half topic has."""
    topic = rig.broker.topics.get(HALF)
    rig.begin("K0")
    kept = rig.stored(HALF)
    rig.broker.topics.put(dataclasses.replace(topic, read_queue_nums=2, write_queue_nums=2))
    rig.store.put(HALF, 1, b"second", kept.properties, born_timestamp_ms=kept.born_timestamp + 1)
    rig.check(TIMEOUT_MS + 2)
    for asked, _ in checks(peer):
        assert rig.end(asked, COMMIT).code == 0
    assert rig.bodies() == [b"half", b"second"]
    rig.broker.transactions.write_ops()
    assert [b"".join(rig.bodies(OP, queue)) for queue in (0, 1)] == [b"0,1,", b"0,1,"]


class TestLoops:
    """The tasks around the core, on trio's own clock."""

    def run(self, rig, body):
        async def main():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(rig.broker.transactions.run)
                await body()
                nursery.cancel_scope.cancel()

        trio.run(main, clock=MockClock(autojump_threshold=0))

    def test_a_round_comes_every_interval(self, rig, peer):
        rig.begin()
        rig.clock.advance_ms(TIMEOUT_MS + 1)

        async def body():
            await trio.sleep(29)
            assert checks(peer) == []
            await trio.sleep(2)
            assert len(checks(peer)) == 1
            await trio.sleep(30)
            assert len(checks(peer)) == 1

        self.run(rig, body)

    def test_op_messages_follow_within_moments(self, rig):
        halves = [rig.begin(f"K{n}") for n in range(4)]

        async def body():
            for half in halves:
                rig.end(half, COMMIT)
            assert rig.op_text() == "0,"
            rig.clock.advance_ms(20)
            await trio.sleep(0.021)
            assert rig.op_text() == "0,1,2,3,"

        self.run(rig, body)

    def test_a_start_reads_all_op_messages(self, rig):
        """More than the first access does."""
        half = rig.begin()
        for _ in range(1100):
            rig.store.put(OP, 0, b"", b"TAGS\x01d\x02")
        rig.store.put(OP, 0, b"0,", b"TAGS\x01d\x02")
        assert not rig.broker.transactions.is_decided(rig.broker.transactions.find(half.log_offset))

        async def body():
            await trio.sleep(1)
            assert rig.broker.transactions.is_decided(rig.broker.transactions.find(half.log_offset))

        self.run(rig, body)

    def test_a_broker_that_stops_asks_nobody(self, rig, peer):
        rig.begin()
        rig.clock.advance_ms(TIMEOUT_MS + 1)
        rig.broker.draining = True

        async def body():
            await trio.sleep(100)
            assert checks(peer) == []

        self.run(rig, body)


def test_an_op_message_says_nothing_about_what_is_not_there_yet(rig, peer):
    rig.store.put(OP, 0, b"0,1,2,", b"TAGS\x01d\x02")
    rig.check()
    rig.begin()
    rig.check(TIMEOUT_MS + 1)
    assert len(checks(peer)) == 1


def test_a_record_without_room_for_a_check_holds_up_nobody(rig, peer):
    """Its properties are just short enough to be stored: it is put aside instead of being asked for."""
    rig.begin("K1")
    used = len(rig.stored(HALF).properties)
    rig.begin("K2", more=f"x\x01{'y' * (32_767 - used - 3)}\x02")
    rig.begin("K3")
    assert len(rig.stored(HALF, 0, 1).properties) == 32_767
    rig.check(TIMEOUT_MS + 1)
    assert [half.key for half, _ in checks(peer)] == ["K1", "K3"]
    assert rig.stored(MAX_TIME).property_map["UNIQ_KEY"] == "K2"
