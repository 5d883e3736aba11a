"""Sends to a server that is silent or goes away; oneway sends; the ends of transactions."""

from __future__ import annotations

from random import Random
from typing import Any

import anyio
import pytest

import fastmq
from fastmq.client.session import MOST_QUEUED, Session
from fastmq.protocol.codes import RequestCode, ResponseCode
from fastmq.protocol.command import Command
from unit.client_rig import FakeCluster, Run, until

MESSAGE = fastmq.Message("t", "x")
SEND = RequestCode.SEND_MESSAGE_V2


def test_a_producer_that_is_left_tells_every_send_in_flight(run: Run) -> None:
    async def scenario() -> None:
        cluster = FakeCluster()
        async with cluster.running():
            async with fastmq.Producer(cluster.address, timeout=0.1, try_timeout=60) as producer:
                await producer.send(MESSAGE, timeout=60)
                producer._first_timeout = 60  # longer than it waits when it is left
                cluster.answers[SEND] = lambda request: None
                receipts = [producer.send_nowait(MESSAGE) for _ in range(3)]
            assert all(one.done for one in receipts)
            for one in receipts:
                with pytest.raises(fastmq.ConnectionLost):
                    await one

    run(scenario)


def test_what_is_in_flight_when_a_producer_is_left_does_not_harm_its_session(run: Run) -> None:
    async def scenario() -> None:
        cluster = FakeCluster()
        held: list[Command] = []
        async with cluster.running(), Session(cluster.address) as session, fastmq.Producer(session, "other") as other:
            async with fastmq.Producer(session, timeout=0.1) as producer:
                await producer.send(MESSAGE, timeout=60)
                producer._first_timeout = 60
                cluster.answers[SEND] = held.append  # type: ignore[assignment]
                receipt = producer.send_nowait(MESSAGE)
            assert not receipt.done
            connection = session.open_connection(cluster.address)
            assert connection is not None
            connection.close("the test says so")
            with pytest.raises(fastmq.ConnectionLost, match="the test says so"):
                await receipt
            cluster.answers[SEND] = cluster._sent
            await other.send(MESSAGE, timeout=60)

    run(scenario)


def test_sends_that_wait_for_a_route_have_one_time_limit_and_not_one_after_the_other(run: Run) -> None:
    async def scenario() -> None:
        cluster = FakeCluster({RequestCode.GET_ROUTEINFO_BY_TOPIC: lambda request: None})
        async with (
            cluster.running(),
            fastmq.Producer(cluster.address, timeout=0.3, retries=0, request_timeout=60) as producer,
        ):
            receipts = [producer.send_nowait(MESSAGE) for _ in range(20)]
            for one in receipts:
                with pytest.raises(fastmq.RequestTimeout):
                    await one
            # One asks for all; a second one may ask in the moments between their ends. One after the other it is 20.
            assert len(cluster.asked(RequestCode.GET_ROUTEINFO_BY_TOPIC)) < len(receipts) / 2

    run(scenario)


def test_a_server_that_goes_away_is_asked_again_on_a_new_connection(run: Run) -> None:
    async def scenario() -> None:
        cluster = FakeCluster()
        async with cluster.running(), fastmq.Producer(cluster.address, retries=0) as producer:
            await producer.send(MESSAGE, timeout=60)
            before = producer.session.open_connection(cluster.address)
            left = 5

            def goes_away(request: Command) -> Command:
                nonlocal left
                left -= 1
                return request.reply(ResponseCode.GO_AWAY, "bye") if left >= 0 else cluster._sent(request)

            cluster.answers[SEND] = goes_away
            receipts = [producer.send_nowait(MESSAGE) for _ in range(5)]
            for one in receipts:
                assert (await one).status is fastmq.SendStatus.SEND_OK
            assert producer.session.open_connection(cluster.address) is not before

    run(scenario)


def test_a_send_ends_in_its_time_though_the_route_does_not_come_a_second_time(run: Run) -> None:
    async def scenario() -> None:
        cluster = FakeCluster({SEND: lambda request: request.reply(ResponseCode.SYSTEM_ERROR, "not now")})
        async with cluster.running(), fastmq.Producer(cluster.address, request_timeout=60) as producer:
            await producer.session.route("t")
            cluster.answers[RequestCode.GET_ROUTEINFO_BY_TOPIC] = lambda request: None
            with anyio.fail_after(30):  # half of what the question for the route may take
                with pytest.raises(fastmq.BrokerError, match="not now"):
                    await producer.send(MESSAGE, timeout=0.3)

    run(scenario)


