"""Offsets on brokers: the newest one is what stays, whatever the brokers serve first."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, cast

import anyio
import anyio.abc
import anyio.lowlevel
import pytest

from fastmq.client.errors import RequestTimeout
from fastmq.client.offsets import RemoteOffsets
from fastmq.client.session import Session
from fastmq.protocol.bodies import MessageQueue
from fastmq.protocol.command import Command

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

    async def call_broker(self, name: str, request: Command, *, any_other: bool = False) -> Command:
        if self.refuse:
            raise RequestTimeout("too late")
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
        for call, argument in calls:
            await call(argument)

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
        await offsets.persist()
        broker.refuse = False
        tasks.start_soon(offsets.persist)
        await broker.carry_out_the_newest_first()
        assert broker.stored == [3]

    run(scenario)


def test_others_queues_stay_as_they_are(run: Run) -> None:
    async def scenario(broker: Broker, offsets: RemoteOffsets, tasks: anyio.abc.TaskGroup) -> None:
        offsets.update(QUEUE, 3)
        chosen: Collection[MessageQueue] = [MessageQueue("t", "a", 1)]
        await offsets.persist(chosen)
        assert broker.waiting == []
        await anyio.lowlevel.checkpoint()

    run(scenario)
