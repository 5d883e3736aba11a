"""A broker and its name servers: who is told what, when, and what happens if one does not listen."""

from __future__ import annotations

import logging
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from fastmq.broker.register import BrokerIdentity, Registrar, masked_perm, order_topics, register_body
from fastmq.config import BrokerConfig
from fastmq.protocol.bodies import DataVersion, RegisterBrokerBody, TopicConfig
from fastmq.protocol.command import Command

A = ("ns-a", 9876)
B = ("ns-b", 9876)


async def at_once(make):
    """Not in a thread: the clock of these tests jumps when only threads are at work."""
    return make()


class NameServer:
    """Takes registrations as (time, request); may be down, deaf or unwilling."""

    def __init__(self) -> None:
        self.requests: list[tuple[float, Command]] = []
        self.channels: list[Channel] = []
        self.down = self.deaf = False
        self.code = 0
        self.body = b""

    def codes(self) -> list[int]:
        return [request.code for _, request in self.requests]

    def times(self) -> list[float]:
        return [round(at, 1) for at, request in self.requests if request.code == 103]

    def topics(self) -> dict[str, TopicConfig]:
        """Of the latest registration."""
        request = [request for _, request in self.requests if request.code == 103][-1]
        return dict(RegisterBrokerBody.decode(request.body).topics.topic_config_table)

    def restart(self) -> None:
        for channel in self.channels:
            channel.close()


class Channel:
    def __init__(self, server: NameServer) -> None:
        self.server = server
        self.alive = True
        self._closed = trio.Event()

    def close(self) -> None:
        self.alive = False
        self._closed.set()

    async def wait_closed(self) -> None:
        await self._closed.wait()

    async def call(self, command: Command, timeout_s: float) -> Command:
        await trio.lowlevel.checkpoint()
        if not self.alive or self.server.down:
            raise ConnectionError("gone")
        self.server.requests.append((trio.current_time(), command))
        if self.server.deaf:
            await trio.sleep(timeout_s)
            raise TimeoutError(f"no answer within {timeout_s} s")
        return command.reply(self.server.code, None, {}, self.server.body)


class World:
    """One broker, two name servers."""

    def __init__(self, **config: Any) -> None:
        self.config = BrokerConfig(broker_name="b", **config)
        self.servers = {A: NameServer(), B: NameServer()}
        self.addresses = [A, B]
        self.table = {"t": TopicConfig("t", 4, 4, 6), "u": TopicConfig("u", 1, 1, 7)}
        self.version = DataVersion(timestamp=1)
        self.order: frozenset[str] = frozenset()
        self.registrar = Registrar(
            config=lambda: self.config,
            identity=lambda: BrokerIdentity("c", "b", 0, "127.0.0.1:10911", "127.0.0.1:10912"),
            servers=lambda: self.addresses,
            topics=lambda: self.table.values(),
            data_version=lambda: self.version,
            connect=self.connect,
            on_order_topics=self.take_order,
            in_thread=at_once,
        )

    def take_order(self, names: frozenset[str]) -> None:
        self.order = names

    @asynccontextmanager
    async def connect(self, host: str, port: int) -> AsyncIterator[Channel]:
        server = self.servers[host, port]
        await trio.lowlevel.checkpoint()
        if server.down:
            raise OSError("connection refused")
        channel = Channel(server)
        server.channels.append(channel)
        try:
            yield channel
        finally:
            channel.close()

    def play(self, scenario: Callable[[], Awaitable[None]]) -> None:
        """Run the registrar around the scenario; time passes as fast as it can."""

        async def run() -> None:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.registrar.run)
                await scenario()
                nursery.cancel_scope.cancel()

        trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))


def test_registers_everywhere_then_repeats_then_unregisters() -> None:
    world = World()

    async def scenario() -> None:
        assert world.registrar.registered_with() == ["ns-a:9876", "ns-b:9876"], "ready means registered"
        await trio.sleep(75)

    world.play(scenario)
    for server in world.servers.values():
        assert server.times() == [0, 10, 40, 70]
        assert server.codes()[-1] == 104
        assert server.requests[-1][1].ext == {
            "brokerName": "b", "brokerAddr": "127.0.0.1:10911", "clusterName": "c", "brokerId": "0",
        }  # fmt: skip


