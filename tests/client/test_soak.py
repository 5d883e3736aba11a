"""Hours in minutes: servers killed, stopped and frozen, consumers coming and going, and nothing that was sent is lost.

FASTMQ_SOAK_SECONDS sets how long it runs (45 by default; the long run is 600).

It goes in rounds. In a round there is trouble; at its end all servers run, visitors have left, nobody sends, and the
groups catch up. Then everything of the round must have been consumed by every group, and what the process holds is
measured: always in the same situation, with the same few clients that live through the whole soak.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import signal
import statistics
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
import trio.lowlevel

import fastmq
from client.faces import Face
from support.cluster import Cluster, Member

SECONDS = float(os.environ.get("FASTMQ_SOAK_SECONDS", "45"))
ROUND_SECONDS = min(20.0, SECONDS / 3)
CATCH_UP_SECONDS = 120
PAUSE_SECONDS = 0.01  # between two sends of a producer
INVISIBLE_SECONDS = 5
QUEUES = 4  # of the topic, on each of the two brokers
# what is lost is looked for more often than by default: trouble comes more often as well
CLIENT = {"route_seconds": 5.0}
CONSUMER = {**CLIENT, "start_from": "first", "rebalance_seconds": 5.0}
TOPIC = "soak"
GROUPS = ("push", "orderly", "pull", "pop")


@dataclass(frozen=True)
class Sample:
    """What the process holds when nothing goes on."""

    resident_kib: int
    objects: int
    tasks: int
    threads: int
    descriptors: int
    kinds: Counter[str] = field(repr=False)


def measure() -> Sample:
    """Counts what may leak."""
    gc.collect()
    tracked = gc.get_objects()
    tasks = sum(1 for one in tracked if isinstance(one, asyncio.Task | trio.lowlevel.Task))
    lines = Path("/proc/self/status").read_text().splitlines()
    resident = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
    kinds = Counter(type(one).__name__ for one in tracked)
    return Sample(resident, len(tracked), tasks, threading.active_count(), len(os.listdir("/proc/self/fd")), kinds)


class Soak:
    """What was sent with success, and what was consumed. Messages are numbers; their tables take a byte each."""

    def __init__(self, cluster: Cluster, face: Face, seed: int) -> None:
        self.cluster = cluster
        self.face = face
        self.chance = random.Random(seed)
        self.sent = bytearray()
        self.consumed = {group: bytearray() for group in GROUPS}
        self.checked = 0
        self.failures = 0
        self.hopeless: list[fastmq.ClientError] = []
        self.ends: dict[str, int] = {}
        self.visits = 0
        self.samples: list[Sample] = []
        self.calm = anyio.Event()
        self.over = anyio.Event()

    # --- sending -----------------------------------------------------------------------------------------------------

    def _next(self) -> fastmq.Message:
        self.sent.append(0)
        for table in self.consumed.values():
            table.append(0)
        number = len(self.sent) - 1
        return fastmq.Message(TOPIC, str(number), tag="even" if number % 2 == 0 else "odd", keys=f"k{number}")

    def _failed(self, error: fastmq.ClientError) -> None:
        last = error.attempts[-1] if isinstance(error, fastmq.SendFailed) else error
        # a name server that has just begun knows no topic
        if not error.retryable and not isinstance(last, fastmq.TopicNotFound):
            self.hopeless.append(error)
        self.failures += 1

    async def _send(self, producer: Any) -> None:
        kind = self.chance.randrange(3)
        messages = [self._next() for _ in range((1, 4, 8)[kind])]
        if kind == 0:
            await producer.send(messages[0])
        elif kind == 1:
            await producer.send_batch(messages)
        else:
            receipts = [await producer.send_async(one) for one in messages]
            for message, receipt in zip(messages, receipts, strict=True):
                try:
                    await receipt
                except fastmq.ClientError as error:
                    self._failed(error)
                else:
                    self.sent[int(message.body)] = 1
            return
        for message in messages:
            self.sent[int(message.body)] = 1

    async def produce(self, producer: Any) -> None:
        """Sends until the round ends."""
        while not self.calm.is_set():
            try:
                await self._send(producer)
            except fastmq.ClientError as error:
                self._failed(error)
            await anyio.sleep(PAUSE_SECONDS)

    async def visiting_producer(self) -> None:
        """A producer after the other, each for a while."""
        while not self.calm.is_set():
            self.visits += 1
            async with self.producer() as producer:
                with anyio.move_on_after(self.chance.uniform(1, ROUND_SECONDS / 2)):
                    while not self.calm.is_set():
                        with anyio.CancelScope(shield=self.face.name == "sync"):  # a thread cannot be cancelled
                            try:
                                await self._send(producer)
                            except fastmq.ClientError as error:
                                self._failed(error)
                        await anyio.sleep(PAUSE_SECONDS)

    def producer(self) -> Any:
        """A new producer."""
        return self.face.Producer(self.cluster.namesrv, timeout=5, try_timeout=1, **CLIENT)

    # --- consuming ---------------------------------------------------------------------------------------------------

    def _note(self, group: str, messages: Iterable[fastmq.ReceivedMessage]) -> None:
        table = self.consumed[group]
        for message in messages:
            number = int(message.body)
            table[number] = min(table[number] + 1, 255)

    def _listener(self, group: str) -> Callable[[fastmq.ReceivedMessage], Any]:
        def plain(message: fastmq.ReceivedMessage) -> None:
            if self.chance.random() < 0.001:
                raise ValueError("on purpose")
            self._note(group, [message])

        async def listen(message: fastmq.ReceivedMessage) -> None:
            plain(message)

        return plain if self.face.name == "sync" else listen

    @asynccontextmanager
    async def consumer(self, group: str) -> AsyncIterator[tuple[Any, Callable[[anyio.Event], Any]]]:
        """A consumer of a group, and what works with it until an event is set."""
        namesrv = self.cluster.namesrv
        if group in ("push", "orderly"):
            listener = self._listener(group)
            async with self.face.PushConsumer(
                namesrv, group, listener, TOPIC, orderly=group == "orderly", **CONSUMER
            ) as push:
                yield push, lambda end: end.wait()
        elif group == "pull":
            async with self.face.Consumer(namesrv, group, TOPIC, **CONSUMER) as pull:

                async def poll(end: anyio.Event) -> None:
                    while not end.is_set():
                        self._note(group, await pull.poll(timeout=0.5))

                yield pull, poll
        else:
            async with self.face.PopConsumer(
                namesrv, group, TOPIC, start_from="first", invisible_seconds=INVISIBLE_SECONDS, **CLIENT
            ) as pop:

                async def receive(end: anyio.Event) -> None:
                    while not end.is_set():
                        try:
                            messages = await pop.receive(wait=0.5)
                            self._note(group, messages)
                            await pop.ack(messages)
                        except fastmq.ClientError as error:
                            self._failed(error)

                yield pop, receive

    async def visiting_consumer(self, group: str) -> None:
        """A member of the group after the other, each for a while; some leave by cancellation."""
        while not self.calm.is_set():
            self.visits += 1
            end = anyio.Event()
            cancelled = self.face.name != "sync" and self.chance.random() < 0.5
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._end_visit, end, tasks.cancel_scope if cancelled else None)
                    async with self.consumer(group) as (_, work):
                        await work(end)
            except* fastmq.ClientError as several:
                for error in several.exceptions:
                    assert isinstance(error, fastmq.ClientError)
                    self._failed(error)
                await anyio.sleep(0.1)

    async def _end_visit(self, end: anyio.Event, scope: anyio.CancelScope | None) -> None:
        with anyio.move_on_after(self.chance.uniform(0.5, ROUND_SECONDS)):
            await self.calm.wait()
        end.set()
        if scope is not None:
            scope.cancel()

    # --- trouble -----------------------------------------------------------------------------------------------------

    async def _hurt(self, member: Member) -> None:
        kind = self.chance.choices(("kill", "stop", "freeze"), (6, 3, 2))[0]
        counted = f"{kind} of a {'name server' if member in self.cluster.name_servers else 'broker'}"
        self.ends[counted] = self.ends.get(counted, 0) + 1
        if kind == "freeze":
            member.freeze()
            await anyio.sleep(self.chance.uniform(0.5, 3))
            member.thaw()
            return
        await anyio.to_thread.run_sync(member.end, signal.SIGKILL if kind == "kill" else signal.SIGTERM)
        await anyio.sleep(self.chance.uniform(0, 3))
        await anyio.to_thread.run_sync(member.start)

    async def disturb(self) -> None:
        """Hurts a server now and then, sometimes two at once, all of them in turn."""
        while not self.calm.is_set():
            for member in self.chance.sample(self.cluster.members, len(self.cluster.members)):
                with anyio.move_on_after(self.chance.uniform(0, ROUND_SECONDS / 5)):
                    await self.calm.wait()
                if self.calm.is_set():
                    return
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._hurt, member)
                    if self.chance.random() < 0.2:
                        others = [one for one in self.cluster.members if one is not member]
                        tasks.start_soon(self._hurt, self.chance.choice(others))

    # --- the whole ---------------------------------------------------------------------------------------------------

    def lost(self) -> dict[str, list[int]]:
        """For each group, what was sent with success and it has not consumed."""
        missing = {}
        for group, table in self.consumed.items():
            numbers = [n for n in range(self.checked, len(self.sent)) if self.sent[n] and not table[n]]
            if numbers:
                missing[group] = numbers
        return missing

    def _settled(self, consumers: list[Any]) -> bool:
        shares = [[queue for queue in one.assignment if queue.topic == TOPIC] for one in consumers]
        return self.cluster.registered() and all(len(share) == 2 * QUEUES for share in shares)

    async def catch_up(self, consumers: list[Any]) -> None:
        """Waits until every group has everything, and until the consumers that are left have all queues again."""
        with anyio.move_on_after(CATCH_UP_SECONDS):
            while (  # noqa: ASYNC110  (it is in the servers and the consumers that it changes)
                self.lost() or not await anyio.to_thread.run_sync(self._settled, consumers)
            ):
                await anyio.sleep(0.1)
            self.checked = len(self.sent)
            return
        lost = {group: f"{len(numbers)}, as {numbers[:5]}" for group, numbers in self.lost().items()}
        shares = [len(one.assignment) for one in consumers]
        raise AssertionError(f"round {len(self.samples)}: messages are lost: {lost}; queues of consumers: {shares}")

    async def run(self, face: Face) -> None:
        """All of it."""
        deadline = time.monotonic() + SECONDS
        async with face.Admin(self.cluster.namesrv) as admin:
            await admin.create_topic(TOPIC, queues=QUEUES)
        async with AsyncExitStack() as living:
            producer = await living.enter_async_context(self.producer())
            members = [await living.enter_async_context(self.consumer(group)) for group in GROUPS]
            consumers = [consumer for consumer, _ in members[:3]]  # brokers share out the queues of the last
            tasks = await living.enter_async_context(anyio.create_task_group())
            for _, work in members:
                tasks.start_soon(work, self.over)
            while time.monotonic() < deadline:
                self.calm = anyio.Event()
                async with anyio.create_task_group() as trouble:
                    trouble.start_soon(self.produce, producer)
                    trouble.start_soon(self.visiting_producer)
                    for group in GROUPS:
                        trouble.start_soon(self.visiting_consumer, group)
                    trouble.start_soon(self.disturb)
                    await anyio.sleep(ROUND_SECONDS)
                    self.calm.set()
                await self.catch_up(consumers)
                self.samples.append(measure())
            self.over.set()

    def report(self) -> str:
        """What happened, for the reader."""
        twice = {group: sum(1 for count in table if count > 1) for group, table in self.consumed.items()}
        return (
            f"{self.face.name}: {sum(self.sent)} sent, {self.failures} calls failed, {self.visits} visits, "
            f"{self.ends}, consumed more than once: {twice}\nfirst {self.samples[0]}\nlast  {self.samples[-1]}\n"
            f"resident {[one.resident_kib for one in self.samples]}\nobjects {[one.objects for one in self.samples]}\n"
            f"descriptors {[one.descriptors for one in self.samples]}\ntasks {[one.tasks for one in self.samples]}\n"
            f"threads {[one.threads for one in self.samples]}\n"
            f"most more {(self.samples[-1].kinds - self.samples[0].kinds).most_common(12)}"
        )


def growth(values: list[int]) -> float:
    """How much the last third lies above the first, in the middle of each."""
    third = max(1, len(values) // 3)
    return statistics.median(values[-third:]) - statistics.median(values[:third])


@pytest.fixture
def quiet() -> Iterator[None]:
    """The client's warnings go nowhere: pytest would keep them all, with what their tracebacks hold."""
    log = logging.getLogger("fastmq.client")
    log.disabled = True
    yield
    log.disabled = False


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("face", ["asyncio", "trio", "sync"], indirect=True)
def test_soak(tmp_path: Path, face: Face) -> None:
    seed = random.randrange(1 << 32)
    with Cluster(tmp_path / "servers") as cluster:
        before = measure()
        soak = Soak(cluster, face, seed)
        try:
            face.run(soak.run)
        except BaseException as error:
            error.add_note(f"seed {seed}, {soak.ends}")
            raise
        print("\n" + soak.report())
        after = measure()
    assert soak.hopeless == []
    assert len(soak.ends) >= 2
    assert after.tasks <= before.tasks
    assert after.descriptors <= before.descriptors
    # those of anyio's pool end a little later
    assert not [one for one in threading.enumerate() if one.name.startswith("fastmq")]
    samples = soak.samples
    assert growth([one.tasks for one in samples]) <= 12
    assert growth([one.descriptors for one in samples]) <= 4
    assert growth([one.threads for one in samples]) <= 8
    assert growth([one.objects for one in samples]) <= 2_000 + 0.02 * samples[0].objects
    assert growth([one.resident_kib for one in samples]) <= 8_000 + 0.1 * samples[0].resident_kib
