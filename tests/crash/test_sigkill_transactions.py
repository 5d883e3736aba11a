"""SIGKILL under transactions: what was committed comes, what was rolled back never does, who left it open is asked.

Producers send half messages, decide about some at once, leave the others to the checks and answer those, some of them
only the second time. What a producer thinks of a transaction never changes, as its own database would not: it stands in
the body. The broker is killed at random moments and started again. In the end no transaction is open, and each
committed message is there exactly once; a delayed one, which the index does not find by its topic, at least once.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fastmq.protocol.codes import RequestCode
from fastmq.protocol.message import decode_message, decode_messages, parse_message_id
from support.remoting import Answer, Connection, call
from support.servers import FastmqServer
from support.waiting import wait_until

TOPIC, GROUP, QUEUES = "crash-transactions", "crash-producers", 2
HALF, OWN_GROUP = "RMQ_SYS_TRANS_HALF_TOPIC", "CID_RMQ_SYS_TRANS"
UNKNOWN, COMMIT, ROLLBACK = 0, 8, 12
SETTINGS = {
    "mappedFileSizeCommitLog": str(4 << 20),
    "mappedFileSizeConsumeQueue": "20000",
    "allocateStepBytes": str(1 << 18),
    "maxIndexNum": "4000",
    "maxHashSlotNum": "1000",
    "flushConsumerOffsetInterval": "100",
    "flushDelayOffsetInterval": "100",
    "transactionTimeOut": "300",
    "transactionCheckInterval": "150",
    "transactionCheckMax": "1000000",
}
OPEN_MOST = 400
ROUNDS = int(os.environ.get("FASTMQ_CRASH_ROUNDS", "12"))


@dataclass
class World:
    """What the producers know. Bodies are `<name> <fate> <manner> <kind>`."""

    port: int
    begun: set[bytes] = field(default_factory=set)  # acknowledged half messages
    tried: set[bytes] = field(default_factory=set)  # sent, answered or not
    decided: set[bytes] = field(default_factory=set)  # the broker took the decision
    asked: Counter[bytes] = field(default_factory=Counter)
    again: int = 0  # decisions that had been acknowledged before a kill, and were asked for again
    problems: list[str] = field(default_factory=list)
    stop: bool = False

    @property
    def open(self) -> set[bytes]:
        return self.begun - self.decided


def fate_of(body: bytes) -> int:
    return COMMIT if b" commit " in body else ROLLBACK


class Producer:
    """One connection of the producer group."""

    def __init__(self, world: World, name: str, rng: random.Random) -> None:
        self.world = world
        self.name = name
        self.rng = rng
        self.connection = Connection(world.port, seconds=20)
        self.sent = 0
        heartbeat = f'{{"clientID":"{name}","producerDataSet":[{{"groupName":"{GROUP}"}}],"consumerDataSet":[]}}'
        assert self.call(RequestCode.HEART_BEAT, {}, heartbeat.encode()).code == 0

    def call(self, code: int, ext: dict[str, object], body: bytes = b"") -> Answer:
        return self.connection.call(int(code), ext, body)

    def work(self) -> None:
        """Begin transactions and answer checks until the broker is gone or the world stops."""
        while not self.world.stop:
            if len(self.world.open) < OPEN_MOST:
                self.begin()
            self.answer_checks()

    def begin(self) -> None:
        world, rng = self.world, self.rng
        self.sent += 1
        fate, manner = rng.choice(("commit", "rollback")), rng.choice(("now", "now", "asked", "unsure"))
        kind = "delayed" if rng.random() < 0.1 else "plain"
        key = f"{self.name}-{self.sent}"
        body = f"{key} {fate} {manner} {kind}".encode()
        properties = f"UNIQ_KEY\x01{key}\x02PGROUP\x01{GROUP}\x02TRAN_MSG\x01true\x02WAIT\x01true\x02"
        properties += "DELAY\x011\x02" if kind == "delayed" else ""
        ext = {
            "a": GROUP, "b": TOPIC, "c": "TBW102", "d": QUEUES, "e": rng.randrange(QUEUES), "f": 4,
            "g": time.time_ns() // 1_000_000, "h": 0, "i": properties, "j": 0, "k": False, "m": False,
        }  # fmt: skip
        world.tried.add(body)
        answer = self.call(RequestCode.SEND_MESSAGE_V2, ext, body)
        if answer.code != 0:
            world.problems.append(f"send: {answer.code} {answer.remark}")
            return
        world.begun.add(body)
        if manner == "now":
            log_offset = parse_message_id(answer.ext["msgId"])[2]
            self.decide(body, key, int(answer.ext["queueOffset"]), log_offset, asked=False)

    def answer_checks(self, wait_s: float = 0.0) -> int:
        """Answer what the broker has asked meanwhile."""
        requests = self.connection.take_requests(wait_s)
        for request in requests:
            assert request.code == RequestCode.CHECK_TRANSACTION_STATE
            message, _ = decode_message(request.body)
            body, world = message.body, self.world
            world.asked[body] += 1
            if body in world.decided:
                world.again += 1
            if b" unsure " in body and world.asked[body] == 1:
                continue  # as a client whose listener says UNKNOW, or is stuck
            ext = request.ext
            self.decide(body, ext["msgId"], int(ext["tranStateTableOffset"]), int(ext["commitLogOffset"]), asked=True)
        return len(requests)

    def decide(self, body: bytes, key: str, queue_offset: int, log_offset: int, *, asked: bool) -> None:
        ext = {
            "producerGroup": GROUP, "tranStateTableOffset": queue_offset, "commitLogOffset": log_offset,
            "commitOrRollback": fate_of(body), "fromTransactionCheck": asked, "msgId": key, "transactionId": key,
        }  # fmt: skip
        answer = self.call(RequestCode.END_TRANSACTION, ext)
        if answer.code == 0:
            self.world.decided.add(body)
        else:
            self.world.problems.append(f"end of {body!r}: {answer.code} {answer.remark}")

    def close(self) -> None:
        self.connection.close()


def until_the_end(world: World, name: str, seed: int) -> None:
    try:
        with contextlib.closing(Producer(world, name, random.Random(seed))) as producer:
            producer.work()
    except OSError:
        pass  # the broker is gone
    except BaseException as error:
        world.problems.append(f"{name}: {error!r}")


def number(port: int, code: int, ext: dict[str, object]) -> int:
    answer = call(port, int(code), ext)
    assert answer.code == 0, answer.remark
    return int(answer.ext["offset"])


def everything(port: int) -> Counter[bytes]:
    """How often each message lies in the topic."""
    found: Counter[bytes] = Counter()
    for queue_id in range(QUEUES):
        offset = 0
        while True:
            ext = {
                "consumerGroup": "crash-reader", "topic": TOPIC, "queueId": queue_id, "queueOffset": offset,
                "maxMsgNums": 32, "sysFlag": 4, "commitOffset": 0, "suspendTimeoutMillis": 0, "subscription": "*",
                "subVersion": 0,
            }  # fmt: skip
            answer = call(port, RequestCode.PULL_MESSAGE, ext)
            if answer.code == 19:
                break
            assert answer.code == 0, (answer.code, answer.remark)
            found.update(message.body for message in decode_messages(answer.body))
            offset = int(answer.ext["nextBeginOffset"])
    return found


def settle(world: World) -> Counter[bytes]:
    """Answer checks until nothing is open; what lies in the topic then."""
    with contextlib.closing(Producer(world, "last", random.Random(0))) as producer:
        half = {"topic": HALF, "queueId": 0}

        def nothing_is_open() -> bool:
            producer.answer_checks(0.3)
            done = number(world.port, RequestCode.QUERY_CONSUMER_OFFSET, {**half, "consumerGroup": OWN_GROUP})
            return not world.open and done == number(world.port, RequestCode.GET_MAX_OFFSET, half)

        wait_until(nothing_is_open, "every transaction is decided, and the broker knows it", 90)
    wanted = {body for body in world.begun if fate_of(body) == COMMIT}
    wait_until(lambda: everything(world.port).keys() >= wanted, "all that was committed is there", 30)
    return everything(world.port)


def check(world: World, found: Counter[bytes]) -> None:
    assert not [body for body in found if fate_of(body) == ROLLBACK], "what was rolled back was delivered"
    assert found.keys() <= world.tried
    twice = [body for body, times in found.items() if times > 1 and b" plain" in body]
    assert not twice, f"delivered twice: {twice[:5]}"
    left_open = {body for body in world.begun if b" now " not in body}
    assert left_open <= world.asked.keys(), "somebody was never asked"


def run_rounds(tmp_path: Path, flush: str, rounds: int, seed: int) -> World:
    rng = random.Random(seed)
    server = FastmqServer(tmp_path, {**SETTINGS, "flushDiskType": flush})
    server.start()
    try:
        world = World(server.listen_port)
        ext = {
            "topic": TOPIC, "defaultTopic": "TBW102", "readQueueNums": QUEUES, "writeQueueNums": QUEUES, "perm": 6,
            "topicFilterType": "SINGLE_TAG", "topicSysFlag": 0, "order": False,
        }  # fmt: skip
        assert call(world.port, RequestCode.UPDATE_AND_CREATE_TOPIC, ext).code == 0
        for round_number in range(rounds):
            before = len(world.decided)
            threads = [
                threading.Thread(target=until_the_end, args=(world, f"r{round_number}p{index}", rng.getrandbits(64)))
                for index in range(3)
            ]
            for thread in threads:
                thread.start()
            wait_until(lambda before=before: len(world.decided) > before, "something is decided", pause=0.002)
            moment = time.monotonic() + rng.expovariate(1 / 0.5)
            wait_until(lambda moment=moment: time.monotonic() >= moment, "the moment of the kill comes", pause=0.002)
            server.kill()
            for thread in threads:
                thread.join()
            assert not world.problems, world.problems[:3]
            server.start()
            world.port = server.listen_port
        found = settle(world)
        assert not world.problems, world.problems[:3]
        check(world, found)
        assert len(world.begun) > rounds
        return world
    finally:
        if server.processes:
            server.kill()


@pytest.mark.parametrize("flush", ["SYNC_FLUSH", "ASYNC_FLUSH"])
def test_every_transaction_ends_as_its_producer_decided(tmp_path: Path, flush: str) -> None:
    seed = random.randrange(1 << 32)
    try:
        run_rounds(tmp_path, flush, ROUNDS // 4 or 1, seed)
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise


@pytest.mark.slow
@pytest.mark.parametrize("flush", ["SYNC_FLUSH", "ASYNC_FLUSH"])
def test_every_transaction_ends_as_its_producer_decided_over_100_kills(tmp_path: Path, flush: str) -> None:
    seed = random.randrange(1 << 32)
    try:
        world = run_rounds(tmp_path, flush, 100, seed)
        assert world.again > 0, "no kill came between a decision and its op message"
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise
