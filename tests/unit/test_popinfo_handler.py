"""Looking at what a pop would find: peek, notification, polling info."""

import pytest

from fastmq.broker.delivery.popwait import HeldPop
from fastmq.protocol.bodies import TopicConfig
from fastmq.protocol.codes import RequestCode
from fastmq.protocol.message import decode_messages
from unit.broker_rig import FakePeer, Rig

RETRY = "%RETRY%cg_topic-a"


@pytest.fixture
def rig(tmp_path):
    rig = Rig(tmp_path)
    rig.broker.topics.put(TopicConfig("topic-a", 4, 4))
    yield rig
    rig.close()


def peek(rig, *, queue=-1, most=32, group="cg", topic="topic-a", peer=None):
    ext = {"consumerGroup": group, "topic": topic, "queueId": queue, "maxMsgNums": most}
    return rig.ask(RequestCode.PEEK_MESSAGE, ext, peer=peer)


def bodies(reply):
    return sorted(message.body for message in decode_messages(reply.body))


def notify(rig, *, queue=-1, group="cg", topic="topic-a", poll=15_000, born=None, peer=None, **more):
    born = rig.clock.wall_ms() if born is None else born
    ext = {"consumerGroup": group, "topic": topic, "queueId": queue, "pollTime": poll, "bornTime": born, **more}
    return rig.ask(RequestCode.NOTIFICATION, ext, peer=peer)


def info(rig, *, queue=-1, group="cg", topic="topic-a"):
    return rig.ask(RequestCode.POLLING_INFO, {"consumerGroup": group, "topic": topic, "queueId": queue})


def answers(peer):
    """What late answers say about messages."""
    found = [reply.ext["hasMsg"] for _, reply in peer.replies]
    peer.replies.clear()
    return found


# --- peek ------------------------------------------------------------------------------------------------------------


def test_a_peek_takes_nothing(rig):
    for queue in (0, 1, 1):
        rig.send(body=b"%d" % queue, queue=queue)
    for _ in range(2):
        reply = peek(rig)
        assert (reply.code, reply.remark, bodies(reply)) == (0, "FOUND", [b"0", b"1", b"1"])
        assert reply.ext == {"popTime": "0", "invisibleTime": "0", "reviveQid": "0", "restNum": "3"}
    assert rig.broker.offsets.query("cg", "topic-a", 1) == -1


def test_a_peek_begins_where_the_group_is_and_ends_with_its_number(rig):
    for number in range(5):
        rig.send(body=b"%d" % number)
    rig.broker.offsets.commit("cg", "topic-a", 0, 2)
    reply = peek(rig, queue=0, most=2)
    assert bodies(reply) == [b"2", b"3"]
    assert reply.ext["restNum"] == "3"
    assert bodies(peek(rig, queue=0, group="other")) == [b"0", b"1", b"2", b"3", b"4"]
    assert peek(rig, queue=1).code == 19
    assert peek(rig, queue=0, most=0).code == 19


def test_a_peek_sees_what_came_back(rig):
    rig.broker.topics.put(TopicConfig(RETRY, 1, 1))
    rig.store.put(RETRY, 0, b"again", b"")
    for _ in range(3):
        rig.send(body=b"new")
    seen = {tuple(bodies(peek(rig, most=3))) for _ in range(60)}
    assert seen == {(b"new", b"new", b"new"), (b"again", b"new", b"new")}, "first in one of five times"
    assert peek(rig, most=32).ext["restNum"] == "4"


def test_a_peek_of_an_offset_that_is_gone_begins_at_what_is_there(rig):
    rig.send(body=b"only")
    rig.broker.offsets.commit("cg", "topic-a", 0, 99)
    reply = peek(rig, queue=0)
    assert (reply.code, reply.ext["restNum"]) == (19, "0")
    rig.broker.offsets.commit("cg", "topic-a", 0, 1)
    assert peek(rig, queue=0).remark == "NO_MESSAGE_IN_QUEUE"


# --- notification ----------------------------------------------------------------------------------------------------


def test_a_message_that_is_there_is_told_at_once(rig):
    rig.send(queue=2)
    assert notify(rig).ext == {"hasMsg": "true", "pollingFull": "false"}
    assert notify(rig, queue=2).ext["hasMsg"] == "true"
    rig.broker.offsets.commit("cg", "topic-a", 2, 1)
    assert notify(rig, queue=2, poll=0).ext == {"hasMsg": "false", "pollingFull": "false"}
    assert notify(rig, group="other", poll=0).ext["hasMsg"] == "true"


def test_a_notification_waits_for_a_message(rig):
    assert notify(rig) is None
    rig.wake()
    assert answers(rig.peer) == []
    rig.send(queue=3)
    rig.wake()
    assert answers(rig.peer) == ["true"]


def test_one_message_is_told_to_the_newest_of_each_group(rig):
    peers = [FakePeer(number) for number in range(2, 5)]
    for peer in peers:
        assert notify(rig, peer=peer) is None
    other = FakePeer(9)
    notify(rig, group="other", peer=other)
    rig.send()
    rig.wake()
    assert [answers(peer) for peer in (*peers, other)] == [[], [], ["true"], ["true"]]


def test_a_notification_that_finds_its_message_taken_waits_on(rig):
    notify(rig, queue=0)
    rig.send()
    rig.broker.offsets.commit("cg", "topic-a", 0, 1)
    rig.wake()
    assert answers(rig.peer) == []
    assert len(rig.broker.popwaits) == 1
    rig.send()
    rig.wake()
    assert answers(rig.peer) == ["true"]