def test_nothing_is_registered_after_it_has_left() -> None:
    world = World()

    async def scenario() -> None:
        await world.registrar.unregister()
        world.registrar.changed()
        await trio.sleep(60)

    world.play(scenario)
    assert world.servers[A].codes() == [103, 104]


def test_what_is_sent() -> None:
    world = World()

    async def scenario() -> None:
        pass

    world.play(scenario)
    request = world.servers[A].requests[0][1]
    assert request.ext == {
        "brokerName": "b", "brokerAddr": "127.0.0.1:10911", "clusterName": "c", "haServerAddr": "127.0.0.1:10912",
        "brokerId": "0", "enableActingMaster": "false", "compressed": "false",
        "bodyCrc32": str(zlib.crc32(request.body) & 0x7FFFFFFF),
    }  # fmt: skip
    assert request.body.startswith(
        b'{"filterServerList":[],"topicConfigSerializeWrapper":{"dataVersion":{"counter":0,"stateVersion":0,"timestamp":1}'
    )
    assert world.servers[A].topics() == world.table


def test_a_new_topic_is_announced_at_once() -> None:
    world = World()

    async def scenario() -> None:
        await trio.sleep(3)
        world.table["new"] = TopicConfig("new")
        world.registrar.changed(["new"])
        assert await world.registrar.wait_announced(1)
        assert trio.current_time() < 3.1
        for server in world.servers.values():
            assert set(server.topics()) == {"new"}, "the others are known"
        await trio.sleep(31)
        for server in world.servers.values():
            assert set(server.topics()) == {"t", "u", "new"}, "the whole table from time to time"

    world.play(scenario)


def test_the_whole_table_goes_out_where_an_increment_will_not_do() -> None:
    world = World()
    whole = {"t", "u", "new"}

    async def scenario() -> None:
        sent = world.servers[A]
        world.table["new"] = TopicConfig("new")
        world.registrar.changed(["new"])
        world.registrar.changed()  # settings, too
        assert await world.registrar.wait_announced(1)
        assert set(sent.topics()) == whole
        world.registrar.changed(["t", "gone"])  # deleted
        assert await world.registrar.wait_announced(1)
        assert set(sent.topics()) == whole
        world.registrar.changed(["t"])
        assert await world.registrar.wait_announced(1)
        assert set(sent.topics()) == {"t"}
        for channel in sent.channels:
            channel.close()  # a name server that restarts knows nothing
        world.registrar.changed(["u"])
        await trio.sleep(2)
        assert set(sent.topics()) == whole
        for number in range(2000):
            world.table[f"many-{number}"] = TopicConfig(f"many-{number}")
            world.registrar.changed([f"many-{number}"])
        assert await world.registrar.wait_announced(1)
        assert len(sent.topics()) == 2003

    world.play(scenario)


def test_topics_made_in_a_row_are_one_increment() -> None:
    world = World()

    async def scenario() -> None:
        for name in ("v", "w", "x"):
            world.table[name] = TopicConfig(name)
            world.registrar.changed([name])
        assert await world.registrar.wait_announced(1)
        assert set(world.servers[A].topics()) == {"v", "w", "x"}

    world.play(scenario)
    assert len(world.servers[A].times()) == 2


def test_changes_in_a_row_are_sent_together() -> None:
    world = World()

    async def scenario() -> None:
        for number in range(100):
            world.table[f"t{number}"] = TopicConfig(f"t{number}")
            world.registrar.changed()
        assert await world.registrar.wait_announced(1)

    world.play(scenario)
    assert len(world.servers[A].times()) == 2


def test_one_that_is_down_delays_nobody_and_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.servers[A].down = True

    async def scenario() -> None:
        assert trio.current_time() < 1
        assert world.registrar.registered_with() == ["ns-b:9876"]
        world.registrar.changed()
        assert await world.registrar.wait_announced(1), "what cannot be reached is not waited for"
        await trio.sleep(60)
        world.servers[A].down = False
        await trio.sleep(11)
        assert len(world.registrar.registered_with()) == 2

    with caplog.at_level(logging.INFO, "fastmq.broker.register"):
        world.play(scenario)
    about_a = [record.levelname for record in caplog.records if "ns-a" in record.message]
    assert about_a == ["WARNING", "INFO"], "one line for each change, not for each try"


