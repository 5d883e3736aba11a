"""Consumers pop from one broker and go on with another one over the same store: fastmq and Apache RocketMQ 5.3.3."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.popping import SET_MODE, Consumer, Popped, Stage, bodies
from support.servers import ApachePeer, FastmqServer, Server
from support.toolchains import ToolchainMissing, apache_class_path, missing
from support.waiting import wait_until

pytestmark = pytest.mark.apache

# Apache takes up to 20 seconds to change hands
INVISIBLE_MS = 40_000


@pytest.fixture(params=[(FastmqServer, ApachePeer), (ApachePeer, FastmqServer)], ids=["to-apache", "to-fastmq"])
def owners(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Server, Server]:
    """Who has the store first, and who then."""
    try:
        apache_class_path()
    except ToolchainMissing as reason:
        missing(str(reason))
    first, second = request.param
    return first(tmp_path / "first"), second(tmp_path / "second")


def test_pops_change_hands(owners: tuple[Server, Server]) -> None:
    first, second = owners
    with first:
        stage = Stage(first)
        plain, ordered = stage.topic(2), stage.topic(1)
        stage.send(plain, *(b"%d" % number for number in range(10)))
        stage.send(ordered, *(b"%d" % number for number in range(4)), queues=1)
        mode = {"topic": plain, "consumerGroup": "g", "mode": "POP", "popShareQueueNum": 2}
        assert stage.call(SET_MODE, {}, json.dumps(mode).encode()).code == 0
        consumer = stage.consumer(plain)
        got = sorted(consumer.pop_all(10, invisible_ms=INVISIBLE_MS), key=lambda one: one.body)
        for one in got[:4]:
            consumer.ack(one)
        in_order = stage.consumer(ordered).pop(order=True, most=3, invisible_ms=120_000, attemptId="a")
        stage.consumer(ordered).ack(in_order[0])
        stage.disconnect()
        first.stop()
    second.take_over(first)
    with second:
        stage = Stage(second)
        modes = json.loads(stage.call(402, {}).body)["messageRequestModeMap"]
        assert modes[plain]["g"] == mode
        consumer = stage.consumer(ordered)
        assert consumer.pop(order=True) == [], "the queue is still blocked"
        again = consumer.pop(order=True, most=3, attemptId="a")
        assert [one.body for one in again] == [b"1", b"2", b"3"], "the same attempt goes on at the first open message"
        for one in again:
            consumer.ack(one)
        consumer = stage.consumer(plain)
        for one in got[4:6]:
            consumer.ack(one)
        found = _everything(consumer, {one.body for one in got[6:]})
        assert bodies(found) == bodies(got[6:]), "what was acked to one or the other does not come again"
        stage.disconnect()


def _everything(consumer: Consumer, wanted: set[bytes]) -> list[Popped]:
    found: list[Popped] = []

    def all_there() -> bool:
        for one in consumer.pop(wait_ms=1_000):
            found.append(one)
            consumer.ack(one)
        return {one.body for one in found} >= wanted

    wait_until(all_there, "what was not acked comes again", seconds=90)
    return found
