"""Connected clients: heartbeats, subscriptions, leaving, expiry, who is told."""

import pytest

from fastmq.broker.state.sessions import ClientChannel, ClientSessions, ConsumerHeartbeat
from fastmq.protocol.bodies import ConsumeFromWhere, ConsumeType, MessageModel, SubscriptionData
from unit.broker_rig import FakePeer


class Sessions(ClientSessions):
    """The table, with what it told and short words for tests."""

    def __init__(self):
        super().__init__(lambda group, channels: self.told.append((group, [c.client_id for c in channels])))
        self.told = []

    def beat(
        self, peer, group="g", topics=("t",), *, version=1, now=0.0, client=None, fingerprint=0, model="CLUSTERING"
    ):
        heartbeat = ConsumerHeartbeat(
            group=group,
            consume_type=ConsumeType.CONSUME_PASSIVELY,
            message_model=MessageModel(model),
            consume_from_where=ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET,
            subscriptions=None
            if topics is None
            else tuple(SubscriptionData.from_expression(t, "*", sub_version=version) for t in topics),
            fingerprint=fingerprint,
        )
        wanted = self.take_fingerprint(heartbeat)
        self.register_consumer(heartbeat, channel(peer, now, client))
        return wanted


def channel(peer, now=0.0, client=None):
    return ClientChannel(client or f"c{peer.id}", peer, "JAVA", 479, int(now * 1000), now)


@pytest.fixture
def sessions():
    return Sessions()


ONE, TWO = FakePeer(1), FakePeer(2)


def test_a_heartbeat_makes_a_member(sessions):
    sessions.beat(ONE, topics=("t", "%RETRY%g"))
    info = sessions.consumer_group("g")
    assert info.client_ids() == ["c1"]
    assert set(info.subscriptions) == {"t", "%RETRY%g"}
    assert sessions.groups_subscribing("t") == {"g"}
    assert sessions.find_consumer_channel("g", "c1").peer is ONE
    assert sessions.find_consumer_channel("g", "c9") is None
    assert sessions.consumer_group("h") is None


def test_members_are_told_when_one_comes_and_not_when_it_stays(sessions):
    sessions.beat(ONE)
    sessions.beat(ONE)
    sessions.beat(TWO)
    assert sessions.told == [("g", ["c1"]), ("g", ["c1", "c2"])]


def test_members_are_told_when_a_topic_comes_or_goes_but_not_of_a_new_filter(sessions):
    sessions.beat(ONE)
    sessions.told.clear()
    sessions.beat(ONE, topics=("t", "u"), version=2)
    assert sessions.told == [("g", ["c1"])]
    sessions.beat(ONE, topics=("t", "u"), version=3)
    assert len(sessions.told) == 1
    sessions.beat(ONE, topics=("t",), version=3)
    assert len(sessions.told) == 2
    assert set(sessions.consumer_group("g").subscriptions) == {"t"}


def test_only_a_newer_filter_replaces_the_known_one(sessions):
    sessions.beat(ONE, version=5)
    sessions.beat(TWO, version=4)
    assert sessions.consumer_group("g").subscriptions["t"].sub_version == 5
    sessions.beat(TWO, version=6)
    assert sessions.find_subscription("g", "t").sub_version == 6


def test_the_last_heartbeat_says_how_the_group_consumes(sessions):
    sessions.beat(ONE)
    sessions.beat(TWO, model="BROADCASTING")
    assert sessions.consumer_group("g").is_broadcasting


def test_another_client_on_the_same_connection_replaces_the_first(sessions):
    sessions.beat(ONE, client="old")
    sessions.beat(ONE, client="new")
    assert sessions.consumer_group("g").client_ids() == ["new"]
    assert sessions.told[-1] == ("g", ["new"])


