"""Listeners that are cancelled, hang or are overtaken by a rebalance; order and locks when queues change hands."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter

import anyio
import pytest

import fastmq
from fastmq.protocol.bodies import MessageQueue
from fastmq.protocol.codes import RequestCode
from fastmq.protocol.command import Command
from unit.client_rig import FakeGroup, Run, until

FIRST = MessageQueue("t", "a", 0)
SECOND = MessageQueue("t", "a", 1)


class Listening:
    """A listener that remembers what it got, and holds what it is told to until its gate is open."""

    def __init__(self, *held: str) -> None:
        self.held = held
        self.seen: list[str] = []
        self.running: Counter[int] = Counter()
        self.gate = anyio.Event()

    async def __call__(self, message: fastmq.ReceivedMessage) -> None:
        queue_id = message.queue.queue_id
        assert not self.running[queue_id], f"two messages of queue {queue_id} at the same time"
        self.seen.append(message.text)
        if message.text in self.held:
            self.running[queue_id] += 1
            try:
                await self.gate.wait()
            finally:
                self.running[queue_id] -= 1


def test_a_listener_that_waits_for_what_was_cancelled_has_failed() -> None:
    seen: list[str] = []

    async def listen(message: fastmq.ReceivedMessage) -> None:
        seen.append(message.text)
        if message.text == "a":
            gone = asyncio.get_running_loop().create_future()
            gone.cancel()
            await gone

    async def scenario() -> None:
        group = FakeGroup({0: ["a", "b"]})
        async with group.running(), fastmq.PushConsumer(group.address, "g", listen, "t", workers=1):
            with anyio.fail_after(60):
                await until(lambda: seen == ["a", "b"])
        assert len(group.asked(RequestCode.CONSUMER_SEND_MSG_BACK)) == 1
        assert group.stored["t", "0"] == 2

    anyio.run(scenario)


def test_a_listener_that_makes_an_error_of_its_time_limit_has_failed(run: Run) -> None:
    async def listen(message: fastmq.ReceivedMessage) -> None:
        try:
            await anyio.sleep_forever()
        except BaseException:
            raise ValueError("of the listener") from None

    async def scenario() -> None:
        group = FakeGroup({0: ["a"]})
        async with group.running():
            async with fastmq.PushConsumer(group.address, "g", listen, "t", consume_seconds=0.1):
                await until(lambda: len(group.asked(RequestCode.CONSUMER_SEND_MSG_BACK)) == 1)
            assert group.stored["t", "0"] == 1

    run(scenario)


def test_a_thread_that_hangs_does_not_hold_up_who_closes(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    begun, gate = threading.Event(), threading.Event()

    def listen(message: fastmq.ReceivedMessage) -> None:
        begun.set()
        gate.wait(60)

    async def scenario() -> None:
        group = FakeGroup({0: ["a"]})
        async with group.running():
            async with fastmq.PushConsumer(group.address, "g", listen, "t", drain_seconds=0.01):
                await until(begun.is_set)
            assert not gate.is_set()
            gate.set()
        assert group.stored["t", "0"] == 0
        assert "did not end in time" in caplog.text

    run(scenario)


def test_a_queue_that_comes_back_waits_for_the_listener_of_before(run: Run) -> None:
    async def scenario() -> None:
        group = FakeGroup({0: ["a"]})
        listening = Listening("a")
        async with (
            group.running(),
            fastmq.PushConsumer(group.address, "g", listening, "t", orderly=True) as consumer,
        ):
            await until(lambda: listening.seen == ["a"])
            group.others = ["0"]
            consumer._rebalance_soon()
            await until(lambda: FIRST not in consumer.assignment)
            group.others = []
            consumer._rebalance_soon()
            asked = len(group.asked(RequestCode.GET_CONSUMER_LIST_BY_GROUP))
            await until(lambda: len(group.asked(RequestCode.GET_CONSUMER_LIST_BY_GROUP)) >= asked + 4)
            assert listening.seen == ["a"]
            listening.gate.set()
            await until(lambda: listening.seen == ["a", "a"])
            assert [what for what, queue in group.locks if queue == 0] == ["lock", "unlock", "lock"]

    run(scenario)


def test_a_queue_that_begins_anew_waits_for_the_listener_of_before(run: Run) -> None:
    async def scenario() -> None:
        group = FakeGroup({0: ["a", "b"]})
        listening = Listening("b")
        async with (
            group.running(),
            fastmq.PushConsumer(group.address, "g", listening, "t", orderly=True) as consumer,
        ):
            await until(lambda: listening.seen == ["a", "b"])
            for _ in range(2):
                pulls = len(group.asked(RequestCode.PULL_MESSAGE))
                await consumer._reset({FIRST: 0})
                await until(lambda pulls=pulls: len(group.asked(RequestCode.PULL_MESSAGE)) > pulls)  # type: ignore[misc]
            await anyio.wait_all_tasks_blocked()
            assert listening.seen == ["a", "b"]
            listening.gate.set()
            await until(lambda: listening.seen == ["a", "b", "a", "b"])

    run(scenario)


def test_a_queue_that_is_lost_while_it_waits_for_a_slot_is_left_alone(run: Run) -> None:
    async def scenario() -> None:
        group = FakeGroup({0: ["a", "a2"], 1: ["b"]})
        listening = Listening("a", "b")
        async with (
            group.running(),
            fastmq.PushConsumer(group.address, "g", listening, "t", orderly=True, workers=1) as consumer,
        ):
            await until(lambda: len(listening.seen) == 1)
            ours, theirs = ("a", 1) if listening.seen == ["a"] else ("b", 0)
            await until(lambda: len(consumer._assigned) == 4 and consumer._slots.statistics().tasks_waiting == 1)
            group.others = ["~"] if theirs else ["0"]
            consumer._rebalance_soon()
            await until(lambda: ("unlock", theirs) in group.locks)
            listening.gate.set()
            await until(lambda: consumer._slots.statistics().tasks_waiting == 0)
            await anyio.wait_all_tasks_blocked()
            assert listening.seen == (["a", "a2"] if ours == "a" else ["b"])

    run(scenario)


def test_locks_of_queues_just_lost_are_given_back_when_it_is_closed(run: Run) -> None:
    async def scenario() -> None:
        group = FakeGroup({0: ["a"]})
        listening = Listening("a")
        async with group.running():
            async with fastmq.PushConsumer(
                group.address, "g", listening, "t", orderly=True, drain_seconds=0.01
            ) as consumer:
                await until(lambda: listening.seen == ["a"])
                await until(lambda: len(consumer._assigned) == 4)
                group.others = ["0"]
                consumer._rebalance_soon()
                await until(lambda: FIRST not in consumer.assignment)
            assert sorted(group.locks) == [("lock", 0), ("lock", 1), ("unlock", 0), ("unlock", 1)]

    run(scenario)


def test_a_heartbeat_is_over_before_the_group_is_left(run: Run) -> None:
    """A broker that serves them side by side would take the heartbeat for that of a new member."""

    async def scenario() -> None:
        group = FakeGroup({0: ["a"]})
        happened: list[str] = []
        left = anyio.Event()
        heard = anyio.Event()

        async def slow_heartbeat() -> None:
            with anyio.move_on_after(0.2):  # until the client has left; it should not
                await left.wait()
            happened.append("heartbeat")

        def leave(request: Command) -> Command:
            happened.append("left")
            left.set()
            return request.reply()

        async def listen(message: fastmq.ReceivedMessage) -> None:
            heard.set()

        group.waits[RequestCode.HEART_BEAT] = slow_heartbeat
        group.answers[RequestCode.UNREGISTER_CLIENT] = leave
        with anyio.fail_after(60):
            async with group.running(), fastmq.PushConsumer(group.address, "g", listen, "t") as consumer:
                await heard.wait()
                happened.clear()
                before = len(group.asked(RequestCode.HEART_BEAT))
                with anyio.CancelScope() as scope:  # one that is not waited for
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(consumer.session.heartbeat_now)
                        await until(lambda: len(group.asked(RequestCode.HEART_BEAT)) > before)
                        scope.cancel()
            assert happened == ["heartbeat", "left"]

    run(scenario)


def test_a_lock_that_is_under_way_is_over_before_it_is_given_back(run: Run) -> None:
    """A broker that serves them side by side would give a lock to a consumer that has gone."""

    async def scenario() -> None:
        group = FakeGroup({0: ["a"]})
        happened: list[str] = []
        unlocked = anyio.Event()
        listening = Listening()

        async def slow_lock() -> None:
            with anyio.move_on_after(0.2):  # until the lock is given back; it should not be
                await unlocked.wait()
            happened.append("lock")

        unlock = group.answers[RequestCode.UNLOCK_BATCH_MQ]

        def seen(request: Command) -> Command | None:
            happened.append("unlock")
            unlocked.set()
            return unlock(request)

        group.answers[RequestCode.UNLOCK_BATCH_MQ] = seen
        with anyio.fail_after(60):
            async with (
                group.running(),
                fastmq.PushConsumer(group.address, "g", listening, "t", orderly=True) as consumer,
            ):
                await consumer.wait_assigned()
                await until(lambda: listening.seen == ["a"])
                locks = consumer._locks
                assert locks is not None
                before = len(group.asked(RequestCode.LOCK_BATCH_MQ))
                group.waits[RequestCode.LOCK_BATCH_MQ] = slow_lock
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(locks.renew)
                    await until(lambda: len(group.asked(RequestCode.LOCK_BATCH_MQ)) > before)
                    tasks.cancel_scope.cancel()
            assert happened == ["lock", "unlock"]

    run(scenario)
