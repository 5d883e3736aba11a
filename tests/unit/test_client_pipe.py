"""Pipelined sends of the blocking face: their order, their bound, their errors, and the end of the loop."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from fastmq.client.errors import ClientClosed
from fastmq.client.messages import Message
from fastmq.errors import UsageError
from fastmq.sync.pipe import MOST_WAITING, Pipe
from support.waiting import wait_until


class Ended:
    """A receipt of a send that has ended."""

    def __init__(self, result: str | Exception) -> None:
        self._result = result

    def result(self) -> str:
        if isinstance(self._result, Exception):
            raise self._result
        return self._result


class Slow:
    """An async producer that can be held, and tells what it was given."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.gate: anyio.Event | None = None

    async def send_async(self, message: Message, *, queue: Any, selector: Any, callback: Any) -> None:
        if self.gate is not None:
            await self.gate.wait()
        if message.body == b"unfit":
            raise UsageError("cannot be sent")
        text = bytes(message.body).decode()
        self.begun.append(text)
        callback(Ended(ValueError(text) if text.startswith("fails") else text))


@pytest.fixture(params=["asyncio", "trio"])
def portal(request: pytest.FixtureRequest) -> Iterator[BlockingPortal]:
    with start_blocking_portal(request.param) as portal:
        yield portal


def message(text: str) -> Message:
    return Message("t", text.encode())


def test_sends_of_a_thread_begin_in_their_order(portal: BlockingPortal) -> None:
    slow = Slow()
    pipe = Pipe(slow, portal.start_task_soon)  # type: ignore[arg-type]  # what it uses of a producer
    threads = 4
    each = 300

    def send(name: int) -> None:
        for number in range(each):
            pipe.put(message(f"{name}-{number}"), None, None)

    workers = [threading.Thread(target=send, args=(name,)) for name in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    pipe.wait()
    assert len(slow.begun) == threads * each
    for name in range(threads):
        assert [one for one in slow.begun if one.startswith(f"{name}-")] == [f"{name}-{i}" for i in range(each)]


def test_a_receipt_tells_what_became_of_its_send(portal: BlockingPortal) -> None:
    pipe = Pipe(Slow(), portal.start_task_soon)  # type: ignore[arg-type]
    futures = [pipe.put(message(text), None, None) for text in ("one", "fails", "unfit", "two")]
    assert futures[0].result(10) == "one"  # type: ignore[comparison-overlap]
    with pytest.raises(ValueError, match="fails"):
        futures[1].result(10)
    with pytest.raises(UsageError, match="cannot be sent"):
        futures[2].result(10)
    assert futures[3].result(10) == "two"  # type: ignore[comparison-overlap]


def test_a_thread_waits_while_the_producer_has_no_room(portal: BlockingPortal) -> None:
    slow = Slow()
    slow.gate = portal.call(anyio.Event)
    pipe = Pipe(slow, portal.start_task_soon)  # type: ignore[arg-type]
    put = 0

    def send() -> None:
        nonlocal put
        for number in range(3 * MOST_WAITING):
            pipe.put(message(str(number)), None, None)
            put = number + 1

    thread = threading.Thread(target=send)
    thread.start()
    # the task holds what it took, as many wait behind it, and the thread waits with the next
    wait_until(lambda: len(pipe._waiting) == MOST_WAITING, "as many wait as may")
    assert put <= 2 * MOST_WAITING
    assert thread.is_alive()
    portal.call(slow.gate.set)
    thread.join(30)
    pipe.wait()
    assert slow.begun == [str(number) for number in range(3 * MOST_WAITING)]


def test_what_waits_when_the_loop_ends_says_so() -> None:
    slow = Slow()
    with start_blocking_portal("trio") as portal:
        slow.gate = portal.call(anyio.Event)
        pipe = Pipe(slow, portal.start_task_soon)  # type: ignore[arg-type]
        futures = [pipe.put(message(str(number)), None, None) for number in range(5)]
        portal.call(portal.stop, True)
    for future in futures:
        with pytest.raises(ClientClosed):
            future.result(10)
    pipe.wait()
    with pytest.raises(ClientClosed):
        pipe.put(message("late"), None, None)
