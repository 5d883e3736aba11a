"""The core of reviving: which checkpoints are over, and how far the revive queue is done."""

from fastmq.broker.delivery.popck import Ack, CheckPoint
from fastmq.broker.delivery.poprevive import ReviveQueue

T = 1_700_000_000_000


def ck(start=0, count=2, *, pop=T, invisible=10_000, topic="t"):
    return CheckPoint(
        topic=topic, group="g", queue_id=0, start_offset=start, pop_time=pop, invisible_time=invisible, broker="b",
        diffs=tuple(range(count)),
    )  # fmt: skip


def ack(point, *offsets):
    return Ack(key=point.key, offsets=offsets, batch=len(offsets) > 1)


def over(queue, horizon):
    """Revive all that is over: start offset and what is open of each."""
    found = []
    for pending in queue.due(horizon):
        found.append((pending.checkpoint.start_offset, pending.checkpoint.open_offsets()))
        queue.finish_revived(pending)
    return found


def test_what_is_not_acked_in_time_is_over():
    queue = ReviveQueue()
    point = ck()
    queue.feed(0, point, T + 9000)
    queue.feed(1, ack(point, 0), T + 10_000)
    assert over(queue, T + 9999) == []
    assert queue.next_due_ms() == T + 10_000
    assert queue.committed(T + 9999) == -1
    assert over(queue, T + 10_000) == [(0, [1])]
    assert queue.committed(T + 10_000) == 1
    assert queue.next_due_ms() is None


def test_a_checkpoint_whose_messages_are_all_acked_is_done_at_once():
    queue = ReviveQueue(4)
    point = ck()
    queue.feed(5, point)
    queue.feed(6, ack(point, 0, 1))
    assert (len(queue), queue.committed(0)) == (0, 6)
    assert over(queue, T + 99_999) == []


def test_nothing_is_committed_beyond_an_open_checkpoint():
    queue = ReviveQueue()
    slow, fast = ck(0, invisible=60_000), ck(10)
    queue.feed(0, fast)
    queue.feed(1, slow)
    queue.feed(2, ack(fast, 10, 11))
    assert queue.committed(T) == 0
    assert over(queue, T + 59_999) == []
    assert over(queue, T + 60_000) == [(0, [0, 1])]
    assert queue.committed(T + 60_000) == 2


def test_the_earliest_is_over_first_and_given_until_it_is_finished():
    queue = ReviveQueue()
    queue.feed(0, ck(0, invisible=3000))
    queue.feed(1, ck(10, invisible=2000))
    assert [pending.checkpoint.start_offset for pending in queue.due(T + 9000)] == [10]
    assert [pending.checkpoint.start_offset for pending in queue.due(T + 9000)] == [10]
    assert over(queue, T + 9000) == [(10, [10, 11]), (0, [0, 1])]


def test_what_was_revived_behind_an_open_checkpoint_is_not_revived_after_a_restart():
    queue = ReviveQueue()
    entries = [ck(0, invisible=3000), ck(10, invisible=1000), ck(20, invisible=2000), ck(30, invisible=4000)]
    for offset, entry in enumerate(entries):
        queue.feed(offset, entry)
    queue.feed(4, ack(entries[2], 20, 21))
    assert over(queue, T + 1500) == [(10, [10, 11])]
    assert (queue.committed(T + 1500), queue.revived_ahead) == (-1, [1])  # the ack is in the queue

    again = ReviveQueue(-1, queue.revived_ahead)
    for offset, entry in enumerate(entries):
        again.feed(offset, ck(entry.start_offset, invisible=entry.invisible_time))
    again.feed(4, ack(entries[2], 20, 21))
    assert (again.committed(T + 2999), again.revived_ahead) == (-1, [1])
    assert over(again, T + 3500) == [(0, [0, 1])]
    assert (again.committed(T + 3500), again.revived_ahead) == (2, [])


def test_an_ack_before_its_checkpoint_counts_while_its_time_lasts():
    queue = ReviveQueue()
    point = ck()
    queue.feed(0, ack(point, 1), T + 10_000)
    assert queue.committed(T + 9000) == -1  # after a restart it must be seen again
    queue.feed(1, point, T + 9000)
    assert over(queue, T + 10_000) == [(0, [0])]
    assert queue.committed(T + 10_000) == 1


def test_an_ack_without_a_checkpoint_is_forgotten_with_its_time():
    queue = ReviveQueue()
    queue.feed(0, ack(ck(), 1), T + 10_000)
    queue.feed(1, ack(ck(), 0), T + 10_000)
    queue.feed(2, ack(ck(7), 7))
    assert queue.committed(T + 9999) == -1
    assert queue.committed(T + 10_000) == 2


def test_a_checkpoint_that_came_twice_counts_once():
    queue = ReviveQueue()
    queue.feed(0, ck())
    queue.feed(1, ck())
    queue.feed(2, ack(ck(), 0))
    assert over(queue, T + 10_000) == [(0, [1])]
    assert queue.committed(T) == 2


def test_checkpoints_that_look_alike_are_both_kept():
    queue = ReviveQueue()
    queue.feed(0, ck(count=4))
    queue.feed(1, ck(count=1))
    queue.feed(2, ack(ck(), 0))
    assert over(queue, T + 10_000) == [(0, [1, 2, 3])]


def test_acks_of_others_change_nothing():
    queue = ReviveQueue()
    queue.feed(0, ck())
    queue.feed(1, ack(ck(pop=T + 1), 0))
    queue.feed(2, ack(ck(topic="u"), 0))
    queue.feed(3, ack(ck(), 99))
    assert over(queue, T + 10_000) == [(0, [0, 1])]


def test_behind_a_backlog_only_newer_entries_prove_that_no_ack_follows():
    queue = ReviveQueue()
    queue.feed(0, ck(), T + 9000)
    later = T + 3_600_000
    assert queue.horizon(later, at_end=True) == later
    assert over(queue, queue.horizon(later, at_end=False)) == []
    queue.feed(1, ck(10, pop=T + 2999), T + 11_999)
    assert over(queue, queue.horizon(later, at_end=False)) == []
    queue.feed(2, ck(20, pop=T + 3000), T + 12_000)
    assert over(queue, queue.horizon(later, at_end=False)) == [(0, [0, 1])]
    assert over(queue, queue.horizon(T + 12_999, at_end=True)) == [(10, [10, 11])]


def test_entries_that_are_nothing_are_passed_over():
    queue = ReviveQueue()
    queue.feed(0, None)
    assert (queue.next_offset, queue.committed(T)) == (1, 0)
    queue.skip_to(5)
    assert (queue.next_offset, queue.committed(T)) == (5, 4)
    queue.skip_to(3)
    assert queue.next_offset == 5
