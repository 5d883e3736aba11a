"""How many messages a second one process of the Python client sends and consumes, with bodies of 1 KiB.

    PYTHONPATH=src:tests python bench/client.py [--messages 100000] [--backend asyncio] [--namesrv host:port]

Without --namesrv it starts `fastmq serve` on this machine, in a folder of its own. Each figure is the best of three
rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import anyio

import fastmq.sync
from fastmq import Consumer, Message, Producer, PushConsumer, ReceivedMessage

BODY = b"x" * 1024
ROUNDS = 3


async def pipelined(namesrv: str, topic: str, count: int) -> None:
    """Sends that do not wait for each other."""
    async with Producer(namesrv) as producer:
        receipts = [await producer.send_async(Message(topic, BODY)) for _ in range(count)]
        for receipt in receipts:
            await receipt


async def one_by_one(namesrv: str, topic: str, count: int) -> None:
    """Sends of one task, each awaited."""
    async with Producer(namesrv) as producer:
        for _ in range(count // 10):
            await producer.send(topic, BODY)


def pipelined_blocking(namesrv: str, topic: str, count: int) -> None:
    """Sends of the blocking face, by one thread, that do not wait for each other."""
    with fastmq.sync.Producer(namesrv) as producer:
        receipts = [producer.send_async(Message(topic, BODY)) for _ in range(count)]
        for receipt in receipts:
            receipt.result()


def one_by_one_blocking(namesrv: str, topic: str, count: int) -> None:
    """Sends of the blocking face, by one thread."""
    with fastmq.sync.Producer(namesrv) as producer:
        for _ in range(count // 10):
            producer.send(topic, BODY)


async def listener(namesrv: str, topic: str, count: int) -> None:
    """A listener for single messages."""
    seen = 0
    done = anyio.Event()

    async def on_message(message: ReceivedMessage) -> None:
        nonlocal seen
        seen += 1
        if seen == count:
            done.set()

    group = f"g{time.monotonic_ns()}"
    async with PushConsumer(namesrv, group, on_message, topic, start_from="first"):
        await done.wait()


async def iteration(namesrv: str, topic: str, count: int) -> None:
    """`async for message in consumer`."""
    async with Consumer(namesrv, f"g{time.monotonic_ns()}", topic, start_from="first") as consumer:
        seen = 0
        async for _ in consumer:
            seen += 1
            if seen == count:
                return


@contextlib.contextmanager
def server(namesrv: str | None) -> Iterator[str]:
    """The address of the server that is given, or of one of our own."""
    if namesrv is not None:
        yield namesrv
        return
    from support.servers import FastmqServer  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder, FastmqServer(Path(folder)) as running:
        yield running.namesrv


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--backend", choices=("asyncio", "trio"), default="asyncio")
    parser.add_argument("--namesrv")
    options = parser.parse_args()

    def in_loop(call: Callable[[str, str, int], Awaitable[None]]) -> Callable[[str, str, int], None]:
        return lambda *arguments: anyio.run(call, *arguments, backend=options.backend)

    kinds: list[tuple[str, Callable[[str, str, int], None], int]] = [
        (f"{options.backend} pipelined sends", in_loop(pipelined), 1),
        (f"{options.backend} sends one by one", in_loop(one_by_one), 10),
        ("sync pipelined sends", pipelined_blocking, 1),
        ("sync sends one by one", one_by_one_blocking, 10),
        (f"{options.backend} listener", in_loop(listener), 1),
        (f"{options.backend} async for", in_loop(iteration), 1),
    ]
    topic = f"bench-{time.time_ns()}"
    with server(options.namesrv) as namesrv:
        for name, call, part in kinds:
            best = 0.0
            for _ in range(ROUNDS):
                begin = time.perf_counter()
                call(namesrv, topic, options.messages)
                best = max(best, options.messages / part / (time.perf_counter() - begin))
            print(f"{name}: {best:,.0f} messages/s")


if __name__ == "__main__":
    main()
