"""POP_MESSAGE: checks, order of queues, offsets, filters, retry topics, waiting."""

import pytest
import trio

from fastmq.protocol.bodies import SubscriptionGroupConfig, TopicConfig, loads_lenient, queue_map
from fastmq.protocol.codes import RequestCode
from fastmq.protocol.message import decode_messages
from unit.broker_rig import FakePeer
from unit.pop_rig import popped, rig_at

EMPTY = {"popTime", "invisibleTime", "reviveQid", "restNum"}


@pytest.fixture
def rig(tmp_path):
    rig = rig_at(tmp_path)
    yield rig
    rig.close()


def fill(rig, count=4, *, topic="topic-a", queues=2, **more):
    """`count` messages, spread over the queues."""
    rig.broker.topics.put(TopicConfig(topic, queues, queues))
    for number in range(count):
        rig.send(topic, b"%d" % number, queue=number % queues, **more)


def bodies(messages):
    return sorted(int(one.body) for one in messages)


# --- reading ----------------------------------------------------------------------------------------------------------


def test_a_pop_takes_from_all_queues_and_tells_what_is_what(rig):
    fill(rig)
    reply = rig.pop()
    assert (reply.code, reply.remark) == (0, "FOUND")
    assert reply.ext["popTime"] == str(rig.clock.wall_ms())
    assert reply.ext["invisibleTime"] == "10000"
    assert reply.ext["reviveQid"] == "0"
    assert reply.ext["restNum"] == "0"
    assert sorted(reply.ext["startOffsetInfo"].split(";")) == ["0 0 0", "0 1 0"]
    assert sorted(reply.ext["msgOffsetInfo"].split(";")) == ["0 0 0,1", "0 1 0,1"]
    assert "orderCountInfo" not in reply.ext
    assert bodies(popped(reply, "topic-a", "cg")) == [0, 1, 2, 3]


def test_what_was_popped_counts_as_consumed_in_the_groups_progress(rig):
    """As in RocketMQ, which tells nowhere in there how much is with the consumers."""
    fill(rig)
    rig.take(maxMsgNums=3)
    reply = trio.run(rig.ask, RequestCode.GET_CONSUME_STATS, {"consumerGroup": "cg"})
    rows = queue_map(loads_lenient(reply.body)["offsetTable"]).values()
    assert sorted((row["brokerOffset"], row["consumerOffset"], row["pullOffset"]) for row in rows) == [
        (2, 1, 1),
        (2, 2, 2),
    ]


def test_what_was_popped_is_not_given_again_before_its_time(rig):
    fill(rig)
    assert bodies(rig.take()) == [0, 1, 2, 3]
    reply = rig.pop()
    assert (reply.code, reply.remark) == (210, "NO_MESSAGE_IN_QUEUE")
    assert set(reply.ext) == EMPTY | {"startOffsetInfo", "msgOffsetInfo"}
    assert (reply.ext["startOffsetInfo"], reply.ext["msgOffsetInfo"]) == ("", "")
    assert reply.ext["reviveQid"] == "1"


def test_a_checkpoint_is_stored_for_each_queue_before_the_answer(rig):
    fill(rig)
    reply = rig.pop()
    assert rig.count("rmq_sys_wheel_timer") == 2
    assert rig.stored("rmq_sys_wheel_timer").get("TAGS") == "ck"
    assert reply.after_flush is None


def test_with_sync_flush_the_answer_waits_for_the_checkpoints(tmp_path):
    rig = rig_at(tmp_path, flush_disk_type="SYNC_FLUSH")
    fill(rig)
    rig.flush()
    reply = rig.pop()
    assert reply.after_flush == rig.store.written_offset
    rig.close()


def test_a_pop_without_a_checkpoint_gives_nothing_and_moves_nothing(rig):
    fill(rig)
    rig.store.set_disk_full(True)
    reply = rig.pop()
    assert (reply.code, reply.ext["restNum"]) == (210, "4")
    rig.store.set_disk_full(False)
    assert bodies(rig.take()) == [0, 1, 2, 3]


