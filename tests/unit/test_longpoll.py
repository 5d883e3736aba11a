"""Waiting pulls: what wakes them, when their time is up, who is forgotten."""

import pytest

from fastmq.broker.delivery.longpoll import HeldPull, LongPollTable
from unit.queue_ends import Queues


@pytest.fixture
def queues():
    return Queues()


@pytest.fixture
def table(queues):
    return LongPollTable(queues.watch)


def pull(offset=0, *, topic="t", queue_id=0, deadline=10.0, peer=1):
    return HeldPull(topic, queue_id, offset, deadline, peer, None)


def test_a_pull_waits_until_its_queue_grows(table, queues):
    one = pull()
    assert table.hold(one)
    assert queues.move(table, 1) == [one]
    assert len(table) == 0
    assert queues.move(table, 2) == []


def test_a_message_that_came_after_the_read_is_not_missed(table, queues):
    queues.ends["t", 0] = 8
    assert not table.hold(pull(7))
    assert table.hold(pull(8))


def test_other_queues_do_not_wake_it(table, queues):
    one = pull()
    table.hold(one)
    assert queues.move(table, 1, queue_id=1) == []
    assert queues.move(table, 1, topic="u") == []
    assert len(table) == 1


def test_those_that_wait_for_more_go_on_waiting(table, queues):
    far = pull(5)
    queues.ends["t", 0] = 0
    table.hold(far)
    near = pull(0)
    table.hold(near)
    assert queues.move(table, 1) == [near]
    assert ("t", 0) in queues.watched
    assert queues.move(table, 6) == [far]


def test_growth_while_others_are_taken_is_not_missed(table, queues):
    near, far = pull(0), pull(5)
    table.hold(near)
    table.hold(far)
    queues.ends["t", 0] = 6
    assert table.take_moved("t", 0, 1) == [near, far]


def test_pulls_are_answered_by_their_deadline_in_order(table):
    late, early, middle = pull(deadline=3.0), pull(deadline=1.0), pull(deadline=2.0)
    for one in (late, early, middle):
        table.hold(one)
    assert table.next_deadline() == 1.0
    assert table.take_due(0.9) == []
    assert table.take_due(2.0) == [early, middle]
    assert table.next_deadline() == 3.0
    assert table.take_due(99) == [late]
    assert table.next_deadline() is None


def test_a_woken_pull_has_no_deadline_any_more(table, queues):
    table.hold(pull())
    queues.move(table, 1)
    assert table.next_deadline() is None
    assert table.take_due(99) == []


def test_a_closed_connection_takes_its_pulls_along(table, queues):
    table.hold(pull(peer=1))
    table.hold(pull(peer=1, queue_id=1))
    other = pull(peer=2)
    table.hold(other)
    assert table.drop_peer(1) == 2
    assert table.drop_peer(1) == 0
    assert queues.watched == {("t", 0)}
    assert table.take_due(99) == [other]


def test_pulls_of_a_topic_and_all_pulls(table, queues):
    pulls = [pull(queue_id=number, topic=topic) for topic in "tu" for number in (0, 1)]
    for one in pulls:
        table.hold(one)
    assert table.take_queue("t", 1) == [pulls[1]]
    assert table.take_queue("u") == pulls[2:]
    assert table.take_all() == [pulls[0]]
    assert queues.watched == set()
    assert table.statistics() == {"held_pulls": 0, "watched_queues": 0}


def test_the_number_of_pulls_is_bounded(queues):
    table = LongPollTable(queues.watch, max_held=2)
    table.hold(pull())
    assert not table.full
    table.hold(pull())
    assert table.full


def test_the_bytes_of_pulls_are_bounded(queues):
    table = LongPollTable(queues.watch, max_bytes=100)
    first = pull()
    first.size = 100
    table.hold(first)
    assert table.full
    table.take_all()
    assert not table.full


def test_many_pulls_that_come_and_go_leave_nothing_behind(table, queues):
    for end in range(1000):
        assert table.hold(pull(end, deadline=1e9))
        assert len(queues.move(table, end + 1)) == 1
    assert len(table._deadlines) < 200
