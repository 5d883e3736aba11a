"""A whole broker in this process: store, reactor on its thread, services on trio's, and one client connection."""

from __future__ import annotations

import dataclasses
import random
import socket
import threading
import time
from pathlib import Path

import trio

from fastmq._reactor import Reactor
from fastmq.broker.app import Broker
from fastmq.clock import ManualClock
from fastmq.config import BrokerConfig, load_broker_config
from fastmq.net.server import Server, open_listener
from fastmq.protocol.command import FrameSplitter
from fastmq.serve import open_store

STORE_HOST_PORT = 10911


class HalfManualClock(ManualClock):
    """The wall clock stands still unless told, so that both stores write the same times; deadlines are real."""

    def monotonic(self) -> float:
        return time.monotonic()


class Stack:
    """A broker with its own thread, and one client connection to it. `settings`: more properties of broker.conf."""

    def __init__(self, folder: Path, *, hot: bool, flush: str, source_port: int = 0, **settings: str) -> None:
        overrides = {
            "storePathRootDir": str(folder), "storePathCommitLog": str(folder / "commitlog"), "flushDiskType": flush,
            "mappedFileSizeCommitLog": str(1 << 20), "brokerName": "two-roads", "hotRoadEnable": str(hot).lower(),
            "syncFlushTimeout": "60000",  # a disk may take its time
            **settings,
        }  # fmt: skip
        config, _ = load_broker_config(None, {}, overrides)
        self.config: BrokerConfig = dataclasses.replace(config, listen_port=STORE_HOST_PORT)
        self.folder = folder
        self.clock = HalfManualClock()
        self.store = open_store(self.config, {"wall_clock_ms": self.clock.wall_ms})
        self.store.start()
        self.reactor = Reactor(self.store, hot=hot)
        self.ready = threading.Event()
        self.stop = trio.Event()
        self.turns = threading.Thread(target=self.reactor.run)
        self.loop = threading.Thread(target=trio.run, args=(self._run,))
        self.turns.start()
        self.loop.start()
        assert self.ready.wait(60)
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.sock.bind(("127.0.0.1", source_port))
        self.sock.connect(("127.0.0.1", self.port))
        self.sock.settimeout(60)
        self.splitter = FrameSplitter()
        self.answers: list[bytes] = []

    def held(self) -> int:
        return len(self.broker.longpoll) + self.reactor.statistics()["held_pulls"]

    async def _run(self) -> None:
        chance = random.Random(1)
        self.broker = broker = Broker(self.config, self.store, self.clock, reactor=self.reactor, random=chance)
        server = Server(self.reactor, {0: broker})
        listener = await open_listener("127.0.0.1", 0, 0)
        self.port = listener.port
        self.token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run, [listener])
            nursery.start_soon(broker._follow_queues)
            nursery.start_soon(broker._answer_due_pulls)
            self.ready.set()
            await self.stop.wait()
            nursery.cancel_scope.cancel()
        listener.socket.close()

    def call(self, frame: bytes) -> bytes:
        self.sock.sendall(frame)
        return self.receive()

    def receive(self) -> bytes:
        while not self.answers:
            data = self.sock.recv(1 << 16)
            assert data, "the connection was closed"
            self.answers += self.splitter.feed(data)
        return self.answers.pop(0)

    def close(self) -> None:
        self.sock.close()
        trio.from_thread.run_sync(self.stop.set, trio_token=self.token)
        self.loop.join()
        self.reactor.stop()
        self.turns.join()
        self.reactor.close()
        self.store.close()

    def files(self) -> dict[str, bytes]:
        found = {}
        for kind in ("commitlog", "consumequeue", "consumequeue_ext"):
            for path in sorted((self.folder / kind).rglob("*")):
                if path.is_file() and (data := path.read_bytes().rstrip(b"\0")):
                    found[str(path.relative_to(self.folder))] = data
        return found