def test_no_more_than_was_asked_for_and_the_rest_is_counted(rig):
    fill(rig, 10)
    reply = rig.pop(maxMsgNums=3)
    assert len(popped(reply, "topic-a", "cg")) == 3
    assert reply.ext["restNum"] == "7"
    assert rig.pop(queue=0).ext["restNum"] == "0"


def test_large_messages_end_a_page(rig):
    rig.broker.topics.put(TopicConfig("topic-a", 4, 4))
    for queue in range(4):
        rig.send(body=bytes(200_000), queue=queue)
    reply = rig.pop()
    assert len(decode_messages(reply.body)) == 2
    assert reply.ext["restNum"] == "2"


def test_one_queue(rig):
    fill(rig)
    assert bodies(rig.take(queue=1)) == [1, 3]
    assert bodies(rig.take(queue=1)) == []
    assert bodies(rig.take(queue=0)) == [0, 2]


def test_groups_do_not_disturb_each_other(rig):
    fill(rig)
    assert bodies(rig.take(group="g1")) == bodies(rig.take(group="g2")) == [0, 1, 2, 3]


def test_tags(rig):
    fill(rig, 2, properties="TAGS\x01TagA\x02")
    fill(rig, 4, properties="TAGS\x01TagB\x02")
    assert bodies(rig.take(exp="TagA || TagC")) == [0, 1]
    assert rig.broker.offsets.offsets_of("cg", "topic-a") == {0: 3, 1: 3}
    assert bodies(rig.take()) == []


def test_the_group_is_known_to_use_what_it_pops(rig):
    fill(rig)
    rig.pop(exp="TagA")
    subscription = rig.broker.sessions.find_subscription("cg", "topic-a")
    assert subscription.sub_string == "TagA"
    assert rig.broker.sessions.find_subscription("cg", "%RETRY%cg_topic-a").sub_string == "*"
    assert "cg" in rig.broker.groups


# --- where a group begins ---------------------------------------------------------------------------------------------


def test_a_new_group_begins_at_the_oldest_or_at_the_last_message(rig):
    fill(rig, 8, queues=1)
    rig.broker.memory_bytes = 0  # nothing counts as in memory
    assert bodies(rig.take(group="old", initMode=0)) == list(range(8))
    assert bodies(rig.take(group="new", initMode=1)) == [7]
    assert rig.broker.offsets.offsets_of("new", "topic-a") == {0: 8}


def test_a_new_group_begins_at_0_while_message_0_is_in_memory(rig):
    fill(rig, 8, queues=1)
    assert bodies(rig.take(group="new", initMode=1)) == list(range(8))


def test_an_empty_queue_begins_at_its_first_message(rig):
    fill(rig, 0, queues=1)
    assert rig.pop(initMode=1).code == 210
    rig.send(body=b"5")
    assert bodies(rig.take()) == [5]


def test_a_reset_is_where_the_next_pop_begins_once(rig):
    fill(rig, 8, queues=1)
    rig.take()
    rig.broker.offsets.assign_reset("cg", "topic-a", 0, 5)
    assert bodies(rig.take()) == [5, 6, 7]
    assert bodies(rig.take()) == []
    assert not rig.broker.offsets.has_reset("cg", "topic-a", 0)


def test_an_offset_outside_of_the_queue_is_corrected(rig):
    fill(rig, 8, queues=1)
    rig.broker.offsets.commit("cg", "topic-a", 0, 100)
    assert rig.take() == []
    rig.send(body=b"9")
    (one,) = rig.take()
    assert one.handle.startswith("8 ")  # the checkpoint begins where the reading did, so that acks find it


def test_a_queue_that_began_anew_is_read_from_its_beginning(rig):
    fill(rig, 2, queues=1)
    rig.broker.offsets.commit("cg", "topic-a", 0, 4)
    rig.broker.store.delete_topic_data("topic-a")
    assert bodies(rig.take()) == []
    fill(rig, 5, queues=1)
    assert bodies(rig.take()) == [0, 1, 2, 3, 4]


# --- retry topics -----------------------------------------------------------------------------------------------------