def test_which_queue_a_producer_begins_with_is_a_matter_of_chance(run: Run) -> None:
    async def scenario() -> None:
        async with FakeCluster().running() as cluster:
            begun: list[list[int]] = []
            for _ in range(2):
                begun.append([])
                for seed in range(8):
                    async with fastmq.Producer(cluster.address, random=Random(seed)) as producer:
                        begun[-1].append((await producer.send(MESSAGE, timeout=60)).queue.queue_id)
            assert begun[0] == begun[1]
            assert set(begun[0]) == {0, 1}

    run(scenario)


def test_a_connection_to_a_broker_that_left_is_closed_when_it_is_not_used(run: Run) -> None:
    async def scenario() -> None:
        stays, leaves = FakeCluster(), FakeCluster()
        async with stays.running(), leaves.running():
            stays.answers[RequestCode.GET_ROUTEINFO_BY_TOPIC] = leaves._route
            async with fastmq.Producer(stays.address, route_seconds=0.01, idle_seconds=0.05) as producer:
                session = producer.session
                await producer.send(MESSAGE, timeout=60)
                assert leaves.asked(SEND)
                with anyio.fail_after(60):
                    await until(lambda: len(stays.asked(RequestCode.GET_ROUTEINFO_BY_TOPIC)) >= 20)
                    # idle for longer than it may be, but it is the broker of a topic in use
                    assert session.open_connection(leaves.address) is not None
                    stays.answers[RequestCode.GET_ROUTEINFO_BY_TOPIC] = stays._route
                    await until(lambda: session.open_connection(leaves.address) is None)
                await producer.send(MESSAGE, timeout=60)
                assert stays.asked(SEND)
                assert session.open_connection(stays.address) is not None

    run(scenario)


def test_oneway_sends_go_out_while_they_are_made(run: Run) -> None:
    async def scenario() -> None:
        cluster = FakeCluster()
        async with cluster.running(), fastmq.Producer(cluster.address) as producer:
            await producer.send(MESSAGE, timeout=60)
            connection = producer.session.open_connection(cluster.address)
            assert connection is not None
            for _ in range(10 * MOST_QUEUED):
                await producer.send_oneway(MESSAGE)
                assert connection.queued < MOST_QUEUED
            await connection.flush()
            await producer.send(MESSAGE, timeout=60)
            assert len(cluster.asked(SEND)) == 10 * MOST_QUEUED + 2

    run(scenario)


def test_oneway_sends_to_a_server_that_takes_nothing_end(run: Run) -> None:
    async def scenario() -> None:
        cluster = FakeCluster()
        large = fastmq.Message("t", bytes(1 << 19))

        async def many(producer: fastmq.Producer) -> None:
            for _ in range(1000):
                await producer.send_oneway(large)

        async with (
            cluster.running(),
            fastmq.Producer(cluster.address, request_timeout=60, compression="none") as producer,
        ):
            await producer.send(MESSAGE, timeout=60)
            producer.session.request_timeout = 0.2
            cluster.deaf = anyio.Event()
            with pytest.raises(fastmq.RequestTimeout, match="took nothing"):
                await many(producer)

    run(scenario)


class Unlucky(fastmq.Producer):
    """The second half of its transactions does not get through."""

    async def end_transaction(self, *_: Any, **__: Any) -> None:
        raise fastmq.ConnectError("no way there")


def test_what_ended_a_transaction_is_seen_also_if_it_cannot_be_rolled_back(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        cluster = FakeCluster()
        async with cluster.running(), Unlucky(cluster.address) as producer:
            with pytest.raises(ValueError, match="of the user"):
                async with producer.transaction(MESSAGE, timeout=60):
                    raise ValueError("of the user")
            assert "is not rolled back yet: no way there" in caplog.text
            with anyio.CancelScope() as scope:
                async with producer.transaction(MESSAGE, timeout=60):
                    scope.cancel()
                    await anyio.sleep_forever()
            assert scope.cancelled_caught
            with pytest.raises(fastmq.ConnectError):
                async with producer.transaction(MESSAGE, timeout=60):
                    pass

    run(scenario)
