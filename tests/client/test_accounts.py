"""Access control: a broker that asks for accounts takes ours and refuses others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anyio
import pytest

import fastmq
from client.faces import PATIENCE, Face
from support import toolchains
from support.servers import ApachePeer, Server

pytestmark = pytest.mark.apache

SETTINGS = {
    "authenticationEnabled": "true",
    "authenticationProvider": "org.apache.rocketmq.auth.authentication.provider.DefaultAuthenticationProvider",
    "authenticationMetadataProvider": (
        "org.apache.rocketmq.auth.authentication.provider.LocalAuthenticationMetadataProvider"
    ),
    "initAuthenticationUser": '{"username":"root","password":"secret"}',
    "innerClientAuthenticationCredentials": '{"accessKey":"root","secretKey":"secret"}',
}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An Apache RocketMQ whose broker asks for accounts."""
    try:
        with ApachePeer(tmp_path_factory.mktemp("guarded"), SETTINGS) as running:
            yield running
    except toolchains.ToolchainMissing as error:
        toolchains.missing(str(error))


def test_accounts(face: Face, guarded: Server) -> None:
    async def scenario(f: Any) -> None:
        topic = f"accounts-{face.name}"
        account = fastmq.Credentials("root", "secret")
        async with f.Producer(guarded.namesrv, credentials=account) as producer:
            await producer.send(fastmq.Message(topic, "größe", keys="ключ", properties={"p": "☃"}))
            await (await producer.send_async(fastmq.Message(topic, "b" * 10000)))
        async with f.Consumer(
            guarded.namesrv, f"g-{topic}", topic, start_from="first", credentials=account
        ) as consumer:
            got: list[fastmq.ReceivedMessage] = []
            with anyio.fail_after(PATIENCE):
                while len(got) < 2:
                    got += await consumer.poll(timeout=5)
            await consumer.commit()
        for wrong in (None, fastmq.Credentials("root", "guess"), fastmq.Credentials("nobody", "x")):
            async with f.Producer(guarded.namesrv, credentials=wrong) as producer:
                with pytest.raises(fastmq.BrokerError) as caught:
                    await producer.send(topic, b"x")
                assert not caught.value.retryable

    face.run(scenario)