def test_one_that_hangs_delays_nobody() -> None:
    world = World()
    world.servers[A].deaf = True

    async def scenario() -> None:
        assert trio.current_time() == pytest.approx(5), "a start waits for five seconds at most"
        world.table["new"] = TopicConfig("new")
        world.registrar.changed()
        assert not await world.registrar.wait_announced(1)
        assert "new" in world.servers[B].topics()

    world.play(scenario)


def test_a_refusal_is_tried_again() -> None:
    world = World()
    world.servers[A].code = 1

    async def scenario() -> None:
        assert world.registrar.registered_with() == ["ns-b:9876"]
        world.servers[A].code = 0
        await trio.sleep(5)
        assert len(world.registrar.registered_with()) == 2

    world.play(scenario)


def test_a_restarted_name_server_learns_of_the_broker_soon() -> None:
    world = World()

    async def scenario() -> None:
        await trio.sleep(12)
        world.servers[A].restart()
        await trio.sleep(3)
        assert world.servers[A].times()[-1] < 14, "not at the next period only"

    world.play(scenario)


def test_configuration_can_add_and_remove_name_servers() -> None:
    world = World()
    world.addresses = [A]

    async def scenario() -> None:
        assert not world.servers[B].requests
        world.addresses = [B]
        world.registrar.changed()
        await trio.sleep(1)
        assert world.registrar.registered_with() == ["ns-b:9876"]
        assert world.servers[A].codes()[-1] == 104

    world.play(scenario)


def test_no_name_server_is_fine() -> None:
    world = World()
    world.addresses = []

    async def scenario() -> None:
        world.registrar.changed()
        assert await world.registrar.wait_announced(1)
        assert await world.registrar.ask(Command(105), 1) is None

    world.play(scenario)


def test_questions_go_to_a_name_server_that_answers() -> None:
    world = World()
    world.servers[A].down = True

    async def scenario() -> None:
        answer = await world.registrar.ask(Command(105), 1)
        assert answer is not None
        assert world.servers[B].codes()[-1] == 105

    world.play(scenario)


def test_order_topics_of_the_answer_are_passed_on() -> None:
    world = World()
    world.servers[B].body = b'{"table":{"ordered":"b:4"}}'

    async def scenario() -> None:
        pass

    world.play(scenario)
    assert world.order == {"ordered"}
    assert order_topics(b"") == order_topics(b"rubbish") == frozenset()


@pytest.mark.parametrize(("perm", "broker", "seen"), [(6, 6, 6), (7, 6, 7), (6, 4, 4), (7, 2, 2), (2, 4, 0)])
def test_a_broker_that_is_not_open_lowers_its_topics(perm: int, broker: int, seen: int) -> None:
    assert masked_perm(perm, broker) == seen
    body = register_body([TopicConfig("t", perm=perm)], DataVersion(), broker)
    assert RegisterBrokerBody.decode(body).topics.topic_config_table["t"].perm == seen


def test_compressed_registration() -> None:
    world = World(compressed_register=True)

    async def scenario() -> None:
        pass

    world.play(scenario)
    request = world.servers[A].requests[0][1]
    assert request.ext["compressed"] == "true"
    assert request.body[:1] == b"\x78"
    assert world.servers[A].topics()["u"].perm == 7


def test_what_nobody_foresaw_harms_no_other_registration(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    connect = world.connect

    @asynccontextmanager
    async def fails(host: str, port: int) -> AsyncIterator[Channel]:
        if host == "ns-a":
            await trio.lowlevel.checkpoint()
            raise UnicodeError("label empty or too long")
        async with connect(host, port) as channel:
            yield channel

    world.registrar._connect = fails

    async def scenario() -> None:
        await trio.sleep(40)
        assert world.registrar.registered_with() == ["ns-b:9876"]
        assert world.servers[B].times() != []

    world.play(scenario)
    assert "label empty or too long" in caplog.text
