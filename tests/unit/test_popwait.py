"""Waiting POP requests: whom a message wakes, who is full, whose time is up, who is forgotten."""

import dataclasses

import pytest

from fastmq.broker.delivery.popwait import ANY_QUEUE, HeldPop, Hold, PopWaitLimits, PopWaitTable, wait_deadline
from fastmq.broker.delivery.watches import QueueWatches
from unit.queue_ends import Queues


@pytest.fixture
def queues():
    return Queues()


@pytest.fixture
def table(queues):
    return PopWaitTable(queues.watch)


def never(pop):
    raise AssertionError("the table processes nothing by itself")


def pop(queue_id=ANY_QUEUE, *, topic="t", group="g", deadline=10.0, peer=1, seen=0, retry=False, **more):
    ids = range(3) if queue_id == ANY_QUEUE else (queue_id,)
    waited = {(topic, one): seen for one in ids}
    if retry:
        waited[f"%RETRY%{group}_{topic}", 0] = 0
    return HeldPop(topic, group, queue_id, waited, deadline, peer, None, never, **more)


def test_a_message_wakes_one_request_of_each_group(table, queues):
    first, second, other = pop(deadline=2.0), pop(deadline=1.0), pop(group="h")
    for one in (first, second, other):
        assert table.hold(one) is Hold.HELD
    assert queues.grow(table, queue_id=2) == [second, other]
    assert queues.grow(table, queue_id=1) == [first]
    assert queues.grow(table) == []
    assert queues.watched == set()


def test_those_that_wait_for_one_queue_are_woken_with_those_for_any(table, queues):
    any_queue, this, that = pop(), pop(0), pop(1)
    for one in (any_queue, this, that):
        table.hold(one)
    assert queues.grow(table, queue_id=0) == [any_queue, this]
    assert queues.grow(table, queue_id=1) == [that]


def test_a_retried_message_wakes_its_group_only_and_once(table, queues):
    one_queue, any_queue, other = pop(0, retry=True), pop(retry=True), pop(group="h", retry=True)
    for one in (one_queue, any_queue, other):
        table.hold(one)
    assert queues.grow(table, topic="%RETRY%g_t") == [any_queue]
    assert queues.grow(table, topic="%RETRY%g_t") == [one_queue]
    assert len(table) == 1


def test_a_message_that_came_after_the_read_is_not_missed(table, queues):
    queues.ends["t", 1] = 3
    assert table.hold(pop(1, seen=2)) is Hold.READ_AGAIN
    assert table.hold(pop()) is Hold.READ_AGAIN
    assert queues.watched == set()
    assert len(table) == 0
    one = pop(1, seen=3)
    assert table.hold(one) is Hold.HELD
    assert table.hold(pop(1, seen=2)) is Hold.READ_AGAIN
    assert queues.watched == {("t", 1)}, "the other one is still waiting"


def test_growth_while_others_are_taken_is_not_missed(table, queues):
    first, second = pop(0, deadline=1.0), pop(0, deadline=2.0)
    table.hold(first)
    table.hold(second)
    queues.ends["t", 0] = 2
    assert table.take_moved("t", 0, 1) == [first, second]


def test_a_message_that_is_not_for_a_request_leaves_it_waiting(table, queues):
    looked = []

    def wants_odd(queue, begin, end):
        looked.append((queue, begin, end))
        return any(offset % 2 for offset in range(begin, end))

    one, same = pop(0, matches=wants_odd, filter="odd"), pop(0, matches=wants_odd, filter="odd", deadline=20.0)
    table.hold(one)
    table.hold(same)
    assert queues.grow(table) == []
    assert looked == [(("t", 0), 0, 1)], "one of each filter is asked, and of new messages only"
    assert queues.grow(table) == [one]
    assert looked[1:] == [(("t", 0), 1, 2)]
    assert queues.watched == {("t", 0)}


def test_another_filter_of_the_group_is_asked_as_well(table, queues):
    no = pop(0, matches=lambda *_: False, filter="a")
    yes = pop(0, matches=lambda *_: True, filter="b", deadline=20.0)
    table.hold(no)
    table.hold(yes)
    assert queues.grow(table) == [yes]


def test_many_messages_wake_a_request_they_are_not_for(queues):
    limits = PopWaitLimits(force_after=10)
    table = PopWaitTable(queues.watch, limits=lambda: limits)
    one = pop(0, matches=lambda *_: False, filter="a")
    table.hold(one)
    assert queues.grow(table, 9) == []
    assert queues.grow(table, 1) == [one]
    limits = dataclasses.replace(limits, force_after=0)
    other = pop(0, seen=10, matches=lambda *_: False, filter="a")
    table.hold(other)
    assert queues.grow(table, 1000) == []


def test_the_next_of_a_group_is_taken_where_messages_are_left(table):
    late, early, queue = pop(deadline=2.0), pop(deadline=1.0), pop(1)
    for one in (late, early, queue):
        table.hold(one)
    assert table.take_one("t", "g", ANY_QUEUE, 1) is early
    assert table.take_one("t", "g", ANY_QUEUE, 1) is late
    assert table.take_one("t", "g", ANY_QUEUE, 0) is None
    assert table.take_one("t", "g", ANY_QUEUE, 1) is queue
    assert table.take_one("t", "g", ANY_QUEUE, 1) is None


