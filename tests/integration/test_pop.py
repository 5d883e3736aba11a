"""POP end to end: `fastmq serve` as a process, and consumers that do what clients of RocketMQ 5 do."""

from __future__ import annotations

import itertools
import json
import threading
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastmq.protocol.message import decode_messages
from support.popping import (
    BATCH_ACK,
    DELETE_TOPIC,
    NOTIFY,
    ORDERLY,
    PEEK,
    Consumer,
    Stage,
    bodies,
    popped,
)
from support.servers import FastmqServer, Server
from support.waiting import wait_until


@pytest.fixture(scope="module", params=[True, False], ids=["hot", "cold"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with FastmqServer(tmp_path_factory.mktemp("pop"), hot_road=request.param) as running:
        yield running


@pytest.fixture(scope="module")
def shared(server: Server) -> Stage:
    return Stage(server)


@pytest.fixture
def stage(shared: Stage) -> Iterator[Stage]:
    """The server of all tests that do not stop it."""
    yield shared
    shared.disconnect()


@pytest.fixture(params=[True, False], ids=["hot", "cold"])
def own(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    """A server of the test's own, which it may stop."""
    with FastmqServer(tmp_path, hot_road=request.param) as running:
        stage = Stage(running)
        yield stage
        stage.disconnect()


# --- ack and revive ---------------------------------------------------------------------------------------------------


def test_what_is_not_acked_comes_again_and_what_is_does_not(stage: Stage) -> None:
    topic = stage.topic()
    stage.send(topic, *(b"%d" % number for number in range(10)))
    consumer = stage.consumer(topic)
    first = consumer.pop_all(10, invisible_ms=4_000)
    assert consumer.pop() == []
    for one in first[:6]:
        consumer.ack(one)
    again = consumer.pop_all(4)
    assert bodies(again) == bodies(first[6:])
    for one in again:
        assert one.message.reconsume_times == 1
        assert one.topic == f"%RETRY%g_{topic}"
        assert one.message.get("1ST_POP_TIME") == first[-1].parts[1]
        consumer.ack(one)
    assert consumer.pop(wait_ms=300) == []


def test_a_message_comes_again_as_often_as_it_is_not_acked(stage: Stage) -> None:
    topic = stage.topic()
    stage.send(topic, b"stubborn")
    consumer = stage.consumer(topic)
    seen = []
    for _ in range(3):
        (one,) = consumer.pop_all(1, invisible_ms=1_000)
        seen.append(one.message.reconsume_times)
    assert seen == [0, 1, 2]


def test_groups_do_not_take_from_each_other(stage: Stage) -> None:
    topic = stage.topic()
    stage.send(topic, b"a", b"b")
    for group in ("g", "h"):
        assert bodies(stage.consumer(topic, group).pop_all(2)) == [b"a", b"b"]


def test_a_batch_of_acks(stage: Stage) -> None:
    topic = stage.topic(1)
    stage.send(topic, *(b"%d" % number for number in range(6)), queues=1)
    consumer = stage.consumer(topic)
    first = consumer.pop(invisible_ms=4_000)
    assert len(first) == 6
    start, pop_time, invisible, revive, retry, _, queue, _ = first[0].parts
    entry = {
        "c": "g", "t": topic, "r": retry, "so": int(start), "q": int(queue), "rq": int(revive), "pt": int(pop_time),
        "it": int(invisible), "b": b64encode(bytes([0b101101])).decode(),
    }  # fmt: skip
    body = json.dumps({"acks": [entry], "brokerName": "broker-a"}).encode()
    assert stage.call(BATCH_ACK, {}, body).code == 0
    assert bodies(consumer.pop_all(2)) == [b"1", b"4"]


def test_a_changed_invisible_time(stage: Stage) -> None:
    topic = stage.topic(1)
    stage.send(topic, b"sooner", b"later", b"never", queues=1)
    consumer = stage.consumer(topic)
    sooner, later, never = consumer.pop(invisible_ms=20_000)
    consumer.change(later, 60_000)
    consumer.ack(consumer.change(never, 5_000))
    began = time.monotonic()
    changed = consumer.change(sooner, 1_000)
    (again,) = consumer.pop_all(1)
    assert again.body == b"sooner"
    assert time.monotonic() - began > 0.9
    consumer.ack(changed)  # the old handle means nothing any more
    consumer.ack(again)
    assert consumer.pop(wait_ms=5_000) == [], "what was acked under its new handle does not come"


# --- order ------------------------------------------------------------------------------------------------------------


def test_order_holds_whatever_the_consumers_do(stage: Stage) -> None:
    topic = stage.topic(1)
    stage.send(topic, *(b"%d" % number for number in range(6)), queues=1)
    one, two = stage.consumer(topic), stage.consumer(topic)
    first = one.pop(order=True, most=2, invisible_ms=60_000, attemptId="a1")
    assert [message.body for message in first] == [b"0", b"1"]
    assert [message.parts[3] for message in first] == [str(ORDERLY)] * 2
    assert two.pop(order=True, attemptId="a2") == [], "the queue is blocked"
    repeated = one.pop(order=True, most=2, invisible_ms=60_000, attemptId="a1")
    assert [message.body for message in repeated] == [b"0", b"1"], "the same attempt gets the same"
    one.ack(first[0])  # an old handle: nothing happens
    one.ack(repeated[0])
    assert two.pop(order=True) == [], "one message is still open"
    waiting = two.start_pop(order=True, most=3, wait_ms=20_000)
    stage.wait_for_waiting(1, topic)
    one.ack(repeated[1])
    following = two.take_pop(waiting)
    assert [message.body for message in following] == [b"2", b"3", b"4"], "the last ack frees the queue"


def test_an_ordered_queue_goes_on_by_itself_when_its_consumer_died(stage: Stage) -> None:
    topic = stage.topic(1)
    stage.send(topic, b"0", b"1", b"2", queues=1)
    dying, heir = stage.consumer(topic), stage.consumer(topic)
    first = dying.pop(order=True, most=2, invisible_ms=3_000)
    dying.ack(first[0])
    dying.close()
    number = heir.start_pop(order=True, wait_ms=20_000)
    answer = heir.connection.take(number)
    assert [message.body for message in popped(answer, topic, "g")] == [b"1", b"2"]
    assert answer.ext["orderCountInfo"].split(";") == ["0 qo0%1 1", "0 0 0"]


def test_an_ordered_message_that_is_put_off(stage: Stage) -> None:
    topic = stage.topic(1)
    stage.send(topic, b"0", b"1", queues=1)
    consumer = stage.consumer(topic)
    first = consumer.pop(order=True, most=1, invisible_ms=20_000)
    consumer.change(first[0], 3_000)
    assert consumer.pop(order=True) == []
    assert [one.body for one in consumer.pop(order=True, wait_ms=20_000)] == [b"0", b"1"]


# --- waiting ----------------------------------------------------------------------------------------------------------


def test_a_waiting_pop_gets_the_message_that_comes(stage: Stage) -> None:
    topic = stage.topic()
    any_queue, one_queue = stage.consumer(topic), stage.consumer(topic, "h")
    waiting = any_queue.start_pop(wait_ms=20_000)
    waiting_too = one_queue.start_pop(wait_ms=20_000, queueId=1)
    stage.wait_for_waiting(1, topic)
    stage.wait_for_waiting(1, topic, "h", 1)
    stage.send(topic, b"queue 0", b"queue 1")
    assert set(bodies(any_queue.take_pop(waiting))) <= {b"queue 0", b"queue 1"}
    assert bodies(one_queue.take_pop(waiting_too)) == [b"queue 1"]


def test_messages_go_to_as_many_waiting_pops_as_it_takes(stage: Stage) -> None:
    topic = stage.topic(1)
    consumers = [stage.consumer(topic) for _ in range(4)]
    numbers = [consumer.start_pop(wait_ms=20_000, most=2) for consumer in consumers]
    stage.wait_for_waiting(4, topic)
    stage.send(topic, *(b"%d" % number for number in range(7)), queues=1)
    got = [body for consumer, number in zip(consumers, numbers, strict=True) for body in consumer.take_pop(number)]
    rest = consumers[0].pop() if len(got) < 7 else []
    assert bodies(got + rest) == [b"%d" % number for number in range(7)]


def test_a_waiting_pop_is_woken_by_its_tag(stage: Stage) -> None:
    topic = stage.topic(1)
    consumer = stage.consumer(topic)
    waiting = consumer.start_pop(wait_ms=20_000, exp="wanted")
    stage.wait_for_waiting(1, topic)
    stage.send(topic, b"other", queues=1, tag="other")
    assert not consumer.connection.has_answer(waiting, 0.3)
    stage.send(topic, b"mine", queues=1, tag="wanted")
    assert bodies(consumer.take_pop(waiting)) == [b"mine"]


def test_a_waiting_pop_gets_what_comes_again(stage: Stage) -> None:
    topic = stage.topic()
    stage.send(topic, b"lost")
    loser, heir = stage.consumer(topic), stage.consumer(topic)
    assert len(loser.pop(invisible_ms=1_500)) == 1
    waiting = heir.start_pop(wait_ms=20_000)
    loser.close()
    (one,) = heir.take_pop(waiting)
    assert (one.body, one.message.reconsume_times) == (b"lost", 1)


def test_a_pop_whose_time_is_up_is_told_so_before_its_client_gives_up(stage: Stage) -> None:
    topic = stage.topic()
    consumer = stage.consumer(topic)
    began = time.monotonic()
    answer = consumer.connection.take(consumer.start_pop(wait_ms=700))
    assert answer.code == 210
    assert answer.ext["msgOffsetInfo"] == ""
    assert time.monotonic() - began > 0.6
    assert stage.waiting(topic) == 0


def test_a_client_that_went_away_gets_nothing(stage: Stage) -> None:
    topic = stage.topic()
    gone, here = stage.consumer(topic), stage.consumer(topic)
    gone.start_pop(wait_ms=20_000)
    stage.wait_for_waiting(1, topic)
    gone.close()
    stage.wait_for_waiting(0, topic)
    waiting = here.start_pop(wait_ms=20_000)
    stage.wait_for_waiting(1, topic)
    stage.send(topic, b"one")
    assert bodies(here.take_pop(waiting)) == [b"one"]


def test_a_topic_that_is_deleted_meanwhile(stage: Stage) -> None:
    topic = stage.topic()
    consumer = stage.consumer(topic)
    waiting = consumer.start_pop(wait_ms=20_000)
    stage.wait_for_waiting(1, topic)
    assert stage.call(DELETE_TOPIC, {"topic": topic}).code == 0
    assert consumer.connection.take(waiting).code == 17


def test_looking_before_popping(stage: Stage) -> None:
    topic = stage.topic()
    consumer = stage.consumer(topic)
    ext = {"consumerGroup": "g", "topic": topic, "queueId": -1}
    wanted = {**ext, "pollTime": 20_000, "bornTime": time.time_ns() // 1_000_000, "order": False}
    number = consumer.connection.start(NOTIFY, wanted)
    assert not consumer.connection.has_answer(number, 0.2)
    stage.send(topic, b"seen")
    assert consumer.connection.take(number).ext["hasMsg"] == "true"
    peeked = stage.call(PEEK, {**ext, "maxMsgNums": 8})
    assert [message.body for message in decode_messages(peeked.body)] == [b"seen"]
    assert bodies(consumer.pop()) == [b"seen"]
    assert stage.call(PEEK, {**ext, "maxMsgNums": 8}).code == 19


# --- many at once -----------------------------------------------------------------------------------------------------


def test_many_consumers_some_of_which_fail(stage: Stage) -> None:
    """Everything is consumed; while a message is invisible nobody else has it."""
    topic = stage.topic(4)
    total = 300
    done: Counter[bytes] = Counter()
    given: list[tuple[bytes, int, int]] = []
    lock = threading.Lock()
    finished = threading.Event()

    def consume(number: int) -> None:
        with Consumer(stage.server.listen_port, topic) as consumer:
            for turn in range(10_000):
                if finished.is_set():
                    return
                for one in consumer.pop(wait_ms=300, most=1 + (number + turn) % 8, invisible_ms=3_000):
                    with lock:
                        given.append((one.body, int(one.parts[1]), one.message.reconsume_times))
                    if one.message.reconsume_times == 0 and int(one.body) % 7 == number:
                        continue  # this one it forgets
                    consumer.ack(one)
                    with lock:
                        done[one.body] += 1

    threads = [threading.Thread(target=consume, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        stage.send(topic, *(b"%d" % number for number in range(total)), queues=4)
        wait_until(lambda: len(done) == total, "every message is acked")
    finally:
        finished.set()
        for thread in threads:
            thread.join()
    assert set(done) == {b"%d" % number for number in range(total)}
    forgotten = {body for body, _, times in given if times > 0}
    assert forgotten
    by_body: dict[bytes, list[int]] = {}
    for body, at_ms, _ in sorted(given, key=lambda one: one[1]):
        by_body.setdefault(body, []).append(at_ms)
    for times in by_body.values():
        assert all(later - earlier >= 3_000 for earlier, later in itertools.pairwise(times))


# --- restarts ---------------------------------------------------------------------------------------------------------


def test_pops_and_acks_outlive_an_orderly_stop(own: Stage) -> None:
    topic = own.topic()
    own.send(topic, *(b"%d" % number for number in range(10)))
    consumer = own.consumer(topic)
    first = consumer.pop_all(10, invisible_ms=60_000)
    for one in first[:4]:
        consumer.ack(one)
    own.disconnect()
    own.server.restart()
    consumer = own.consumer(topic)
    assert consumer.pop() == [], "the others are still invisible"
    consumer.ack(first[4])
    changed = [consumer.change(one, 500) for one in first[5:]]
    assert bodies(consumer.pop_all(5)) == bodies(changed)


def test_nothing_is_lost_when_the_broker_is_killed(own: Stage) -> None:
    topic = own.topic()
    own.send(topic, *(b"%d" % number for number in range(10)))
    consumer = own.consumer(topic)
    first = consumer.pop_all(10, invisible_ms=3_000)
    for one in first[:4]:
        consumer.ack(one)
    own.disconnect()
    own.server.kill()
    own.server.start()
    consumer = own.consumer(topic)
    found: set[bytes] = set()

    def all_open_ones() -> bool:
        for one in consumer.pop(wait_ms=1_000):
            found.add(one.body)
            consumer.ack(one)
        return found >= {one.body for one in first[4:]}

    wait_until(all_open_ones, "what was not acked comes again")


def test_an_ordered_queue_stays_blocked_over_a_restart(own: Stage) -> None:
    topic = own.topic(1)
    own.send(topic, b"0", b"1", b"2", queues=1)
    first = own.consumer(topic).pop(order=True, most=2, invisible_ms=60_000, attemptId="a")
    own.consumer(topic).ack(first[0])
    own.disconnect()
    own.server.restart()
    consumer = own.consumer(topic)
    assert consumer.pop(order=True) == []
    consumer.ack(first[1])
    assert [one.body for one in consumer.pop(order=True, wait_ms=20_000)] == [b"2"]


def test_order_survives_a_kill(own: Stage) -> None:
    """What was acked may come again; what was not is never skipped, and the order holds."""
    topic = own.topic(1)
    own.send(topic, *(b"%d" % number for number in range(6)), queues=1)
    first = own.consumer(topic).pop(order=True, most=4, invisible_ms=2_000)
    own.consumer(topic).ack(first[0])
    own.disconnect()
    own.server.kill()
    own.server.start()
    consumer = own.consumer(topic)
    consumer.ack(first[2])  # a late one, of a batch that the broker may not know any more
    got = [int(one.body) for one in consumer.pop(order=True, wait_ms=20_000)]
    assert got == list(range(got[0], 6))
    assert got[0] <= 1


def test_a_kill_amid_traffic_loses_nothing(own: Stage) -> None:
    """Every message that the broker took is consumed, whatever was popped, acked or put off when it died."""
    topic = own.topic(4)
    port = own.server.listen_port
    sent: set[bytes] = set()
    done: set[bytes] = set()
    finished = threading.Event()

    def produce() -> None:
        for number in range(100_000):
            if finished.is_set():
                return
            body = b"%d" % number
            try:
                own.send(topic, body, queues=4)
            except (OSError, AssertionError):
                time.sleep(0.02)  # the broker is away
                continue
            sent.add(body)

    def consume(number: int) -> None:
        turn = 0
        while not finished.is_set():
            try:
                with Consumer(port, topic) as consumer:
                    while not finished.is_set():
                        for one in consumer.pop(wait_ms=200, invisible_ms=1_500):
                            turn += 1
                            if turn % 11 == number:
                                consumer.change(one, 500)
                            elif turn % 7 != number:
                                consumer.ack(one)
                                done.add(one.body)
            except (OSError, AssertionError):
                time.sleep(0.02)  # the broker is away

    threads = [threading.Thread(target=consume, args=(number,)) for number in range(3)]
    producer = threading.Thread(target=produce)
    for thread in (*threads, producer):
        thread.start()
    try:
        for goal in (150, 400):
            wait_until(lambda goal=goal: len(sent) > goal and len(done) > goal // 2, "there is traffic")  # type: ignore[misc]
            own.server.kill()
            own.server.start()
        wait_until(lambda: len(sent) > 600, "there is traffic again")
        enough = set(sent)
        wait_until(lambda: enough <= done, "everything is consumed")
    finally:
        finished.set()
        for thread in (*threads, producer):
            thread.join()


def test_with_sync_flush(tmp_path: Path) -> None:
    with FastmqServer(tmp_path, {"flushDiskType": "SYNC_FLUSH"}) as server:
        stage = Stage(server)
        topic = stage.topic()
        consumer = stage.consumer(topic)
        waiting = consumer.start_pop(wait_ms=20_000, invisible_ms=1_500)
        stage.wait_for_waiting(1, topic)
        stage.send(topic, b"0")
        (first,) = consumer.take_pop(waiting)
        waiting = consumer.start_pop(wait_ms=20_000)
        (again,) = consumer.take_pop(waiting)
        assert (first.body, again.body, again.message.reconsume_times) == (b"0", b"0", 1)
        consumer.ack(again)
        stage.disconnect()
