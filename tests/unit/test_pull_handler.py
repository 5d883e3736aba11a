"""Pulls: every check with RocketMQ's code, what is found, what is held and when it is answered."""

import pytest
import trio
import trio.testing

from fastmq.protocol.bodies import SubscriptionGroupConfig, TopicConfig
from fastmq.protocol.codes import RequestCode
from fastmq.protocol.message import decode_messages
from unit.broker_rig import FakePeer, Rig, consumer

NUMBERS = ["suggestWhichBrokerId", "groupSysFlag", "nextBeginOffset", "maxOffset", "minOffset", "topicSysFlag"]
SUSPEND = 2
COMMIT = 1


@pytest.fixture
def rig(tmp_path):
    rig = Rig(tmp_path)
    rig.broker.topics.put(TopicConfig(topic_name="topic-a", read_queue_nums=4, write_queue_nums=4))
    yield rig
    rig.close()


def offsets(reply):
    """(next, min, max) of an answer that a consumer can go on from."""
    assert list(reply.ext) == NUMBERS
    assert (reply.ext["suggestWhichBrokerId"], reply.ext["groupSysFlag"], reply.ext["topicSysFlag"]) == ("0", "0", "0")
    return tuple(int(reply.ext[name]) for name in ("nextBeginOffset", "minOffset", "maxOffset"))


def bodies(reply):
    return [message.body for message in decode_messages(reply.body)]


class TestResults:
    def test_messages_come_whole_and_in_order(self, rig):
        for number in range(3):
            rig.send(body=b"%d" % number)
        reply = rig.pull()
        assert (reply.code, reply.remark, offsets(reply)) == (0, "FOUND", (3, 0, 3))
        assert bodies(reply) == [b"0", b"1", b"2"]
        assert bodies(rig.pull(offset=1, maxMsgNums=1)) == [b"1"]

    @pytest.mark.parametrize("wanted", [0, -5])
    def test_one_message_is_the_least(self, rig, wanted):
        rig.send()
        rig.send()
        assert offsets(rig.pull(maxMsgNums=wanted)) == (1, 0, 2)

    def test_no_more_than_32_at_once(self, rig):
        for _ in range(40):
            rig.send()
        assert len(bodies(rig.pull(maxMsgNums=1000))) == 32

    def test_a_large_message_comes_alone(self, rig):
        rig.send(body=b"x" * 300_000)
        rig.send(body=b"y")
        assert offsets(rig.pull()) == (1, 0, 2)

    @pytest.mark.parametrize(
        ("offset", "code", "remark", "following"),
        [
            (2, 19, "OFFSET_OVERFLOW_ONE", 2),
            (3, 21, "OFFSET_OVERFLOW_BADLY", 2),
            (1005, 21, "OFFSET_OVERFLOW_BADLY", 2),
            (-1, 21, "OFFSET_TOO_SMALL", 0),
        ],
    )
    def test_offsets_that_are_not_there(self, rig, offset, code, remark, following):
        rig.send()
        rig.send()
        reply = rig.pull(offset=offset)
        assert (reply.code, reply.remark, reply.body) == (code, remark, b"")
        assert offsets(reply) == (following, 0, 2)

    @pytest.mark.parametrize(("offset", "code"), [(0, 19), (5, 21)])
    def test_a_queue_that_was_never_used(self, rig, offset, code):
        reply = rig.pull(offset=offset)
        assert reply.code == code
        assert reply.remark in ("NO_MESSAGE_IN_QUEUE", "NO_MATCHED_LOGIC_QUEUE")
        assert offsets(reply) == (0, 0, 0)

    def test_tags_filter_by_hash(self, rig):
        for tag in ("TagA", "TagB", "TagA", ""):
            rig.send(body=tag.encode() or b"none", properties=f"TAGS\x01{tag}\x02")
        assert bodies(rig.pull(subscription="TagA")) == [b"TagA", b"TagA"]
        assert bodies(rig.pull(subscription=" TagB || TagA ")) == [b"TagA", b"TagB", b"TagA"]
        assert len(bodies(rig.pull(subscription=""))) == 4
        reply = rig.pull(subscription="Aa")
        assert (reply.code, reply.remark, offsets(reply)) == (20, "NO_MATCHED_MESSAGE", (4, 0, 4))

    def test_colliding_tags_are_left_to_the_client(self, rig):
        rig.send(properties="TAGS\x01Aa\x02")
        assert rig.pull(subscription="BB").code == 0

    def test_messages_that_retention_removes_meanwhile(self, rig, monkeypatch):
        rig.send()

        class Removed:
            def __getattr__(self, name):
                return getattr(rig.store, name)

            def read_messages(self, messages):
                return b""

        monkeypatch.setattr(rig.broker, "store", Removed())
        reply = rig.pull()
        assert (reply.code, reply.remark, reply.body, offsets(reply)) == (20, "MESSAGE_WAS_REMOVING", b"", (1, 0, 1))

    def test_flags_of_topic_and_group_are_told(self, rig):
        rig.broker.topics.put(TopicConfig(topic_name="unit", topic_sys_flag=1))
        rig.broker.groups.put(SubscriptionGroupConfig(group_name="cg", group_sys_flag=2))
        reply = rig.pull("unit")
        assert (reply.ext["topicSysFlag"], reply.ext["groupSysFlag"]) == ("1", "2")

    def test_lite_pull_is_the_same(self, rig):
        rig.send()
        assert rig.pull(code=RequestCode.LITE_PULL_MESSAGE, sysFlag=4 + 16).code == 0


