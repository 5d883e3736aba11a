"""What happens when things go wrong: servers that stop, hang or restart, cancellation, exits, slow listeners."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

import fastmq
import fastmq.sync
from client.faces import PATIENCE, Face, members, until
from support.servers import FastmqServer, Server
from support.waiting import wait_until

SOURCE = str(Path(fastmq.__file__).parents[1])

# not the blocking face: a thread cannot be cancelled
what_can_be_cancelled = pytest.mark.parametrize("face", ["asyncio", "trio"], indirect=True)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """A server that a test may ill-treat."""
    with FastmqServer(tmp_path / "server") as running:
        yield running


def test_a_server_that_is_killed_and_comes_back(face: Face, own_server: Server) -> None:
    async def scenario(f: Any) -> None:
        sent: set[str] = set()
        received: set[str] = set()
        hopeless: list[fastmq.ClientError] = []

        async def listen(message: fastmq.ReceivedMessage) -> None:
            received.add(message.text)

        async with (
            f.Producer(own_server.namesrv, timeout=2, try_timeout=1) as producer,
            # a busy machine may take longer while nothing is wrong
            f.Producer(own_server.namesrv, timeout=PATIENCE, try_timeout=PATIENCE) as patient,
            f.PushConsumer(own_server.namesrv, "g", face.listener(listen), "t", start_from="first"),
        ):

            async def send_some(first: int, count: int, producer: Any = producer) -> None:
                for number in range(first, first + count):
                    try:
                        await producer.send("t", str(number))
                    except fastmq.ClientError as error:
                        hopeless.extend([] if error.retryable else [error])
                    else:
                        sent.add(str(number))

            async def all_received() -> bool:
                return sent <= received

            await send_some(0, 20, patient)
            assert len(sent) == 20
            await until(all_received, "the first messages are consumed")
            await anyio.to_thread.run_sync(own_server.kill)
            begin = time.monotonic()
            await send_some(20, 2)
            assert len(sent) == 20
            assert time.monotonic() - begin < 30, "it fails fast"
            await anyio.to_thread.run_sync(own_server.start)

            async def sends_again() -> bool:
                await send_some(100 + len(sent), 1)
                return len(sent) > 20

            await until(sends_again, "sending works again")
            await send_some(1000, 20)
            await until(all_received, "everything that was sent is consumed")
            assert hopeless == []

    face.run(scenario)


def stop(process: int) -> None:
    """SIGSTOP, and waits until every thread stands still."""
    os.kill(process, signal.SIGSTOP)
    threads = list(Path(f"/proc/{process}/task").iterdir())
    wait_until(
        lambda: all((one / "stat").read_text().rpartition(")")[2].split()[0] == "T" for one in threads),
        "every thread of the server has stopped",
    )


def test_a_server_that_hangs(face: Face, own_server: Server) -> None:
    async def scenario(f: Any) -> None:
        async with f.Producer(own_server.namesrv, timeout=1.5, try_timeout=0.5) as producer:

            async def sends() -> bool:
                try:
                    await producer.send("t", "before or after")
                except fastmq.ClientError:
                    return False
                return True

            await until(sends, "a busy machine lets it send")
            stop(own_server.processes[0].pid)
            try:
                begin = time.monotonic()
                with pytest.raises(fastmq.ClientError) as caught:
                    await producer.send("t", "lost in time")
                assert caught.value.retryable
                assert time.monotonic() - begin < 30, "it does not hang"
            finally:
                os.kill(own_server.processes[0].pid, signal.SIGCONT)

            await until(sends, "sending works again")

    face.run(scenario)


def test_cancelled_sends_leave_nothing_behind(face: Face, own_server: Server) -> None:
    async def scenario(f: Any) -> None:
        async with f.Producer(own_server.namesrv) as producer:
            await producer.send("t", "first")
            for number in range(200):
                with anyio.move_on_after(0.0001 * (number % 20)):
                    await producer.send("t", "cancelled or not")
            assert (await producer.send("t", "last")).status is fastmq.SendStatus.SEND_OK
            inner = getattr(producer, "_thing", producer)
            session = getattr(inner, "_async", inner).session

            async def nothing_waits() -> bool:
                return all(one.waiting == 0 for one in session._connections.values())

            await until(nothing_waits, "no waiter is left")

    face.run(scenario)


@what_can_be_cancelled
def test_cancelling_the_scope_around_a_consumer_stores_its_offsets(face: Face, own_server: Server) -> None:
    async def scenario(f: Any) -> None:
        async with f.Producer(own_server.namesrv) as producer:
            queue = (await producer.queues("t"))[0]
            for number in range(5):
                await producer.send(fastmq.Message("t", str(number)), queue=queue)
        seen = 0
        with anyio.CancelScope() as scope:

            async def listen(message: fastmq.ReceivedMessage) -> None:
                nonlocal seen
                seen += 1
                if seen == 5:
                    scope.cancel()
                    # what has begun may end, although everything around it is cancelled
                    await anyio.sleep(0.05)

            async with f.PushConsumer(own_server.namesrv, "g", listen, "t", start_from="first", workers=1):
                await anyio.sleep_forever()
        assert scope.cancelled_caught
        async with f.Admin(own_server.namesrv) as admin:
            assert (await admin.progress("g", "t"))[queue].consumer_offset == 5
            with pytest.raises(fastmq.BrokerError):
                await admin.group_members("g")

    face.run(scenario)


def test_an_exception_in_the_block_comes_out_as_it_is(face: Face, own_server: Server) -> None:
    async def scenario(f: Any) -> None:
        async with f.Producer(own_server.namesrv) as producer, f.Consumer(own_server.namesrv, "g", "t"):
            await producer.send("t", "x")
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        face.run(scenario)


def test_a_slow_listener_holds_pulling_back(face: Face, own_server: Server) -> None:
    async def scenario(f: Any) -> None:
        from fastmq.client.window import FlowLimits

        go_on = anyio.Event()
        received: list[str] = []

        async def listen(message: fastmq.ReceivedMessage) -> None:
            await go_on.wait()
            received.append(message.text)

        async with f.Producer(own_server.namesrv) as producer:
            queue = (await producer.queues("t"))[0]
            for number in range(200):
                await producer.send_async(fastmq.Message("t", str(number)), queue=queue)
        consumer = f.PushConsumer(
            own_server.namesrv, "g", face.listener(listen), "t",
            start_from="first", workers=2, limits=FlowLimits(count=10), pull_batch=8,
        )  # fmt: skip
        async with consumer:
            inner = getattr(consumer, "_thing", consumer)
            inner = getattr(inner, "_async", inner)

            def in_work() -> int:
                return max((len(one.window) for one in inner._assigned.values()), default=0)

            async def full() -> bool:
                return in_work() >= 10

            await until(full, "the window is full")
            await anyio.sleep(0.1)
            assert in_work() < 10 + 8
            go_on.set()

            async def all_there() -> bool:
                return len(received) == 200

            await until(all_there, "everything is consumed in the end")

    face.run(scenario)


@what_can_be_cancelled
@pytest.mark.parametrize("orderly", [False, True])
def test_a_listener_that_never_ends_is_ended(face: Face, own_server: Server, orderly: bool) -> None:
    async def scenario(f: Any) -> None:
        received: list[str] = []

        async def listen(message: fastmq.ReceivedMessage) -> None:
            received.append(message.text)
            if len(received) == 1:
                await anyio.sleep_forever()

        async with (
            f.Producer(own_server.namesrv) as producer,
            f.PushConsumer(
                own_server.namesrv, "g", listen, "t", start_from="first", consume_seconds=0.2, orderly=orderly,
                orderly_pause_seconds=0.1,
            ),
        ):  # fmt: skip
            await producer.send("t", "x")

            async def twice() -> bool:
                return received[:2] == ["x", "x"]

            await until(twice, "the message comes again")

    face.run(scenario)


def test_a_topic_that_cannot_be_written(face: Face, own_server: Server) -> None:
    async def scenario(f: Any) -> None:
        async with f.Admin(own_server.namesrv) as admin, f.Producer(own_server.namesrv) as producer:
            await admin.create_topic("readonly", perm=4)
            with pytest.raises(fastmq.ClientError) as caught:
                await producer.send("readonly", "x")
            assert isinstance(caught.value, fastmq.RouteError | fastmq.SendFailed)

    face.run(scenario)


def test_no_name_server_at_all(face: Face) -> None:
    async def scenario(f: Any) -> None:
        with pytest.raises(fastmq.RouteError) as caught:
            async with f.Consumer("127.0.0.1:1;127.0.0.1:2", "g", "t"):
                pass
        assert caught.value.retryable
        assert "127.0.0.1:1" in str(caught.value)
        assert "127.0.0.1:2" in str(caught.value)

    face.run(scenario)


EXIT_SCRIPT = """
import sys
sys.path.insert(0, {source!r})
from fastmq.sync import Consumer, Producer, PushConsumer
producer = Producer({namesrv!r}).open()
producer.send("t", "x")
got = []
consumer = PushConsumer({namesrv!r}, "g", got.append, "t", start_from="first").open()
other = Consumer({namesrv!r}, "h", "t", start_from="first").open()
next(iter(other))
while not got:
    pass
