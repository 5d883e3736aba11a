"""Sends: every check with RocketMQ's code, what is stored, what is answered."""

import pytest
import trio

from fastmq.protocol.bodies import SubscriptionGroupConfig, TopicConfig
from fastmq.protocol.codes import RequestCode, ResponseCode
from fastmq.protocol.message import BatchEntry, decode_properties, encode_batch, parse_message_id
from unit.broker_rig import FakePeer, Rig

REGION = {"TRACE_ON": "true", "MSG_REGION": "DefaultRegion"}


@pytest.fixture
def rig(tmp_path):
    rig = Rig(tmp_path, broker_name="b", broker_cluster_name="c", max_message_size=100_000)
    yield rig
    rig.close()


def refused(reply, code, remark):
    """A refusal carries region and trace switch and stores nothing."""
    assert (reply.code, reply.ext) == (code, REGION)
    assert remark in reply.remark
    return True


class TestPlain:
    def test_is_stored_and_answered_in_the_order_of_rocketmq(self, rig):
        reply = rig.send(properties="UNIQ_KEY\x01U1\x02", queue=1)
        assert list(reply.ext) == ["queueId", "transactionId", "msgId", "TRACE_ON", "MSG_REGION", "queueOffset"]
        assert (reply.code, reply.remark, reply.body, reply.after_flush) == (0, None, b"", None)
        assert reply.ext["queueId"] == "1"
        assert reply.ext["queueOffset"] == "0"
        assert reply.ext["transactionId"] == "U1"
        assert parse_message_id(reply.ext["msgId"]) == ("127.0.0.1", 10911, 0)
        assert rig.send(queue=1).ext["queueOffset"] == "1"
        message = rig.stored("topic-a", 1)
        assert (message.body, message.born_timestamp, message.born_host) == (b"hello", 1234, ("127.0.0.1", 50_001))

    def test_the_long_form_is_the_same(self, rig):
        ext = {
            "producerGroup": "pg", "topic": "topic-a", "defaultTopic": "TBW102", "defaultTopicQueueNums": 4,
            "queueId": 0, "sysFlag": 1, "bornTimestamp": 5, "flag": 9, "properties": "KEYS\x01k\x02",
            "reconsumeTimes": 2,
        }  # fmt: skip
        assert rig.ask(RequestCode.SEND_MESSAGE, ext, b"x").code == 0
        message = rig.stored("topic-a")
        assert (message.sys_flag, message.flag, message.reconsume_times) == (1, 9, 2)

    @pytest.mark.parametrize(
        ("sent", "stored"),
        [
            (
                "UNIQ_KEY\x01U\x02",
                "UNIQ_KEY\x01U\x02MSG_REGION\x01DefaultRegion\x02TRACE_ON\x01true\x02CLUSTER\x01c\x02",
            ),
            (
                "a\x01b\x02UNIQ_KEY\x01U\x02WAIT\x01true",
                "a\x01b\x02UNIQ_KEY\x01U\x02WAIT\x01true\x02MSG_REGION\x01DefaultRegion\x02TRACE_ON\x01true\x02CLUSTER\x01c\x02",
            ),
            (
                "CLUSTER\x01x\x02TRACE_ON\x01false\x02UNIQ_KEY\x01U\x02MSG_REGION\x01y\x02z\x01w\x02",
                "CLUSTER\x01c\x02TRACE_ON\x01true\x02UNIQ_KEY\x01U\x02MSG_REGION\x01DefaultRegion\x02z\x01w\x02",
            ),
            (
                "POP_CK\x01p\x02\x01x\x02y\x01\x02n\x02UNIQ_KEY\x01U\x02a\x011\x02b\x01c\x01d\x02a\x012\x02",
                "UNIQ_KEY\x01U\x02a\x012\x02b\x01c\x01d\x02MSG_REGION\x01DefaultRegion\x02TRACE_ON\x01true\x02CLUSTER\x01c\x02",
            ),
            (
                "k\x01\u00fc\U0001f600\x02UNIQ_KEY\x01U\x02",
                "k\x01\u00fc\U0001f600\x02UNIQ_KEY\x01U\x02MSG_REGION\x01DefaultRegion\x02TRACE_ON\x01true\x02CLUSTER\x01c\x02",
            ),
        ],
    )
    def test_properties_keep_their_order(self, rig, sent, stored):
        rig.send(properties=sent)
        assert rig.stored("topic-a").properties.decode() == stored

    def test_a_missing_unique_key_is_made_and_told(self, rig):
        one, two = (rig.send(properties="a\x01b\x02").ext["transactionId"] for _ in range(2))
        assert one != two
        assert len(one) == 32
        names = list(decode_properties(rig.stored("topic-a").properties))
        assert names == ["a", "UNIQ_KEY", "MSG_REGION", "TRACE_ON", "CLUSTER"]

    def test_a_negative_queue_id_is_any_queue(self, rig):
        used = {rig.send(queue=-1).ext["queueId"] for _ in range(40)}
        assert used == {"0", "1", "2", "3"}

    def test_tags_are_found_by_their_hash(self, rig):
        rig.send(properties="TAGS\x01TagA\x02")
        ((_, _, code),) = rig.store.queue_entries("topic-a", 0, 0, 1)
        assert code == 2598919

    @pytest.mark.parametrize("host", ["fe80::1", "fe80::1%eth0"])
    def test_senders_may_come_by_ipv6(self, rig, host):
        assert rig.send(peer=FakePeer(3, host=host)).code == 0
        assert rig.stored("topic-a").born_host == ("fe80::1", 50_003)

    @pytest.mark.parametrize("facts", [{"h": -1, "j": -1, "g": -1}, {"h": -(2**31), "j": 2**31 - 1, "g": 2**63 - 1}])
    def test_any_number_that_fits_is_kept(self, rig, facts):
        rig.send(**facts)
        message = rig.stored("topic-a")
        assert {"h": message.flag, "j": message.reconsume_times, "g": message.born_timestamp} == facts

    def test_a_multi_tag_topic_marks_its_messages(self, rig):
        rig.broker.topics.put(TopicConfig(topic_name="multi", topic_filter_type="MULTI_TAG"))
        rig.send("multi")
        assert rig.stored("multi").sys_flag == 2


