"""Queue locks of orderly consumers."""

from fastmq.broker.state.locks import QueueLocks
from fastmq.protocol.bodies import MessageQueue


def queue(number):
    return MessageQueue(topic="t", broker_name="b", queue_id=number)


Q0, Q1, Q2 = queue(0), queue(1), queue(2)


def test_one_client_at_a_time():
    locks = QueueLocks()
    assert locks.try_lock_batch("g", "c1", [Q0, Q1], 0) == [Q0, Q1]
    assert locks.try_lock_batch("g", "c2", [Q0, Q2], 1) == [Q2]
    assert locks.holder("g", Q0, 1) == "c1"


def test_groups_do_not_disturb_each_other():
    locks = QueueLocks()
    locks.try_lock_batch("g", "c1", [Q0], 0)
    assert locks.try_lock_batch("h", "c2", [Q0], 0) == [Q0]


def test_asking_again_renews():
    locks = QueueLocks()
    for now in range(0, 200, 50):
        assert locks.try_lock_batch("g", "c1", [Q0], now) == [Q0]
    assert locks.try_lock_batch("g", "c2", [Q0], 209) == []


def test_a_lock_lasts_sixty_seconds():
    locks = QueueLocks()
    locks.try_lock_batch("g", "c1", [Q0], 0)
    assert locks.try_lock_batch("g", "c2", [Q0], 60.0) == []
    assert locks.group_is_locked("g", 60.0)
    assert not locks.group_is_locked("g", 60.1)
    assert locks.holder("g", Q0, 60.1) is None
    assert locks.try_lock_batch("g", "c2", [Q0], 60.1) == [Q0]


def test_only_the_holder_unlocks():
    locks = QueueLocks()
    locks.try_lock_batch("g", "c1", [Q0, Q1], 0)
    locks.unlock_batch("g", "c2", [Q0])
    locks.unlock_batch("nobody", "c1", [Q0])
    assert locks.try_lock_batch("g", "c2", [Q0], 1) == []
    locks.unlock_batch("g", "c1", [Q0])
    assert locks.try_lock_batch("g", "c2", [Q0], 1) == [Q0]
    locks.unlock_batch("g", "c1", [Q1])
    locks.unlock_batch("g", "c2", [Q0])
    assert not locks.group_is_locked("g", 1)


def test_nothing_asked_is_nothing_held():
    locks = QueueLocks()
    assert locks.try_lock_batch("g", "c1", [], 0) == []
    assert not locks.group_is_locked("g", 0)


def test_what_expired_is_forgotten():
    locks = QueueLocks()
    locks.try_lock_batch("g", "c1", [Q0], 0)
    locks.try_lock_batch("g", "c1", [Q1], 30)
    locks.expire(70)
    assert locks.holder("g", Q1, 70) == "c1"
    locks.expire(100)
    assert not locks.group_is_locked("g", 100)