def test_a_message_that_was_not_acked_comes_back_through_the_retry_topic(rig):
    fill(rig, 1, queues=1, properties="TAGS\x01TagA\x02")
    (first,) = rig.take()
    pop_time = rig.clock.wall_ms()
    rig.pass_ms(9999)
    assert rig.take() == []
    rig.pass_ms(1)
    reply = rig.pop(exp="TagA")
    assert reply.ext["startOffsetInfo"] == "1 0 0"
    assert reply.ext["msgOffsetInfo"] == "1 0 0"
    (again,) = popped(reply, "topic-a", "cg")
    assert again.body == first.body
    assert again.message.reconsume_times == 1
    assert again.message.get("1ST_POP_TIME") == str(pop_time)
    assert again.handle == f"0 {rig.clock.wall_ms()} 10000 {reply.ext['reviveQid']} 1 broker 0 0"
    assert again.message.born_timestamp == first.message.born_timestamp
    kept = rig.stored("%RETRY%cg_topic-a")
    assert kept.get("POP_CK") is None
    rig.pass_ms(10_000)
    (third,) = rig.take()
    assert third.message.reconsume_times == 2
    assert third.message.get("1ST_POP_TIME") == str(pop_time)
    assert rig.count("%RETRY%cg_topic-a") == 2


def test_retries_under_their_own_name(tmp_path):
    rig = rig_at(tmp_path, pop_response_return_actual_retry_topic=True)
    fill(rig, 1, queues=1)
    rig.take()
    rig.pass_ms(10_000)
    (message,) = decode_messages(rig.pop().body)
    assert message.topic == "%RETRY%cg_topic-a"
    assert message.get("POP_CK") is None
    rig.close()


def test_retries_first_or_last(tmp_path):
    rig = rig_at(tmp_path, pop_from_retry_probability=100)
    fill(rig, 1, queues=1)
    rig.take()
    rig.pass_ms(10_000)
    rig.send(body=b"7")
    assert bodies(rig.take(maxMsgNums=1)) == [0]
    assert bodies(rig.take(maxMsgNums=1)) == [7]
    rig.pass_ms(10_000)
    rig.change(pop_from_retry_probability=0)
    rig.send(body=b"8")
    assert bodies(rig.take(maxMsgNums=1)) == [8]
    assert bodies(rig.take()) == [0, 7]
    rig.close()


def test_v2_retry_topics_and_what_is_left_in_v1(tmp_path):
    rig = rig_at(tmp_path)
    fill(rig, 1, queues=1)
    rig.take()
    rig.pass_ms(10_000)
    rig.change(enable_retry_topic_v2=True)
    rig.send(body=b"9")
    assert 9 in bodies(rig.take(queue=0, maxMsgNums=1))
    rig.pass_ms(10_000)
    assert rig.count("%RETRY%cg+topic-a") == 1
    found = {}
    while len(found) < 2:
        for one in rig.take(invisibleTime=60_000):
            found[one.body] = one.topic
    assert found == {b"0": "%RETRY%cg_topic-a", b"9": "%RETRY%cg+topic-a"}
    rig.close()


def test_v2_switched_off_leaves_nothing_behind(tmp_path):
    rig = rig_at(tmp_path, enable_retry_topic_v2=True)
    fill(rig, 1, queues=1)
    rig.take()
    rig.pass_ms(10_000)
    rig.change(enable_retry_topic_v2=False)
    assert [(one.body, one.topic) for one in rig.take()] == [(b"0", "%RETRY%cg+topic-a")]
    rig.close()


@pytest.mark.parametrize("kept_in_v1", [True, False])
def test_either_retry_topic_is_found_by_every_pop(tmp_path, kept_in_v1):
    rig = rig_at(tmp_path, enable_retry_topic_v2=not kept_in_v1)
    fill(rig, 1, queues=1)
    rig.take()
    rig.pass_ms(10_000)
    rig.change(enable_retry_topic_v2=True)
    for _ in range(10):
        assert bodies(rig.take(invisibleTime=1000)) == [0]
        rig.pass_ms(1000)
    rig.close()