class TestTopics:
    def test_an_unknown_topic_is_created_after_the_default_topic(self, rig):
        assert rig.send("fresh", queue=3).code == 0
        topic = rig.broker.topics.get("fresh")
        assert (topic.read_queue_nums, topic.write_queue_nums, topic.perm, topic.topic_sys_flag) == (4, 4, 6, 0)

    def test_unit_mode_marks_the_new_topic(self, rig):
        rig.send("fresh", k="true")
        assert rig.broker.topics.get("fresh").topic_sys_flag == 1

    def test_without_a_default_topic_it_does_not_exist(self, rig):
        reply = rig.send("fresh", c="NOPE")
        assert refused(reply, 17, "topic[fresh] not exist, apply first please!\nSee https://rocketmq.apache.org/")
        assert rig.broker.topics.get("fresh") is None

    def test_a_retry_topic_is_made_in_any_case(self, rig):
        assert rig.send("%RETRY%cg", c="NOPE").code == 0
        assert rig.broker.topics.get("%RETRY%cg").write_queue_nums == 1

    @pytest.mark.parametrize(
        ("topic", "remark"),
        [
            ("", "The specified topic is blank."),
            ("  ", "The specified topic is blank."),
            ("bad topic!", "illegal characters"),
            ("t\u00fc", "illegal characters"),
            ("t" * 128, "longer than topic max length"),
            ("t" * 100_000, "longer than topic max length"),
            ("%RETRY%" + "t" * 249, "longer than topic max length"),
        ],
    )
    def test_bad_names_are_refused(self, rig, topic, remark):
        assert refused(rig.send(topic), 29, remark)

    @pytest.mark.parametrize(
        "topic",
        [
            "SCHEDULE_TOPIC_XXXX", "RMQ_SYS_TRANS_HALF_TOPIC", "RMQ_SYS_TRANS_OP_HALF_TOPIC",
            "TRANS_CHECK_MAX_TIME_TOPIC", "SELF_TEST_TOPIC", "OFFSET_MOVED_EVENT",
        ],
    )  # fmt: skip
    def test_internal_topics_take_no_messages(self, rig, topic):
        assert refused(rig.send(topic), 16, f"Sending message to topic[{topic}] is forbidden.")

    def test_a_queue_the_topic_does_not_have(self, rig):
        rig.send("topic-a")
        reply = rig.send("topic-a", queue=77)
        assert refused(reply, 29, "")
        assert reply.remark == (
            "request queueId[77] is illegal, TopicConfig [topicName=topic-a, readQueueNums=4, writeQueueNums=4, "
            "perm=RW-, topicFilterType=SINGLE_TAG, topicSysFlag=0, order=false, attributes={}] "
            "Producer: 127.0.0.1:50001"
        )

    def test_queues_that_are_still_read_are_still_written(self, rig):
        rig.broker.topics.put(TopicConfig(topic_name="shrinking", write_queue_nums=2, read_queue_nums=4))
        assert rig.send("shrinking", queue=3).code == 0
        assert rig.send("shrinking", queue=4).code == 29

    def test_a_topic_without_queues_to_write(self, rig):
        rig.broker.topics.put(TopicConfig(topic_name="empty", write_queue_nums=0, read_queue_nums=4))
        assert refused(rig.send("empty", queue=-1), 29, "no queue")

    def test_batch_queues_are_not_built(self, rig):
        rig.broker.topics.put(TopicConfig(topic_name="bcq", attributes={"queue.type": "BatchCQ"}))
        assert refused(rig.send("bcq"), 13, "BatchCQ")

    def test_a_compaction_topic_needs_keys(self, rig):
        rig.broker.topics.put(TopicConfig(topic_name="compact", attributes={"cleanup.policy": "COMPACTION"}))
        assert refused(rig.send("compact"), 13, "Required message key is missing")
        assert rig.send("compact", properties="KEYS\x01k\x02").code == 0


