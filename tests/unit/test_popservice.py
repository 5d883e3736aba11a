"""Reviving over a real store: retry topics, failures, restarts, what is gone."""

import re
from pathlib import Path

import pytest

from fastmq.broker.delivery.popck import CheckPoint
from unit.pop_rig import rig_at

REVIVE = "rmq_sys_REVIVE_LOG_DefaultCluster"
REVIVE_GROUP = "CID_RMQ_SYS_REVIVE_GROUP"
RETRY = "%RETRY%cg_topic-a"


@pytest.fixture
def rig(tmp_path):
    rig = rig_at(tmp_path)
    rig.fill(4)
    yield rig
    rig.close()


def revived(rig):
    return [int(rig.stored(RETRY, 0, offset).body) for offset in range(rig.count(RETRY))]


def committed(rig, queue=0):
    return rig.broker.offsets.offsets_of(REVIVE_GROUP, REVIVE).get(queue, -1)


def test_the_offset_is_that_of_the_last_entry_that_is_done(rig):
    _, *others = rig.take()
    for one in others:
        rig.ack(one)
    rig.pass_ms(9999)
    assert committed(rig) == -1
    rig.pass_ms(1)
    assert revived(rig) == [0]
    assert committed(rig) == 3
    assert rig.broker.pop_revive.statistics() == {"pending_checkpoints": 0, "revived_messages": 1}


def test_an_idle_broker_revives_in_time(rig):
    """RocketMQ waits for newer entries, or some seconds."""
    rig.take()
    rig.pass_ms(10_000)
    assert revived(rig) == [0, 1, 2, 3]


def test_the_retry_topic_is_made_with_one_queue_and_an_offset(rig):
    rig.take()
    rig.pass_ms(10_000)
    topic = rig.broker.topics.get(RETRY)
    assert (topic.read_queue_nums, topic.write_queue_nums, topic.perm) == (1, 1, 6)
    assert rig.broker.offsets.offsets_of("cg", RETRY) == {0: 0}


def test_what_belongs_to_a_deleted_topic_or_group_is_dropped(rig):
    rig.take()
    rig.take(group="other")
    rig.broker.groups.delete("other")
    rig.pass_ms(10_000)
    assert "%RETRY%other_topic-a" not in rig.broker.topics
    assert revived(rig) == [0, 1, 2, 3]
    rig.take()
    rig.broker.topics.delete("topic-a")
    rig.pass_ms(10_000)
    assert rig.count(RETRY) == 4
    assert [committed(rig, queue) for queue in range(3)] == [0, 0, 0]


def test_nothing_is_lost_while_the_store_takes_nothing(rig):
    rig.take()
    rig.pass_ms(9500)
    rig.store.set_disk_full(True)
    rig.pass_ms(5000)
    assert (revived(rig), committed(rig)) == ([], -1)
    rig.store.set_disk_full(False)
    rig.pass_ms(1000)
    assert (revived(rig), committed(rig)) == ([0, 1, 2, 3], 0)


def test_a_message_that_the_retry_topic_does_not_take_is_tried_again_later(rig, monkeypatch):
    _, *others = rig.take()
    for one in others:
        rig.ack(one)
    refused = []

    def refuse(checkpoint, offset):
        refused.append(rig.clock.wall_ms())
        return False

    monkeypatch.setattr(rig.broker.pop_revive, "_retry", refuse)
    begin = rig.clock.wall_ms()
    rig.pass_ms(71_000)
    assert [at - begin for at in refused] == [10_000, 20_000, 40_000, 70_000]
    assert committed(rig) >= 0
    monkeypatch.undo()
    rig.pass_ms(60_000)
    assert revived(rig) == [0]


def test_after_a_restart_it_goes_on_where_it_was(rig):
    rig.take(maxMsgNums=2)
    rig.pass_ms(10_000)
    assert revived(rig) == [0, 1]
    rig.take(maxMsgNums=2, group="other")
    rig.pass_ms(9500)
    rig.flush()
    rig.broker.offsets.file.persist()
    assert rig.broker.timers.persist()
    rig.reopen()
    rig.pass_ms(500)
    assert revived(rig) == [0, 1]
    assert rig.count("%RETRY%other_topic-a") == 2


def test_a_crash_that_loses_the_offset_revives_again(rig):
    rig.take(maxMsgNums=2)
    rig.broker.offsets.file.persist()
    rig.pass_ms(10_000)
    rig.flush()
    rig.store.close(clean=False)
    rig.open()
    rig.settle()
    assert len(revived(rig)) > 2
    assert set(revived(rig)) == {0, 1}