print("ready", flush=True)
"""

FORK_SCRIPT = """
import sys
sys.path.insert(0, {source!r})
import os, warnings
import fastmq
from fastmq.sync import Consumer, Producer
warnings.simplefilter("ignore")  # that a process with threads forks is the point
with Producer({namesrv!r}) as first:
    first.send("t", "before")
with Producer({namesrv!r}) as producer, Consumer({namesrv!r}, "g", "t", start_from="first") as consumer:
    child = os.fork()
    if not child:
        for call in (lambda: producer.send("t", "x"), lambda: next(consumer), producer.open):
            try:
                call()
            except fastmq.ClientClosed as error:
                assert "fork" in str(error)
            else:
                os._exit(1)
        with Producer({namesrv!r}) as own:
            own.send("t", "child")
        os._exit(7)
    _, status = os.waitpid(child, 0)
    producer.send("t", "after")
    texts = sorted(next(consumer).text for _ in range(3))
print(os.waitstatus_to_exitcode(status), *texts)
"""


def test_the_interpreter_exits_with_open_clients(own_server: Server) -> None:
    script = EXIT_SCRIPT.format(source=SOURCE, namesrv=own_server.namesrv)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "ready", "")
    assert members(own_server.namesrv, "g") == 0
    from fastmq.sync import Admin

    with Admin(own_server.namesrv) as admin:
        assert sum(one.lag for one in admin.progress("g", "t").values()) == 0, "the offsets are stored"


def test_a_fork_leaves_the_parent_alone_and_the_child_without_clients(own_server: Server) -> None:
    script = FORK_SCRIPT.format(source=SOURCE, namesrv=own_server.namesrv)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "7 after before child", "")


def test_threads_share_clients(own_server: Server) -> None:
    """Eight threads send through one producer, four take from one pop consumer, and admins come and go."""
    count = 8 * 50
    seen: set[str] = set()
    failures: list[BaseException] = []

    def noting(call: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            try:
                call()
            except BaseException as error:
                failures.append(error)

        return threading.Thread(target=run)

    with (
        fastmq.sync.Producer(own_server.namesrv) as producer,
        fastmq.sync.PopConsumer(own_server.namesrv, "g", "t", start_from="first") as consumer,
    ):

        def send(first: int) -> None:
            receipts = [producer.send_async(fastmq.Message("t", str(first + number))) for number in range(25)]
            for number in range(25, 50):
                producer.send("t", str(first + number))
            for receipt in receipts:
                receipt.result(PATIENCE)

        def take() -> None:
            deadline = time.monotonic() + PATIENCE
            while len(seen) < count and time.monotonic() < deadline:
                messages = consumer.receive(wait=0.5)
                seen.update(message.text for message in messages)
                consumer.ack(messages)

        def look() -> None:
            for _ in range(5):
                with fastmq.sync.Admin(own_server.namesrv) as admin:
                    admin.brokers()

        threads = [noting(functools.partial(send, number * 50)) for number in range(8)]
        threads += [noting(take) for _ in range(4)] + [noting(look) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * PATIENCE)
    assert failures == []
    assert seen == {str(number) for number in range(count)}