class TestBroker:
    def test_one_that_is_not_writeable_refuses_ordered_topics_only(self, rig):
        rig.broker.topics.put(TopicConfig(topic_name="ordered", order=True))
        rig.change(broker_permission=4)
        assert refused(rig.send("ordered"), 16, "the broker[127.0.0.1] sending message is forbidden")
        assert rig.send("topic-a").code == 0

    def test_one_that_has_not_begun(self, rig):
        rig.change(start_accept_send_request_time_stamp=rig.clock.wall_ms() + 1)
        assert refused(rig.send(), 1, "broker unable to service, until 20")
        rig.clock.advance_ms(1)
        assert rig.send().code == 0

    def test_one_that_stops(self, rig):
        trio.run(rig.broker.drain)
        assert refused(rig.send(), 14, "stopping")

    def test_a_full_disk(self, rig):
        rig.store.set_disk_full(True)
        assert refused(rig.send(), 14, "disk")
        rig.store.set_disk_full(False)
        assert rig.send().ext["queueOffset"] == "0"

    def test_a_store_that_is_not_writeable(self, rig):
        rig.store.set_writeable(False)
        assert refused(rig.send(), 14, "not writeable")

    def test_settings_show_in_answers_and_messages(self, rig):
        rig.change(trace_on=False, region_id="eu")
        reply = rig.send()
        assert (reply.ext["TRACE_ON"], reply.ext["MSG_REGION"]) == ("false", "eu")
        assert decode_properties(rig.stored("topic-a").properties)["TRACE_ON"] == "false"


class TestBadMessages:
    def test_a_body_over_the_limit(self, rig):
        remark = (
            "the message is illegal, maybe msg body or properties length not matched. msg body length limit 100000B, "
            "msg properties length limit 32KB."
        )
        assert refused(rig.send(body=b"x" * 100_001), 13, remark)
        assert rig.send(body=b"x" * 100_000).code == 0

    def test_properties_over_the_limit(self, rig):
        assert refused(rig.send(properties="k\x01" + "v" * 32_767 + "\x02"), 13, "the message is illegal")

    def test_no_body(self, rig):
        assert refused(rig.send(body=b""), 13, "body is empty")

    @pytest.mark.parametrize("missing", "abcdefgh")
    def test_a_missing_field(self, rig, missing):
        ext = {"a": "pg", "b": "t", "c": "TBW102", "d": "4", "e": "0", "f": "0", "g": "1", "h": "0"}
        del ext[missing]
        reply = rig.ask(RequestCode.SEND_MESSAGE_V2, ext, b"x")
        assert (reply.code, reply.ext) == (1, {})
        assert f"<{missing}>" in reply.remark

    @pytest.mark.parametrize("wrong", [{"e": "one"}, {"e": str(1 << 40)}, {"d": ""}, {"g": "1.5"}])
    def test_a_field_that_is_no_number(self, rig, wrong):
        assert rig.send(**wrong).code == 1

    def test_transaction_bits_alone_would_make_a_message_nobody_ever_sees(self, rig):
        assert refused(rig.send(f=4), 13, "transaction")
        assert refused(rig.send(f=12), 13, "transaction")
        assert rig.store.written_offset == 0

    def test_a_consumer_may_retry_what_was_once_sent_in_a_transaction(self, rig):
        properties = "TRAN_MSG\x01true\x02DELAY\x013\x02"
        assert rig.send("%RETRY%cg", properties=properties, j=1).code == 0
        assert rig.count("SCHEDULE_TOPIC_XXXX", 2) == 1
        assert rig.count("RMQ_SYS_TRANS_HALF_TOPIC") == 0

    @pytest.mark.parametrize("facts", [{"f": 192}, {"properties": "INNER_NUM\x012\x02"}])
    def test_inner_batches_need_their_topic(self, rig, facts):
        assert refused(rig.send(**facts), 13, "inner batch")


