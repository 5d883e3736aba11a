"""fastmq's client: asyncio, trio, and the face without await. See measured.py."""

from __future__ import annotations

import argparse
import time
from functools import partial

import anyio
from measured import BATCH, Meter, arguments, leave, report
from measured import one_by_one as sync_one_by_one

from fastmq import Consumer, Message, Producer, PushConsumer, ReceivedMessage, sync


async def pipelined(options: argparse.Namespace) -> None:
    body = b"x" * options.body
    async with Producer(options.address, options.group, max_in_flight=options.depth) as producer:
        for seconds in (options.warm_up, options.seconds):
            receipts = []
            cpu = time.process_time()
            begin = time.perf_counter()
            while time.perf_counter() < begin + seconds:
                for _ in range(BATCH):
                    receipts.append(await producer.send_async(Message(options.topic, body)))
            for receipt in receipts:
                await receipt
            elapsed = time.perf_counter() - begin
            cpu = time.process_time() - cpu
    report(len(receipts), elapsed, cpu)


async def one_by_one(options: argparse.Namespace) -> None:
    body = b"x" * options.body
    async with Producer(options.address, options.group) as producer:
        for seconds in (options.warm_up, options.seconds):
            sent = 0
            cpu = time.process_time()
            begin = time.perf_counter()
            while time.perf_counter() < begin + seconds:
                await producer.send(options.topic, body)
                sent += 1
            elapsed = time.perf_counter() - begin
            cpu = time.process_time() - cpu
    report(sent, elapsed, cpu)


def sync_send(options: argparse.Namespace) -> None:
    body = b"x" * options.body
    with sync.Producer(options.address, options.group) as producer:
        sync_one_by_one(lambda: producer.send(options.topic, body), options)


def sync_pipelined(options: argparse.Namespace) -> None:
    body = b"x" * options.body
    with sync.Producer(options.address, options.group, max_in_flight=options.depth) as producer:
        for seconds in (options.warm_up, options.seconds):
            receipts = []
            cpu = time.process_time()
            begin = time.perf_counter()
            while time.perf_counter() < begin + seconds:
                for _ in range(BATCH):
                    receipts.append(producer.send_async(Message(options.topic, body)))
            for receipt in receipts:
                receipt.result()
            elapsed = time.perf_counter() - begin
            cpu = time.process_time() - cpu
    report(len(receipts), elapsed, cpu)


class _Count:
    """Counts in one thread, and says when it is enough."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._count = 0
        self._begin = self._cpu = 0.0

    def add(self) -> bool:
        """One message more; True when it is enough, and reported."""
        if not self._count:
            self._begin, self._cpu = time.perf_counter(), time.process_time()
        self._count += 1
        if self._count < self._options.count and (
            self._count % BATCH or time.perf_counter() < self._begin + self._options.seconds
        ):
            return False
        report(self._count, time.perf_counter() - self._begin, time.process_time() - self._cpu)
        return True


async def listener(options: argparse.Namespace) -> None:
    count = _Count(options)

    async def on_message(message: ReceivedMessage) -> None:
        if message.body and count.add():
            leave()

    async with PushConsumer(options.address, options.group, on_message, options.topic, start_from="first"):
        await anyio.sleep(120)
    raise SystemExit("no end within two minutes")


async def iteration(options: argparse.Namespace) -> None:
    count = _Count(options)
    async with Consumer(options.address, options.group, options.topic, start_from="first") as consumer:
        async for message in consumer:
            if message.body and count.add():
                leave()


def sync_listener(options: argparse.Namespace) -> None:
    meter = Meter()

    def on_message(message: ReceivedMessage) -> None:
        if message.body:
            meter.add()

    with sync.PushConsumer(options.address, options.group, on_message, options.topic, start_from="first"):
        meter.wait(options)
        leave()


def sync_iteration(options: argparse.Namespace) -> None:
    count = _Count(options)
    with sync.Consumer(options.address, options.group, options.topic, start_from="first") as consumer:
        for message in consumer:
            if message.body and count.add():
                leave()


ASYNC = {"pipelined": pipelined, "one-by-one": one_by_one, "listener": listener, "iteration": iteration}
SYNC = {"send": sync_send, "pipelined": sync_pipelined, "listener": sync_listener, "iteration": sync_iteration}


def main() -> None:
    modes = {f"{backend}-{name}": (backend, call) for backend in ("asyncio", "trio") for name, call in ASYNC.items()}
    plain = {f"sync-{name}": call for name, call in SYNC.items()}
    options = arguments((*modes, *plain))
    if options.mode in plain:
        plain[options.mode](options)
    else:
        backend, call = modes[options.mode]
        anyio.run(partial(call, options), backend=backend)


if __name__ == "__main__":
    main()
