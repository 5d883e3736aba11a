"""Heartbeats, leaving, members of a group, filter checks, locks, and who is told of changes."""

import pytest
import trio
import trio.testing

from fastmq.broker.delivery.notices import CROWD
from fastmq.protocol.bodies import SubscriptionGroupConfig, TopicConfig, loads_lenient
from fastmq.protocol.codes import RequestCode
from unit.broker_rig import FakePeer, Rig, consumer


@pytest.fixture
def rig(tmp_path):
    rig = Rig(tmp_path)
    yield rig
    rig.close()


@pytest.fixture
def other():
    return FakePeer(2)


def told(peer):
    """The groups that a client was told of."""
    assert all((c.code, c.flag, c.body) == (RequestCode.NOTIFY_CONSUMER_IDS_CHANGED, 2, b"") for c in peer.sent)
    groups = [command.ext["consumerGroup"] for command in peer.sent]
    peer.sent.clear()
    return groups


def members(rig, group="cg"):
    reply = rig.ask(RequestCode.GET_CONSUMER_LIST_BY_GROUP, {"consumerGroup": group})
    return loads_lenient(reply.body)["consumerIdList"] if reply.code == 0 else reply


class TestHeartbeat:
    def test_makes_group_and_retry_topic(self, rig):
        reply = rig.heartbeat(consumerDataSet=[consumer()])
        assert (reply.code, reply.ext) == (0, {"IS_SUPPORT_HEART_BEAT_V2": "true", "IS_SUB_CHANGE": "true"})
        assert "cg" in rig.broker.groups
        topic = rig.broker.topics.get("%RETRY%cg")
        assert (topic.read_queue_nums, topic.perm, topic.order, topic.topic_sys_flag) == (1, 6, False, 0)
        assert members(rig) == ["client-1"]

    def test_the_retry_topic_follows_the_group(self, rig):
        rig.broker.groups.put(SubscriptionGroupConfig(group_name="cg", retry_queue_nums=3))
        rig.broker.topics.put(TopicConfig(topic_name="topic-a", order=True))
        rig.heartbeat(consumerDataSet=[consumer(unitMode=True)])
        topic = rig.broker.topics.get("%RETRY%cg")
        assert (topic.read_queue_nums, topic.order, topic.topic_sys_flag) == (3, True, 2)

    def test_a_group_that_may_not_exist_is_passed_over(self, rig):
        rig.change(auto_create_subscription_group=False)
        reply = rig.heartbeat(consumerDataSet=[consumer()], producerDataSet=[{"groupName": "pg"}])
        assert reply.code == 0
        assert rig.broker.topics.get("%RETRY%cg") is None
        assert len(rig.broker.sessions.producers("pg")) == 1

    @pytest.mark.parametrize("name", ["", "a b", "x" * 300])
    def test_so_is_a_group_with_a_bad_name(self, rig, name):
        assert rig.heartbeat(consumerDataSet=[consumer(name)]).code == 0
        assert rig.broker.sessions.consumer_groups() == []

    def test_what_a_cpp_client_sends_is_read(self, rig):
        body = (
            b'{"clientID":"cpp","consumerDataSet":[{"consumeFromWhere":4,"consumeType":1,"groupName":"cg",'
            b'"messageModel":0,"subscriptionDataSet":[{"subString":"*","subVersion":"1700000000000","topic":"topic-a"}]}]}'
        )
        assert rig.ask(RequestCode.HEART_BEAT, {}, body, language="CPP", version=49).code == 0
        info = rig.broker.sessions.consumer_group("cg")
        assert info.is_broadcasting
        assert info.consume_from_where == "CONSUME_FROM_FIRST_OFFSET"
        (channel,) = info.channels.values()
        assert (channel.language, channel.version) == ("CPP", 49)

    @pytest.mark.parametrize(
        "body", [b"", b"{", b"[]", b"{}", b'{"clientID":""}', b'{"clientID":"c","consumerDataSet":5}']
    )
    def test_garbage_is_refused(self, rig, body):
        assert rig.ask(RequestCode.HEART_BEAT, {}, body).code == 1

    def test_pull_consumers_may_be_kept_out(self, rig):
        rig.change(reject_pull_consumer_enable=True)
        rig.heartbeat(consumerDataSet=[consumer(consumeType="CONSUME_ACTIVELY")])
        assert rig.broker.sessions.consumer_groups() == []


