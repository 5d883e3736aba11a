"""What happens to those who hold it wrong: an error that says how to hold it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

import fastmq
import fastmq.sync
from fastmq.client.transport import parse_address
from fastmq.errors import UsageError

NOWHERE = "127.0.0.1:1"
MESSAGE = fastmq.Message("t", "x")


@pytest.mark.parametrize(
    "call",
    [
        lambda producer: producer.send("t", "x"),
        lambda producer: producer.send(MESSAGE),
        lambda producer: producer.send_batch([MESSAGE]),
        lambda producer: producer.send_oneway(MESSAGE),
        lambda producer: producer.send_async(MESSAGE),
        lambda producer: producer.request(MESSAGE),
        lambda producer: producer.transaction(MESSAGE).__aenter__(),
        lambda producer: producer.queues("t"),
    ],
)
def test_a_producer_that_is_not_open_says_so(call: Callable[[fastmq.Producer], Awaitable[Any]]) -> None:
    async def scenario() -> None:
        with pytest.raises(fastmq.ClientClosed, match="async with"):
            await call(fastmq.Producer(NOWHERE))

    anyio.run(scenario)


@pytest.mark.parametrize(
    "call",
    [
        lambda: fastmq.Consumer(NOWHERE, "g", "t").poll(timeout=0),
        lambda: fastmq.Consumer(NOWHERE, "g", "t").__anext__(),
        lambda: fastmq.Consumer(NOWHERE, "g", "t").commit(),
        lambda: fastmq.Consumer(NOWHERE, "g", "t").seek_to_begin(),
        lambda: fastmq.PopConsumer(NOWHERE, "g", "t").receive(),
        lambda: fastmq.Admin(NOWHERE).topics(),
    ],
)
def test_so_do_consumers(call: Callable[[], Awaitable[Any]]) -> None:
    async def scenario() -> None:
        with pytest.raises(fastmq.ClientClosed, match="async with"):
            await call()

    anyio.run(scenario)


def test_and_without_await() -> None:
    with pytest.raises(fastmq.ClientClosed, match="inside `with`"):
        fastmq.sync.Producer(NOWHERE).send("t", "x")
    with pytest.raises(fastmq.ClientClosed, match="inside `with`"):
        next(fastmq.sync.Consumer(NOWHERE, "g", "t"))


@pytest.mark.parametrize(
    "address",
    ["a:1,b:2", "a", ":1", "a:", "a:x", "a:70000", "a b:1", "a:1 b:2", "a:b:1", "[::1:1", "a:²", "http://a/x:1"],
)
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(UsageError, match="host:port, several are separated by semicolons"):
        parse_address(address)


def test_addresses() -> None:
    assert parse_address("[::1]:9876") == ("::1", 9876)
    assert parse_address("::1:9876") == ("::1", 9876)
    assert parse_address("http://MQ_INST_1.example.com:80") == ("MQ_INST_1.example.com", 80)