class TestDelay:
    def test_a_level_goes_to_the_schedule_topic(self, rig):
        reply = rig.send(queue=2, properties="UNIQ_KEY\x01U\x02DELAY\x014\x02")
        assert (reply.ext["queueId"], reply.ext["queueOffset"]) == ("2", "0")
        assert rig.count("topic-a", 2) == 0
        message = rig.stored("SCHEDULE_TOPIC_XXXX", 3)
        properties = decode_properties(message.properties)
        assert (properties["REAL_TOPIC"], properties["REAL_QID"], properties["DELAY"]) == ("topic-a", "2", "4")
        ((_, _, due_ms),) = rig.store.queue_entries("SCHEDULE_TOPIC_XXXX", 3, 0, 1)
        assert due_ms == message.store_timestamp + 30_000

    def test_too_high_a_level_is_the_highest(self, rig):
        rig.send(properties="DELAY\x0199\x02")
        assert decode_properties(rig.stored("SCHEDULE_TOPIC_XXXX", 17).properties)["DELAY"] == "18"

    @pytest.mark.parametrize("level", ["0", "-5"])
    def test_no_level_is_no_delay(self, rig, level):
        rig.send(properties=f"DELAY\x01{level}\x02")
        assert rig.count("topic-a") == 1

    def test_a_level_wins_over_a_timer(self, rig):
        rig.send(properties="TIMER_DELAY_SEC\x0160\x02DELAY\x011\x02")
        assert "TIMER_DELAY_SEC" not in decode_properties(rig.stored("SCHEDULE_TOPIC_XXXX").properties)

    def test_a_level_that_is_no_number(self, rig):
        assert refused(rig.send(properties="DELAY\x01soon\x02"), 1, "soon")


class TestRetryTopic:
    def test_within_the_limit_it_is_an_ordinary_message(self, rig):
        rig.send("%RETRY%cg", j=16)
        assert rig.count("%RETRY%cg") == 1

    def test_beyond_the_limit_it_goes_to_the_dead_letters(self, rig):
        reply = rig.send("%RETRY%cg", j=17, properties="DELAY\x013\x02")
        assert (reply.code, reply.ext["queueId"]) == (0, "0")
        message = rig.stored("%DLQ%cg")
        assert decode_properties(message.properties)["DELAY"] == "-1"
        topic = rig.broker.topics.get("%DLQ%cg")
        assert (topic.write_queue_nums, topic.perm) == (1, 6)

    def test_the_client_may_bring_its_own_limit(self, rig):
        rig.send("%RETRY%cg", j=3, l=2)
        assert rig.count("%DLQ%cg") == 1

    def test_old_clients_may_not(self, rig):
        rig.send("%RETRY%cg", j=3, l=2, version=120)
        assert rig.count("%DLQ%cg") == 0

    def test_the_group_may_have_another_limit(self, rig):
        rig.broker.groups.put(SubscriptionGroupConfig(group_name="cg", retry_max_times=1))
        rig.send("%RETRY%cg", j=2)
        assert rig.count("%DLQ%cg") == 1

    def test_orderly_groups_give_up_at_once(self, rig):
        queue = {"brokerName": "b", "queueId": 0, "topic": "topic-a"}
        body = {"clientId": "me", "consumerGroup": "cg", "mqSet": [queue]}
        rig.ask(RequestCode.LOCK_BATCH_MQ, {}, body)
        rig.send("%RETRY%cg", j=0)
        assert rig.count("%DLQ%cg") == 1
        rig.clock.advance_ms(60_001)
        rig.send("%RETRY%cg", j=0)
        assert rig.count("%DLQ%cg") == 1

    def test_of_a_group_that_may_not_exist(self, rig):
        rig.change(auto_create_subscription_group=False)
        reply = rig.send("%RETRY%cg")
        assert refused(reply, 26, "subscription group not exist, cg See https://rocketmq.apache.org/")