class TestChecks:
    @pytest.mark.parametrize("missing", ["consumerGroup", "topic", "queueId", "queueOffset", "maxMsgNums", "sysFlag"])
    def test_a_missing_field(self, rig, missing):
        ext = {
            "consumerGroup": "cg", "topic": "topic-a", "queueId": 0, "queueOffset": 0, "maxMsgNums": 32, "sysFlag": 4,
            "commitOffset": 0, "suspendTimeoutMillis": 0, "subVersion": 0,
        }  # fmt: skip
        del ext[missing]
        reply = rig.ask(RequestCode.PULL_MESSAGE, ext)
        assert reply.code == 1
        assert missing in reply.remark

    def test_a_broker_that_is_not_readable(self, rig):
        rig.change(broker_permission=2)
        reply = rig.pull()
        assert (reply.code, reply.ext) == (16, {"forbiddenType": "1"})
        assert reply.remark == "the broker[127.0.0.1] pulling message is forbidden"

    def test_lite_pull_switched_off(self, rig):
        rig.change(lite_pull_message_enable=False)
        reply = rig.pull(code=RequestCode.LITE_PULL_MESSAGE)
        assert (reply.code, reply.ext) == (16, {"forbiddenType": "1"})
        assert rig.pull().code == 19

    def test_a_group_that_may_not_be_made(self, rig):
        rig.change(auto_create_subscription_group=False)
        reply = rig.pull()
        assert (reply.code, reply.ext) == (26, {})
        assert reply.remark.startswith("subscription group [cg] does not exist, See https://")
        rig.change(auto_create_subscription_group=True)
        assert rig.pull().code == 19
        assert rig.pull(group="bad group").code == 26

    def test_a_group_that_may_not_consume(self, rig):
        rig.broker.groups.put(SubscriptionGroupConfig(group_name="cg", consume_enable=False))
        reply = rig.pull()
        assert (reply.code, reply.ext, reply.remark) == (
            16, {"forbiddenType": "2"}, "subscription group no permission, cg",
        )  # fmt: skip

    def test_an_unknown_topic(self, rig):
        reply = rig.pull("nowhere")
        assert (reply.code, reply.ext) == (17, {})
        assert reply.remark == (
            "topic[nowhere] not exist, apply first please! \n"
            "See https://rocketmq.apache.org/docs/bestPractice/06FAQ for further details."
        )
        assert rig.pull("").code == 17

    def test_a_topic_that_is_not_readable(self, rig):
        rig.broker.topics.put(TopicConfig(topic_name="writeonly", perm=2))
        reply = rig.pull("writeonly")
        assert (reply.code, reply.ext, reply.remark) == (
            16, {"forbiddenType": "3"}, "the topic[writeonly] pulling message is forbidden",
        )  # fmt: skip

    @pytest.mark.parametrize("queue", [4, -1, 55, 2**31 - 1])
    def test_a_queue_the_topic_does_not_have(self, rig, queue):
        reply = rig.pull(queue=queue)
        assert (reply.code, reply.ext) == (29, {})
        assert reply.remark == (
            f"queueId[{queue}] is illegal, topic:[topic-a] topicConfig.readQueueNums:[4] consumer:[/127.0.0.1:50001]"
        )

    def test_a_filter_that_says_nothing(self, rig):
        assert rig.pull(subscription="||").code == 23

    def test_a_filter_by_sql(self, rig):
        reply = rig.pull(subscription="a > 1", expressionType="SQL92")
        assert reply.code == 1
        assert reply.remark.startswith("The broker does not support consumer to filter message by SQL92: enableProp")