def test_a_notification_is_answered_shortly_before_its_time_is_up(rig):
    assert notify(rig, poll=2_000) is None
    rig.clock.advance_ms(1_949)
    rig.expire_pulls()
    assert answers(rig.peer) == []
    rig.clock.advance_ms(1)
    rig.expire_pulls()
    assert answers(rig.peer) == ["false"]
    assert len(rig.broker.popwaits) == 0


def test_a_client_with_a_fast_clock_is_not_held_for_longer(rig):
    assert notify(rig, poll=2_000, born=rig.clock.wall_ms() + 3_600_000) is None
    rig.clock.advance_ms(1_950)
    rig.expire_pulls()
    assert answers(rig.peer) == ["false"]
    assert notify(rig, poll=2_000, born=rig.clock.wall_ms() - 1_960).ext["hasMsg"] == "false"
    assert notify(rig, poll=2_000, born=0) is None


def test_a_message_that_came_back_is_told(rig):
    assert notify(rig) is None
    rig.broker.topics.put(TopicConfig(RETRY, 1, 1))
    rig.store.put(RETRY, 0, b"again", b"")
    rig.wake()
    assert answers(rig.peer) == ["true"]
    assert notify(rig).ext["hasMsg"] == "true"
    assert notify(rig, order=True) is None, "orderly pops read no retry topic"


def test_retry_topics_of_both_versions_are_looked_at(rig):
    rig.change(enable_retry_topic_v2=True)
    for name in (RETRY, "%RETRY%cg+topic-a"):
        assert notify(rig) is None
        rig.store.put(name, 0, b"again", b"")
        rig.wake()
        assert answers(rig.peer) == ["true"]
        rig.broker.offsets.commit("cg", name, 0, 1)
    rig.change(retrieve_message_from_pop_retry_topic_v1=False)
    rig.store.put(RETRY, 0, b"again", b"")
    assert notify(rig, poll=0).ext["hasMsg"] == "false"


def test_a_blocked_queue_has_nothing_until_it_is_free(rig):
    rig.send()
    at = rig.clock.wall_ms()
    rig.broker.order.put("topic-a", "cg", 0, [0], attempt_id="a", pop_ms=at, invisible_ms=5_000, now_ms=at)
    assert notify(rig, order=True) is None
    assert notify(rig, order=True, attemptId="a").ext["hasMsg"] == "true"
    rig.send()
    rig.wake()
    rig.clock.advance_ms(4_999)
    rig.expire_pulls()
    assert answers(rig.peer) == []
    rig.clock.advance_ms(1)
    rig.expire_pulls()
    assert answers(rig.peer) == ["true"]


def test_notifications_have_a_bound(rig):
    rig.change(pop_polling_size=1)
    assert notify(rig) is None
    assert notify(rig).ext == {"hasMsg": "false", "pollingFull": "true"}
    assert notify(rig, queue=0) is None


def test_a_message_between_looking_and_waiting_is_not_missed(rig):
    late_watch = rig.broker.popwaits.notifications._watch

    def watch(topic, queue_id, on):
        rig.broker.popwaits.notifications._watch = late_watch
        rig.send()
        return late_watch(topic, queue_id, on)

    rig.broker.popwaits.notifications._watch = watch
    assert notify(rig, queue=0).ext["hasMsg"] == "true"
    assert len(rig.broker.popwaits) == 0


def test_a_stopping_broker_answers(rig):
    notify(rig)
    rig.broker.draining = True
    rig.broker.popwaits.answer_all()
    assert answers(rig.peer) == ["false"]
    assert notify(rig).ext["hasMsg"] == "false"


def test_a_closed_connection_is_forgotten(rig):
    notify(rig)
    rig.broker.closed(rig.peer)
    assert len(rig.broker.popwaits) == 0


def test_a_topic_that_goes_while_a_notification_waits(rig):
    notify(rig)
    rig.broker.topics.delete("topic-a")
    rig.broker.popwaits.topic_gone("topic-a")
    ((_, reply),) = rig.peer.replies
    assert reply.code == 17


# --- polling info ----------------------------------------------------------------------------------------------------


def test_how_many_pops_wait(rig):
    assert info(rig).ext == {"pollingNum": "0"}
    for queue_id in (-1, -1, 2):
        held = HeldPop("topic-a", "cg", queue_id, {("topic-a", 2): 0}, 9.0, 1, None, lambda _held: None)
        rig.broker.popwaits.pops.hold(held)
    notify(rig)
    assert [info(rig, queue=queue).ext["pollingNum"] for queue in (-1, 2, 3)] == ["2", "1", "0"]


# --- what all refuse -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ask", "ext"),
    [
        (peek, {"popTime": "0", "invisibleTime": "0", "reviveQid": "0", "restNum": "0"}),
        (notify, {"hasMsg": "false", "pollingFull": "false"}),
        (info, {"pollingNum": "0"}),
    ],
)
def test_refusals(rig, ask, ext):
    def refused(**facts):
        reply = ask(rig, **facts)
        assert reply.ext == ext
        return reply.code, reply.remark

    assert refused(topic="nowhere")[0] == 17
    assert refused(queue=4)[0] == 29
    rig.broker.topics.put(TopicConfig("secret", 4, 4, perm=2))
    assert refused(topic="secret") == (16, "the topic[secret] peeking message is forbidden")
    rig.change(auto_create_subscription_group=False)
    assert refused(group="unknown")[0] == 26
    rig.change(broker_permission=2)
    assert refused() == (16, "the broker[127.0.0.1] peeking message is forbidden")


def test_a_group_that_may_not_consume(rig):
    import dataclasses

    group = rig.broker.groups.find_or_create("cg")
    rig.broker.groups.put(dataclasses.replace(group, consume_enable=False))
    for ask in (peek, notify, info):
        assert ask(rig).code == 16