def test_a_retry_topic_lost_with_a_crash_is_found_by_its_messages(rig):
    fill(rig, 1, queues=1)
    rig.take()
    rig.pass_ms(10_000)
    rig.broker.topics.delete("%RETRY%cg_topic-a")
    assert bodies(rig.take()) == [0]


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "code", "remark"),
    [
        ({"bornTime": 1_000}, 210, "timeout too much"),
        ({"maxMsgNums": 33}, 29, "greater than 32"),
        ({"maxMsgNums": 0}, 29, "less than 1"),
        ({"invisibleTime": -1}, 29, "invisibleTime"),
        ({"invisibleTime": 10**15}, 29, "invisibleTime"),
        ({"topic": "nowhere"}, 17, "topic[nowhere] not exist"),
        ({"queueId": 99}, 29, "queueId[99] is illegal, topic:[topic-a] topicConfig.readQueueNums:[2] consumer:[/127"),
        ({"consumerGroup": "a b"}, 26, "does not exist"),
        ({"exp": "||"}, 23, "parse the consumer's subscription failed"),
        ({"exp": "a >>", "expType": "SQL92"}, 1, "does not support"),
    ],
)
def test_refusals(rig, more, code, remark):
    fill(rig)
    reply = rig.pop(**more)
    assert (reply.code, remark in reply.remark) == (code, True)
    assert reply.ext == dict.fromkeys(EMPTY, "0")


def test_a_client_that_does_not_say_when_it_asked_asked_just_now(rig):
    fill(rig, 1, queues=1)
    assert bodies(rig.take(bornTime=0)) == [0]


def test_missing_fields_are_refused(rig):
    reply = rig.ask(RequestCode.POP_MESSAGE, {"topic": "topic-a"})
    assert reply.code == 1


def test_a_topic_or_group_that_must_not_be_read(rig):
    fill(rig)
    rig.broker.topics.put(TopicConfig("locked", 1, 1, 2))
    assert rig.pop("locked").code == 16
    rig.broker.groups.put(SubscriptionGroupConfig(group_name="off", consume_enable=False))
    assert rig.pop(group="off").code == 16
    rig.change(broker_permission=2)
    assert rig.pop().code == 16


def test_without_timers_there_is_no_pop(tmp_path):
    rig = rig_at(tmp_path, timer_wheel_enable=False)
    fill(rig)
    reply = rig.pop()
    assert (reply.code, "timerWheelEnable" in reply.remark) == (1, True)
    rig.close()


def test_the_count_of_messages_in_flight_goes_down_also_when_the_clock_was_set_back(tmp_path):
    rig = rig_at(tmp_path, enable_pop_message_threshold=True, pop_inflight_message_threshold=1)
    rig.clock.set_wall_ms(rig.clock.wall_ms() - 3_600_000)
    fill(rig, 5, queues=1)
    for number in range(5):
        (one,) = rig.take(maxMsgNums=1)
        assert int(one.body) == number
        assert rig.ack(one).code == 0
    rig.close()


def test_too_many_in_flight(tmp_path):
    rig = rig_at(tmp_path, enable_pop_message_threshold=True, pop_inflight_message_threshold=1)
    fill(rig, 6, queues=1)
    (first, second) = rig.take(maxMsgNums=2)
    assert rig.pop().ext["restNum"] == "4"
    rig.ack(first)
    assert bodies(rig.take(maxMsgNums=1)) == [2]
    assert rig.pop().code == 210
    rig.ack(second)
    rig.pass_ms(10_000)  # the third is in the retry topic
    assert len(rig.take()) == 4
    rig.close()


# --- waiting ----------------------------------------------------------------------------------------------------------


def wait(rig, **more):
    """A pop that waits, and the peer that gets its answer."""
    peer = FakePeer(40 + rig.opaque)
    reply = rig.pop(pollTime=5000, peer=peer, **more)
    return reply, peer


def test_a_pop_waits_for_a_message(rig):
    fill(rig, 0)
    reply, peer = wait(rig)
    assert reply is None
    rig.settle()
    assert peer.replies == []
    rig.send(body=b"7", queue=1)
    rig.settle()
    ((_, answer),) = peer.replies
    assert bodies(popped(answer, "topic-a", "cg")) == [7]


