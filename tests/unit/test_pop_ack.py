"""ACK_MESSAGE, BATCH_ACK_MESSAGE, CHANGE_MESSAGE_INVISIBLETIME, of ordinary and of orderly pops."""

import base64

import pytest

from fastmq.protocol.bodies import TopicConfig
from fastmq.protocol.codes import RequestCode
from unit.broker_rig import FakePeer
from unit.pop_rig import bodies, popped, rig_at


@pytest.fixture
def rig(tmp_path):
    rig = rig_at(tmp_path)
    rig.fill(4)
    yield rig
    rig.close()


def item(one, *offsets, **more):
    """An item of a batch ack for messages of the pop of `one`."""
    start, pop_time, invisible, revive_queue, retry, *_ = one.handle.split(" ")
    bits = sum(1 << (offset - int(start)) for offset in offsets)
    return {
        "c": "cg", "t": "topic-a", "r": retry, "so": int(start), "q": one.queue_id, "rq": int(revive_queue),
        "pt": int(pop_time), "it": int(invisible),
        "b": base64.b64encode(bits.to_bytes(8, "little")).decode(), **more,
    }  # fmt: skip


def comes_back(rig, after_ms=10_000):
    """What is visible again after a time."""
    rig.pass_ms(after_ms)
    return bodies(rig.take(invisibleTime=600_000))


# --- ack --------------------------------------------------------------------------------------------------------------


def test_what_is_acked_does_not_come_back(rig):
    for one in rig.take()[1:3]:
        reply = rig.ack(one)
        assert (reply.code, reply.ext, reply.body) == (0, {}, b"")
    assert comes_back(rig) == [0, 3]
    assert comes_back(rig, 60_000) == []


def test_acks_of_retries(rig):
    rig.take()
    rig.pass_ms(10_000)
    for one in rig.take()[:3]:
        assert one.topic == "%RETRY%cg_topic-a"
        assert rig.ack(one).code == 0
    assert comes_back(rig) == [3]


def test_a_late_ack_does_nothing_and_says_nothing(rig):
    messages = rig.take()
    rig.pass_ms(10_000)
    assert rig.ack(messages[0]).code == 0
    assert comes_back(rig, 1000) == [0, 1, 2, 3]


def test_an_ack_at_the_last_moment_counts(rig):
    messages = rig.take()
    rig.pass_ms(9999)
    for one in messages:
        rig.ack(one)
    assert comes_back(rig, 1) == []
    assert comes_back(rig) == []


def test_acking_twice_is_fine(rig):
    (first, *_) = rig.take()
    assert rig.ack(first).code == rig.ack(first).code == 0
    assert comes_back(rig) == [1, 2, 3]


@pytest.mark.parametrize(
    ("more", "code", "remark"),
    [
        ({"topic": "nowhere"}, 17, "topic[nowhere] not exist"),
        ({"queueId": 99}, 13, "queueId[99] is illegal, topic:[topic-a] topicConfig.readQueueNums:[1] consumer:[/127."),
        ({"queueId": -1}, 13, "queueId[-1] is illegal"),
        ({"offset": 12345}, 208, "offset is illegal, key:topic-a@0, commit:12345, store:0~4"),
        ({"offset": -1}, 208, "offset is illegal"),
        ({"extraInfo": "x"}, 13, "extraInfo is illegal"),
        ({"extraInfo": "0 1 2 77 0 broker 0 0"}, 13, "reviveQid 77"),
        ({"extraInfo": "0 99999999999999 2 0 0 broker 0 0"}, 13, "in the future"),
        ({"extraInfo": "0 1 99999999999999 0 0 broker 0 0"}, 13, "invisibleTime"),
    ],
)
def test_refused_acks(rig, more, code, remark):
    (first, *_) = rig.take()
    reply = rig.ack(first, **more)
    assert (reply.code, remark in reply.remark) == (code, True)
    reply = rig.change_time(first, 1000, **more)
    assert reply.code == code
    assert comes_back(rig) == [0, 1, 2, 3]


def test_what_was_popped_before_the_topic_had_fewer_queues_can_be_acked(tmp_path):
    rig = rig_at(tmp_path)
    rig.broker.topics.put(TopicConfig("topic-a", 4, 4))
    for body in (b"1", b"2"):
        rig.send(body=body, queue=3)
    acked, changed = rig.take()
    rig.broker.topics.put(TopicConfig("topic-a", 2, 2))
    assert rig.ack(acked).code == 0
    assert rig.change_time(changed, 30_000).code == 0
    assert comes_back(rig, 29_000) == []
    assert comes_back(rig, 1001) == [2]
    rig.close()