def test_the_newest_first_where_that_is_asked_for(queues):
    table = PopWaitTable(queues.watch, newest_first=True)
    old, new = pop(deadline=1.0), pop(deadline=0.5)
    table.hold(old)
    table.hold(new)
    third = pop(deadline=2.0)
    table.hold(third)
    assert queues.grow(table) == [third]
    assert table.take_one("t", "g", ANY_QUEUE) is new


@pytest.mark.parametrize(
    ("limits", "held"),
    [(PopWaitLimits(per_key=1), [1, 0, 1]), (PopWaitLimits(total=1), [1, 0, 0]), (PopWaitLimits(keys=1), [1, 1, 0])],
)
def test_the_number_of_requests_is_bounded(queues, limits, held):
    table = PopWaitTable(queues.watch, limits=lambda: limits)
    found = [table.hold(one) for one in (pop(0), pop(0), pop(1))]
    assert [int(one is Hold.HELD) for one in found] == held
    assert [one is Hold.FULL for one in found] == [not one for one in held]


def test_the_bytes_of_requests_are_bounded(queues):
    table = PopWaitTable(queues.watch, limits=lambda: PopWaitLimits(total_bytes=100))
    first = pop(0)
    first.size = 100
    assert [table.hold(one) for one in (first, pop(1))] == [Hold.HELD, Hold.FULL]
    table.take_due(1e9)
    assert table.hold(pop(1)) is Hold.HELD


def test_requests_are_answered_by_their_deadline_in_order(table):
    late, early, middle = pop(deadline=3.0), pop(0, deadline=1.0), pop(deadline=2.0)
    for one in (late, early, middle):
        table.hold(one)
    assert table.next_deadline() == 1.0
    assert table.take_due(0.9) == []
    assert table.take_due(2.0) == [early, middle]
    assert table.next_deadline() == 3.0
    assert table.take_due(99) == [late]
    assert table.next_deadline() is None


def test_a_request_that_waits_again_keeps_its_deadline(table, queues):
    one = pop(0, deadline=5.0)
    table.hold(one)
    queues.grow(table)
    one.queues = {("t", 0): 1}
    table.hold(one)
    assert table.next_deadline() == 5.0
    assert table.take_due(5.0) == [one]
    assert table.take_due(99) == []


def test_a_closed_connection_takes_its_requests_along(table, queues):
    mine, both, other = pop(0, peer=1), pop(peer=1), pop(0, peer=2)
    for one in (mine, both, other):
        table.hold(one)
    assert table.drop_peer(1) == [mine, both]
    assert table.drop_peer(1) == []
    assert queues.watched == {("t", 0)}
    assert queues.grow(table) == [other]


def test_topics_groups_and_everything(table, queues):
    held = [pop(topic=topic, group=group) for topic in "tu" for group in "gh"]
    for one in held:
        table.hold(one)
    assert table.take_topic("t") == held[:2]
    assert table.take_group("g") == [held[2]]
    assert table.take_all() == [held[3]]
    assert queues.watched == set()
    assert table.statistics() == {"held_pops": 0, "pop_keys": 0, "watched_queues": 0}


def test_how_many_wait_under_a_key(table):
    for one in (pop(), pop(), pop(0)):
        table.hold(one)
    assert [table.count("t", "g", number) for number in (-1, 0, 1)] == [2, 1, 0]


def test_many_requests_that_come_and_go_leave_nothing_behind(table, queues):
    for end in range(5000):
        assert table.hold(pop(0, seen=end, deadline=1e9)) is Hold.HELD
        assert len(queues.grow(table)) == 1
    assert len(table._deadlines) < 1100


@pytest.mark.parametrize(
    ("born", "poll", "wait"),
    [
        (1000, 500, 0.45),
        (900, 500, 0.35),
        (1000, 0, None),
        (1000, -1, None),
        (550, 500, None),
        (0, 500, None),
        (9_000_000, 500, 0.45),
    ],
)
def test_how_long_a_request_waits(born, poll, wait):
    deadline = wait_deadline(born_ms=born, poll_ms=poll, now_ms=1000, now=5.0)
    assert deadline == (None if wait is None else pytest.approx(5.0 + wait))


def test_parts_that_watch_one_queue_do_not_take_it_from_each_other(queues):
    watches = QueueWatches(queues.watch)
    one, two = watches.part(), watches.part()
    queues.ends["t", 0] = 4
    assert one("t", 0, True) == two("t", 0, True) == 4
    assert one("t", 0, False) == 4
    assert queues.watched == {("t", 0)}
    one("t", 0, False)
    assert queues.watched == {("t", 0)}
    two("t", 0, False)
    assert queues.watched == set()
    assert len(watches) == 0
    one("t", 1, False)
    assert len(watches) == 0
