"""Transactions begun under one broker end under the other: fastmq and Apache RocketMQ 5.3.3 take turns on one store.

Bodies are `<fate> <when> <owner> <number>`: what the producer thinks of the transaction, and when it says so: at once
(`now`), when the owner it was sent to asks (`asked`), or only to the next owner (`later`).
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from support.remoting import call
from support.servers import ApachePeer, FastmqServer, Server
from support.toolchains import ToolchainMissing, apache_class_path, missing
from support.transacting import COMMIT, ROLLBACK, Half, TransactionProducer, everything
from support.waiting import wait_until

pytestmark = pytest.mark.apache

TOPIC, QUEUES, GROUP = "transactions-both-ways", 2, "producers"
COUNT = 3
SETTINGS = {
    "transactionTimeOut": "2000",
    "transactionCheckInterval": "1000",
    # Apache also counts while there is nobody to ask, and forgets op messages that it has not written yet
    "transactionCheckMax": "1000",
    "transactionOpBatchInterval": "100",
}


@pytest.fixture(params=[(FastmqServer, ApachePeer), (ApachePeer, FastmqServer)], ids=["from-fastmq", "from-apache"])
def owners(request: pytest.FixtureRequest, tmp_path: Path) -> list[Server]:
    """Who has the store first, then, and last: the same as first."""
    try:
        apache_class_path()
    except ToolchainMissing as reason:
        missing(str(reason))
    one, other = request.param
    return [kind(tmp_path / name, SETTINGS) for kind, name in ((one, "a"), (other, "b"), (one, "c"))]


def fate_of(body: bytes) -> int:
    return COMMIT if body.startswith(b"commit") else ROLLBACK


class Story:
    """What the producer has sent and said, over all owners."""

    def __init__(self) -> None:
        self.open: set[bytes] = set()
        self.committed: set[bytes] = set()
        self.ended: set[bytes] = set()

    def begin(self, producer: TransactionProducer, owner: str, whens: tuple[str, ...]) -> None:
        for number in range(COUNT):
            for fate in ("commit", "rollback"):
                for when in whens:
                    body = f"{fate} {when} {owner} {number}".encode()
                    half = producer.begin(TOPIC, number % QUEUES, body.decode().replace(" ", "-"), body)
                    self.open.add(body)
                    if when == "now":
                        self.end(producer, half)

    def end(self, producer: TransactionProducer, half: Half) -> None:
        assert producer.end(half, fate_of(half.body)).code == 0
        self.open.discard(half.body)
        self.ended.add(half.body)
        if fate_of(half.body) == COMMIT:
            self.committed.add(half.body)

    def answer_checks(self, producer: TransactionProducer, *, but: bytes = b"nothing") -> set[bytes]:
        """Be asked about all that is open, and answer, but for what is to stay open. All that was asked about."""
        asked: set[bytes] = set()
        wanted = set(self.open)

        def all_asked() -> bool:
            for half in producer.checks(0.2):
                # one that is asked about again before the answer is there: Apache would deliver it once more
                if half.body not in asked and but not in half.body:
                    self.end(producer, half)
                asked.add(half.body)
            return asked >= wanted

        wait_until(all_asked, "all that is open is asked about")
        return asked

    def judge(self, server: Server) -> None:
        """What was committed is there once, and nothing else."""
        wait_until(
            lambda: sorted(everything(server.listen_port, TOPIC, QUEUES)) == sorted(self.committed),
            "exactly what was committed is there, each message once",
        )


def test_transactions_change_hands(owners: list[Server]) -> None:
    first, second, third = owners
    ours_first = isinstance(first, FastmqServer)
    story = Story()
    try:
        first.start()
        ext = {
            "topic": TOPIC, "defaultTopic": "TBW102", "readQueueNums": QUEUES, "writeQueueNums": QUEUES, "perm": 6,
            "topicFilterType": "SINGLE_TAG", "topicSysFlag": 0, "order": False,
        }  # fmt: skip
        assert call(first.listen_port, 17, ext).code == 0
        with contextlib.closing(TransactionProducer(first.listen_port, GROUP, "p1")) as producer:
            story.begin(producer, "first", ("now", "asked", "later"))
            story.answer_checks(producer, but=b" later first ")
            assert {body.split()[1] for body in story.open} == {b"later"}
            story.judge(first)
        ended = set(story.ended)
        first.stop()

        second.take_over(first)
        second.start()
        story.judge(second)
        with contextlib.closing(TransactionProducer(second.listen_port, GROUP, "p2")) as producer:
            story.begin(producer, "second", ("now", "asked", "later"))
            asked = story.answer_checks(producer, but=b" later second ")
            if ours_first:
                assert not asked & ended, "of what fastmq knew to be decided Apache asks nothing"
            story.judge(second)
        ended = set(story.ended)
        second.stop()

        third.take_over(second)
        third.start()
        with contextlib.closing(TransactionProducer(third.listen_port, GROUP, "p3")) as producer:
            story.begin(producer, "third", ("now", "asked"))
            asked = story.answer_checks(producer)
            if not ours_first:
                assert not asked & ended, "of what fastmq knew to be decided Apache asks nothing"
            assert not story.open
            story.judge(third)
    finally:
        for server in owners:
            if server.processes:
                server.discard()