class TestHeartbeatV2:
    def beat(self, rig, fingerprint, *, short=False, peer=None):
        data = consumer()
        if short:
            data["subscriptionDataSet"] = []
        reply = rig.heartbeat(
            f"client-{fingerprint}",
            peer=peer,
            heartbeatFingerprint=fingerprint,
            withoutSub=short,
            consumerDataSet=[data],
        )
        assert reply.ext["IS_SUPPORT_HEART_BEAT_V2"] == "true"
        return reply.ext["IS_SUB_CHANGE"] == "true"

    def test_short_heartbeats_keep_the_subscriptions(self, rig):
        assert not self.beat(rig, 5)
        assert not self.beat(rig, 5, short=True)
        assert set(rig.broker.sessions.consumer_group("cg").subscriptions) == {"topic-a"}

    def test_a_client_with_other_subscriptions_makes_all_send_theirs(self, rig, other):
        self.beat(rig, 5)
        assert self.beat(rig, 6, peer=other)
        assert self.beat(rig, 5, short=True)

    def test_after_a_restart_short_heartbeats_are_not_enough(self, rig):
        self.beat(rig, 5)
        rig.reopen()
        assert self.beat(rig, 5, short=True)
        assert not self.beat(rig, 5)

    def test_short_heartbeats_leave_the_order_mark(self, rig):
        rig.broker.topics.put(TopicConfig(topic_name="topic-a", order=True))
        self.beat(rig, 5)
        self.beat(rig, 5, short=True)
        assert rig.broker.topics.get("%RETRY%cg").order


class TestBatchedNotices:
    """realTimeNotifyConsumerChange=false."""

    def test_members_learn_of_all_changes_at_once(self, rig, other):
        rig.change(real_time_notify_consumer_change=False)
        rig.heartbeat(consumerDataSet=[consumer(), consumer("g2")])
        rig.heartbeat("client-2", peer=other, consumerDataSet=[consumer()])
        assert (told(rig.peer), told(other)) == ([], [])
        rig.broker.notices.tell_pending()
        assert (told(rig.peer), told(other)) == (["cg", "g2"], ["cg"])
        rig.broker.notices.tell_pending()
        assert (told(rig.peer), told(other)) == ([], [])

    def test_those_who_left_are_not_told(self, rig, other):
        rig.change(real_time_notify_consumer_change=False)
        rig.heartbeat(consumerDataSet=[consumer()])
        rig.heartbeat("client-2", peer=other, consumerDataSet=[consumer("g2")])
        other.alive = False
        rig.broker.closed(other)
        rig.broker.notices.tell_pending()
        assert (told(rig.peer), told(other)) == (["cg"], [])

    def test_what_forbids_notices_when_the_round_comes_counts(self, rig):
        rig.change(real_time_notify_consumer_change=False)
        rig.heartbeat(consumerDataSet=[consumer(), consumer("g2")])
        rig.broker.groups.put(SubscriptionGroupConfig(group_name="cg", notify_consumer_ids_changed_enable=False))
        rig.broker.notices.tell_pending()
        assert told(rig.peer) == ["g2"]

    def test_a_round_comes_every_fifteen_seconds(self, rig):
        async def rounds():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(rig.broker.notices.run)
                rig.change(real_time_notify_consumer_change=False)
                rig.heartbeat(consumerDataSet=[consumer()])
                await trio.sleep(14.9)
                assert told(rig.peer) == []
                await trio.sleep(0.2)
                assert told(rig.peer) == ["cg"]
                nursery.cancel_scope.cancel()

        trio.run(rounds, clock=trio.testing.MockClock(autojump_threshold=0))


class TestCrowds:
    """Groups of many members are told at most twice a second, and always once after the last change."""

    @pytest.fixture
    def crowd(self, rig):
        peers = [FakePeer(number) for number in range(2, 2 + CROWD)]
        for peer in peers:
            rig.heartbeat(f"client-{peer.id}", peer=peer, consumerDataSet=[consumer()])
        assert told(peers[0]) == ["cg"] * CROWD, "a group of a few is told each time"
        return peers

    def join(self, rig, number):
        peer = FakePeer(number)
        rig.heartbeat(f"client-{number}", peer=peer, consumerDataSet=[consumer()])
        return peer

    def test_changes_in_quick_succession_are_told_together(self, rig, crowd):
        for peer in crowd:
            told(peer)
        newcomers = [self.join(rig, 100 + number) for number in range(5)]
        assert told(crowd[0]) == ["cg"], "the first one of them at once"
        assert [told(peer) for peer in newcomers] == [["cg"], [], [], [], []]
        rig.clock.advance_ms(500)
        rig.broker.notices.tell_crowded()
        assert told(crowd[0]) == ["cg"]
        assert [told(peer) for peer in newcomers] == [["cg"]] * 5
        rig.broker.notices.tell_crowded()
        assert told(crowd[0]) == []

    def test_after_a_while_it_is_at_once_again(self, rig, crowd):
        self.join(rig, 100)
        told(crowd[0])
        rig.clock.advance_ms(500)
        self.join(rig, 101)
        assert told(crowd[0]) == ["cg"]
        rig.broker.notices.tell_crowded()
        assert told(crowd[0]) == []

    def test_small_groups_do_not_wait_for_crowds(self, rig, crowd):
        self.join(rig, 100)
        self.join(rig, 101)
        rig.heartbeat(consumerDataSet=[consumer("small")])
        assert told(rig.peer) == ["small"]

    def test_the_last_change_is_told_within_a_second(self, rig, crowd):
        async def joins():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(rig.broker.notices.run)
                await trio.testing.wait_all_tasks_blocked()
                self.join(rig, 100)
                told(crowd[0])
                self.join(rig, 101)
                await trio.sleep(0.6)
                assert told(crowd[0]) == ["cg"]
                nursery.cancel_scope.cancel()

        trio.run(joins, clock=trio.testing.MockClock(autojump_threshold=0))


class TestNotices:
    def test_members_learn_that_one_came_or_went(self, rig, other):
        rig.heartbeat(consumerDataSet=[consumer()])
        assert told(rig.peer) == ["cg"]
        rig.heartbeat("client-2", peer=other, consumerDataSet=[consumer()])
        assert (told(rig.peer), told(other)) == (["cg"], ["cg"])
        rig.heartbeat("client-2", peer=other, consumerDataSet=[consumer()])
        assert (told(rig.peer), told(other)) == ([], [])
        other.alive = False
        rig.broker.closed(other)
        assert told(rig.peer) == ["cg"]
        assert members(rig) == ["client-1"]

    def test_members_learn_that_one_left(self, rig, other):
        rig.heartbeat(consumerDataSet=[consumer()])
        rig.heartbeat("client-2", peer=other, consumerDataSet=[consumer()])
        told(rig.peer)
        told(other)
        ext = {"clientID": "client-2", "consumerGroup": "cg", "producerGroup": ""}
        reply = rig.ask(RequestCode.UNREGISTER_CLIENT, ext, peer=other)
        assert (reply.code, reply.ext) == (0, {})
        assert (told(rig.peer), told(other)) == (["cg"], [])

    def test_broadcasting_groups_are_left_alone(self, rig, other):
        data = consumer(messageModel="BROADCASTING")
        rig.heartbeat(consumerDataSet=[data])
        rig.heartbeat("client-2", peer=other, consumerDataSet=[data])
        assert told(rig.peer) == []

    def test_so_are_groups_and_brokers_that_do_not_want_it(self, rig, other):
        rig.broker.groups.put(SubscriptionGroupConfig(group_name="cg", notify_consumer_ids_changed_enable=False))
        rig.heartbeat(consumerDataSet=[consumer()])
        assert told(rig.peer) == []
        rig.change(notify_consumer_ids_changed_enable=False)
        rig.heartbeat("client-2", peer=other, consumerDataSet=[consumer("g2")])
        assert told(other) == []

    def test_silent_clients_are_disconnected(self, rig, other):
        rig.heartbeat(consumerDataSet=[consumer()])
        rig.clock.advance_ms(60_000)
        rig.heartbeat("client-2", peer=other, consumerDataSet=[consumer()])
        rig.clock.advance_ms(60_001)
        told(other)
        rig.broker.expire_clients()
        assert not rig.peer.alive
        assert other.alive
        assert told(other) == ["cg"]


class TestMembers:
    def test_nobody_is_an_error_and_not_an_empty_list(self, rig):
        reply = members(rig, "nobody")
        assert (reply.code, reply.remark) == (1, "no consumer for this group, nobody")
        assert rig.ask(RequestCode.GET_CONSUMER_LIST_BY_GROUP).code == 1

    def test_every_member_is_named_once(self, rig, other):
        rig.heartbeat("a", consumerDataSet=[consumer()])
        rig.heartbeat("b", peer=other, consumerDataSet=[consumer()])
        rig.heartbeat("a", peer=FakePeer(3), consumerDataSet=[consumer()])
        assert members(rig) == ["a", "b"]


class TestFilterCheck:
    def check(self, rig, subscription):
        return rig.ask(
            RequestCode.CHECK_CLIENT_CONFIG, {}, {"clientId": "c", "group": "g", "subscriptionData": subscription}
        )

    def test_tags_are_fine(self, rig):
        assert self.check(rig, {"topic": "t", "subString": "a||b", "expressionType": "TAG"}).code == 0
        assert rig.ask(RequestCode.CHECK_CLIENT_CONFIG).code == 0

    def test_sql_is_refused_at_the_start(self, rig):
        reply = self.check(rig, {"topic": "t", "subString": "a > 1", "expressionType": "SQL92"})
        assert reply.code == 1
        assert reply.remark.startswith("The broker does not support consumer to filter message by SQL92: enableProp")


