"""Brokers that know less than 5.3.3: the client says so, or does it the old way."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

import fastmq
from fastmq.client.messages import ReceivedMessage
from fastmq.protocol import message as m
from fastmq.protocol.bodies import (
    SubscriptionGroupConfig,
    SubscriptionGroupTable,
    TopicConfig,
    TopicConfigTable,
    batch_acks,
    dumps,
)
from fastmq.protocol.codes import RequestCode, ResponseCode
from fastmq.protocol.command import Command
from unit.client_rig import V4_9_7, FakeCluster

Scenario = Callable[[FakeCluster], Awaitable[Any]]
Run = Callable[..., None]


@pytest.fixture(params=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a scenario with a cluster, on each backend."""

    def run(cluster: FakeCluster, scenario: Scenario) -> None:
        async def main() -> None:
            with anyio.fail_after(60):
                async with cluster.running():
                    await scenario(cluster)

        anyio.run(main, backend=request.param)

    return run


TIMER = fastmq.Message("t", "x", delay=5.0)


def test_a_timer_message_is_not_sent_to_a_broker_that_would_deliver_it_at_once(run: Run) -> None:
    async def scenario(cluster: FakeCluster) -> None:
        async with fastmq.Producer(cluster.address) as producer:
            with pytest.raises(fastmq.NotSupported, match="delay_level"):
                await producer.send(TIMER)
            await producer.send(fastmq.Message("t", "x", delay_level=1))
            for _ in range(2):
                with pytest.raises(fastmq.NotSupported) as caught:
                    await (await producer.send_async(TIMER))
                assert not caught.value.retryable
            with pytest.raises(fastmq.NotSupported):
                await producer.send_oneway(TIMER)
        assert len(cluster.asked(RequestCode.SEND_MESSAGE_V2)) == 1

    run(FakeCluster(version=V4_9_7), scenario)


def test_to_others_it_is_sent(run: Run) -> None:
    async def scenario(cluster: FakeCluster) -> None:
        async with fastmq.Producer(cluster.address) as producer:
            await producer.send(TIMER)
            await (await producer.send_async(TIMER))
            await producer.send_oneway(TIMER)
        assert len(cluster.asked(RequestCode.SEND_MESSAGE_V2)) == 3

    run(FakeCluster(), scenario)


def test_without_pop_a_pop_consumer_says_so_at_once(run: Run) -> None:
    async def scenario(cluster: FakeCluster) -> None:
        async with fastmq.PopConsumer(cluster.address, "g", "t") as consumer:
            with pytest.raises(fastmq.NotSupported, match=r"RocketMQ 5\.0.*PushConsumer"):
                await consumer.receive(wait=60)

    run(FakeCluster(version=V4_9_7), scenario)


def popped(offset: int, *, start: int = 100, queue: int = 0, retry: str = "0", broker: str = "a") -> ReceivedMessage:
    properties = {m.PROPERTY_POP_CK: f"{start} 1700000000000 60000 3 {retry} {broker} {queue} {offset}"}
    return ReceivedMessage.from_stored(
        m.StoredMessage(topic="t", body=b"x", properties=m.encode_properties(properties), queue_id=queue)
    )


def test_several_acks_are_one_request(run: Run) -> None:
    async def scenario(cluster: FakeCluster) -> None:
        async with fastmq.PopConsumer(cluster.address, "g", "t") as consumer:
            await consumer.session.route("t")
            await consumer.ack(popped(100))
            await consumer.ack(
                [popped(100), popped(109), popped(7, start=7, queue=1), popped(103), popped(103, retry="2")]
            )
            await consumer.ack([])
            with pytest.raises(fastmq.UsageError):
                await consumer.ack([popped(1), ReceivedMessage.from_stored(m.StoredMessage(topic="t", body=b"x"))])
        assert len(cluster.asked(RequestCode.ACK_MESSAGE)) == 1
        (batch,) = cluster.asked(RequestCode.BATCH_ACK_MESSAGE)
        acks = batch_acks(batch.body)
        assert [(one.topic, one.retry, one.queue_id, one.offsets) for one in acks] == [
            ("t", "0", 0, [100, 103, 109]),
            ("t", "0", 1, [7]),
            ("t", "2", 0, [103]),
        ]
        assert {(one.consumer_group, one.revive_queue_id, one.pop_time, one.invisible_time) for one in acks} == {
            ("g", 3, 1700000000000, 60000)
        }
        assert base64.b64encode(acks[0].acked).decode() == "CQI="

    done = dict.fromkeys((RequestCode.ACK_MESSAGE, RequestCode.BATCH_ACK_MESSAGE), Command.reply)
    run(FakeCluster(done), scenario)


