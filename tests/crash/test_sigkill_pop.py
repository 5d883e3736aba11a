"""SIGKILL under POP load: every message that was acknowledged to its producer is consumed, whatever dies when.

Producers send, consumers pop for short times and acknowledge, change the time of, or forget what they get. The broker
is killed at random moments and started again. In the end each message must have been acknowledged, or come.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fastmq.protocol.codes import RequestCode
from fastmq.protocol.command import Command, FrameSplitter, decode_frame, encode_frame
from fastmq.protocol.message import PROPERTY_POP_CK, StoredMessage, decode_messages
from support.servers import FastmqServer
from support.waiting import wait_until

TOPIC, GROUP, QUEUES = "crash-pop", "crash-poppers", 3
SMALL_FILES = {
    "mappedFileSizeCommitLog": str(4 << 20),
    "mappedFileSizeConsumeQueue": "20000",
    "allocateStepBytes": str(1 << 18),
    "flushConsumerOffsetInterval": "100",
    "timerFlushIntervalMs": "100",
}
BACKLOG = 1000
ROUNDS = int(os.environ.get("FASTMQ_CRASH_ROUNDS", "12"))


class Connection:
    """Blocking requests over one connection."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), 60)
        self.splitter = FrameSplitter()
        self.opaque = 0

    def call(self, code: int, body: bytes = b"", **ext: object) -> Command:
        self.opaque += 1
        fields = {key: str(value) for key, value in ext.items()}
        self.sock.sendall(encode_frame(Command(code, opaque=self.opaque, ext=fields, body=body)))
        while True:
            data = self.sock.recv(1 << 16)
            if not data:
                raise ConnectionError("closed")
            for frame in self.splitter.feed(data):
                return decode_frame(frame)

    def close(self) -> None:
        self.sock.close()


@dataclass
class World:
    """What producers and consumers know."""

    port: int
    sent: set[bytes] = field(default_factory=set)
    acked: set[bytes] = field(default_factory=set)
    unsure: set[bytes] = field(default_factory=set)  # the broker was killed between the ack and its answer
    refused: list[str] = field(default_factory=list)
    again: int = 0


def produce(world: World, connection: Connection, name: str, rng: random.Random) -> None:
    number = 0
    while True:
        if len(world.sent) - len(world.acked) > BACKLOG:  # so that the end does not take long
            connection.call(RequestCode.GET_MAX_OFFSET, topic=TOPIC, queueId=0)
            continue
        number += 1
        body = f"{name}-{number}".encode()
        answer = connection.call(
            RequestCode.SEND_MESSAGE_V2, body, a="p", b=TOPIC, c="TBW102", d=QUEUES, e=rng.randrange(QUEUES), f=0,
            g=time.time_ns() // 1_000_000, h=0, i=f"UNIQ_KEY\x01{name}{number}\x02", j=0, k="false", m="false",
        )  # fmt: skip
        if answer.code != 0:
            world.refused.append(f"send: {answer.code} {answer.remark}")
            return
        world.sent.add(body)


def pop(connection: Connection, invisible_ms: int, poll_ms: int = 0) -> list[tuple[StoredMessage, str, str]]:
    """Messages with their handles and the topics to acknowledge them on."""
    answer = connection.call(
        RequestCode.POP_MESSAGE, consumerGroup=GROUP, topic=TOPIC, queueId=-1, maxMsgNums=32,
        invisibleTime=invisible_ms, pollTime=poll_ms, bornTime=time.time_ns() // 1_000_000, initMode=0, expType="TAG",
        exp="*", order="false",
    )  # fmt: skip
    assert answer.code in (0, 210), (answer.code, answer.remark)
    if answer.code != 0:
        return []
    starts = {tuple(item.split(" ")[:2]): item.split(" ")[2] for item in answer.ext["startOffsetInfo"].split(";")}
    found = []
    for message in decode_messages(answer.body):
        handle, topic = message.get(PROPERTY_POP_CK), TOPIC
        if handle is None:
            ext, queue = answer.ext, message.queue_id
            handle = (
                f"{starts['0', str(queue)]} {ext['popTime']} {ext['invisibleTime']} {ext['reviveQid']} 0 broker "
                f"{queue} {message.queue_offset}"
            )
        else:
            topic = f"%RETRY%{GROUP}_{TOPIC}"
        found.append((message, handle, topic))
    return found


