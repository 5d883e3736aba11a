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
from support.remoting import call
from support.servers import FastmqServer
from support.transacting import COMMIT, ROLLBACK, Half, TransactionProducer, everything, open_transactions
from support.waiting import wait_until

TOPIC, GROUP, QUEUES = "crash-transactions", "crash-producers", 2
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
    told: set[bytes] = field(default_factory=set)  # decisions sent, answered or not
    decided: set[bytes] = field(default_factory=set)  # the broker took the decision
    asked: Counter[bytes] = field(default_factory=Counter)
    again: int = 0  # decisions that had been acknowledged before a kill, and were asked for again
    problems: list[str] = field(default_factory=list)

    @property
    def open(self) -> set[bytes]:
        return self.begun - self.decided


def fate_of(body: bytes) -> int:
    return COMMIT if b" commit " in body else ROLLBACK


class Producer:
    """One member of the producer group, whose opinion is in the bodies."""

    def __init__(self, world: World, name: str, rng: random.Random) -> None:
        self.world = world
        self.name = name
        self.rng = rng
        self.producer = TransactionProducer(world.port, GROUP, name)
        self.sent = 0

    def work(self) -> None:
        """Begin transactions and answer checks until the broker is gone."""
        while True:
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
        world.tried.add(body)
        delay = "DELAY\x011\x02" if kind == "delayed" else ""
        half = self.producer.begin(TOPIC, rng.randrange(QUEUES), key, body, delay)
        world.begun.add(body)
        if manner == "now":
            self.decide(half)

    def answer_checks(self, wait_s: float = 0.0) -> None:
        """Answer what the broker has asked meanwhile."""
        world = self.world
        for half in self.producer.checks(wait_s):
            world.asked[half.body] += 1
            world.again += half.body in world.decided
            if b" unsure " in half.body and world.asked[half.body] == 1:
                continue  # as a client whose listener says UNKNOW, or is stuck
            self.decide(half)

    def decide(self, half: Half) -> None:
        self.world.told.add(half.body)
        answer = self.producer.end(half, fate_of(half.body))
        if answer.code == 0:
            self.world.decided.add(half.body)
        else:
            self.world.problems.append(f"end of {half.body!r}: {answer.code} {answer.remark}")

    def close(self) -> None:
        self.producer.close()


def until_the_end(world: World, name: str, seed: int) -> None:
    try:
        with contextlib.closing(Producer(world, name, random.Random(seed))) as producer:
            producer.work()
    except OSError:
        pass  # the broker is gone
    except BaseException as error:
        world.problems.append(f"{name}: {error!r}")


def settle(world: World) -> Counter[bytes]:
    """Answer checks until nothing is open; what lies in the topic then."""
    with contextlib.closing(Producer(world, "last", random.Random(0))) as producer:

        def nothing_is_open() -> bool:
            producer.answer_checks(0.3)
            # a decision that was stored when the kill took its answer is not asked for again
            return world.begun <= world.told and open_transactions(world.port) == 0

        wait_until(nothing_is_open, "every transaction is decided, and the broker knows it", 90)
    wanted = {body for body in world.begun if fate_of(body) == COMMIT}
    found: Counter[bytes] = Counter()

    def all_there() -> bool:
        found.clear()
        found.update(everything(world.port, TOPIC, QUEUES))
        return found.keys() >= wanted

    wait_until(all_there, "all that was committed is there")
    return found


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
