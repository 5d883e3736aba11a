"""Messages that consumers give back: the retry topic, its delays, the dead letters."""

import pytest
import trio

from fastmq.protocol.bodies import SubscriptionGroupConfig, TopicConfig
from fastmq.protocol.codes import RequestCode
from fastmq.protocol.message import decode_properties, parse_message_id
from unit.broker_rig import Rig, consumer


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


@pytest.mark.parametrize(
    ("level", "times", "lands"), [(0, 15, 18), (0, 16, 18), (0, 30, 18), (19, 0, 18), (1 << 20, 0, 18)]
)
def test_a_level_above_the_highest_counts_as_the_highest(rig, level, times, lands):
    """Also 3 + reconsumeTimes, which a group with more than 16 retries reaches."""
    rig.broker.groups.put(SubscriptionGroupConfig(group_name="cg", retry_max_times=100))
    reply = rig.send(j=times)
    assert give_back(rig, parse_message_id(reply.ext["msgId"])[2], level=level).code == 0
    message, properties = retried(rig, lands)
    assert (message.reconsume_times, properties["DELAY"]) == (times + 1, str(lands))


def test_a_group_of_zero_retries_gives_up_at_once(rig, sent):
    rig.broker.groups.put(SubscriptionGroupConfig(group_name="cg", retry_max_times=0))
    give_back(rig, sent[0])
    assert rig.count("%DLQ%cg") == 1


def test_what_an_earlier_delay_left_behind_does_not_count(rig):
    """A message that was delayed by level comes back with the group's delay; given up it has none."""
    rig.send(properties="DELAY\x015\x02UNIQ_KEY\x01U\x02")
    rig.clock.advance_ms(rig.config.delay_levels_ms[4])
    rig.broker.delay.due(rig.clock.wall_ms())
    offset = rig.stored("topic-a").log_offset
    give_back(rig, offset)
    message, properties = retried(rig, 3)
    assert (properties["DELAY"], properties["REAL_TOPIC"], properties["REAL_QID"]) == ("3", "%RETRY%cg", "0")
    give_back(rig, offset, level=-1)
    assert rig.stored("%DLQ%cg").body == message.body


def test_a_message_of_a_commit_says_nothing_about_transactions(rig):
    """The retry of a message that was once sent in a transaction is a plain message."""
    rig.broker.topics.put(TopicConfig(topic_name="topic-a"))
    appended = rig.store.put("topic-a", 0, b"x", b"TRAN_MSG\x01true\x02PGROUP\x01pg\x02", sys_flag=8)
    assert give_back(rig, appended.log_offset).code == 0
    assert retried(rig, 3)[0].body == b"x"


@pytest.mark.parametrize(("unit", "flag"), [(True, 2), (False, 0)])
def test_unit_mode_marks_the_retry_topic(rig, sent, unit, flag):
    give_back(rig, sent[0], unitMode=unit)
    assert rig.broker.topics.get("%RETRY%cg").topic_sys_flag == flag


def test_giving_up_counts_as_giving_back_too(rig, sent):
    give_back(rig, sent[0])
    give_back(rig, sent[0], level=-1)
    assert rig.broker.stats.view("SNDBCK_PUT_NUMS", "topic-a@cg").minute.sum == 2
    assert rig.broker.stats.view("DLQ_PUT_NUMS", "topic-a@cg").minute.sum == 1


