"""Many connections at once, in pieces of any size, with others that come and go: everybody gets every answer.

Requests for Python and requests for the hot road are mixed on every connection. All that is random comes from a seed.
"""

from __future__ import annotations

import random
import selectors
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from fastmq.protocol.command import Command, FrameSplitter, decode_frame, encode_frame
from support.stack import Stack

CONNECTIONS = 60
REQUESTS = 120  # of each connection
QUEUES = 4


@pytest.fixture(params=[True, False], ids=["hot", "cold"])
def stack(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stack]:
    # on a busy machine so many requests at once may well come too late to be served
    stack = Stack(tmp_path, hot=request.param, flush="ASYNC_FLUSH", brokerFastFailureEnable="false")
    stack.call(encode_frame(Command(17, opaque=1, ext={
        "topic": "plain", "defaultTopic": "TBW102", "readQueueNums": "4", "writeQueueNums": "4", "perm": "6",
        "topicFilterType": "SINGLE_TAG", "topicSysFlag": "0", "order": "false",
    })))  # fmt: skip
    yield stack
    stack.close()


def some_request(chance: random.Random, opaque: int) -> Command:
    """A request for the cold road or for the hot one; a few are large."""
    queue_id = str(chance.randrange(QUEUES))
    at = {"topic": "plain", "queueId": queue_id}
    kind = chance.randrange(10)
    if kind < 4:
        return Command(31, opaque=opaque, ext=at)
    if kind < 5:
        return Command(30, opaque=opaque, ext=at)
    if kind < 6:
        return Command(14, opaque=opaque, ext={**at, "consumerGroup": "cg"})
    if kind < 7:
        ext = {
            **at, "consumerGroup": "cg", "queueOffset": "0", "maxMsgNums": "4", "sysFlag": "4", "commitOffset": "0",
            "suspendTimeoutMillis": "0", "subscription": "*", "subVersion": "0", "expressionType": "TAG",
        }  # fmt: skip
        return Command(11, opaque=opaque, ext=ext)
    body = bytes(300_000 if chance.random() < 0.02 else chance.randrange(1, 3000))
    ext = {
        "a": "pg", "b": "plain", "c": "TBW102", "d": "4", "e": queue_id, "f": "0", "g": "1700000000123", "h": "0",
        "i": f"UNIQ_KEY\x01K{opaque}\x02" + ("DELAY\x013\x02" if kind == 9 else ""), "j": "0", "k": "false",
        "m": "false",
    }  # fmt: skip
    return Command(310, opaque=opaque, ext=ext, body=body)


class Talker:
    """A connection whose requests leave in pieces while the answers come in."""

    def __init__(self, port: int, number: int) -> None:
        chance = random.Random(number)
        self.chance = chance
        requests = [some_request(chance, opaque) for opaque in range(REQUESTS)]
        self.codes = {request.opaque: request.code for request in requests}
        self.unsent = memoryview(b"".join(encode_frame(request) for request in requests))
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setblocking(False)
        self.splitter = FrameSplitter()

    def write(self) -> None:
        with suppress(BlockingIOError):
            self.unsent = self.unsent[self.sock.send(self.unsent[: self.chance.choice((1, 7, 300, 5000, 100_000))]) :]

    def read(self) -> None:
        data = self.sock.recv(1 << 16)
        assert data, f"the server closed the connection; unanswered: {self.codes}"
        for frame in self.splitter.feed(data):
            answer = decode_frame(frame)
            code = self.codes.pop(answer.opaque)
            assert answer.code in (0, 19, 20, 21, 22), (code, answer)
            if code == 31:
                assert answer.ext["offset"] == "0"


def come_and_go(port: int, stop: threading.Event, counts: list[int]) -> None:
    """Connections that end in the middle of a frame, orderly or not, so that descriptors are used again."""
    chance = random.Random(7)
    while not stop.is_set():
        sock = socket.create_connection(("127.0.0.1", port))
        data = b"".join(encode_frame(some_request(chance, opaque)) for opaque in range(8))
        sock.sendall(data[: chance.randrange(len(data))])
        if chance.random() < 0.5:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        counts[0] += 1


def test_everybody_gets_every_answer(stack: Stack) -> None:
    stop = threading.Event()
    counts = [0]
    visitor = threading.Thread(target=come_and_go, args=(stack.port, stop, counts))
    visitor.start()
    talkers = [Talker(stack.port, number) for number in range(CONNECTIONS)]
    try:
        with selectors.DefaultSelector() as selector:
            for talker in talkers:
                selector.register(talker.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, talker)
            while selector.get_map():
                ready = selector.select(20)
                assert ready, f"nothing moves; {sum(len(t.codes) for t in talkers)} requests are unanswered"
                for key, events in ready:
                    talker = key.data
                    if events & selectors.EVENT_READ:
                        talker.read()
                    if events & selectors.EVENT_WRITE:
                        talker.write()
                    if not talker.codes:
                        selector.unregister(talker.sock)
                    elif not talker.unsent:
                        selector.modify(talker.sock, selectors.EVENT_READ, talker)
    finally:
        stop.set()
        visitor.join()
        for talker in talkers:
            talker.sock.close()
    assert counts[0] > 10
