"""Hours in minutes: servers killed and restarted, consumers coming and going, and nothing that was sent is lost.

FASTMQ_SOAK_SECONDS sets how long it runs (30 by default; the long run is 600).
"""

from __future__ import annotations

import gc
import os
import random
import threading
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

import fastmq
from client.faces import PATIENCE, until
from support.servers import FastmqServer

SECONDS = float(os.environ.get("FASTMQ_SOAK_SECONDS", "30"))
PAUSE_SECONDS = 0.002  # between two sends of a producer


def resident_kib() -> int:
    """The memory of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("VmRSS is not in /proc/self/status")


class Soak:
    """What was sent with success, and what was consumed."""

    def __init__(self, server: FastmqServer, seed: int) -> None:
        self.server = server
        self.chance = random.Random(seed)
        self.sent: set[str] = set()
        self.consumed: dict[str, int] = {}
        self.failures = 0
        self.hopeless: list[fastmq.ClientError] = []
        self.restarts = 0
        self.memory: list[int] = []
        self.over = anyio.Event()

    async def produce(self, name: str) -> None:
        """Sends until the end; failures are counted and nothing else."""
        async with fastmq.Producer(self.server.namesrv, timeout=3, try_timeout=1) as producer:
            number = 0
            while not self.over.is_set():
                number += 1
                text = f"{name}-{number}"
                try:
                    await producer.send("soak", text)
                except fastmq.ClientError as error:
                    self.hopeless.extend([] if error.retryable else [error])
                    self.failures += 1
                else:
                    self.sent.add(text)
                await anyio.sleep(PAUSE_SECONDS)

    async def consume(self) -> None:
        """A consumer after the other, each for a while."""
        while not self.over.is_set():
            try:
                async with fastmq.PushConsumer(
                    self.server.namesrv, "soakers", self.listen, "soak", start_from="first", request_timeout=1
                ):
                    with anyio.move_on_after(self.chance.uniform(1, SECONDS / 3)):
                        await self.over.wait()
            except fastmq.ClientError as error:
                self.hopeless.extend([] if error.retryable else [error])
                await anyio.sleep(0.1)

    async def listen(self, message: fastmq.ReceivedMessage) -> None:
        self.consumed[message.text] = self.consumed.get(message.text, 0) + 1
        if self.chance.random() < 0.001:
            raise ValueError("on purpose")

    async def disturb(self) -> None:
        """Kills or stops the server now and then."""
        while True:
            with anyio.move_on_after(self.chance.uniform(SECONDS / 20, SECONDS / 6)):
                await self.over.wait()
            if self.over.is_set():
                return
            end = self.server.kill if self.chance.random() < 0.7 else self.server.stop
            await anyio.to_thread.run_sync(end)
            await anyio.sleep(self.chance.uniform(0, 1))
            await anyio.to_thread.run_sync(self.server.start)
            self.restarts += 1
            gc.collect()
            self.memory.append(resident_kib())

    async def run(self) -> None:
        """All of it, and then the reckoning."""
        async with anyio.create_task_group() as tasks:
            for number in range(2):
                tasks.start_soon(self.produce, f"p{number}")
            for _ in range(3):
                tasks.start_soon(self.consume)
            tasks.start_soon(self.disturb)
            await anyio.sleep(SECONDS)
            self.over.set()
        async with fastmq.PushConsumer(self.server.namesrv, "soakers", self.listen, "soak", start_from="first"):

            async def all_consumed() -> bool:
                return self.sent <= self.consumed.keys()

            with anyio.fail_after(PATIENCE):
                await until(all_consumed, "everything that was sent is consumed")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_soak(tmp_path: Path, backend: str) -> None:
    seed = random.randrange(1 << 32)
    sockets = len(os.listdir("/proc/self/fd"))
    threads = threading.active_count()
    with FastmqServer(tmp_path / "server") as server:
        soak = Soak(server, seed)
        try:
            anyio.run(soak.run, backend=backend)
        except AssertionError as error:
            lost = sorted(soak.sent - soak.consumed.keys())
            raise AssertionError(f"seed {seed}: {len(lost)} messages are lost, {lost[:5]} ... {error}") from error
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= sockets
    assert threading.active_count() <= threads + 2, threading.enumerate()
    twice = sum(1 for count in soak.consumed.values() if count > 1)
    print(
        f"{backend}: {len(soak.sent)} sent, {soak.failures} sends failed, {soak.restarts} restarts, "
        f"{twice} messages consumed more than once, memory {soak.memory[0]} → {soak.memory[-1]} KiB"
    )
    assert soak.restarts > 0
    assert soak.hopeless == []
    assert soak.memory[-1] < soak.memory[0] * 1.5 + 20_000, soak.memory
