"""Consumers pop from one broker and go on with another one over the same store: fastmq and Apache RocketMQ 5.3.3."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastmq.protocol.bodies import loads_lenient, queue_map
from support.popping import SET_MODE, Consumer, Popped, Stage, bodies
from support.servers import ApachePeer, FastmqServer, Server
from support.toolchains import ToolchainMissing, apache_class_path, missing
from support.waiting import wait_until

pytestmark = pytest.mark.apache

# Apache takes up to 20 seconds to change hands, more on a busy machine
INVISIBLE_MS = 75_000
GET_CONSUME_STATS = 208


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

    wait_until(all_there, "what was not acked comes again", seconds=240)
    return found


def progress(stage: Stage, group: str) -> dict[tuple[str, int], tuple[int, int, int]]:
    """GET_CONSUME_STATS: by topic and queue its end, the group's offset, how far it has pulled."""
    answer = stage.call(GET_CONSUME_STATS, {"consumerGroup": group})
    assert answer.code == 0, answer
    table = queue_map(loads_lenient(answer.body)["offsetTable"])
    return {
        (queue.topic, queue.queue_id): (row["brokerOffset"], row["consumerOffset"], row["pullOffset"])
        for queue, row in table.items()
    }


def test_consume_stats_of_a_group_that_pops_are_apaches(tmp_path: Path) -> None:
    """What was popped counts as consumed, acknowledged or not; what came back is a queue of the retry topic."""
    try:
        apache_class_path()
    except ToolchainMissing as reason:
        missing(str(reason))
    servers = ApachePeer(tmp_path / "apache"), FastmqServer(tmp_path / "fastmq")
    theirs, ours = (steps_of_a_group_that_pops(server) for server in servers)
    assert ours == theirs


def steps_of_a_group_that_pops(server: Server) -> list[dict[tuple[str, int], tuple[int, int, int]]]:
    """Its progress when all is popped; when some came back; when that is popped, too."""
    with server:
        stage = Stage(server)
        topic = stage.topic(2)
        retry = f"%RETRY%g_{topic}", 0
        stage.send(topic, *(b"%d" % number for number in range(10)))
        consumer = stage.consumer(topic)
        got = consumer.pop_all(10, invisible_ms=2_000)
        popped = {(topic, queue): (5, 5, 5) for queue in range(2)}
        wait_until(lambda: popped.items() <= progress(stage, "g").items(), "the offsets of the pops are there")
        seen = [progress(stage, "g")]
        for one in got[:6]:
            consumer.ack(one)
        wait_until(lambda: progress(stage, "g").get(retry, (0,))[0] == 4, "what was not acked comes back", 60)
        seen.append(progress(stage, "g"))
        assert len(consumer.pop_all(4)) == 4
        wait_until(lambda: progress(stage, "g")[retry][1] == 4, "the offset of the retry topic is there")
        seen.append(progress(stage, "g"))
        stage.disconnect()
        return seen