def test_the_end_of_a_connection_removes_its_clients_and_tells_the_rest(sessions):
    sessions.beat(ONE)
    sessions.beat(ONE, group="h")
    sessions.beat(TWO)
    sessions.register_producer("p", channel(ONE))
    sessions.told.clear()
    sessions.closed(1)
    sessions.closed(1)
    assert sessions.told == [("g", ["c2"]), ("h", [])]
    assert sessions.consumer_group("h") is None
    assert sessions.producers("p") == []
    assert sessions.statistics() == {"producer_groups": 0, "producers": 0, "consumer_groups": 1, "consumers": 1}


def test_leaving_one_group_leaves_the_others(sessions):
    sessions.beat(ONE)
    sessions.beat(ONE, group="h")
    sessions.register_producer("p", channel(ONE))
    sessions.unregister(1, producer_group="", consumer_group="g")
    sessions.unregister(1, producer_group="q", consumer_group="q")
    assert sessions.consumer_group("g") is None
    assert sessions.consumer_group("h") is not None
    assert len(sessions.producers("p")) == 1
    sessions.unregister(1, producer_group="p")
    assert sessions.producer_groups() == {}
    sessions.closed(1)
    assert sessions.consumer_groups() == []


def test_the_latest_connection_of_a_producer_is_found(sessions):
    sessions.register_producer("p", channel(ONE, 1.0, "me"))
    sessions.register_producer("q", channel(TWO, 2.0, "me"))
    assert sessions.find_producer_channel("me").peer is TWO
    sessions.closed(2)
    assert sessions.find_producer_channel("me").peer is ONE
    assert sessions.find_producer_channel("you") is None


class TestExpiry:
    def expire(self, sessions, now):
        return sessions.expire(now, consumer_timeout_s=120, compensation_timeout_s=600)

    def test_silent_clients_are_dropped_and_given_back(self, sessions):
        sessions.beat(ONE, now=0)
        sessions.beat(TWO, now=50)
        sessions.register_producer("p", channel(ONE, 0))
        assert self.expire(sessions, 120) == []
        sessions.told.clear()
        assert self.expire(sessions, 121) == [ONE]
        assert sessions.told == [("g", ["c2"])]
        assert sessions.producers("p") == []

    def test_a_heartbeat_keeps_a_client(self, sessions):
        sessions.beat(ONE, now=0)
        sessions.beat(ONE, now=100)
        assert self.expire(sessions, 200) == []

    def test_what_pulls_told_is_forgotten_later(self, sessions):
        subscription = SubscriptionData.from_expression("t", "TagA")
        sessions.compensate("pull-group", subscription, 0)
        assert sessions.find_subscription("pull-group", "t") == subscription
        assert sessions.consumer_group("pull-group") is None
        sessions.compensate("pull-group", None, 300)
        self.expire(sessions, 900)
        assert sessions.compensated_group("pull-group") is not None
        self.expire(sessions, 901)
        assert sessions.find_subscription("pull-group", "t") is None


class TestFingerprints:
    def test_the_first_full_heartbeat_is_enough(self, sessions):
        assert not sessions.beat(ONE, fingerprint=7)
        assert not sessions.beat(ONE, topics=None, fingerprint=7)
        assert set(sessions.consumer_group("g").subscriptions) == {"t"}

    def test_another_one_asks_for_the_full_heartbeat(self, sessions):
        sessions.beat(ONE, fingerprint=7)
        assert sessions.beat(TWO, fingerprint=8)
        assert sessions.beat(ONE, topics=None, fingerprint=7)
        assert not sessions.beat(ONE, fingerprint=7)

    def test_a_short_heartbeat_to_a_broker_that_knows_nothing_asks_for_the_full_one(self, sessions):
        assert sessions.beat(ONE, topics=None, fingerprint=7)

    def test_a_group_that_ended_begins_anew(self, sessions):
        sessions.beat(ONE, fingerprint=7)
        sessions.closed(1)
        assert not sessions.beat(TWO, fingerprint=8)