class TestRetriesSentAsMessages:
    """What clients do that retried locally: orderly consumers, and others whose send-back failed."""

    def retry(self, rig, times, **more):
        return rig.send("%RETRY%cg", b"again", properties="RETRY_TOPIC\x01topic-a\x02DELAY\x013\x02", j=times, **more)

    @pytest.mark.parametrize(("times", "dead"), [(15, 0), (16, 0), (17, 1)])
    def test_only_more_than_the_most_is_too_much(self, rig, times, dead):
        assert self.retry(rig, times).code == 0
        assert (rig.count("%DLQ%cg"), rig.count("SCHEDULE_TOPIC_XXXX", 2)) == (dead, 1 - dead)

    @pytest.mark.parametrize(("most", "dead"), [(3, 0), (2, 1)])
    def test_the_client_may_bring_its_own_most(self, rig, most, dead):
        assert self.retry(rig, 3, l=most).code == 0
        assert rig.count("%DLQ%cg") == dead

    def test_a_group_that_holds_queue_locks_has_retried_already(self, rig):
        body = {"clientId": "c1", "consumerGroup": "cg", "mqSet": [{"brokerName": "b", "queueId": 0, "topic": "t"}]}
        rig.ask(RequestCode.LOCK_BATCH_MQ, {}, body)
        assert self.retry(rig, 1).code == 0
        message = rig.stored("%DLQ%cg")
        assert (message.body, decode_properties(message.properties)["DELAY"]) == (b"again", "-1")
        rig.clock.advance_ms(60_001)
        self.retry(rig, 1)
        assert (rig.count("%DLQ%cg"), rig.count("SCHEDULE_TOPIC_XXXX", 2)) == (1, 1)

    def test_dead_letters_can_be_read_like_any_topic(self, rig):
        self.retry(rig, 17)
        reply = rig.pull("%DLQ%cg", group="undertaker")
        assert reply.code == 0
        topic = rig.broker.topics.get("%DLQ%cg")
        assert (topic.readable, topic.writeable) == (True, True)

    def test_a_topic_nobody_made_is_made(self, rig):
        rig.change(auto_create_topic_enable=False)
        assert self.retry(rig, 1).code == 0
        assert rig.broker.topics.get("%RETRY%cg").write_queue_nums == 1

    def test_a_group_that_may_not_exist(self, rig):
        rig.change(auto_create_subscription_group=False)
        assert self.retry(rig, 1).code == 26


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


@pytest.mark.parametrize("before", [0, 1, 3])
def test_a_group_may_ask_for_other_numbers_of_retry_queues_later(rig, sent, before):
    """What is sent to a queue is always in one that the members read."""
    rig.broker.groups.put(SubscriptionGroupConfig(group_name="cg", retry_queue_nums=before))
    rig.heartbeat(consumerDataSet=[consumer()])
    assert rig.broker.topics.get("%RETRY%cg").read_queue_nums == before
    rig.broker.groups.put(SubscriptionGroupConfig(group_name="cg", retry_queue_nums=2))
    for _ in range(20):
        assert give_back(rig, sent[0], level=1).code == 0
    rig.clock.advance_ms(1000)
    rig.broker.delay.due(rig.clock.wall_ms())
    assert rig.count("%RETRY%cg", 0) + rig.count("%RETRY%cg", 1) == 20
    topic = rig.broker.topics.get("%RETRY%cg")
    assert topic.read_queue_nums == topic.write_queue_nums == max(before, 2)


def test_a_group_without_retry_queues_loses_the_message_on_purpose(rig, sent):
    rig.broker.groups.put(SubscriptionGroupConfig(group_name="cg", retry_queue_nums=0))
    before = rig.store.written_offset
    assert give_back(rig, sent[0]).code == 0
    assert rig.store.written_offset == before


@pytest.mark.parametrize("offset", [987_654_321, -1, 7, 1 << 62])
def test_a_message_that_is_not_there(rig, sent, offset):
    reply = give_back(rig, offset)
    assert (reply.code, reply.remark) == (1, f"look message by offset failed, {offset}")


@pytest.mark.parametrize(
    "topic",
    ["SCHEDULE_TOPIC_XXXX", "rmq_sys_wheel_timer", "RMQ_SYS_TRANS_HALF_TOPIC", "RMQ_SYS_TRANS_OP_HALF_TOPIC",
     "rmq_sys_REVIVE_LOG_DefaultCluster"],
)  # fmt: skip
def test_a_message_that_nobody_may_have_seen_yet(rig, topic):
    """A copy of it would let a consumer have what is not due, or not committed."""
    offset = rig.store.put(topic, 0, b"not yet", b"").log_offset
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
