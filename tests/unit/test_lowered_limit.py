"""maxMessageSize is a limit for clients: what was accepted before it was lowered still arrives, on whatever way."""

import dataclasses

import pytest

from fastmq.protocol.bodies import SubscriptionGroupConfig, TopicConfig
from fastmq.protocol.codes import RequestCode
from fastmq.protocol.message import parse_message_id
from unit.pop_rig import PopRig
from unit.transaction_rig import COMMIT, MAX_TIME, Transacting, checks

BIG = b"x" * 200_000
LIMIT = 10


class Everything(PopRig, Transacting):
    """Pops and transactions on one broker."""


@pytest.fixture
def rig(tmp_path):
    rig = Everything(tmp_path, message_delay_level="1s 5s 10s", transaction_check_max=2)
    rig.broker.topics.put(TopicConfig("topic-a", 1, 1))
    yield rig
    rig.close()


def lower(rig):
    """As UPDATE_BROKER_CONFIG does, and as a restart with another setting does."""
    rig.change(max_message_size=LIMIT)
    rig.config = dataclasses.replace(rig.config, max_message_size=LIMIT)
    rig.store.reconfigure(max_message_bytes=LIMIT)
    assert rig.send(body=BIG).code == 13
    assert rig.send(body=b"y" * (LIMIT + 1)).code == 13
    assert rig.send("elsewhere", body=b"y" * LIMIT).code == 0


def arrived(rig, topic="topic-a"):
    return [len(rig.stored(topic, 0, offset).body) for offset in range(rig.count(topic))]


def test_a_delay_level(rig):
    assert rig.send(body=BIG, properties="DELAY\x011\x02").code == 0
    lower(rig)
    rig.clock.advance_ms(1000)
    assert rig.broker.delay.due(rig.clock.wall_ms()).delivered == 1
    assert arrived(rig) == [len(BIG)]


def test_a_timer(rig):
    assert rig.send(body=BIG, properties="TIMER_DELAY_SEC\x015\x02").code == 0
    lower(rig)
    rig.pass_ms(6000)
    assert arrived(rig) == [len(BIG)]


def test_a_timer_that_is_sent_on_to_a_later_slot(tmp_path):
    rig = Everything(tmp_path, timer_roll_window_slot=4)
    assert rig.send(body=BIG, properties="TIMER_DELAY_SEC\x0110\x02").code == 0
    lower(rig)
    rig.pass_ms(11_000)
    assert arrived(rig) == [len(BIG)]
    rig.close()


def test_a_commit_and_a_check(rig):
    half = rig.begin("K1", BIG)
    rig.begin("K2", BIG)
    lower(rig)
    assert rig.end(half, COMMIT).code == 0
    assert arrived(rig) == [len(BIG)]
    producer = rig.producer()
    rig.check(after_ms=7000)
    ((asked, _),) = checks(producer)
    assert rig.end(asked, COMMIT).code == 0
    assert arrived(rig) == [len(BIG), len(BIG)]


def test_a_transaction_that_is_given_up(rig):
    rig.begin("K1", BIG)
    lower(rig)
    rig.producer()
    for _ in range(3):
        rig.check(after_ms=7000)
    assert arrived(rig, MAX_TIME) == [len(BIG)]


def test_a_pop_that_comes_back(rig):
    rig.send(body=BIG)
    lower(rig)
    (one,) = rig.take(invisibleTime=2000)
    rig.pass_ms(2000)
    assert arrived(rig, "%RETRY%cg_topic-a") == [len(BIG)]
    assert rig.ack(one).code == 0


@pytest.mark.parametrize(("level", "topic"), [(1, "%RETRY%cg"), (-1, "%DLQ%cg")])
def test_a_message_that_is_given_back(rig, level, topic):
    rig.broker.groups.put(SubscriptionGroupConfig(group_name="cg"))
    sent = parse_message_id(rig.send(body=BIG).ext["msgId"])[2]
    lower(rig)
    ext = {"group": "cg", "offset": sent, "delayLevel": level}
    assert rig.ask(RequestCode.CONSUMER_SEND_MSG_BACK, ext).code == 0
    rig.clock.advance_ms(1000)
    rig.broker.delay.due(rig.clock.wall_ms())
    assert arrived(rig, topic) == [len(BIG)]


def test_what_no_log_file_holds_is_refused_all_the_same(rig):
    room = rig.SIZES["segment_bytes"]
    assert rig.store.put("topic-a", 0, b"x" * room, b"", internal=True).status == 5
    assert rig.store.put("topic-a", 0, b"x" * (room - 200), b"", internal=True).status == 0