class TestBatch:
    BODY = encode_batch([
        BatchEntry(b"one", b"UNIQ_KEY\x01U1\x02TAGS\x01TagA\x02"),
        BatchEntry(b"two", b"UNIQ_KEY\x01U2", 7),
        BatchEntry(b"three"),
    ])  # fmt: skip

    @pytest.mark.parametrize("facts", [{"code": RequestCode.SEND_BATCH_MESSAGE, "m": "true"}, {"m": "true"}])
    def test_every_message_is_stored_as_it_was_sent(self, rig, facts):
        rig.send(queue=1)
        reply = rig.send(body=self.BODY, queue=1, properties="UNIQ_KEY\x01B\x02WAIT\x01true\x02", **facts)
        assert list(reply.ext) == ["queueId", "transactionId", "msgId", "TRACE_ON", "MSG_REGION", "queueOffset"]
        assert (reply.ext["transactionId"], reply.ext["queueOffset"]) == ("B", "1")
        ids = reply.ext["msgId"].split(",")
        messages = [rig.stored("topic-a", 1, offset) for offset in (1, 2, 3)]
        assert [parse_message_id(one)[2] for one in ids] == [message.log_offset for message in messages]
        assert [message.body for message in messages] == [b"one", b"two", b"three"]
        assert [message.properties for message in messages] == [
            b"UNIQ_KEY\x01U1\x02TAGS\x01TagA\x02", b"UNIQ_KEY\x01U2", b"",
        ]  # fmt: skip
        assert messages[1].flag == 7

    def test_a_request_for_batches_that_says_it_is_none(self, rig):
        facts = {"code": RequestCode.SEND_BATCH_MESSAGE, "properties": "TAGS\x01TagA\x02"}
        assert rig.send(body=self.BODY, m="false", **facts).code == 0
        assert rig.stored("topic-a").body == self.BODY
        assert rig.stored("topic-a").get("TAGS") == "TagA"
        assert rig.send(body=self.BODY, **facts).code == 0
        assert [rig.stored("topic-a", 0, offset).body for offset in (1, 2, 3)] == [b"one", b"two", b"three"]

    def test_without_an_id_of_its_own_the_answer_has_none(self, rig):
        reply = rig.send(body=self.BODY, m="true", properties="WAIT\x01true")
        assert "transactionId" not in reply.ext

    @pytest.mark.parametrize(
        "body", [b"x", BODY[:-1], BODY + b"\0", b"\0" * 22, b"\xff" * 30, BODY[:16] + b"\xff\xff\xff\xff" + BODY[20:]]
    )
    def test_lengths_that_do_not_add_up(self, rig, body):
        assert refused(rig.send(body=body, m="true"), 13, "")
        assert rig.store.written_offset == 0

    def test_a_body_over_the_limit(self, rig):
        body = encode_batch([BatchEntry(b"x" * 60_000)] * 2)
        assert refused(rig.send(body=body, m="true"), 13, "limit 100000B")

    @pytest.mark.parametrize(
        ("topic", "properties", "code"),
        [
            ("%RETRY%cg", "", 13),
            ("%DLQ%" + "g" * 130, "", 13),
            ("topic-a", "DELAY\x012\x02", 13),
            ("topic-a", "TIMER_DELAY_SEC\x012\x02", 13),
            ("topic-a", "TRAN_MSG\x01true\x02", 13),
        ],
    )
    def test_what_a_batch_cannot_be(self, rig, topic, properties, code):
        assert refused(rig.send(topic, self.BODY, properties=properties, m="true"), code, "")
        assert rig.store.written_offset == 0


class TestSyncFlush:
    @pytest.fixture
    def rig(self, tmp_path):
        rig = Rig(tmp_path, flush_disk_type="SYNC_FLUSH")
        yield rig
        rig.close()

    def test_the_answer_waits_for_the_disk(self, rig):
        reply = rig.send()
        assert reply.after_flush == rig.store.written_offset

    def test_unless_the_sender_does_not_want_it(self, rig):
        assert rig.send(properties="WAIT\x01false\x02").after_flush is None
        assert rig.send(properties="WAIT\x01true\x02").after_flush is not None

    def test_so_does_the_answer_to_a_batch(self, rig):
        assert rig.send(body=TestBatch.BODY, m="true").after_flush == rig.store.written_offset
        assert rig.send(body=TestBatch.BODY, m="true", properties="WAIT\x01false\x02").after_flush is None


