"""A disk that refuses a table: nobody is told that a change is done; it counts all the same, and is written later."""

from __future__ import annotations

import errno
import inspect
from typing import Any, ClassVar

import pytest
import trio

from fastmq.errors import RequestError
from fastmq.net.server import Reply
from fastmq.protocol.bodies import SubscriptionGroupConfig, TopicConfig
from fastmq.protocol.codes import RequestCode, ResponseCode
from fastmq.store.tables import load_json, save_json
from unit.broker_rig import Rig

RESET = (
    RequestCode.INVOKE_BROKER_TO_RESET_OFFSET,
    {"topic": "t", "group": "g", "timestamp": 0, "isForce": True, "queueId": -1, "offset": -1},
    b"",
)
CLONE = RequestCode.CLONE_GROUP_OFFSET, {"srcGroup": "g", "destGroup": "h", "topic": "t", "offline": True}, b""
DELETE_GROUP = RequestCode.DELETE_SUBSCRIPTIONGROUP, {"groupName": "g", "cleanOffset": True}, b""
DELETE_TOPIC = RequestCode.DELETE_TOPIC_IN_BROKER, {"topic": "t"}, b""
CREATE_TOPIC = (
    RequestCode.UPDATE_AND_CREATE_TOPIC,
    {
        "topic": "new", "defaultTopic": "TBW102", "readQueueNums": 1, "writeQueueNums": 1, "perm": 6,
        "topicFilterType": "SINGLE_TAG", "topicSysFlag": 0, "order": False,
    },
    b"",
)  # fmt: skip
CREATE_GROUP = RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, {}, SubscriptionGroupConfig(group_name="new")
FORBID = RequestCode.UPDATE_AND_GET_GROUP_FORBIDDEN, {"group": "g", "topic": "t", "readable": False}, b""

CASES = {
    "reset": (RESET, lambda broker: broker.offsets.query("g", "t", 0) == 0),
    "clone": (CLONE, lambda broker: broker.offsets.query("h", "t", 0) == 2),
    "delete-group": (DELETE_GROUP, lambda broker: broker.offsets.query("g", "t", 0) == -1 and "g" not in broker.groups),
    "delete-topic": (DELETE_TOPIC, lambda broker: broker.offsets.query("g", "t", 0) == -1 and "t" not in broker.topics),
    "create-topic": (CREATE_TOPIC, lambda broker: "new" in broker.topics),
    "create-group": (CREATE_GROUP, lambda broker: "new" in broker.groups),
    "forbid": (FORBID, lambda broker: broker.groups.forbidden("g", "t")),
}


class Disk:
    """Takes the files of tables as long as it is not full."""

    full = False

    def save(self, path: str, data: bytes) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        save_json(path, data)


def prepare(rig: Rig, disk: Disk) -> None:
    broker = rig.broker
    broker.topics.put(TopicConfig("t", 1, 1))
    broker.groups.put(SubscriptionGroupConfig(group_name="g"))
    for _ in range(3):
        rig.send("t")
    broker.offsets.commit("g", "t", 0, 2)
    broker.offsets.file.persist()
    for table in (broker.topics, broker.groups, broker.request_modes, broker.offsets, broker.order):
        table.file._save = disk.save


async def ask(rig: Rig, request: tuple[int, dict[str, Any], Any]) -> Reply:
    """The answer as the server would give it."""
    try:
        answer = rig.ask(*request)
        return await answer if inspect.isawaitable(answer) else answer
    except RequestError as error:
        return Reply(error.code, error.remark)


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.mark.parametrize("case", CASES)
def test_a_change_that_cannot_be_written_is_no_success(tmp_path, disk, case):
    request, is_done = CASES[case]
    rig = Rig(tmp_path, namesrv_addr="")
    prepare(rig, disk)

    async def main():
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                await nursery.start(rig.broker.run)
                disk.full = True
                answer = await ask(rig, request)
                assert answer.code == ResponseCode.SYSTEM_ERROR
                assert "cannot be written" in answer.remark
                assert is_done(rig.broker), "it counts, and is not on disk yet"
                disk.full = False
                answer = await ask(rig, request)
                assert answer.code == ResponseCode.SUCCESS, answer.remark
                nursery.cancel_scope.cancel()

    trio.run(main)
    rig.crash()
    assert is_done(rig.broker)
    rig.close()


def test_what_was_refused_is_written_with_the_next_round(tmp_path, disk, caplog):
    rig = Rig(tmp_path, namesrv_addr="")
    prepare(rig, disk)

    async def main():
        disk.full = True
        for _ in range(2):
            assert (await ask(rig, RESET)).code == ResponseCode.SYSTEM_ERROR
        assert caplog.text.count("consumerOffset.json cannot be written") == 1
        disk.full = False
        await rig.broker.offsets.file.try_to_save()
        assert "consumerOffset.json is written again" in caplog.text

    trio.run(main)
    rig.crash()
    assert rig.broker.offsets.query("g", "t", 0) == 0
    rig.close()


def test_the_messages_of_a_topic_stay_until_the_offsets_on_it_are_gone(tmp_path, disk):
    """A topic of the same name that is made anew must not find groups that are ahead of it."""
    rig = Rig(tmp_path)
    prepare(rig, disk)

    async def main():
        disk.full = True
        rig.broker.topics.file._save = save_json
        assert (await ask(rig, DELETE_TOPIC)).code == ResponseCode.SYSTEM_ERROR
        assert rig.count("t") == 3
        disk.full = False
        assert (await ask(rig, DELETE_TOPIC)).code == ResponseCode.SUCCESS
        assert rig.count("t") == 0

    trio.run(main)
    rig.close()


class Unflushable(Rig):
    """A broker whose commit log cannot be made durable."""

    SIZES: ClassVar[dict[str, Any]] = {
        **Rig.SIZES,
        "fault_script": [{"call": "fdatasync", "file": "commitlog", "errno": errno.EIO, "times": -1}],
    }


def test_offsets_that_speak_of_what_is_not_on_disk_are_not_written(tmp_path, disk):
    rig = Unflushable(tmp_path)
    rig.broker.offsets.file.durable = lambda: None
    prepare(rig, disk)
    rig.broker.offsets.file.durable = rig.broker.keeper._flush_log

    async def main():
        answer = await ask(rig, RESET)
        assert answer.code == ResponseCode.SYSTEM_ERROR
        assert "the commit log cannot be flushed" in answer.remark

    trio.run(main)
    written = load_json(str(tmp_path / "store" / "config" / "consumerOffset.json"))
    assert written["offsetTable"]["t@g"] == {"0": 2}
    rig.store.close(clean=False)


def test_what_orderly_pops_go_by_is_written_with_a_reset(tmp_path, disk):
    """Else a crash brings the batch of before back, and an ack for it would undo the reset."""
    rig = Rig(tmp_path)
    prepare(rig, disk)
    now = rig.clock.wall_ms()
    rig.broker.order.put("t", "g", 0, [2], attempt_id=None, pop_ms=now, invisible_ms=60_000, now_ms=now)
    rig.broker.order.file.persist()

    async def main():
        assert (await ask(rig, RESET)).code == ResponseCode.SUCCESS

    trio.run(main)
    rig.crash()
    assert rig.broker.order.get("t", "g", 0) is None
    rig.close()
