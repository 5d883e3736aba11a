"""What happens to those who hold it wrong: an error that says how to hold it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import anyio
import pytest

import fastmq
import fastmq.sync
from fastmq.client.session import Session
from fastmq.client.transport import parse_address
from fastmq.errors import UsageError
from unit.client_rig import FakeCluster

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


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"body": {"a": 1}}, "a body is bytes or str, not dict"),
        ({"body": None}, "a body is bytes or str, not NoneType"),
        ({"body": ""}, "needs a body"),
        ({"body": "\ud800"}, "UTF-8"),
        ({"topic": 5}, "a topic is a str, not 5"),
        ({"properties": {"a": 1}}, "str, not 'a': 1"),
        ({"properties": {1: "a"}}, "str, not 1: 'a'"),
        ({"properties": {"a\x01": "a"}}, "separator"),
        ({"properties": {"UNIQ_KEY": "a"}}, "belongs to the system"),
        ({"tag": 1}, "'TAGS': 1"),
        ({"keys": [1, 2]}, r"keys are str, or several of them, not \[1, 2\]"),
        ({"keys": 7}, "keys are str, or several of them, not 7"),
        ({"sharding_key": 4711}, "4711"),
        ({"delay_level": "3"}, "a number from 1 to 18, not '3'"),
        ({"delay_level": -1}, "a number from 1 to 18, not -1"),
        ({"delay": "3"}, "seconds or a timedelta, not '3'"),
        ({"delay": -1}, "in the past"),
        ({"delay": float("nan")}, "in the past, or never over"),
        ({"deliver_at": "tomorrow"}, "not 'tomorrow'"),
        ({"deliver_at": datetime(2026, 1, 1)}, "needs a time zone"),
        ({"delay": 1, "delay_level": 1}, "one of delay_level, delay and deliver_at"),
    ],
)
def test_messages_that_are_none(fields: dict[str, Any], what: str) -> None:
    async def scenario() -> None:
        async with Session(NOWHERE) as session, fastmq.Producer(session) as producer:
            for call in (producer.send, producer.send_async, producer.send_oneway):
                with pytest.raises(UsageError, match=what):
                    await call(fastmq.Message(**{"topic": "t", "body": "x", **fields}))

    anyio.run(scenario)


def test_bodies_that_may_change_are_copied() -> None:
    body = bytearray(b"abc")
    sent = fastmq.Message("t", body).encoded_body()  # type: ignore[arg-type]
    body[0] = 0
    assert sent == b"abc"
    assert fastmq.Message("t", "x", delay=timedelta(seconds=1.5)).wire_properties("")["TIMER_DELAY_MS"] == "1500"


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: fastmq.Producer(9876), "host:port;host:port"),
        (lambda: fastmq.Producer(("127.0.0.1", 9876)), "host:port;host:port"),
        (lambda: fastmq.Producer("a:1,b:2"), "separated by semicolons"),
        (lambda: fastmq.Producer(NOWHERE, compression="gzip"), "'none', 'zlib', 'lz4', 'zstd', not 'gzip'"),
        (lambda: fastmq.Producer(NOWHERE, "a b"), "group"),
        (lambda: fastmq.Producer(NOWHERE, check=5), "5 cannot be called"),
        (lambda: fastmq.Consumer(NOWHERE, "g", "t", start_from="begin"), "'last', 'first', 'time', not 'begin'"),
        (lambda: fastmq.PopConsumer(NOWHERE, "g", "t", start_from="begin"), "not 'begin'"),
        (lambda: fastmq.PushConsumer(NOWHERE, "g", None, "t"), "None cannot be called"),
    ],
)
def test_settings_that_are_none(make: Callable[[], object], what: str) -> None:
    with pytest.raises(UsageError, match=what):
        make()


def test_they_show_what_they_are() -> None:
    producer = fastmq.Producer(NOWHERE, "p")
    assert repr(producer) == "<Producer of group p, not open>"
    assert repr(fastmq.Admin(NOWHERE)) == "<Admin, not open>"
    assert repr(producer.transaction(MESSAGE)) == "<Transaction of topic t, not begun>"
    assert repr(fastmq.Receipt(1)) == "<Receipt in flight>"


def test_an_error_of_several_tries_says_each_reason_once() -> None:
    one, other = fastmq.ConnectError("no way"), fastmq.RequestTimeout("too late")
    assert str(fastmq.SendFailed("t", [one, one, other])) == "sending to t failed 3 times: no way; too late"


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_connection_that_is_refused_says_why(backend: str) -> None:
    async def scenario() -> None:
        async with fastmq.Admin(NOWHERE) as admin:
            with pytest.raises(fastmq.RouteError, match=f"{NOWHERE} cannot be reached: Connection refused"):
                await admin.topics()

    anyio.run(scenario, backend=backend)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_queue_or_a_server_that_is_none(backend: str) -> None:
    async def scenario() -> None:
        async with FakeCluster().running() as cluster, fastmq.Producer(cluster.address) as producer:
            with pytest.raises(UsageError, match="no queue of topic t"):
                await producer.send(MESSAGE, queue=fastmq.MessageQueue("other", "a", 0))
            with pytest.raises(UsageError, match="the selector chose None"):
                await producer.send(MESSAGE, selector=lambda queues, message: None)  # type: ignore[arg-type,return-value]
            cluster.answers.clear()
            with pytest.raises(fastmq.NotSupported, match="is that a name server"):
                await producer.send("other", "x")

    anyio.run(scenario, backend=backend)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_selector_that_fails_fails_its_own_send_alone(backend: str) -> None:
    def fails(queues: Sequence[fastmq.MessageQueue], message: fastmq.Message) -> fastmq.MessageQueue:
        raise ZeroDivisionError

    async def scenario() -> None:
        async with FakeCluster().running() as cluster, fastmq.Producer(cluster.address) as producer:
            # before the route is known, while others wait for it, and when it is
            for _ in range(2):
                receipts = [await producer.send_async(MESSAGE, selector=one) for one in (fails, None, fails, None)]
                for number, receipt in enumerate(receipts):
                    if number % 2:
                        assert (await receipt).topic == "t"
                    else:
                        with pytest.raises(ZeroDivisionError):
                            await receipt
            with anyio.fail_after(60):
                await producer.flush()

    anyio.run(scenario, backend=backend)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_callback_that_fails_harms_nobody(backend: str, caplog: pytest.LogCaptureFixture) -> None:
    def fails(receipt: fastmq.Receipt) -> None:
        raise ZeroDivisionError

    async def scenario() -> None:
        async with FakeCluster().running() as cluster, fastmq.Producer(cluster.address) as producer:
            await producer.send(MESSAGE)
            for _ in range(2):
                assert (await (await producer.send_async(MESSAGE, callback=fails))).topic == "t"

    anyio.run(scenario, backend=backend)
    assert [one.getMessage() for one in caplog.records] == 2 * ["the callback of a send failed"]


def test_a_pipeline_that_is_full_says_so() -> None:
    async def scenario() -> None:
        async with FakeCluster().running() as cluster, fastmq.Producer(cluster.address, max_in_flight=1) as producer:
            receipt = producer.send_nowait(MESSAGE)
            with pytest.raises(fastmq.PipelineFull) as caught:
                producer.send_nowait(MESSAGE)
            assert caught.value.retryable
            await receipt

    anyio.run(scenario)