class TestReply:
    PROPERTIES = "MSG_TYPE\x01reply\x02REPLY_TO_CLIENT\x01asker\x02UNIQ_KEY\x01U\x02CORRELATION_ID\x01C\x02"

    def reply(self, rig, properties=PROPERTIES):
        answer = rig.send("c_REPLY_TOPIC", b"answer", properties=properties, code=RequestCode.SEND_REPLY_MESSAGE_V2)
        if hasattr(answer, "code"):
            return answer

        async def wait():
            return await answer

        return trio.run(wait)

    @pytest.fixture
    def asker(self, rig):
        peer = FakePeer(2)
        rig.heartbeat("asker", peer=peer, producerDataSet=[{"groupName": "pg"}])
        return peer

    def test_is_passed_on_and_stored(self, rig, asker):
        asker.answer = lambda request: request.reply()
        reply = self.reply(rig)
        assert (reply.code, reply.remark) == (0, None)
        assert list(reply.ext) == ["queueId", "msgId", "TRACE_ON", "MSG_REGION", "queueOffset"]
        assert len(reply.ext["msgId"]) == 32
        (push,) = asker.sent
        assert (push.code, push.body) == (RequestCode.PUSH_REPLY_MESSAGE_TO_CLIENT, b"answer")
        assert push.ext["bornHost"] == "127.0.0.1:50001"
        assert push.ext["storeHost"] == "127.0.0.1:10911"
        properties = decode_properties(push.ext["properties"])
        assert properties["CORRELATION_ID"] == "C"
        assert properties["PUSH_REPLY_TIME"] == str(rig.clock.wall_ms())
        assert rig.stored("c_REPLY_TOPIC").body == b"answer"

    def test_nobody_waits(self, rig):
        reply = self.reply(rig)
        assert (reply.code, reply.remark) == (1, "push reply message fail, channel of <asker> not found.")
        assert reply.ext["queueOffset"] == "0"
        assert rig.count("c_REPLY_TOPIC") == 1

    def test_the_asker_does_not_answer_or_refuses(self, rig, asker):
        assert "no answer" in self.reply(rig).remark
        asker.answer = lambda request: request.reply(ResponseCode.SYSTEM_ERROR, "why?")
        assert "why?" in self.reply(rig).remark
        asker.alive = False
        assert "not found" in self.reply(rig).remark

    def test_nobody_is_named(self, rig):
        reply = self.reply(rig, "MSG_TYPE\x01reply\x02")
        assert (reply.code, reply.remark) == (1, "reply message properties[REPLY_TO_CLIENT] is null")

    def test_storing_can_be_switched_off(self, rig):
        rig.change(store_reply_message_enable=False)
        reply = self.reply(rig)
        assert (reply.ext["msgId"], reply.ext["queueId"], reply.ext["queueOffset"]) == ("0", "0", "0")
        assert rig.count("c_REPLY_TOPIC") == 0

    def test_the_checks_of_a_send_count(self, rig):
        answer = rig.send("bad topic!", code=RequestCode.SEND_REPLY_MESSAGE_V2)
        assert refused(answer, 29, "illegal characters")


def test_the_reactor_is_told_when_it_may_answer_by_itself(tmp_path):
    class Reactor:
        def set_send_policy(self, **policy):
            self.policy = policy

    rig = Rig(tmp_path)
    try:
        reactor = Reactor()
        rig.broker._reactor = reactor
        rig.change(region_id="eu")
        assert reactor.policy["enabled"]
        assert reactor.policy["region"] == "eu"
        assert all(remark.isascii() for _, remark in reactor.policy["failures"].values())
        rig.change(start_accept_send_request_time_stamp=rig.clock.wall_ms() + 1)
        assert not reactor.policy["enabled"]
        rig.change(start_accept_send_request_time_stamp=0, broker_permission=4)
        assert not reactor.policy["enabled"]
        rig.change(broker_permission=6)
        assert reactor.policy["enabled"]
        trio.run(rig.broker.drain)
        assert not reactor.policy["enabled"]
    finally:
        rig.close()


def test_every_failure_of_the_store_has_an_answer():
    from fastmq import _store
    from fastmq.broker.handlers.send import store_failures
    from fastmq.config import BrokerConfig

    statuses = {value for name, value in vars(_store).items() if name.startswith("ST_")}
    assert statuses - {_store.ST_OK, _store.ST_NEED_COMMIT} == set(store_failures(BrokerConfig()))
