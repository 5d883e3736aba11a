"""Two reactors over one log: each has its own thread and sockets, both append to it and see what the other did."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastmq._reactor import Reactor
from fastmq._store import Store
from fastmq.protocol.command import Command, decode_frame
from fastmq.protocol.message import decode_messages
from support.reactors import Client, pull, send

QUEUES = 4
IN_FLIGHT = 16


class Pair:
    """One store, two reactors on a thread each."""

    def __init__(self, folder: Path, *, sync: bool) -> None:
        self.store = Store(str(folder), store_host=("127.0.0.1", 10911), sync_flush=sync, segment_bytes=1 << 20)
        self.store.set_topic("plain", perm=6, read_queues=QUEUES, write_queues=QUEUES, flags=1)
        self.store.start()
        self.reactors = [Reactor(self.store) for _ in range(2)]
        for reactor in self.reactors:
            reactor.set_send_policy(
                enabled=True, service=0, region="r", cluster="c", trace_on=True, max_message_bytes=1 << 20, failures={},
                sync_flush_timeout_ms=60_000,  # a disk may take its time
            )  # fmt: skip
        self.threads = [threading.Thread(target=reactor.run) for reactor in self.reactors]
        for thread in self.threads:
            thread.start()
        self.clients: list[Client] = []

    def client(self, side: int) -> Client:
        client = Client(self.reactors[side])
        self.clients.append(client)
        return client

    def grant(self) -> None:
        for reactor in self.reactors:
            reactor.grant_pulls(
                "cg", "plain", queues=QUEUES, subscription="*", lite=True, sub_version=0, tag_codes=None,
                max_messages=32, max_bytes=1 << 20, suspend_ms=-1, group_sys_flag=0, topic_sys_flag=0,
            )  # fmt: skip

    def close(self) -> None:
        for client in self.clients:
            client.sock.close()
        for reactor, thread in zip(self.reactors, self.threads, strict=True):
            reactor.stop()
            thread.join()
            reactor.close()
        self.store.close()


@pytest.fixture(params=[False, True], ids=["async", "sync"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    pair = Pair(tmp_path, sync=request.param)
    yield pair
    pair.close()


def produce(client: Client, name: bytes, count: int, placed: list[tuple[int, int]]) -> None:
    """Messages 0 … count of `name`, round the queues, so many at a time; (queue, queue offset) of each by number."""
    sent = answered = 0
    while answered < count:
        burst = range(sent, min(sent + IN_FLIGHT, count))
        client.send(*(send(number, number % QUEUES, b"%s %d" % (name, number)) for number in burst))
        sent = burst.stop
        for number in burst:
            answer = client.receive()
            assert (answer.code, answer.opaque) == (0, number)
            placed.append((int(answer.ext["queueId"]), int(answer.ext["queueOffset"])))
            answered += 1


def test_sends_to_both_are_all_stored_in_dense_queues_and_in_order(pair: Pair) -> None:
    count, results = 1500, {}
    threads = []
    for number in range(8):
        placed: list[tuple[int, int]] = []
        name = b"producer-%d" % number
        results[name] = placed
        threads.append(threading.Thread(target=produce, args=(pair.client(number % 2), name, count, placed)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(reactor.statistics()["hot_sends"] == 4 * count for reactor in pair.reactors)
    everything = [place for placed in results.values() for place in placed]
    assert sorted(everything) == [(q, o) for q in range(QUEUES) for o in range(8 * count // QUEUES)]
    pair.grant()
    reader = pair.client(0)
    for queue_id in range(QUEUES):
        bodies = []
        while len(bodies) < 8 * count // QUEUES:
            reader.send(pull(1, queue_id, len(bodies)))
            bodies += [bytes(message.body) for message in decode_messages(reader.receive().body)]
        for name in results:
            own = [body for body in bodies if body.startswith(name + b" ")]
            assert own == [b"%s %d" % (name, number) for number in range(queue_id, count, QUEUES)], "out of order"
        for name, placed in results.items():
            for number in range(queue_id, count, QUEUES * 50):
                assert bodies[placed[number][1]] == b"%s %d" % (name, number)


def test_a_pull_that_waits_at_one_is_answered_by_a_send_to_the_other(pair: Pair) -> None:
    pair.grant()
    producers = [pair.client(0), pair.client(1)]
    for queue_id in range(QUEUES):
        producers[0].send(send(queue_id, queue_id, b"first"))
        assert producers[0].receive().code == 0
    consumers = [pair.client(0), pair.client(1), pair.client(0)]
    for number in range(1, 150):
        for consumer in consumers:
            consumer.send(pull(number, 1, number, wait_ms=60_000))
        producer = producers[number % 2]
        producer.send(send(number, 1, b"%d" % number))
        assert producer.receive().code == 0
        for consumer in consumers:
            answer = consumer.receive()
            assert (answer.opaque, answer.code) == (number, 0)
            assert [message.body for message in decode_messages(answer.body)] == [b"%d" % number]
    assert all(reactor.statistics()["held_pulls"] == 0 for reactor in pair.reactors)


def test_a_pull_between_whose_look_and_wait_the_other_appends_is_answered(pair: Pair) -> None:
    pair.grant()
    count = 3000
    producer, consumer = pair.client(1), pair.client(0)
    producer.send(send(0, 1, b"0"))
    assert producer.receive().code == 0
    sending = threading.Thread(target=one_by_one, args=(producer, range(1, count)))
    sending.start()
    offset = 0
    while offset < count:
        consumer.send(pull(offset, 1, offset, wait_ms=60_000))
        messages = decode_messages(consumer.receive().body)
        assert [message.body for message in messages] == [b"%d" % (offset + i) for i in range(len(messages))]
        offset += len(messages)
    sending.join()
    assert pair.reactors[0].statistics()["cold_frames"] == 0


def test_pulls_that_wait_are_bounded_by_their_bytes(pair: Pair) -> None:
    pair.grant()
    producer, consumer = pair.client(0), pair.client(0)
    producer.send(send(0, 1, b"first"))
    assert producer.receive().code == 0
    for offset in (1, 2):  # the room is there again when they have been answered
        for number in range(70):
            large = pull(number, 1, offset, wait_ms=60_000)
            large.ext["padding"] = "x" * (1 << 20)
            consumer.send(large)
        at_once = [consumer.receive() for _ in range(6)]
        assert [(one.opaque, one.code) for one in at_once] == [(number, 19) for number in range(64, 70)]
        producer.send(send(offset, 1, b"more"))
        assert producer.receive().code == 0
        answers = [consumer.receive() for _ in range(64)]
        assert sorted((one.opaque, one.code) for one in answers) == [(number, 0) for number in range(64)]


def one_by_one(client: Client, numbers: range) -> None:
    for number in numbers:
        client.send(send(number, 1, b"%d" % number))
        assert client.receive().code == 0


def test_offsets_are_not_asked_for_where_another_reactor_may_have_committed(pair: Pair) -> None:
    pair.grant()
    client = pair.client(0)
    at = {"consumerGroup": "cg", "topic": "plain", "queueId": "0"}
    client.send(Command(15, opaque=1, ext={**at, "commitOffset": "3"}))
    assert client.receive().code == 0
    client.send(Command(14, opaque=2, ext=at))
    items = []
    while not items:
        items = pair.reactors[0].take_cold()
    assert decode_frame(items[0][2] or b"").code == 14


def test_a_reactor_that_is_closed_leaves_the_other_alone(pair: Pair) -> None:
    pair.grant()
    first, second = pair.client(0), pair.client(1)
    first.send(send(1, 0, b"first"))
    assert first.receive().code == 0
    third = Reactor(pair.store)
    third.close()
    fourth = Reactor(pair.store)
    second.send(pull(2, 0, 1, wait_ms=60_000))
    first.send(send(3, 0, b"second"))
    assert first.receive().code == 0
    assert second.receive().code == 0
    fourth.close()
