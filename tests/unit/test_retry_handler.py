"""Messages that consumers give back: the retry topic, its delays, the dead letters."""

import pytest
import trio

from fastmq.protocol.bodies import SubscriptionGroupConfig, TopicConfig
from fastmq.protocol.codes import RequestCode
from fastmq.protocol.message import decode_properties, parse_message_id
from unit.broker_rig import Rig


@pytest.fixture
def rig(tmp_path):
    rig = Rig(tmp_path)
    yield rig
    rig.close()


@pytest.fixture
def sent(rig):
    """The log offset and the id of a stored message."""
    reply = rig.send(body=b"failed", properties="UNIQ_KEY\x01U\x02TAGS\x01TagA\x02", queue=1, h=7, g=99)
    return parse_message_id(reply.ext["msgId"])[2], reply.ext["msgId"]


def give_back(rig, offset, *, level=0, version=479, **more):
    ext = {"group": "cg", "offset": offset, "delayLevel": level, **more}
    return rig.ask(RequestCode.CONSUMER_SEND_MSG_BACK, ext, version=version)


def retried(rig, level):
    """The message that waits at a delay level, and its properties."""
    message = rig.stored("SCHEDULE_TOPIC_XXXX", level - 1)
    return message, decode_properties(message.properties)


def test_the_first_retry_comes_after_ten_seconds(rig, sent):
    reply = give_back(rig, sent[0])
    assert (reply.code, reply.remark, reply.ext) == (0, None, {})
    message, properties = retried(rig, 3)
    assert properties["REAL_TOPIC"] == "%RETRY%cg"
    assert properties["REAL_QID"] == "0"
    assert properties["RETRY_TOPIC"] == "topic-a"
    assert properties["ORIGIN_MESSAGE_ID"] == sent[1]
    assert properties["WAIT"] == "false"
    assert (properties["UNIQ_KEY"], properties["TAGS"], properties["DELAY"]) == ("U", "TagA", "3")
    assert (message.body, message.flag, message.born_timestamp, message.reconsume_times) == (b"failed", 7, 99, 1)
    assert message.born_host == ("127.0.0.1", 50_001)
    topic = rig.broker.topics.get("%RETRY%cg")
    assert (topic.write_queue_nums, topic.perm) == (1, 6)


def test_each_retry_waits_longer_until_the_group_gives_up(rig, sent):
    rig.broker.groups.put(SubscriptionGroupConfig(group_name="cg", retry_max_times=3))
    offset = sent[0]
    for times in range(3):
        assert give_back(rig, offset).code == 0
        rig.clock.advance_ms(rig.config.delay_levels_ms[2 + times])
        rig.broker.delay.due(rig.clock.wall_ms())
        message = rig.stored("%RETRY%cg", 0, times)
        assert message.reconsume_times == times + 1
        assert decode_properties(message.properties)["RETRY_TOPIC"] == "topic-a"
        assert decode_properties(message.properties)["ORIGIN_MESSAGE_ID"] == sent[1]
        offset = message.log_offset
    assert give_back(rig, offset).code == 0
    message = rig.stored("%DLQ%cg")
    properties = decode_properties(message.properties)
    assert (message.body, message.reconsume_times) == (b"failed", 4)
    assert properties["RETRY_TOPIC"] == "topic-a"
    assert "DELAY" not in properties
    topic = rig.broker.topics.get("%DLQ%cg")
    assert (topic.read_queue_nums, topic.write_queue_nums, topic.perm) == (1, 1, 6)


def test_the_consumer_may_name_the_level(rig, sent):
    give_back(rig, sent[0], level=5)
    assert retried(rig, 5)[1]["DELAY"] == "5"


def test_a_negative_level_gives_up_at_once(rig, sent):
    give_back(rig, sent[0], level=-1)
    assert rig.stored("%DLQ%cg").body == b"failed"


@pytest.mark.parametrize(("version", "dead"), [(121, 1), (120, 0)])
def test_new_clients_may_bring_their_own_limit(rig, sent, version, dead):
    give_back(rig, sent[0], version=version, maxReconsumeTimes=0)
    assert rig.count("%DLQ%cg") == dead


def test_retries_spread_over_the_queues_of_the_group(rig, sent):
    rig.broker.groups.put(SubscriptionGroupConfig(group_name="cg", retry_queue_nums=2))
    for _ in range(20):
        give_back(rig, sent[0], level=1)
    rig.clock.advance_ms(1000)
    rig.broker.delay.due(rig.clock.wall_ms())
    assert rig.count("%RETRY%cg", 0) + rig.count("%RETRY%cg", 1) == 20
    assert rig.count("%RETRY%cg", 1) > 0


def test_a_group_without_retry_queues_loses_the_message_on_purpose(rig, sent):
    rig.broker.groups.put(SubscriptionGroupConfig(group_name="cg", retry_queue_nums=0))
    before = rig.store.written_offset
    assert give_back(rig, sent[0]).code == 0
    assert rig.store.written_offset == before


@pytest.mark.parametrize("offset", [987_654_321, -1, 7, 1 << 62])
def test_a_message_that_is_not_there(rig, sent, offset):
    reply = give_back(rig, offset)
    assert (reply.code, reply.remark) == (1, f"look message by offset failed, {offset}")


def test_a_group_that_may_not_exist(rig, sent):
    rig.change(auto_create_subscription_group=False)
    reply = give_back(rig, sent[0])
    assert reply.code == 26
    assert reply.remark.startswith("subscription group not exist, cg See https://")


def test_a_broker_or_topic_that_takes_no_messages(rig, sent):
    rig.broker.topics.put(TopicConfig(topic_name="%RETRY%cg", perm=4))
    assert give_back(rig, sent[0]).code == 16
    rig.change(broker_permission=4)
    assert give_back(rig, sent[0], group="other").code == 16


def test_a_store_that_refuses(rig, sent):
    rig.store.set_disk_full(True)
    reply = give_back(rig, sent[0])
    assert (reply.code, reply.remark) == (1, "SERVICE_NOT_AVAILABLE")
    rig.store.set_disk_full(False)


def test_a_broker_that_stops(rig, sent):
    trio.run(rig.broker.drain)
    assert give_back(rig, sent[0]).code == 14


@pytest.mark.parametrize("missing", ["group", "offset", "delayLevel"])
def test_a_missing_field(rig, missing):
    ext = {"group": "cg", "offset": 0, "delayLevel": 0}
    del ext[missing]
    reply = rig.ask(RequestCode.CONSUMER_SEND_MSG_BACK, ext)
    assert reply.code == 1
    assert missing in reply.remark


def test_with_synchronous_flush_the_answer_waits_for_the_disk(tmp_path):
    rig = Rig(tmp_path, flush_disk_type="SYNC_FLUSH")
    try:
        reply = rig.send()
        rig.flush()
        reply = give_back(rig, parse_message_id(reply.ext["msgId"])[2])
        assert reply.after_flush == rig.store.written_offset
    finally:
        rig.close()
