"""A pop consumer whose topic comes late."""

from __future__ import annotations

import anyio
import pytest

import fastmq
from fastmq.protocol.codes import RequestCode, ResponseCode
from fastmq.protocol.command import Command
from unit.client_rig import FakeCluster


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_topic_that_comes_while_a_receive_waits_is_asked_for(backend: str) -> None:
    cluster = FakeCluster(
        {RequestCode.POP_MESSAGE: lambda request: request.reply(ResponseCode.REQUEST_CODE_NOT_SUPPORTED)}
    )
    there = cluster.answers[RequestCode.GET_ROUTEINFO_BY_TOPIC]
    left = 2

    def late(request: Command) -> Command:
        nonlocal left
        if left == 0:
            return there(request)
        left -= 1
        return request.reply(ResponseCode.TOPIC_NOT_EXIST, "not yet")

    cluster.answers[RequestCode.GET_ROUTEINFO_BY_TOPIC] = late

    async def scenario() -> None:
        async with cluster.running(), fastmq.PopConsumer(cluster.address, "g", "t") as consumer:
            with pytest.raises(fastmq.NotSupported, match="POP"):
                await consumer.receive(wait=30)

    anyio.run(scenario, backend=backend)
    assert len(cluster.asked(RequestCode.POP_MESSAGE)) == 1
