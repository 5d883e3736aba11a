"""What the loop does for a thread: waited for, given up, or cut off."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import anyio
import anyio.lowlevel
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from fastmq.client.errors import ClientClosed
from fastmq.sync.outcome import LOOK_SECONDS, Call, Outcome
from support.waiting import wait_until


@pytest.fixture
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal("trio") as portal:
        yield portal


def test_any_number_of_threads_wait_for_one() -> None:
    outcome: Outcome[str] = Outcome()
    seen: list[str] = []
    threads = [threading.Thread(target=lambda: seen.append(outcome.result(60))) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert not outcome.done
    outcome.set_result("it")
    for thread in threads:
        thread.join(60)
    assert seen == ["it"] * 4
    assert outcome.done
    assert outcome.result(0) == "it"


def test_a_wait_ends_with_its_time() -> None:
    outcome: Outcome[str] = Outcome()
    for seconds in (-1.0, 0.0, 1.5 * LOOK_SECONDS):
        begin = time.monotonic()
        with pytest.raises(TimeoutError):
            outcome.result(seconds)
        assert time.monotonic() - begin >= seconds
    outcome.set_exception(ValueError("late"))
    for _ in range(2):
        with pytest.raises(ValueError, match="late"):
            outcome.result()


def test_a_call_runs_in_the_loop(portal: BlockingPortal) -> None:
    async def where() -> int:
        await anyio.lowlevel.checkpoint()
        return threading.get_ident()

    async def fail() -> int:
        raise LookupError("none")

    call = Call(where)
    portal.start_task_soon(call.run)
    assert call.result(60) != threading.get_ident()
    call = Call(fail)
    portal.start_task_soon(call.run)
    with pytest.raises(LookupError, match="none"):
        call.result(60)


@pytest.mark.parametrize("begun", [True, False])
def test_a_call_that_is_given_up_is_cancelled(portal: BlockingPortal, begun: bool) -> None:
    ended: list[str] = []
    running = threading.Event()

    async def long() -> None:
        running.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("cancelled")

    call = Call(long)
    if not begun:
        call.abandon(portal)
    portal.start_task_soon(call.run)
    assert running.wait(60)
    if begun:
        call.abandon(portal)
    wait_until(lambda: ended == ["cancelled"], "the loop does it no longer")
    with pytest.raises(ClientClosed):
        call.result(60)
    call.abandon(portal)  # too late, and harmless


def test_a_call_that_the_end_of_the_loop_cuts_off_says_so() -> None:
    with start_blocking_portal("trio") as portal:
        call = Call(anyio.sleep_forever)
        portal.start_task_soon(call.run)
        portal.call(portal.stop, True)
    with pytest.raises(ClientClosed, match="closed meanwhile"):
        call.result(60)
    call.abandon(portal)
