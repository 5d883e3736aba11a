"""Tables reach their files behind the requests, and nobody is told before."""

from __future__ import annotations

import threading

import pytest
import trio
import trio.testing

from fastmq.broker.state.saving import TableFile
from fastmq.errors import StoreError
from fastmq.net.server import Reply
from fastmq.protocol.bodies import loads_lenient
from fastmq.protocol.codes import RequestCode, ResponseCode
from unit.broker_rig import Rig, consumer


class Disk:
    """Takes what is saved; a write stops at `gate` while that is closed, and fails while `broken`."""

    def __init__(self):
        self.written = []
        self.broken = False
        self.gate = threading.Event()
        self.gate.set()
        self.begun = 0

    def save(self, path, data):
        self.begun += 1
        assert self.gate.wait(60)
        if self.broken:
            raise OSError(28, "No space left on device")
        self.written.append(data)


@pytest.fixture
def disk():
    return Disk()


class Table:
    def __init__(self, disk, **more):
        self.value = 0
        self.file = TableFile("a-path", self.freeze, save=disk.save, **more)

    def freeze(self):
        value = self.value
        return lambda: str(value).encode()

    def set(self, value):
        self.value = value
        self.file.changed()


def running(table, scenario):
    async def main():
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(table.file.run)
                await trio.testing.wait_all_tasks_blocked()
                await scenario()
                nursery.cancel_scope.cancel()

    trio.run(main)


async def until(condition):
    while not condition():  # noqa: ASYNC110  (the other side is a thread)
        await trio.sleep(0.001)


def test_without_a_task_a_change_is_written_at_once(disk):
    table = Table(disk)
    table.set(1)
    assert disk.written == [b"1"]
    assert table.file.is_saved
    disk.broken = True
    with pytest.raises(OSError, match="No space"):
        table.set(2)
    assert table.file.is_saved  # the table takes its change back, nothing is left to write


def test_changes_during_a_write_are_written_together(disk):
    saved = []
    table = Table(disk, on_saved=lambda: saved.append(table.value))

    async def scenario():
        disk.gate.clear()
        table.set(1)
        await until(lambda: disk.begun == 1)
        for value in range(2, 10):
            table.set(value)
        assert not table.file.is_saved
        assert saved == []
        disk.gate.set()
        await table.file.wait_saved()
        assert disk.written == [b"1", b"9"]
        assert saved == [9]
        assert table.file.is_saved

    running(table, scenario)


def test_who_waits_is_told_of_a_disk_that_refuses_and_later_changes_are_written(disk):
    table = Table(disk)

    async def scenario():
        disk.broken = True
        table.set(1)
        with pytest.raises(StoreError, match="a-path cannot be written"):
            await table.file.wait_saved()
        assert not table.file.is_saved
        disk.broken = False
        table.set(2)
        await table.file.wait_saved()
        assert disk.written == [b"2"]

    running(table, scenario)