def test_an_ack_that_cannot_be_stored_is_not_acknowledged(rig):
    (first, *_) = rig.take()
    rig.store.set_disk_full(True)
    assert rig.ack(first).code == 1
    rig.store.set_disk_full(False)
    assert rig.ack(first).code == 0


def test_with_sync_flush_the_answer_waits_for_the_disk(tmp_path):
    rig = rig_at(tmp_path, flush_disk_type="SYNC_FLUSH")
    rig.fill(2)
    rig.flush()
    first, second = rig.take()
    assert rig.ack(first).after_flush == rig.store.written_offset
    assert rig.batch_ack(item(first, 0)).after_flush == rig.store.written_offset
    assert rig.change_time(second, 5000).after_flush == rig.store.written_offset
    rig.close()


# --- batch ack --------------------------------------------------------------------------------------------------------


def test_a_batch_ack(rig):
    (first, *_) = rig.take()
    reply = rig.batch_ack(item(first, 0, 3, 60))  # 60 is outside of the queue
    assert (reply.code, reply.remark) == (0, None)
    assert rig.stored("rmq_sys_wheel_timer", 0, 1).get("TAGS") == "bAck"
    assert comes_back(rig) == [1, 2]


def test_a_batch_ack_of_retries_and_of_several_pops(rig):
    rig.take(maxMsgNums=2)
    rig.pass_ms(10_000)
    messages = rig.take()
    (again, *_) = [one for one in messages if one.topic != "topic-a"]
    (fresh, *_) = [one for one in messages if one.topic == "topic-a"]
    assert rig.batch_ack(item(again, 0), item(fresh, 2, 3)).code == 0
    assert comes_back(rig) == [1]


def test_one_bad_item_does_not_spoil_the_others(rig):
    (first, *_) = rig.take()
    items = [item(first, 0, rq=77), item(first, 0, c="c\x02g"), item(first, 1)]
    reply = rig.batch_ack(*items, item(first, 2, t="nowhere"), item(first, 3, r="9"))
    assert reply.code == 13
    assert comes_back(rig) == [0, 2, 3]


@pytest.mark.parametrize("body", [b"", b"{}", b'{"acks":[]}', b'{"acks":null}'])
def test_an_empty_batch(rig, body):
    assert rig.ask(RequestCode.BATCH_ACK_MESSAGE, {}, body).code == 208


def test_a_batch_that_is_garbage(rig):
    assert rig.ask(RequestCode.BATCH_ACK_MESSAGE, {}, b'{"acks":7}').code == 1
    (first, *_) = rig.take()
    assert rig.batch_ack(item(first, 0, b=base64.b64encode(bytes(100_000)).decode())).code == 13


# --- change -----------------------------------------------------------------------------------------------------------


def test_a_changed_time_is_the_one_that_counts(rig):
    first, second, *others = rig.take()
    rig.pass_ms(3000)
    reply = rig.change_time(first, 2000)
    assert (reply.code, reply.remark) == (0, None)
    assert reply.ext == {"popTime": str(rig.clock.wall_ms()), "invisibleTime": "2000", "reviveQid": "0"}
    rig.change_time(second, 60_000)
    for one in others:
        rig.ack(one)
    assert comes_back(rig, 2000) == [0]
    assert comes_back(rig, 57_999) == []
    assert comes_back(rig, 1) == [1]


def new_handle(one, reply):
    ext = reply.ext
    flag = one.handle.split(" ")[4]
    handle = f"{one.offset} {ext['popTime']} {ext['invisibleTime']} {ext['reviveQid']} {flag} broker 0 {one.offset}"
    return one._replace(handle=handle)


def test_the_new_handle_acks_and_the_old_one_does_not(rig):
    first, second, *_ = rig.take()
    for one in (first, second):
        changed = new_handle(one, rig.change_time(one, 20_000))
        assert rig.ack(changed if one is first else one).code == 0
    assert comes_back(rig) == [2, 3]
    assert comes_back(rig, 10_001) == [1]


def test_changes_within_one_millisecond_lose_nothing(rig):
    """The checkpoints of the pop and of both changes begin at the same offset; one ack must not be for two of them."""
    first, *_ = rig.take()
    once = new_handle(first, rig.change_time(first, 3000))
    twice = new_handle(once, rig.change_time(once, 5000))
    assert len({one.handle.split(" ")[1] for one in (first, once, twice)}) == 3
    assert comes_back(rig, 4999) == []
    assert comes_back(rig, 100) == [0]
    assert comes_back(rig) == [1, 2, 3]


def test_a_time_of_nothing_is_at_once(rig):
    first, *_ = rig.take()
    assert rig.change_time(first, 0).code == 0
    assert comes_back(rig, 1) == [0]