def test_a_pop_waits_for_a_retry(rig):
    fill(rig, 1)
    rig.take(invisibleTime=3000)
    _, peer = wait(rig)
    rig.pass_ms(3000)
    ((_, answer),) = peer.replies
    assert bodies(popped(answer, "topic-a", "cg")) == [0]


def test_a_message_for_others_leaves_it_waiting(rig):
    fill(rig, 0)
    _, peer = wait(rig, exp="TagA")
    rig.send(body=b"1", properties="TAGS\x01TagB\x02")
    rig.settle()
    assert peer.replies == []
    rig.send(body=b"2", properties="TAGS\x01TagA\x02")
    rig.settle()
    assert bodies(popped(peer.replies[0][1], "topic-a", "cg")) == [2]


def test_it_waits_no_longer_than_it_said(rig):
    fill(rig, 0)
    _, peer = wait(rig)
    rig.pass_ms(4949)
    assert peer.replies == []
    rig.pass_ms(1)
    ((_, answer),) = peer.replies
    assert (answer.code, answer.remark) == (210, "NO_MESSAGE_IN_QUEUE")


def test_messages_that_are_left_wake_the_next(rig):
    fill(rig, 0, queues=1)
    peers = [wait(rig, maxMsgNums=1)[1] for _ in range(3)]
    for number in range(3):
        rig.send(body=b"%d" % number)
    rig.settle()
    assert [len(peer.replies) for peer in peers] == [1, 1, 1]
    assert sorted(int(popped(peer.replies[0][1], "topic-a", "cg")[0].body) for peer in peers) == [0, 1, 2]


def test_too_many_wait(tmp_path):
    rig = rig_at(tmp_path, pop_polling_size=1)
    fill(rig, 0)
    wait(rig)
    reply, _ = wait(rig)
    assert (reply.code, reply.ext["msgOffsetInfo"]) == (209, "")
    rig.close()


def test_a_broker_that_stops_lets_nobody_wait(rig):
    fill(rig, 0)
    _, peer = wait(rig)
    rig.broker.draining = True
    rig.broker.popwaits.answer_all()
    assert peer.replies[0][1].code == 210
    assert wait(rig)[0].code == 210


def test_a_filter_that_leaves_out_a_long_backlog_gets_through_it(rig):
    fill(rig, 0, queues=1)
    for _ in range(4000):
        rig.store.put("topic-a", 0, b"x", b"TAGS\x01TagB\x02")
    rig.send(body=b"5", properties="TAGS\x01TagA\x02")
    for _ in range(10):
        reply, peer = wait(rig, exp="TagA")
        if reply is not None and reply.code == 0:
            break
    assert bodies(popped(reply, "topic-a", "cg")) == [5]
    assert peer.replies == []


def test_it_is_counted(rig):
    fill(rig)
    (first, *_) = rig.take()
    rig.ack(first)
    stats = rig.broker.stats
    assert stats.view("GROUP_GET_NUMS", "topic-a@cg").minute.sum == 4
    assert stats.view("GROUP_CK_NUMS", "topic-a@cg").minute.sum == 2
    assert stats.view("GROUP_ACK_NUMS", "topic-a@cg").minute.sum == 1


def test_properties(tmp_path):
    rig = rig_at(tmp_path, enable_property_filter=True)
    fill(rig, 0, queues=1)
    for number in range(6):
        rig.send(body=b"%d" % number, properties=f"n\x01{number}\x02")
    sql = {"expType": "SQL92", "exp": "n > 2 AND n <> 4"}
    assert bodies(rig.take(**sql)) == [3, 5]
    rig.pass_ms(10_000)
    assert bodies(rig.take(**sql)) == [3, 5]
    _, peer = wait(rig, **sql)
    rig.send(body=b"1", properties="n\x011\x02")
    rig.settle()
    assert peer.replies == []
    rig.send(body=b"9", properties="n\x019\x02")
    rig.settle()
    assert bodies(popped(peer.replies[0][1], "topic-a", "cg")) == [9]
    rig.close()


def test_property_filters_are_off_by_default(rig):
    fill(rig)
    assert rig.pop(expType="SQL92", exp="n > 2").code == 1