def test_one_that_waits_for_a_later_change_is_not_told_of_an_earlier_failure(disk):
    table = Table(disk)

    async def scenario():
        disk.gate.clear()
        disk.broken = True
        table.set(1)
        await until(lambda: disk.begun == 1)
        table.set(2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(table.file.wait_saved)
            await trio.testing.wait_all_tasks_blocked()
            table.file._failing = True  # the log has it already
            disk.gate.set()
            await until(lambda: table.file._tried == 1)
            disk.broken = False
        assert disk.written == [b"2"]

    running(table, scenario)


def test_what_the_task_left_is_written_by_persist(disk):
    table = Table(disk)

    async def scenario():
        disk.gate.clear()
        table.set(1)
        await until(lambda: disk.begun == 1)
        table.set(2)
        disk.gate.set()

    running(table, scenario)
    table.file.persist()
    assert disk.written[-1] == b"2"
    assert table.file.is_saved


class TestBroker:
    """Requests that change a table, over a broker whose services run."""

    @pytest.fixture
    def rig(self, tmp_path):
        rig = Rig(tmp_path, namesrv_addr="")
        yield rig
        rig.close()

    def run(self, rig, disk, scenario):
        for table in (rig.broker.topics, rig.broker.groups):
            table.file._save = disk.save

        async def main():
            with trio.fail_after(60):
                async with trio.open_nursery() as nursery:
                    await nursery.start(rig.broker.run)
                    await scenario()
                    nursery.cancel_scope.cancel()

        trio.run(main)

    async def answer_of(self, disk, given):
        """The answer, which must not be there before the disk has the table."""
        answers = []

        async def wait():
            answers.append(await given)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await until(lambda: disk.begun)
            assert answers == []
            disk.gate.set()
        return answers[0]

    def test_a_send_that_makes_a_topic_is_answered_when_the_topic_is_on_disk(self, rig, disk):
        async def scenario():
            disk.gate.clear()
            answer = await self.answer_of(disk, rig.send("fresh"))
            assert answer.code == ResponseCode.SUCCESS
            assert "fresh" in loads_lenient(disk.written[-1])["topicConfigTable"]
            assert isinstance(rig.send("fresh"), Reply)  # nothing to wait for

        self.run(rig, disk, scenario)
        assert rig.count("fresh") == 2

    def test_another_send_to_that_topic_waits_too(self, rig, disk):
        async def scenario():
            disk.gate.clear()
            first, second = rig.send("fresh"), rig.send("fresh")
            assert not isinstance(second, Reply)
            assert (await self.answer_of(disk, first)).code == ResponseCode.SUCCESS
            assert (await second).code == ResponseCode.SUCCESS

        self.run(rig, disk, scenario)

    def test_a_disk_that_refuses_is_an_error_for_the_sender(self, rig, disk):
        async def scenario():
            disk.broken = True
            answer = await rig.send("fresh")
            assert answer.code == ResponseCode.SYSTEM_ERROR
            assert "topics.json cannot be written" in answer.remark

        self.run(rig, disk, scenario)

    def test_a_group_by_command_is_on_disk_before_the_answer(self, rig, disk):
        async def scenario():
            disk.gate.clear()
            given = rig.ask(RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, {}, {"groupName": "made"})
            assert (await self.answer_of(disk, given)).code == ResponseCode.SUCCESS
            assert "made" in loads_lenient(disk.written[-1])["subscriptionGroupTable"]

        self.run(rig, disk, scenario)

    def test_others_are_served_while_a_table_is_written(self, rig, disk):
        async def scenario():
            disk.gate.clear()
            given = rig.send("fresh")
            await until(lambda: disk.begun)
            assert isinstance(rig.ask(RequestCode.GET_ALL_TOPIC_CONFIG), Reply)
            disk.gate.set()
            await given

        self.run(rig, disk, scenario)

    def test_a_heartbeat_that_makes_a_group_is_answered_after_it(self, rig, disk):
        async def scenario():
            disk.gate.clear()
            given = rig.heartbeat(consumerDataSet=[consumer("newcomers")])
            assert (await self.answer_of(disk, given)).code == ResponseCode.SUCCESS

        self.run(rig, disk, scenario)


def test_a_new_topic_is_hot_only_when_the_file_has_it(tmp_path, disk):
    from fastmq.broker.state.topics import TOPIC_SEND_HOT, TopicTable
    from fastmq.config import BrokerConfig
    from fastmq.protocol.bodies import TopicConfig

    class Store:
        def __init__(self):
            self.flags = {}

        def set_topic(self, name, *, flags, **_):
            self.flags[name] = flags

        def remove_topic(self, name):
            del self.flags[name]

    store = Store()
    table = TopicTable(str(tmp_path / "topics.json"), config=BrokerConfig, store=store, wall_ms=lambda: 0)
    table.file._save = disk.save

    async def scenario():
        disk.gate.clear()
        table.put(TopicConfig(topic_name="fresh"))
        assert store.flags["fresh"] == 0
        disk.gate.set()
        await table.file.wait_saved()
        assert store.flags["fresh"] == TOPIC_SEND_HOT

    running(table, scenario)


def test_a_stop_waits_for_the_write_under_way_and_writes_what_is_left(disk):
    table = Table(disk)

    async def scenario():
        disk.gate.clear()
        table.set(1)
        await until(lambda: disk.begun == 1)
        table.set(2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(table.file.finish)
            await trio.testing.wait_all_tasks_blocked()
            assert disk.begun == 1
            disk.gate.set()
        assert disk.written == [b"1", b"2"]

    running(table, scenario)
    trio.run(table.file.finish)
    assert disk.written == [b"1", b"2"]


def test_a_stop_does_not_wait_for_ever_for_a_disk_that_refuses(disk):
    table = Table(disk)

    async def scenario():
        disk.broken = True
        table.set(1)
        with pytest.raises(StoreError, match="a-path"):
            await table.file.finish()

    running(table, scenario)


def test_an_older_state_does_not_overtake_the_last_one(tmp_path):
    rig = Rig(tmp_path)
    disk = Disk()

    async def main():
        disk.gate.clear()
        async with trio.open_nursery() as nursery:
            for text in (b"old", b"last"):
                nursery.start_soon(rig.broker.keeper.save, "a table", text, lambda data: disk.save("", data))
                await until(lambda: disk.begun)
            await trio.testing.wait_all_tasks_blocked()
            assert disk.begun == 1
            disk.gate.set()

    trio.run(main)
    assert disk.written == [b"old", b"last"]
    rig.close()