def test_where_they_cannot_be_one_request_they_are_several(run: Run) -> None:
    async def scenario(cluster: FakeCluster) -> None:
        async with fastmq.PopConsumer(cluster.address, "g", "t") as consumer:
            await consumer.session.route("t")
            for _ in range(2):
                await consumer.ack([popped(100), popped(101), popped(102)])
        assert len(cluster.asked(RequestCode.BATCH_ACK_MESSAGE)) == 1, "it is tried once"
        assert sorted(one.ext["offset"] for one in cluster.asked(RequestCode.ACK_MESSAGE)) == sorted(
            2 * ["100", "101", "102"]
        )

    run(FakeCluster({RequestCode.ACK_MESSAGE: Command.reply}), scenario)


def test_a_refused_batch_of_acks_is_told(run: Run) -> None:
    async def scenario(cluster: FakeCluster) -> None:
        async with fastmq.PopConsumer(cluster.address, "g", "t") as consumer:
            await consumer.session.route("t")
            with pytest.raises(fastmq.BrokerError, match="full"):
                await consumer.ack([popped(100), popped(101)])

    full = {RequestCode.BATCH_ACK_MESSAGE: lambda request: request.reply(ResponseCode.SYSTEM_ERROR, "full")}
    run(FakeCluster(full), scenario)


def test_settings_come_from_the_whole_list_where_a_broker_has_no_other_way(run: Run) -> None:
    async def scenario(cluster: FakeCluster) -> None:
        async with fastmq.Admin(cluster.address) as admin:
            assert (await admin.topic_config("t"))["a"].write_queue_nums == 3
            assert (await admin.group_config("g"))["a"].retry_max_times == 5
            with pytest.raises(fastmq.BrokerError, match="no topic other"):
                await admin.topic_config("other")
            with pytest.raises(fastmq.GroupNotFound):
                await admin.group_config("other")

    topics = TopicConfigTable(topic_config_table={"t": TopicConfig(topic_name="t", write_queue_nums=3)})
    groups = SubscriptionGroupTable(
        subscription_group_table={"g": SubscriptionGroupConfig(group_name="g", retry_max_times=5)}
    )
    answers = {
        RequestCode.GET_ALL_TOPIC_CONFIG: lambda request: request.reply(body=dumps(topics)),
        RequestCode.GET_ALL_SUBSCRIPTIONGROUP_CONFIG: lambda request: request.reply(body=dumps(groups)),
    }
    run(FakeCluster(answers, V4_9_7), scenario)


def test_offsets_of_a_group_without_members_are_reset_one_by_one(run: Run) -> None:
    async def scenario(cluster: FakeCluster) -> None:
        async with fastmq.Admin(cluster.address) as admin:
            offsets = await admin.reset_offsets("g", "t", 1.5)
            assert sorted((queue.queue_id, offset) for queue, offset in offsets.items()) == [(0, 40), (1, 41)]
            assert {one.ext["timestamp"] for one in cluster.asked(RequestCode.SEARCH_OFFSET_BY_TIMESTAMP)} == {"1500"}
            stored = [
                (one.ext["queueId"], one.ext["commitOffset"])
                for one in cluster.asked(RequestCode.UPDATE_CONSUMER_OFFSET)
            ]
            assert stored == [("0", "40"), ("1", "41")]

    offline = ResponseCode.CONSUMER_NOT_ONLINE
    answers = {
        RequestCode.INVOKE_BROKER_TO_RESET_OFFSET: lambda request: request.reply(offline, "nobody is there"),
        RequestCode.SEARCH_OFFSET_BY_TIMESTAMP: lambda request: request.reply(
            ext={"offset": str(40 + int(request.ext["queueId"]))}
        ),
        RequestCode.UPDATE_CONSUMER_OFFSET: Command.reply,
    }
    run(FakeCluster(answers, V4_9_7), scenario)


def test_a_producer_that_can_be_asked_is_known_before_it_sends(run: Run) -> None:
    async def scenario(cluster: FakeCluster) -> None:
        async with fastmq.Producer(cluster.address, "p", check=lambda message: fastmq.TransactionState.COMMIT):
            assert cluster.asked(RequestCode.HEART_BEAT)
        seen = len(cluster.asked(RequestCode.HEART_BEAT))
        async with fastmq.Producer(cluster.address, "p"):
            assert len(cluster.asked(RequestCode.HEART_BEAT)) == seen

    run(FakeCluster(), scenario)