@pytest.mark.parametrize(("invisible_ms", "code"), [(-1, 29), (10**15, 29)])
def test_times_that_cannot_be(rig, invisible_ms, code):
    assert rig.change_time(rig.take()[0], invisible_ms).code == code


def test_a_change_beyond_the_queue(rig):
    first, *_ = rig.take()
    assert rig.change_time(first, 1000, offset=4).code == 208


def test_a_change_that_cannot_be_stored_changes_nothing(rig):
    first, *_ = rig.take()
    rig.store.set_disk_full(True)
    assert rig.change_time(first, 60_000).code == 1
    rig.store.set_disk_full(False)
    assert comes_back(rig) == [0, 1, 2, 3]


# --- orderly ----------------------------------------------------------------------------------------------------------


def test_an_orderly_pop_blocks_its_queue_until_it_is_acked(rig):
    reply = rig.pop(order=True, maxMsgNums=2)
    assert reply.ext["reviveQid"] == "999"
    assert reply.ext["orderCountInfo"] == "0 0 0"
    assert reply.ext["restNum"] == "2"
    first, second = popped(reply, "topic-a", "cg")
    assert rig.count("rmq_sys_wheel_timer") == 0
    assert rig.pop(order=True).code == 210
    assert rig.ack(second).code == 0
    assert rig.pop(order=True).code == 210
    assert rig.broker.offsets.offsets_of("cg", "topic-a") == {0: 0}
    assert rig.ack(first).code == 0
    assert rig.broker.offsets.offsets_of("cg", "topic-a") == {0: 2}
    assert bodies(rig.take(order=True)) == [2, 3]


def test_what_an_orderly_pop_does_not_ack_comes_again_from_the_same_queue(rig):
    rig.take(order=True, maxMsgNums=2)
    rig.pass_ms(10_000)
    reply = rig.pop(order=True, maxMsgNums=2)
    assert bodies(popped(reply, "topic-a", "cg")) == [0, 1]
    assert reply.ext["orderCountInfo"].endswith("0 0 1")
    assert rig.count("%RETRY%cg_topic-a") == 0


def test_the_same_attempt_gets_its_batch_again(rig):
    rig.take(order=True, attemptId="a")
    assert bodies(rig.take(order=True, attemptId="b")) == []
    assert bodies(rig.take(order=True, attemptId="a")) == [0, 1, 2, 3]


def test_acks_of_an_orderly_pop_in_a_batch(rig):
    (first, *_) = rig.take(order=True, maxMsgNums=2)
    assert rig.batch_ack(item(first, 0, 1)).code == 0
    assert rig.broker.offsets.offsets_of("cg", "topic-a") == {0: 2}


def test_an_orderly_ack_of_something_else_is_refused(rig):
    (first, *_) = rig.take(order=True, maxMsgNums=2)
    reply = rig.ack(first, offset=3)
    assert (reply.code, "offset is illegal" in reply.remark) == (13, True)


def test_the_time_of_an_orderly_pop_can_be_changed(rig):
    (first,) = rig.take(order=True, maxMsgNums=1)
    rig.pass_ms(1000)
    reply = rig.change_time(first, 30_000)
    assert reply.ext == {"popTime": first.handle.split(" ")[1], "invisibleTime": "31000", "reviveQid": "999"}
    rig.pass_ms(29_000)
    assert rig.take(order=True) == []
    rig.pass_ms(1000)
    assert bodies(rig.take(order=True)) == [0, 1, 2, 3]


def test_the_last_ack_wakes_who_waits_for_the_queue(rig):
    (first,) = rig.take(order=True, maxMsgNums=1)
    peer = FakePeer(9)
    assert rig.pop(order=True, pollTime=5000, peer=peer) is None
    rig.ack(first)
    rig.settle()
    assert bodies(popped(peer.replies[0][1], "topic-a", "cg")) == [1, 2, 3]


def test_the_end_of_the_time_wakes_who_waits_for_the_queue(rig):
    rig.take(order=True, invisibleTime=2000)
    peer = FakePeer(9)
    assert rig.pop(order=True, pollTime=5000, peer=peer) is None
    rig.pass_ms(1000)
    assert peer.replies == []
    rig.pass_ms(1000)
    assert bodies(popped(peer.replies[0][1], "topic-a", "cg")) == [0, 1, 2, 3]


def test_a_reset_frees_an_ordered_queue(rig):
    rig.take(order=True)
    rig.broker.offsets.assign_reset("cg", "topic-a", 0, 3)
    assert bodies(rig.take(order=True)) == [3]
