"""Popping light queues (LMQ): a message has another place there than its record says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastmq.protocol.bodies import TopicConfig
from fastmq.protocol.codes import RequestCode
from fastmq.protocol.message import decode_messages
from unit.pop_rig import Popped, PopRig, popped, rig_at

PARENT, LIGHT = "parent", "%LMQ%b"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[PopRig]:
    rig = rig_at(tmp_path, enable_lmq=True, enable_multi_dispatch=True)
    rig.broker.topics.put(TopicConfig(PARENT, 4, 4))
    yield rig
    rig.close()


def fill(rig: PopRig, count: int = 4) -> None:
    """Messages whose places in the light queue are those of no other queue."""
    rig.send(PARENT, b"other", properties="INNER_MULTI_DISPATCH\x01%LMQ%a\x02")
    for number in range(count):
        properties = f"INNER_MULTI_DISPATCH\x01%LMQ%a,{LIGHT}\x02"
        assert rig.send(PARENT, b"%d" % number, queue=number % 3, properties=properties).code == 0


def take(rig: PopRig, **more: Any) -> list[Popped]:
    """The messages of a pop with their handles, as the Java client makes them (MQClientAPIImpl.processPopResponse)."""
    reply = rig.pop(LIGHT, **more)
    if reply.code != 0:
        return []
    ext = reply.ext
    starts = dict(item.rsplit(" ", 1) for item in ext["startOffsetInfo"].split(";"))
    offsets = dict(item.rsplit(" ", 1) for item in ext["msgOffsetInfo"].split(";"))
    found = []
    for message in decode_messages(reply.body):
        handle = message.get("POP_CK")
        if handle is not None:
            found.append(Popped(message.body, f"%RETRY%cg_{LIGHT}", 0, int(handle.split(" ")[7]), handle, message))
            continue
        names = message.property_map["INNER_MULTI_DISPATCH"].split(",")
        offset = message.property_map["INNER_MULTI_QUEUE_OFFSET"].split(",")[names.index(LIGHT)]
        assert offset in offsets["0 0"].split(",")
        handle = (
            f"{starts['0 0']} {ext['popTime']} {ext['invisibleTime']} {ext['reviveQid']} 0 broker 0 {offset}"
        )  # fmt: skip
        found.append(Popped(message.body, LIGHT, 0, int(offset), handle, message))
    return found


def test_offsets_of_a_pop_are_those_of_the_light_queue(rig: PopRig) -> None:
    fill(rig)
    reply = rig.pop(LIGHT)
    assert (reply.ext["startOffsetInfo"], reply.ext["msgOffsetInfo"]) == ("0 0 0", "0 0 0,1,2,3")
    assert rig.broker.offsets.query("cg", LIGHT, 0) == 4


def test_what_is_acked_does_not_come_again_and_the_rest_does(rig: PopRig) -> None:
    fill(rig)
    first = take(rig)
    assert [one.body for one in first] == [b"0", b"1", b"2", b"3"]
    for one in first[1:3]:
        assert rig.ack(one).code == 0
    rig.pass_ms(11_000)
    again = take(rig)
    assert [(one.body, one.message.reconsume_times) for one in again] == [(b"0", 1), (b"3", 1)]
    assert rig.count(LIGHT) == 4, "what comes again is in no light queue once more"
    for one in again:
        assert rig.ack(one).code == 0
    rig.pass_ms(30_000)
    assert take(rig) == []


def test_a_changed_time(rig: PopRig) -> None:
    fill(rig, 1)
    (one,) = take(rig)
    reply = rig.change_time(one, 2000)
    assert reply.code == 0
    rig.pass_ms(3000)
    assert [one.body for one in take(rig)] == [b"0"]


def test_orderly(rig: PopRig) -> None:
    fill(rig, 3)
    first = take(rig, order=True, queue=0, maxMsgNums=2, attemptId="a")
    assert [one.body for one in first] == [b"0", b"1"]
    assert take(rig, order=True, queue=0) == []
    for one in first:
        handle = one.handle.split(" ")
        handle[3] = "999"
        assert rig.ack(one._replace(handle=" ".join(handle))).code == 0
    assert [one.body for one in take(rig, order=True, queue=0)] == [b"2"]


def test_after_a_stop(rig: PopRig) -> None:
    fill(rig)
    first = take(rig)
    assert rig.ack(first[0]).code == 0
    rig.stop()
    rig.open()
    assert rig.ack(first[1]).code == 0
    rig.pass_ms(12_000)
    assert [one.body for one in take(rig)] == [b"2", b"3"]


def test_peeking(rig: PopRig) -> None:
    fill(rig)
    ext = {"consumerGroup": "cg", "topic": LIGHT, "queueId": 0, "maxMsgNums": 32}
    rig.take(PARENT)
    reply = rig.ask(RequestCode.PEEK_MESSAGE, ext)
    found = [(one.queue_id, one.queue_offset, one.body) for one in decode_messages(reply.body)]
    assert found == [(0, number, b"%d" % number) for number in range(4)]


def test_the_topic_of_the_messages_is_popped_as_ever(rig: PopRig) -> None:
    fill(rig)
    assert len(popped(rig.pop(PARENT), PARENT, "cg")) == 5
