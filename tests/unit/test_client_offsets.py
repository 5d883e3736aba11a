"""Offsets on brokers: the newest one is what stays, whatever the brokers serve first."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, cast

import anyio
import anyio.abc
import anyio.lowlevel
import pytest

import fastmq
from fastmq.client.errors import ClientError, RequestTimeout
from fastmq.client.offsets import LocalOffsets, RemoteOffsets
from fastmq.client.session import Session
from fastmq.protocol.bodies import MessageQueue, dumps
from fastmq.protocol.bodies._read import read_object
from fastmq.protocol.codes import RequestCode, ResponseCode
from fastmq.protocol.command import Command
from unit.client_rig import FakeCluster

QUEUE = MessageQueue("t", "a", 0)
Run = Callable[..., None]


class Broker:
    """Takes requests as they come and carries each of them out when the test says so, as one with many threads does.

    What a client has sent it does not forget when the client stops waiting.
    """

    def __init__(self, threads: anyio.abc.TaskGroup) -> None:
        self.threads = threads
        self.waiting: list[tuple[int, anyio.Event]] = []
        self.stored: list[int] = []
        self.refuse = False
        self.silent = ""
        self.offset = 0

    async def call_broker(self, name: str, request: Command, *, any_other: bool, **_: float) -> Command:
        if name == self.silent:
            await anyio.sleep_forever()
        if self.refuse:
            raise RequestTimeout("too late")
        if request.code == RequestCode.QUERY_CONSUMER_OFFSET:
            return request.reply(ext={"offset": str(self.offset)})
        may_run, done = anyio.Event(), anyio.Event()
        offset = int(request.ext["commitOffset"])
        self.waiting.append((offset, may_run))

        async def carry_out() -> None:
            await may_run.wait()
            self.stored.append(offset)
            done.set()

        self.threads.start_soon(carry_out)
        await done.wait()
        return request.reply()

    async def each(self, calls: Sequence[tuple[Callable[[Any], Any], object]]) -> None:
        async with anyio.create_task_group() as group:
            for call, argument in calls:
                group.start_soon(call, argument)

    async def carry_out_the_newest_first(self) -> None:
        """Until nothing is left to do."""
        await anyio.wait_all_tasks_blocked()
        while self.waiting:
            _, may_run = self.waiting.pop()
            may_run.set()
            await anyio.wait_all_tasks_blocked()


@pytest.fixture(params=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Run:
    def run(scenario: Callable[[Broker, RemoteOffsets, anyio.abc.TaskGroup], Any]) -> None:
        async def main() -> None:
            with anyio.fail_after(60):
                async with anyio.create_task_group() as tasks:
                    broker = Broker(tasks)
                    offsets = RemoteOffsets(cast(Session, broker), "g")
                    await scenario(broker, offsets, tasks)

        anyio.run(main, backend=request.param)

    return run


def test_a_newer_offset_is_not_overtaken_by_an_older_one(run: Run) -> None:
    async def scenario(broker: Broker, offsets: RemoteOffsets, tasks: anyio.abc.TaskGroup) -> None:
        for offset in (5, 7, 9):
            offsets.update(QUEUE, offset)
            tasks.start_soon(offsets.persist)
            await anyio.wait_all_tasks_blocked()
        await broker.carry_out_the_newest_first()
        assert broker.stored[-1] == 9
        assert broker.stored == sorted(broker.stored)

    run(scenario)


def test_nor_when_a_consumer_is_closed_while_offsets_are_stored(run: Run) -> None:
    async def scenario(broker: Broker, offsets: RemoteOffsets, tasks: anyio.abc.TaskGroup) -> None:
        now_and_then = anyio.CancelScope()

        async def persist_now_and_then() -> None:
            with now_and_then:
                await offsets.persist()

        offsets.update(QUEUE, 0)
        tasks.start_soon(persist_now_and_then)
        await anyio.wait_all_tasks_blocked()
        assert [offset for offset, _ in broker.waiting] == [0], "the broker has it, and has not come to it"
        now_and_then.cancel()
        await anyio.wait_all_tasks_blocked()
        offsets.update(QUEUE, 1)
        tasks.start_soon(offsets.persist, [QUEUE])
        await broker.carry_out_the_newest_first()
        assert broker.stored == [0, 1]

    run(scenario)


def test_what_a_broker_does_not_take_is_stored_the_next_time(run: Run) -> None:
    async def scenario(broker: Broker, offsets: RemoteOffsets, tasks: anyio.abc.TaskGroup) -> None:
        offsets.update(QUEUE, 3)
        broker.refuse = True
        assert isinstance(await offsets.persist(), RequestTimeout)
        broker.refuse = False
        outcomes: list[ClientError | None] = []

        async def again() -> None:
            outcomes.append(await offsets.persist())

        tasks.start_soon(again)
        await broker.carry_out_the_newest_first()
        assert broker.stored == [3]
        assert outcomes == [None]

    run(scenario)


def test_the_first_offset_of_a_topic_is_there_before_others_come(run: Run) -> None:
    """Two threads of Apache RocketMQ that each store the first one lose one of them."""

    async def scenario(broker: Broker, offsets: RemoteOffsets, tasks: anyio.abc.TaskGroup) -> None:
        for queue_id in range(3):
            offsets.update(MessageQueue("t", "a", queue_id), 10 + queue_id)
            offsets.update(MessageQueue("u", "a", queue_id), 20 + queue_id)
        tasks.start_soon(offsets.persist)
        await anyio.wait_all_tasks_blocked()
        first = [offset for offset, _ in broker.waiting]
        assert sorted(offset // 10 for offset in first) == [1, 2]
        await broker.carry_out_the_newest_first()
        stored_first = {offset // 10: offset for offset in reversed(broker.stored)}
        assert sorted(stored_first.values()) == sorted(first)
        assert sorted(broker.stored) == [10, 11, 12, 20, 21, 22]

    run(scenario)


def test_a_broker_that_does_not_answer_holds_up_its_own_offsets_alone(run: Run) -> None:
    async def scenario(broker: Broker, offsets: RemoteOffsets, tasks: anyio.abc.TaskGroup) -> None:
        broker.silent = "a"
        for name in ("a", "b"):
            for queue_id in range(3):
                offsets.update(MessageQueue("t", name, queue_id), 10 + queue_id)
        tasks.start_soon(offsets.persist)
        await broker.carry_out_the_newest_first()
        assert sorted(broker.stored) == [10, 11, 12]
        tasks.cancel_scope.cancel()

    run(scenario)


def test_others_queues_stay_as_they_are(run: Run) -> None:
    async def scenario(broker: Broker, offsets: RemoteOffsets, tasks: anyio.abc.TaskGroup) -> None:
        offsets.update(QUEUE, 3)
        chosen: Collection[MessageQueue] = [MessageQueue("t", "a", 1)]
        await offsets.persist(chosen)
        assert broker.waiting == []
        await anyio.lowlevel.checkpoint()

    run(scenario)


def test_looking_at_the_offset_of_anothers_queue_does_not_store_it(run: Run) -> None:
    async def scenario(broker: Broker, offsets: RemoteOffsets, tasks: anyio.abc.TaskGroup) -> None:
        broker.offset = 3
        assert await offsets.load(QUEUE) == 3
        tasks.start_soon(offsets.persist)
        await broker.carry_out_the_newest_first()
        assert broker.stored == []

    run(scenario)


class Folder(LocalOffsets):
    """Offsets in a file that is written when the test says so."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.writers = 0
        self.may_write = threading.Event()

    def _write(self, text: bytes) -> None:
        self.writers += 1
        assert self.writers == 1, "one at a time"
        assert self.may_write.wait(60)
        super()._write(text)
        self.writers -= 1


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_one_at_a_time_writes_offsets_of_broadcasting(backend: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        offsets = Folder(tmp_path / "offsets.json")
        async with anyio.create_task_group() as tasks:
            for offset in (1, 2, 3):
                offsets.update(QUEUE, offset)
                tasks.start_soon(offsets.persist)
                await anyio.wait_all_tasks_blocked()
            offsets.may_write.set()
        assert await LocalOffsets(tmp_path / "offsets.json").load(QUEUE) == 3

    anyio.run(scenario, backend=backend)


def _group_of_one(cluster: FakeCluster) -> None:
    """The cluster has a group with the one member that asks, and an empty queue; it stores no offsets."""
    empty = {"offset": "0", "nextBeginOffset": "0", "minOffset": "0", "maxOffset": "0", "suggestWhichBrokerId": "0"}

    def members(request: Command) -> Command:
        heartbeat = read_object(cluster.asked(RequestCode.HEART_BEAT)[-1].body, "a heartbeat")
        return request.reply(body=dumps({"consumerIdList": [heartbeat["clientID"]]}))

    cluster.answers |= {
        RequestCode.GET_CONSUMER_LIST_BY_GROUP: members,
        RequestCode.QUERY_CONSUMER_OFFSET: lambda request: request.reply(ext={"offset": "7"}),
        RequestCode.PULL_MESSAGE: lambda request: request.reply(ResponseCode.PULL_NOT_FOUND, ext=empty),
        RequestCode.UPDATE_CONSUMER_OFFSET: lambda request: request.reply(ResponseCode.SYSTEM_ERROR, "disk full"),
    }


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_who_commits_is_told_when_a_broker_does_not_store_it(backend: str, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        cluster = FakeCluster()
        _group_of_one(cluster)
        async with cluster.running(), fastmq.Consumer(cluster.address, "g", "t") as consumer:
            await consumer.wait_assigned()
            with pytest.raises(fastmq.BrokerError, match="disk full"):
                await consumer.commit()
            cluster.answers[RequestCode.UPDATE_CONSUMER_OFFSET] = lambda request: request.reply()
            await consumer.commit()
            _group_of_one(cluster)
        assert "messages of g will come again" in caplog.text
        assert "disk full" in caplog.text

    anyio.run(scenario, backend=backend)
