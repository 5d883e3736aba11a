"""A client of a bare reactor, and the frames that its hot road serves."""

from __future__ import annotations

import socket

from fastmq._reactor import Reactor
from fastmq.protocol.command import Command, FrameSplitter, decode_frame, encode_frame


class Client:
    """A connection that asks and is answered in whatever order."""

    def __init__(self, reactor: Reactor) -> None:
        self.sock, theirs = socket.socketpair()
        theirs.setblocking(False)
        self.sock.settimeout(90)
        reactor.add(theirs.detach(), 0)
        self.splitter = FrameSplitter()
        self.frames: list[bytes] = []

    def send(self, *commands: Command) -> None:
        self.sock.sendall(b"".join(encode_frame(command) for command in commands))

    def receive(self) -> Command:
        while not self.frames:
            data = self.sock.recv(1 << 16)
            assert data, "the connection was closed"
            self.frames += self.splitter.feed(data)
        return decode_frame(self.frames.pop(0))


def send(opaque: int, queue_id: int, body: bytes) -> Command:
    ext = {
        "a": "pg", "b": "plain", "c": "TBW102", "d": "4", "e": str(queue_id), "f": "0", "g": "1700000000123", "h": "0",
        "i": f"UNIQ_KEY\x01K{opaque}\x02", "j": "0", "k": "false", "m": "false",
    }  # fmt: skip
    return Command(310, opaque=opaque, ext=ext, body=body)


def pull(opaque: int, queue_id: int, offset: int, *, wait_ms: int = 0) -> Command:
    ext = {
        "consumerGroup": "cg", "topic": "plain", "queueId": str(queue_id), "queueOffset": str(offset),
        "maxMsgNums": "32",
        "sysFlag": "6" if wait_ms else "4", "commitOffset": "0", "suspendTimeoutMillis": str(wait_ms),
        "subscription": "*", "subVersion": "0", "expressionType": "TAG",
    }  # fmt: skip
    return Command(11, opaque=opaque, ext=ext)
