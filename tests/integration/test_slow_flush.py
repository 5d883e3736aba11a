"""A flush that takes as long as the test wants: who waits for it, and who does not."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastmq._reactor import Reactor
from fastmq._store import Store
from fastmq.protocol.command import decode_frame
from fastmq.protocol.message import decode_messages
from support.reactors import Client, pull, send
from support.waiting import wait_until

QUEUES = 4
SEGMENT_BYTES = 1 << 20


class Disk:
    """A broker's hot road over a log each of whose flushes waits to be let go."""

    def __init__(self, folder: Path, *, sync: bool) -> None:
        gate, self._let_go = os.pipe()
        self._gate = gate
        self.store = Store(
            str(folder), store_host=("127.0.0.1", 10911), sync_flush=sync, segment_bytes=SEGMENT_BYTES,
            flush_interval_ms=1, flush_least_pages=0,
            fault_script=[{"call": "fdatasync", "file": "commitlog", "times": -1, "hold": gate}],
        )  # fmt: skip
        self.store.set_topic("plain", perm=6, read_queues=QUEUES, write_queues=QUEUES, flags=1)
        self.store.start()
        self.reactor = Reactor(self.store)
        self.reactor.set_send_policy(
            enabled=True, service=0, region="r", cluster="c", trace_on=True, max_message_bytes=1 << 20, failures={}
        )
        self.reactor.grant_pulls(
            "cg", "plain", queues=QUEUES, subscription="*", lite=True, sub_version=0, tag_codes=None,
            max_messages=32, max_bytes=1 << 20, suspend_ms=-1, group_sys_flag=0, topic_sys_flag=0,
        )  # fmt: skip
        self._thread = threading.Thread(target=self.reactor.run)
        self._thread.start()
        self.clients: list[Client] = []

    def client(self) -> Client:
        client = Client(self.reactor)
        self.clients.append(client)
        return client

    def wait_for_flush(self, number: int) -> None:
        """Until so many flushes have begun."""
        wait_until(lambda: self.store.statistics()["faults_hit"] >= number, f"flush {number} begins", pause=0.001)

    def let_one_go(self) -> None:
        os.write(self._let_go, b"x")

    def close(self) -> None:
        os.close(self._let_go)  # whoever waits reads the end
        for client in self.clients:
            client.sock.close()
        self.reactor.stop()
        self._thread.join()
        self.reactor.close()
        self.store.close()
        os.close(self._gate)


@pytest.fixture
def slow(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path, sync=request.param)
    yield disk
    disk.close()


def unanswered(*clients: Client) -> bool:
    return select.select([client.sock for client in clients], [], [], 0)[0] == []


@pytest.mark.parametrize("slow", [False], ids=["async"], indirect=True)
def test_sends_pulls_and_new_segments_do_not_wait_for_a_flush(slow: Disk) -> None:
    one, other = slow.client(), slow.client()
    one.send(send(0, 0, b"first"))
    assert one.receive().code == 0
    slow.wait_for_flush(1)
    count, body = 400, bytes(8000)
    for number in range(1, count):
        client = one if number % 2 else other
        client.send(send(number, number % QUEUES, body))
        assert client.receive().code == 0
    assert slow.store.written_offset > 3 * SEGMENT_BYTES, "no new segment was begun"
    one.send(pull(1, 1, count // QUEUES - 1))
    (last,) = decode_messages(one.receive().body)
    assert last.queue_offset == count // QUEUES - 1
    other.send(pull(2, 2, count // QUEUES, wait_ms=60_000))
    one.send(send(count, 2, b"wakes it"))
    assert one.receive().code == 0
    assert [message.body for message in decode_messages(other.receive().body)] == [b"wakes it"]
    other.send(send(1, QUEUES, b"there is no such queue: a frame for Python"))
    (item,) = wait_until(slow.reactor.take_cold, "Python gets its frame")
    assert decode_frame(item[2] or b"").code == 310
    assert (slow.store.statistics()["faults_hit"], slow.store.flushed_offset) == (1, 0), "a flush ended meanwhile"


@pytest.mark.parametrize("slow", [True], ids=["sync"], indirect=True)
def test_an_answer_waits_for_the_flush_of_its_own_message_and_for_no_other(slow: Disk) -> None:
    store = slow.store
    clients = [slow.client() for _ in range(3)]
    ends = []
    for number, client in enumerate(clients):
        before = store.written_offset
        client.send(send(number, number, b"x"))
        wait_until(lambda before=before: store.written_offset > before, "the message is in the log", pause=0.001)
        ends.append(store.written_offset)
        if number < 2:
            slow.wait_for_flush(1)  # of the first message; those behind it came too late for it
    assert unanswered(*clients)
    slow.let_one_go()
    assert (clients[0].receive().code, store.flushed_offset) == (0, ends[0])
    slow.wait_for_flush(2)  # of the two others together
    clients[0].send(send(3, 3, b"too late for the second flush"))
    wait_until(lambda: store.written_offset > ends[2], "the message is in the log", pause=0.001)
    assert unanswered(*clients)
    slow.let_one_go()
    assert [client.receive().code for client in clients[1:]] == [0, 0]
    assert store.flushed_offset == ends[2]
    slow.wait_for_flush(3)
    assert unanswered(*clients)
    slow.let_one_go()
    assert (clients[0].receive().opaque, store.flushed_offset) == (3, store.written_offset)