class TestRegisteredSubscription:
    def pull(self, rig, **more):
        return rig.pull(sysFlag=0, **more)

    def test_nobody_has_registered(self, rig):
        reply = self.pull(rig)
        assert (reply.code, reply.ext) == (24, {})
        assert reply.remark.startswith("the consumer's group info not exist\nSee https://")

    def test_the_group_does_not_subscribe_the_topic(self, rig):
        rig.heartbeat(consumerDataSet=[consumer(topics={"other": "*"})])
        reply = self.pull(rig)
        assert reply.code == 24
        assert reply.remark.startswith("the consumer's subscription not exist\n")

    def test_the_filter_of_the_heartbeat_counts(self, rig):
        rig.heartbeat(consumerDataSet=[consumer(topics={"topic-a": "TagB"})])
        rig.send(body=b"a", properties="TAGS\x01TagA\x02")
        rig.send(body=b"b", properties="TAGS\x01TagB\x02")
        assert bodies(self.pull(rig, subscription="TagA")) == [b"b"]

    def test_the_broker_must_know_the_version_of_the_client(self, rig):
        rig.heartbeat(consumerDataSet=[consumer(version=5)])
        assert self.pull(rig, subVersion=5).code == 19
        assert self.pull(rig, subVersion=0).code == 19
        reply = self.pull(rig, subVersion=6)
        assert (reply.code, reply.remark) == (25, "the consumer's subscription not latest")

    def test_a_group_may_be_kept_from_a_topic(self, rig):
        rig.heartbeat(consumerDataSet=[consumer()])
        rig.broker.groups.set_forbidden("cg", "topic-a", 2, True)
        reply = self.pull(rig)
        assert (reply.code, reply.ext) == (16, {"forbiddenType": "5"})

    def test_a_group_may_be_kept_from_broadcasting(self, rig):
        rig.broker.groups.put(SubscriptionGroupConfig(group_name="cg", consume_broadcast_enable=False))
        rig.heartbeat(consumerDataSet=[consumer(messageModel="BROADCASTING")])
        reply = self.pull(rig)
        assert (reply.code, reply.ext) == (16, {"forbiddenType": "4"})

    def test_a_registered_filter_by_sql(self, rig):
        data = consumer()
        data["subscriptionDataSet"][0]["expressionType"] = "SQL92"
        rig.heartbeat(consumerDataSet=[data])
        assert self.pull(rig).code == 1

    def test_pull_consumers_may_be_kept_out(self, rig):
        rig.change(reject_pull_consumer_enable=True)
        assert rig.pull().code == 24
        assert rig.pull(group="TOOLS_CONSUMER").code == 19
        rig.heartbeat(consumerDataSet=[consumer()])
        assert rig.pull().code == 19