@pytest.fixture
def ahead(tmp_path):
    """Stopped when message 1 was revived and message 0, before it in the only revive queue, was not."""
    rig = rig_at(tmp_path, revive_queue_num=1)
    rig.fill(2)
    rig.take(maxMsgNums=1, invisibleTime=1000)
    rig.take(maxMsgNums=1, invisibleTime=500)
    rig.pass_ms(600)
    assert (revived(rig), committed(rig)) == ([1], -1)
    rig.stop()
    return rig


def test_what_was_revived_behind_an_open_checkpoint_is_not_revived_after_a_stop(ahead):
    for _ in range(2):  # also if nothing happens between two stops
        ahead.open()
        ahead.settle()
        ahead.stop()
    ahead.open()
    ahead.pass_ms(5000)
    assert (revived(ahead), committed(ahead)) == ([1, 0], 1)
    ahead.stop()
    assert not list(Path(ahead.config.store_path_root_dir).glob("config/revivedAhead*"))


@pytest.mark.parametrize(("text", "by"), [(r":\d+\}", ":7}"), (r"^.*$", "{"), ("revived", "x"), (r"\d+\}", '"x"}')])
def test_what_a_stop_left_of_another_log_or_cannot_be_read_hides_nothing(ahead, text, by):
    path = Path(ahead.config.store_path_root_dir, "config", "revivedAhead.json")
    before = path.read_text()
    path.write_text(re.sub(text, by, before))
    assert path.read_text() != before
    ahead.open()
    ahead.pass_ms(5000)
    assert (sorted(revived(ahead)), committed(ahead)) == ([0, 1, 1], 1)
    ahead.close()


def test_entries_that_are_nothing_are_passed_over(rig):
    for body, properties in ((b"{", b"TAGS\x01ck\x02"), (b"{}", b"TAGS\x01ack\x02"), (b"x", b"")):
        rig.store.put(REVIVE, 0, body, properties)
    rig.take()
    rig.pass_ms(10_000)
    assert revived(rig) == [0, 1, 2, 3]
    assert committed(rig) == 3


def test_a_message_that_is_gone_is_done_with(rig):
    point = CheckPoint(
        topic="topic-a", group="cg", queue_id=0, start_offset=77, pop_time=rig.clock.wall_ms(), invisible_time=0,
        broker="broker", diffs=(0,),
    )  # fmt: skip
    rig.broker.groups.find_or_create("cg")
    rig.store.put(REVIVE, 3, point.encode(), b"TAGS\x01ck\x02")
    rig.settle()
    assert committed(rig, 3) == 0


def test_queues_that_are_no_longer_used_are_emptied(rig):
    """Of a time when there were more of them, or when the cluster had another name."""
    rig.broker.groups.find_or_create("cg")
    for topic, queue in (("rmq_sys_REVIVE_LOG_Old", 0), (REVIVE, 11)):
        point = CheckPoint(
            topic="topic-a", group="cg", queue_id=0, start_offset=0, pop_time=rig.clock.wall_ms(), invisible_time=0,
            broker="broker", diffs=(queue % 4,),
        )  # fmt: skip
        rig.store.put(topic, queue, point.encode(), b"TAGS\x01ck\x02")
    rig.flush()
    rig.reopen()
    rig.settle()
    assert sorted(revived(rig)) == [0, 3]


def test_an_offset_beyond_the_end_of_a_queue_goes_back_to_it(rig):
    """The log lost its end; what comes now must not be taken for done, not after the next restart either."""
    rig.broker.offsets.commit(REVIVE_GROUP, REVIVE, 0, 50)
    rig.settle()
    assert committed(rig) == -1
    rig.take()
    rig.pass_ms(10_000)
    assert revived(rig) == [0, 1, 2, 3]


def test_a_long_backlog_is_worked_off_in_steps(rig):
    rig.broker.groups.find_or_create("cg")
    now = rig.clock.wall_ms()
    for number in range(300):
        point = CheckPoint(
            topic="topic-a", group="cg", queue_id=0, start_offset=number % 4, pop_time=now - 100_000 + number,
            invisible_time=1000, broker="broker", diffs=(0,),
        )  # fmt: skip
        rig.store.put(REVIVE, 0, point.encode(), f"TAGS\x01ck\x02TIMER_DELIVER_MS\x01{point.deliver_time}\x02".encode())
    rig.settle()
    assert rig.count(RETRY) == 300
    assert committed(rig) == 299


def test_a_checkpoint_that_names_no_offsets_is_passed_over(rig, caplog):
    """One that some other broker, which lets clients send there, has left."""
    rig.take()
    body = '{"t":"topic-a","c":"cg","d":[5],"n":1,"so":9223372036854775807,"pt":1,"it":1,"q":0}'
    assert rig.store.put(REVIVE, 0, body.encode(), b"TAGS\x01ck\x02").status == 0
    rig.pass_ms(10_000)
    assert revived(rig) == [0, 1, 2, 3]
    assert "passed over" in caplog.text