def ack(connection: Connection, message: StoredMessage, handle: str, topic: str) -> int:
    return connection.call(
        RequestCode.ACK_MESSAGE, consumerGroup=GROUP, topic=topic, queueId=message.queue_id,
        offset=message.queue_offset, extraInfo=handle,
    ).code  # fmt: skip


def consume(world: World, connection: Connection, name: str, rng: random.Random) -> None:
    while True:
        invisible_ms = rng.choice((300, 800, 1500))
        for message, handle, topic in pop(connection, invisible_ms, rng.choice((0, 500))):
            world.again += message.reconsume_times > 0
            choice = rng.random()
            if choice < 0.7:
                world.unsure.add(message.body)
                if ack(connection, message, handle, topic) == 0:
                    world.acked.add(message.body)
                world.unsure.discard(message.body)
            elif choice < 0.85:
                connection.call(
                    RequestCode.CHANGE_MESSAGE_INVISIBLETIME, consumerGroup=GROUP, topic=topic,
                    queueId=message.queue_id, offset=message.queue_offset, extraInfo=handle,
                    invisibleTime=rng.choice((1, 500, 1200)),
                )  # fmt: skip


Work = Callable[[World, Connection, str, random.Random], None]


def until_the_end(work: Work, world: World, name: str, seed: int) -> None:
    try:
        with contextlib.closing(Connection(world.port)) as connection:
            work(world, connection, name, random.Random(seed))
    except OSError:
        pass  # the broker is gone
    except BaseException as error:
        world.refused.append(f"{name}: {error!r}")


def drain(world: World, seconds: float) -> None:
    """Pop what is there until nothing is missing."""
    deadline = time.monotonic() + seconds
    with contextlib.closing(Connection(world.port)) as connection:
        while world.sent - world.acked - world.unsure and time.monotonic() < deadline:
            for message, handle, topic in pop(connection, 60_000, 500):
                assert ack(connection, message, handle, topic) == 0
                world.acked.add(message.body)
    missing = world.sent - world.acked - world.unsure
    assert not missing, f"{len(missing)} of {len(world.sent)} never came: {sorted(missing)[:5]}"


def run_rounds(tmp_path: Path, flush: str, rounds: int, seed: int) -> None:
    rng = random.Random(seed)
    server = FastmqServer(tmp_path, {**SMALL_FILES, "flushDiskType": flush, "brokerName": "broker"})
    server.start()
    try:
        world = World(server.listen_port)
        connection = Connection(server.listen_port)
        connection.call(
            RequestCode.UPDATE_AND_CREATE_TOPIC, topic=TOPIC, defaultTopic="TBW102", readQueueNums=QUEUES,
            writeQueueNums=QUEUES, perm=6, topicFilterType="SINGLE_TAG", topicSysFlag=0, order="false",
        )  # fmt: skip
        connection.close()
        for number in range(rounds):
            before = len(world.acked)
            works = [produce, produce, consume, consume, consume]
            threads = [
                threading.Thread(target=until_the_end, args=(work, world, f"r{number}w{index}", rng.getrandbits(64)))
                for index, work in enumerate(works)
            ]
            for thread in threads:
                thread.start()
            wait_until(lambda before=before: len(world.acked) > before, "something is consumed", pause=0.002)
            moment = time.monotonic() + rng.expovariate(1 / 0.6)
            wait_until(lambda moment=moment: time.monotonic() >= moment, "the moment of the kill comes", pause=0.002)
            server.kill()
            for thread in threads:
                thread.join()
            assert not world.refused, world.refused[:3]
            server.start()
            world.port = server.listen_port
        drain(world, 180)
        assert len(world.sent) > rounds
        assert world.again > 0
    finally:
        if server.processes:
            server.kill()


@pytest.mark.parametrize("flush", ["SYNC_FLUSH", "ASYNC_FLUSH"])
def test_every_message_is_consumed(tmp_path: Path, flush: str) -> None:
    seed = random.randrange(1 << 32)
    try:
        run_rounds(tmp_path, flush, ROUNDS // 3 or 1, seed)
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise


@pytest.mark.slow
@pytest.mark.parametrize("flush", ["SYNC_FLUSH", "ASYNC_FLUSH"])
def test_every_message_is_consumed_over_100_kills(tmp_path: Path, flush: str) -> None:
    seed = random.randrange(1 << 32)
    try:
        run_rounds(tmp_path, flush, 100, seed)
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise
