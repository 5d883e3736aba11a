"""SIGKILL at random moments under load: what was acknowledged is there, in order, where the answer said.

Every round starts `fastmq serve` on the same directory, sends over several connections with many requests in flight,
kills the process at a random moment, starts it again and compares. Bodies differ in size so that the kill falls into
every kind of write, and segments are small so that rounds cross their ends. The seed is in the failure message.
"""

from __future__ import annotations

import os
import random
import selectors
import socket
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fastmq.protocol.codes import RequestCode
from fastmq.protocol.command import Command, FrameSplitter, decode_frame, encode_frame
from fastmq.protocol.message import StoredMessage, decode_messages
from support.servers import FastmqServer
from support.waiting import wait_until

TOPIC = "crash"
QUEUES = 4
CONNECTIONS = 4
DEPTH = 16
SMALL_FILES = {
    "mappedFileSizeCommitLog": str(1 << 20),
    "mappedFileSizeConsumeQueue": "2000",
    "maxHashSlotNum": "1000",
    "maxIndexNum": "4000",
    "allocateStepBytes": str(1 << 18),
}
ROUNDS = int(os.environ.get("FASTMQ_CRASH_ROUNDS", "12"))


@dataclass
class Sent:
    """A message that was answered with success."""

    body: bytes
    queue_id: int
    queue_offset: int
    message_id: str
    connection: int
    number: int


@dataclass
class Load:
    """Keeps DEPTH sends in flight on each connection until the server goes away."""

    port: int
    rng: random.Random
    round: int
    acknowledged: list[Sent] = field(default_factory=list)
    refused: list[tuple[int, str | None]] = field(default_factory=list)

    def run(self) -> None:
        selector = selectors.DefaultSelector()
        lanes = [_Lane(self, index) for index in range(CONNECTIONS)]
        for lane in lanes:
            selector.register(lane.sock, selectors.EVENT_READ, lane)
        alive = len(lanes)
        while alive:
            for key, _ in selector.select(5):
                lane = key.data
                try:
                    lane.on_readable()
                except OSError:
                    selector.unregister(lane.sock)
                    lane.sock.close()
                    alive -= 1
        selector.close()


class _Lane:
    def __init__(self, load: Load, index: int) -> None:
        self.load = load
        self.index = index
        self.sock = socket.create_connection(("127.0.0.1", load.port), 60)
        self.splitter = FrameSplitter()
        self.pending: dict[int, tuple[bytes, int]] = {}
        self.number = 0
        for _ in range(DEPTH):
            self.send_next()

    def send_next(self) -> None:
        load = self.load
        self.number += 1
        name = f"r{load.round}-c{self.index}-n{self.number}-"
        size = load.rng.choice((1, 10, 100, 1000, 5000, 60000))
        body = name.encode() + bytes(load.rng.getrandbits(8) for _ in range(16)) + b"x" * size
        queue_id = load.rng.randrange(QUEUES)
        ext = {
            "a": "crash", "b": TOPIC, "c": "TBW102", "d": "4", "e": str(queue_id), "f": "0",
            "g": str(time.time_ns() // 1_000_000), "h": "0",
            "i": f"UNIQ_KEY\x01{name}{load.rng.getrandbits(64):016X}\x02WAIT\x01true\x02KEYS\x01{name}\x02", "j": "0",
            "k": "false", "m": "false",
        }  # fmt: skip
        self.pending[self.number] = (body, queue_id)
        self.sock.sendall(encode_frame(Command(RequestCode.SEND_MESSAGE_V2, opaque=self.number, ext=ext, body=body)))

    def on_readable(self) -> None:
        data = self.sock.recv(1 << 16)
        if not data:
            raise ConnectionError("closed")
        for frame in self.splitter.feed(data):
            answer = decode_frame(frame)
            body, queue_id = self.pending.pop(answer.opaque)
            if answer.code == 0:
                sent = Sent(
                    body,
                    int(answer.ext["queueId"]),
                    int(answer.ext["queueOffset"]),
                    answer.ext["msgId"],
                    self.index,
                    answer.opaque,
                )
                assert sent.queue_id == queue_id
                self.load.acknowledged.append(sent)
            else:
                self.load.refused.append((answer.code, answer.remark))
            self.send_next()


def call(port: int, code: int, **ext: object) -> Command:
    with socket.create_connection(("127.0.0.1", port), 60) as sock:
        sock.sendall(encode_frame(Command(code, opaque=1, ext={key: str(value) for key, value in ext.items()})))
        splitter = FrameSplitter()
        while True:
            data = sock.recv(1 << 16)
            assert data, "the broker closed the connection"
            for frame in splitter.feed(data):
                return decode_frame(frame)


def read_queue(port: int, queue_id: int, offset: int) -> dict[int, StoredMessage]:
    """Every message of a queue from an offset on, by queue offset."""
    found: dict[int, StoredMessage] = {}
    while True:
        answer = call(
            port, RequestCode.PULL_MESSAGE, consumerGroup="crash-reader", topic=TOPIC, queueId=queue_id,
            queueOffset=offset, maxMsgNums=32, sysFlag=4, commitOffset=0, suspendTimeoutMillis=0, subscription="*",
            subVersion=0,
        )  # fmt: skip
        if answer.code == 19:
            return found
        assert answer.code == 0, (answer.code, answer.remark)
        for message in decode_messages(answer.body):
            assert message.queue_offset not in found, "one queue offset twice"
            found[message.queue_offset] = message
        offset = int(answer.ext["nextBeginOffset"])


def max_offset(port: int, queue_id: int) -> int:
    return int(call(port, RequestCode.GET_MAX_OFFSET, topic=TOPIC, queueId=queue_id).ext["offset"])


def check(acknowledged: list[Sent], found: dict[int, dict[int, StoredMessage]]) -> None:
    by_lane: dict[tuple[int, int], list[Sent]] = {}
    for sent in acknowledged:
        message = found[sent.queue_id].get(sent.queue_offset)
        assert message is not None, f"acknowledged and lost: queue {sent.queue_id} offset {sent.queue_offset}"
        assert message.body == sent.body, f"another message at queue {sent.queue_id} offset {sent.queue_offset}"
        assert message.offset_id == sent.message_id
        by_lane.setdefault((sent.connection, sent.queue_id), []).append(sent)
    for lane in by_lane.values():
        lane.sort(key=lambda sent: sent.number)
        offsets = [sent.queue_offset for sent in lane]
        assert offsets == sorted(offsets), "sends of one connection to one queue changed their order"
    for queue_id, messages in found.items():
        offsets = sorted(messages)
        if offsets:
            assert offsets == list(range(offsets[0], offsets[-1] + 1)), f"a hole in queue {queue_id}"


def run_rounds(tmp_path: Path, flush: str, rounds: int, hot_road: bool, seed: int) -> None:
    rng = random.Random(seed)
    settings = {**SMALL_FILES, "flushDiskType": flush}
    server = FastmqServer(tmp_path, settings, hot_road=hot_road)
    total = 0
    server.start()
    try:
        call(
            server.listen_port, RequestCode.UPDATE_AND_CREATE_TOPIC, topic=TOPIC, defaultTopic="TBW102",
            readQueueNums=QUEUES, writeQueueNums=QUEUES, perm=6, topicFilterType="SINGLE_TAG", topicSysFlag=0,
            order="false",
        )  # fmt: skip
        for number in range(rounds):
            begin = [max_offset(server.listen_port, queue_id) for queue_id in range(QUEUES)]
            load = Load(server.listen_port, random.Random(rng.getrandbits(64)), number)
            thread = threading.Thread(target=load.run)
            thread.start()
            wait_until(lambda load=load: load.acknowledged, "a first send is acknowledged", pause=0.002)
            delay = time.monotonic() + rng.expovariate(1 / 0.08)
            wait_until(lambda delay=delay: time.monotonic() >= delay, "the moment of the kill comes", pause=0.001)
            server.kill()
            thread.join()
            assert not load.refused, load.refused[:3]
            server.start()
            found = {queue: read_queue(server.listen_port, queue, begin[queue]) for queue in range(QUEUES)}
            check(load.acknowledged, found)
            total += len(load.acknowledged)
        assert total >= rounds
    finally:
        if server.processes:
            server.kill()


@pytest.mark.parametrize("hot_road", [True, False], ids=["hot", "cold"])
@pytest.mark.parametrize("flush", ["SYNC_FLUSH", "ASYNC_FLUSH"])
def test_nothing_acknowledged_is_lost(tmp_path: Path, flush: str, hot_road: bool) -> None:
    seed = random.randrange(1 << 32)
    try:
        run_rounds(tmp_path, flush, ROUNDS // 4 or 1, hot_road, seed)
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise


@pytest.mark.slow
@pytest.mark.parametrize("flush", ["SYNC_FLUSH", "ASYNC_FLUSH"])
def test_nothing_acknowledged_is_lost_200_times(tmp_path: Path, flush: str) -> None:
    seed = random.randrange(1 << 32)
    try:
        run_rounds(tmp_path, flush, 200, True, seed)
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise
