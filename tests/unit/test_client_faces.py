"""The blocking face: what counts as done, what leaks, who is told when it is closed; receivers of one pop consumer."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import anyio
import pytest
from anyio.from_thread import start_blocking_portal

import fastmq
import fastmq.sync
from fastmq.protocol import message as m
from fastmq.protocol.codes import RequestCode
from fastmq.protocol.command import Command
from support.waiting import wait_until
from unit.client_rig import FakeCluster, FakeGroup, until


@contextmanager
def served(cluster: FakeCluster) -> Iterator[None]:
    """The cluster serves in a loop of its own."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(cluster.running()):
        yield


def many() -> FakeGroup:
    return FakeGroup({0: [str(number) for number in range(10)]})


def poll_all(consumer: fastmq.sync.Consumer) -> list[fastmq.ReceivedMessage]:
    messages = consumer.poll(5, 60)
    assert len(messages) == 5
    return messages


def test_an_error_among_messages_of_a_poll_leaves_all_of_them_undone() -> None:
    group = many()

    def fail_in_the_second() -> None:
        with fastmq.sync.Consumer(group.address, "g", "t") as consumer:
            poll_all(consumer)
            poll_all(consumer)
            raise ValueError("of the user")

    with served(group):
        with pytest.raises(ValueError, match="of the user"):
            fail_in_the_second()
        assert group.stored["t", "0"] == 5


def test_an_error_in_a_loop_leaves_its_message_undone() -> None:
    group = many()
    with served(group):
        with fastmq.sync.Consumer(group.address, "g", "t") as consumer:
            for message in consumer:
                if message.text == "3":
                    break
        assert group.stored["t", "0"] == 3


def test_what_is_committed_is_not_kept() -> None:
    group = many()
    with served(group):
        with fastmq.sync.Consumer(group.address, "g", "t", auto_commit=False) as consumer:
            for message in poll_all(consumer):
                consumer.commit(message)
            assert consumer._last == []
            assert consumer._taken == []
            assert consumer._async is not None
            assert consumer._async._given == []
            poll_all(consumer)
        assert group.stored["t", "0"] == 5
        with fastmq.sync.Consumer(group.address, "g", "t", auto_commit=False) as consumer:
            poll_all(consumer)
            consumer.commit()
            assert group.stored["t", "0"] == 10


def test_a_check_listener_may_block_and_send() -> None:
    cluster = FakeCluster()
    states: list[fastmq.TransactionState] = []
    with served(cluster):

        def check(message: fastmq.ReceivedMessage) -> fastmq.TransactionState:
            producer.send("t", "from the check listener")
            states.append(fastmq.TransactionState.ROLLBACK)
            return states[-1]

        with fastmq.sync.Producer(cluster.address, "g", check=check) as producer:
            asked = Command(
                RequestCode.CHECK_TRANSACTION_STATE,
                body=m.encode_message(m.StoredMessage(topic="t", body=b"x", properties=b"PGROUP\x01g\x02")),
            )
            session = producer._it.session
            connection = session.open_connection(cluster.address)
            assert connection is not None
            producer._run(session._answer, connection, asked)
            wait_until(lambda: cluster.asked(RequestCode.END_TRANSACTION), "the answer of the check listener")
    assert states == [fastmq.TransactionState.ROLLBACK]
    (end,) = cluster.asked(RequestCode.END_TRANSACTION)
    assert end.ext["commitOrRollback"] == str(int(fastmq.TransactionState.ROLLBACK))


def test_a_thread_that_receives_is_told_that_the_consumer_is_closed() -> None:
    cluster = FakeCluster({RequestCode.POP_MESSAGE: lambda request: None})
    with served(cluster), ThreadPoolExecutor(1) as threads:
        consumer = fastmq.sync.PopConsumer(cluster.address, "g", "t").open()
        waiting = threads.submit(consumer.receive, wait=3600)
        wait_until(lambda: cluster.asked(RequestCode.POP_MESSAGE), "the thread receives")
        consumer.close()
        with pytest.raises(fastmq.ClientClosed):
            waiting.result(60)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_two_tasks_receive_from_one_pop_consumer(backend: str) -> None:
    held: list[Command] = []
    cluster = FakeCluster({RequestCode.POP_MESSAGE: held.append})  # type: ignore[dict-item]

    async def scenario() -> None:
        got: list[str] = []
        async with cluster.running(), fastmq.PopConsumer(cluster.address, "g", "t") as consumer:

            async def receive() -> None:
                got.extend(one.text for one in await consumer.receive(1, wait=3600))

            with anyio.fail_after(60):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(receive)
                    tasks.start_soon(receive)
                    await anyio.wait_all_tasks_blocked()
                    await until(lambda: held)
                    message = fastmq.ReceivedMessage.from_stored(m.StoredMessage(topic="t", body=b"x"), "a")
                    consumer._ready.extend([(message, float("inf"))] * 2)
                    consumer._arrived.set()
        assert got == ["x", "x"]

    anyio.run(scenario, backend=backend)