class TestLocks:
    QUEUES = tuple({"brokerName": "b", "queueId": number, "topic": "t"} for number in range(3))

    def ask(self, rig, code, client, queues, **more):
        return rig.ask(code, {}, {"clientId": client, "consumerGroup": "cg", "mqSet": list(queues), **more})

    def lock(self, rig, client, queues):
        reply = self.ask(rig, RequestCode.LOCK_BATCH_MQ, client, queues)
        assert (reply.code, reply.ext) == (0, {})
        return loads_lenient(reply.body)["lockOKMQSet"]

    def test_the_answer_names_what_the_client_holds(self, rig):
        zero, one, two = self.QUEUES
        assert self.lock(rig, "c1", [zero, one]) == [zero, one]
        assert self.lock(rig, "c2", [zero, two]) == [two]
        reply = self.ask(rig, RequestCode.UNLOCK_BATCH_MQ, "c1", [zero], onlyThisBroker=False)
        assert (reply.code, reply.body) == (0, b"")
        assert self.lock(rig, "c2", [zero, one, two]) == [zero, two]

    def test_the_body_is_written_as_rocketmq_does(self, rig):
        reply = self.ask(rig, RequestCode.LOCK_BATCH_MQ, "c1", self.QUEUES[:1])
        assert reply.body == b'{"lockOKMQSet":[{"brokerName":"b","queueId":0,"topic":"t"}]}'

    def test_a_silent_holder_loses_its_locks(self, rig):
        self.lock(rig, "c1", self.QUEUES)
        rig.clock.advance_ms(60_001)
        rig.broker.expire_clients()
        assert self.lock(rig, "c2", self.QUEUES) == list(self.QUEUES)

    def test_their_life_is_a_setting(self, rig):
        self.lock(rig, "c1", self.QUEUES)
        rig.change(rebalance_lock_max_live_time=2000)
        rig.clock.advance_ms(2000)
        assert self.lock(rig, "c2", self.QUEUES) == []
        rig.clock.advance_ms(1)
        assert self.lock(rig, "c2", self.QUEUES) == list(self.QUEUES)

    def test_nobody_holds_one_after_a_restart(self, rig):
        self.lock(rig, "c1", self.QUEUES)
        rig.reopen()
        assert self.lock(rig, "c2", self.QUEUES) == list(self.QUEUES)

    def test_strict_mode_asks_this_broker_alone_while_there_are_no_others(self, rig):
        rig.change(lock_in_strict_mode=True)
        assert self.lock(rig, "c1", self.QUEUES[:1]) == [self.QUEUES[0]]
        assert self.lock(rig, "c2", self.QUEUES) == list(self.QUEUES[1:])

    def test_neither_group_nor_topic_need_exist_nor_queues_be_named(self, rig):
        assert "cg" not in rig.broker.groups
        assert self.lock(rig, "c1", self.QUEUES) == list(self.QUEUES)
        assert self.lock(rig, "c1", []) == []
        reply = rig.ask(RequestCode.LOCK_BATCH_MQ, {}, {"clientId": "c1", "consumerGroup": "cg"})
        assert (reply.code, loads_lenient(reply.body)) == (0, {"lockOKMQSet": []})

    @pytest.mark.parametrize(("client", "group"), [("", "cg"), ("c1", ""), (None, None)])
    def test_nobody_and_no_group_hold_nothing(self, rig, client, group):
        for code in (RequestCode.LOCK_BATCH_MQ, RequestCode.UNLOCK_BATCH_MQ):
            reply = self.ask(rig, code, client, self.QUEUES, consumerGroup=group)
            assert (reply.code, reply.body) in ((0, b'{"lockOKMQSet":[]}'), (0, b""))
        assert self.lock(rig, "c2", self.QUEUES) == list(self.QUEUES)

    @pytest.mark.parametrize("code", [RequestCode.LOCK_BATCH_MQ, RequestCode.UNLOCK_BATCH_MQ])
    def test_garbage_is_refused(self, rig, code):
        assert rig.ask(code, {}, b"{broken").code == 1


def test_topics_that_name_servers_call_ordered_become_so(rig):
    rig.broker.topics.put(TopicConfig(topic_name="topic-a"))
    rig.broker._mark_ordered(frozenset({"topic-a", "unknown"}))
    assert rig.broker.topics.get("topic-a").order
    version = rig.broker.topics.data_version
    rig.broker._mark_ordered(frozenset({"topic-a"}))
    assert rig.broker.topics.data_version == version