class TestCommit:
    def test_a_pull_may_bring_an_offset(self, rig):
        rig.pull(sysFlag=4 | COMMIT, commitOffset=7)
        assert rig.broker.offsets.query("cg", "topic-a", 0) == 7
        rig.pull(sysFlag=4, commitOffset=9)
        assert rig.broker.offsets.query("cg", "topic-a", 0) == 7

    def test_a_refused_pull_commits_nothing(self, rig):
        rig.pull(queue=99, sysFlag=4 | COMMIT, commitOffset=7)
        assert rig.broker.offsets.query("cg", "topic-a", 99) == -1

    def test_a_held_pull_has_committed_once(self, rig):
        assert rig.pull(sysFlag=4 | COMMIT | SUSPEND, commitOffset=7) is None
        rig.broker.offsets.commit("cg", "topic-a", 0, 8)
        rig.send()
        rig.wake()
        assert len(rig.peer.replies) == 1
        assert rig.broker.offsets.query("cg", "topic-a", 0) == 8

    def test_where_the_pull_ended_is_known(self, rig):
        rig.send()
        rig.pull()
        assert rig.broker.offsets.pull_offset("cg", "topic-a", 0) == 1


class TestReset:
    def test_the_next_pull_is_sent_elsewhere_once(self, rig):
        for _ in range(5):
            rig.send()
        rig.broker.offsets.assign_reset("cg", "topic-a", 0, 2)
        reply = rig.pull(offset=5, sysFlag=4 | COMMIT, commitOffset=5)
        assert (reply.code, reply.remark, offsets(reply)) == (21, "OFFSET_RESET", (2, 0, 5))
        assert rig.broker.offsets.query("cg", "topic-a", 0) == 2
        assert rig.pull(offset=2).code == 0

    def test_a_pull_that_waits_is_told_at_once(self, rig):
        for _ in range(3):
            rig.send()
        rig.broker.groups.find_or_create("cg")
        assert rig.pull(offset=3, sysFlag=4 | SUSPEND) is None
        ext = {"topic": "topic-a", "group": "cg", "timestamp": 0, "isForce": True, "queueId": 0, "offset": 1}
        assert trio.run(lambda: rig.ask(RequestCode.INVOKE_BROKER_TO_RESET_OFFSET, ext)).code == 0
        ((_, reply),) = rig.peer.replies
        assert (reply.code, reply.remark, offsets(reply)) == (21, "OFFSET_RESET", (1, 0, 3))
        assert rig.pull(offset=1).code == 0

    def test_it_survives_a_restart(self, rig):
        for _ in range(3):
            rig.send()
        rig.broker.groups.find_or_create("cg")
        ext = {"topic": "topic-a", "group": "cg", "timestamp": 0, "isForce": True, "queueId": 0, "offset": 1}
        assert trio.run(lambda: rig.ask(RequestCode.INVOKE_BROKER_TO_RESET_OFFSET, ext)).code == 0
        rig.reopen()
        commit = {"consumerGroup": "cg", "topic": "topic-a", "queueId": 0, "commitOffset": 3}
        assert rig.ask(RequestCode.UPDATE_CONSUMER_OFFSET, commit).code == 0
        assert rig.broker.offsets.query("cg", "topic-a", 0) == 1
        assert rig.pull(offset=3).remark == "OFFSET_RESET"
        assert rig.pull(offset=1).code == 0

    def test_commits_wait_for_it(self, rig):
        rig.broker.groups.find_or_create("cg")
        rig.broker.offsets.assign_reset("cg", "topic-a", 0, 2)
        ext = {"consumerGroup": "cg", "topic": "topic-a", "queueId": 0, "commitOffset": 9}
        reply = rig.ask(RequestCode.UPDATE_CONSUMER_OFFSET, ext)
        assert reply.code == 0
        assert "reset" in reply.remark
        assert rig.broker.offsets.query("cg", "topic-a", 0) == 2


