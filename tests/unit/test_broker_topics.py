"""The topics and groups by which the broker keeps its own books: nobody else writes there."""

import pytest
import trio

from fastmq.errors import RequestError
from fastmq.protocol.codes import RequestCode
from fastmq.protocol.message import BatchEntry, create_unique_key, encode_batch
from fastmq.protocol.recall import RecallHandle
from unit.pop_rig import rig_at

NO_PERMISSION = 16
REVIVE = "rmq_sys_REVIVE_LOG_DefaultCluster"
OWN_TOPICS = [
    "SCHEDULE_TOPIC_XXXX", "RMQ_SYS_TRANS_HALF_TOPIC", "RMQ_SYS_TRANS_OP_HALF_TOPIC", "TRANS_CHECK_MAX_TIME_TOPIC",
    "SELF_TEST_TOPIC", "OFFSET_MOVED_EVENT", "rmq_sys_wheel_timer", REVIVE, "rmq_sys_REVIVE_LOG_AnotherCluster",
]  # fmt: skip
OWN_GROUPS = ["CID_RMQ_SYS_TRANS", "CID_RMQ_SYS_REVIVE_GROUP"]


@pytest.fixture
def rig(tmp_path):
    rig = rig_at(tmp_path, recall_message_enable=True)
    yield rig
    rig.close()


@pytest.mark.parametrize("topic", OWN_TOPICS)
@pytest.mark.parametrize(
    "properties",
    ["", "DELAY\x011\x02", "TIMER_DELAY_SEC\x015\x02", "TRAN_MSG\x01true\x02PGROUP\x01g\x02"],
    ids=["plain", "delayed", "timed", "in-a-transaction"],
)
def test_nobody_sends_there(rig, topic, properties):
    assert rig.send(topic, properties=properties).code == NO_PERMISSION
    assert rig.count(topic) == 0
    assert rig.store.queue_offsets("rmq_sys_wheel_timer", 0) in (None, (0, 0))


@pytest.mark.parametrize("topic", ["rmq_sys_wheel_timer", REVIVE])
def test_no_batch_and_no_answer_goes_there(rig, topic):
    batch = encode_batch([BatchEntry(b"one", b"UNIQ_KEY\x011\x02")])
    assert rig.send(topic, batch, code=RequestCode.SEND_BATCH_MESSAGE, m="true").code == NO_PERMISSION
    assert rig.send(topic, code=RequestCode.SEND_REPLY_MESSAGE_V2).code == NO_PERMISSION


def test_a_checkpoint_cannot_be_taken_back(rig):
    """It is a timer message whose key anybody can work out; without it what was popped would never come again."""
    rig.send(body=b"popped")
    (one,) = rig.take(invisibleTime=5000)
    checkpoint = rig.stored("rmq_sys_wheel_timer")
    due_ms = int(checkpoint.property_map["TIMER_DELIVER_MS"])
    handle = RecallHandle(REVIVE, rig.config.broker_name, due_ms, checkpoint.property_map["UNIQ_KEY"]).encode()
    ext = {"topic": REVIVE, "recallHandle": handle, "producerGroup": "pg"}
    assert rig.ask(RequestCode.RECALL_MESSAGE, ext).code == NO_PERMISSION
    rig.pass_ms(6000)
    assert [again.body for again in rig.take()] == [one.body]


@pytest.mark.parametrize("real", OWN_TOPICS[:3] + OWN_TOPICS[6:7])
def test_a_forged_record_of_an_earlier_run_is_delivered_to_no_such_topic(rig, real):
    """Apache RocketMQ lets clients send to the timer topic: such records may lie in a store that was taken over."""
    now_ms = rig.clock.wall_ms()
    key = create_unique_key("127.0.0.1", 1, now_ms, 1, 1)
    properties = f"REAL_TOPIC\x01{real}\x02REAL_QID\x010\x02TIMER_OUT_MS\x01{now_ms}\x02UNIQ_KEY\x01{key}\x02"
    assert rig.store.put("rmq_sys_wheel_timer", 0, b"0,", properties.encode()).status == 0
    before = rig.count(real)
    rig.pass_ms(5000)
    assert rig.count(real) == before
    assert rig.send(properties="TIMER_DELAY_SEC\x011\x02").code == 0
    rig.pass_ms(3000)
    assert rig.count("topic-a") == 1, "those behind it come"


@pytest.mark.parametrize("group", OWN_GROUPS)
def test_nobody_moves_the_brokers_own_offsets(rig, group):
    rig.send()
    rig.broker.groups.find_or_create(group)
    where = {"consumerGroup": group, "topic": "topic-a", "queueId": 0}
    assert rig.ask(RequestCode.UPDATE_CONSUMER_OFFSET, {**where, "commitOffset": 7}).code == NO_PERMISSION
    assert rig.pull(group=group, sysFlag=5, commitOffset=7).code == NO_PERMISSION
    assert rig.pop(group=group).code == NO_PERMISSION
    assert rig.ask(RequestCode.QUERY_CONSUMER_OFFSET, {**where, "setZeroIfNotFound": False}).code == 22


@pytest.mark.parametrize("group", OWN_GROUPS)
@pytest.mark.parametrize(
    ("code", "ext"),
    [
        (RequestCode.INVOKE_BROKER_TO_RESET_OFFSET, {"topic": "topic-a", "timestamp": -1, "isForce": True}),
        (RequestCode.CLONE_GROUP_OFFSET, {"srcGroup": "cg", "topic": "topic-a"}),
        (RequestCode.DELETE_SUBSCRIPTIONGROUP, {"cleanOffset": True}),
    ],
)
def test_no_tool_moves_them_either(rig, group, code, ext):
    rig.broker.offsets.commit(group, "topic-a", 0, 5)
    with pytest.raises(RequestError, match=f"the group {group} belongs to the broker itself") as refusal:
        trio.run(lambda: rig.ask(code, {**ext, "group": group, "destGroup": group, "groupName": group}))
    assert refusal.value.code == NO_PERMISSION
    assert rig.broker.offsets.query(group, "topic-a", 0) == 5