class TestWaiting:
    def hold(self, rig, **more):
        more.setdefault("sysFlag", 4 | SUSPEND)
        assert rig.pull(**more) is None

    def test_without_the_flag_the_answer_comes_at_once(self, rig):
        assert rig.pull().code == 19

    @pytest.mark.parametrize("offset", [1, 9])
    def test_only_an_empty_end_is_worth_waiting_for(self, rig, offset):
        rig.send(properties="TAGS\x01TagA\x02")
        assert rig.pull(offset=9, sysFlag=6).code == 21
        assert rig.pull(offset=0, sysFlag=6, subscription="TagB").code == 20

    def test_a_message_ends_the_wait(self, rig):
        self.hold(rig)
        rig.send(body=b"news")
        rig.wake()
        ((opaque, reply),) = rig.peer.replies
        assert (opaque, reply.code, bodies(reply)) == (1, 0, [b"news"])
        rig.expire_pulls()
        assert len(rig.peer.replies) == 1

    def test_a_message_in_another_queue_does_not(self, rig):
        self.hold(rig)
        rig.send(queue=1)
        rig.wake()
        assert rig.peer.replies == []

    def test_every_waiting_consumer_is_served(self, rig):
        peers = [FakePeer(number) for number in range(2, 5)]
        for number, peer in enumerate(peers):
            self.hold(rig, peer=peer, group=f"g{number}")
        rig.send()
        rig.wake()
        assert [len(peer.replies) for peer in peers] == [1, 1, 1]

    def test_messages_the_filter_does_not_want_leave_it_waiting(self, rig):
        self.hold(rig, subscription="TagA")
        for _ in range(3):
            rig.send(properties="TAGS\x01TagB\x02")
            rig.wake()
        assert rig.peer.replies == []
        rig.send(body=b"wanted", properties="TAGS\x01TagA\x02")
        rig.wake()
        ((_, reply),) = rig.peer.replies
        assert (bodies(reply), offsets(reply)) == ([b"wanted"], (4, 0, 4))

    def test_at_the_deadline_the_client_learns_how_far_the_filter_looked(self, rig):
        self.hold(rig, subscription="TagA", suspendTimeoutMillis=15_000)
        rig.send(properties="TAGS\x01TagB\x02")
        rig.wake()
        rig.clock.advance_ms(14_999)
        rig.expire_pulls()
        assert rig.peer.replies == []
        rig.clock.advance_ms(1)
        rig.expire_pulls()
        ((_, reply),) = rig.peer.replies
        assert (reply.code, offsets(reply)) == (20, (1, 0, 1))

    def test_at_the_deadline_of_a_quiet_queue_there_is_nothing(self, rig):
        self.hold(rig, suspendTimeoutMillis=2000)
        rig.clock.advance_ms(2000)
        rig.expire_pulls()
        ((_, reply),) = rig.peer.replies
        assert (reply.code, offsets(reply)) == (19, (0, 0, 0))
        rig.send()
        rig.wake()
        assert len(rig.peer.replies) == 1

    def test_with_short_polling_the_wait_is_short(self, rig):
        rig.change(long_polling_enable=False)
        self.hold(rig, suspendTimeoutMillis=15_000)
        rig.clock.advance_ms(1000)
        rig.expire_pulls()
        assert len(rig.peer.replies) == 1

    def test_a_closed_connection_is_forgotten(self, rig):
        self.hold(rig)
        rig.peer.alive = False
        rig.broker.closed(rig.peer)
        assert len(rig.broker.longpoll) == 0
        rig.send()
        rig.wake()
        assert rig.peer.replies == []

    def test_a_stop_answers_everybody_and_holds_nobody(self, rig):
        self.hold(rig)
        trio.run(rig.broker.drain)
        assert [reply.code for _, reply in rig.peer.replies] == [19]
        assert rig.pull(sysFlag=6).code == 19

    def test_a_message_between_read_and_wait_is_not_missed(self, rig, monkeypatch):
        watch = rig.store.__class__.watch
        sent = []

        def late_watch(topic, queue_id, on=True):
            if not sent:
                sent.append(rig.send(body=b"between"))
            return watch(rig.store, topic, queue_id, on)

        rig.broker.longpoll._watch = late_watch
        assert bodies(rig.pull(sysFlag=6)) == [b"between"]

    def test_a_group_that_lost_its_heartbeat_is_told_when_woken(self, rig):
        rig.heartbeat(consumerDataSet=[consumer()], peer=FakePeer(9))
        self.hold(rig, sysFlag=SUSPEND)
        rig.broker.sessions.closed(9)
        rig.send()
        rig.wake()
        assert [reply.code for _, reply in rig.peer.replies] == [24]

    def test_a_full_table_answers_at_once(self, rig):
        rig.broker.longpoll._max_held = 1
        self.hold(rig)
        assert rig.pull(sysFlag=6).code == 19
