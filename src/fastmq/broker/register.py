"""Telling the name servers who we are and which topics we have (RocketMQ's BrokerOuterAPI.registerBrokerAll).

Every name server has a task of its own with its own connection, so that one that hangs delays nobody. A task registers
at the start, again after ten seconds, then every `registerNameServerPeriod`, and when topics or settings change.
The whole table is sent each time but for changed topics, which go alone (as registerIncrementBrokerData): only over a
connection that the whole table went over before, because a name server refuses one topic of a broker it does not know.
A deleted topic or changed settings need the whole table.

A failure is tried again after 1, 2, 4, ... seconds, and logged when the state of a name server changes, not each time.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, Protocol

import trio

from fastmq.config import BrokerConfig
from fastmq.errors import ProtocolError
from fastmq.net import channel as net_channel
from fastmq.protocol.bodies import (
    PERM_READ,
    PERM_WRITE,
    DataVersion,
    KVTable,
    RegisterBrokerBody,
    TopicConfig,
    TopicConfigTable,
)
from fastmq.protocol.codes import RequestCode, ResponseCode
from fastmq.protocol.command import Command
from fastmq.protocol.headers import RegisterBrokerRequest, UnregisterBrokerRequest

log = logging.getLogger("fastmq.broker.register")

FIRST_REPEAT_S: Final = 10.0
RETRY_FIRST_S: Final = 1.0
RETRY_MAX_S: Final = 10.0
INCREMENT_MAX: Final = 1000  # topics; more changes at once, and all are sent
START_TIMEOUT_S: Final = 5.0  # how long a start waits for name servers that do not answer
UNREGISTER_TIMEOUT_S: Final = 1.0

Address = tuple[str, int]


class NameServerChannel(Protocol):
    """A connection to a name server; `fastmq.net.channel.Channel` is one."""

    @property
    def alive(self) -> bool: ...
    async def call(self, command: Command, timeout_s: float) -> Command: ...
    async def wait_closed(self) -> None: ...


Connect = Callable[[str, int], AbstractAsyncContextManager[NameServerChannel]]


class _Refused(Exception):
    """A name server answered with an error."""


@dataclass(frozen=True, slots=True)
class BrokerIdentity:
    """Under what names and addresses a broker registers. Addresses are `ip:port`."""

    cluster: str
    name: str
    broker_id: int
    address: str
    ha_address: str


@dataclass(slots=True)
class _Server:
    """What is known of one name server."""

    address: Address
    channel: NameServerChannel | None = None
    registered: bool | None = None  # None: not tried yet, or unregistered
    generation: int = -1  # the last one it has confirmed
    failures: int = 0
    tried: trio.Event = field(default_factory=trio.Event)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    @property
    def text(self) -> str:
        return f"{self.address[0]}:{self.address[1]}"


def masked_perm(perm: int, broker_permission: int) -> int:
    """A topic's perm as the name server may know it: a broker that is not fully open lowers all of its topics."""
    both = PERM_READ | PERM_WRITE
    return perm if broker_permission & both == both else perm & broker_permission


def _masked(topic: TopicConfig, broker_permission: int) -> TopicConfig:
    perm = masked_perm(topic.perm, broker_permission)
    return topic if perm == topic.perm else replace(topic, perm=perm)


def register_body(
    topics: Iterable[TopicConfig],
    version: DataVersion,
    broker_permission: int,
    *,
    mapping_version: DataVersion | None = None,
    compressed: bool = False,
) -> bytes:
    """The body of REGISTER_BROKER with the whole topic table."""
    table = {topic.topic_name: _masked(topic, broker_permission) for topic in topics}
    wrapper = TopicConfigTable(
        topic_config_table=table, data_version=version, mapping_data_version=mapping_version or version
    )
    return RegisterBrokerBody(wrapper).encode(compressed=compressed)


def order_topics(body: bytes) -> frozenset[str]:
    """Names of the topics that the answer of REGISTER_BROKER marks as ordered (KV namespace ORDER_TOPIC_CONFIG)."""
    if not body:
        return frozenset()
    try:
        return frozenset(KVTable.from_json(body).table)
    except ProtocolError:
        return frozenset()


class Registrar:
    """Keeps a broker registered. The functions say what is true now; they are asked at each registration.

    `servers` gives the name servers (from `namesrvAddr`, and the one in this process if there is one); a changed list
    counts from the next `changed()` or period on. `on_order_topics` receives the topics name servers call ordered.
    """

    def __init__(
        self,
        *,
        config: Callable[[], BrokerConfig],
        identity: Callable[[], BrokerIdentity],
        servers: Callable[[], Iterable[Address]],
        topics: Callable[[], Iterable[TopicConfig]],
        data_version: Callable[[], DataVersion],
        connect: Connect = net_channel.connect,
        on_order_topics: Callable[[frozenset[str]], None] = lambda names: None,
        in_thread: Callable[[Callable[[], bytes]], Awaitable[bytes]] = trio.to_thread.run_sync,
    ) -> None:
        self._config = config
        self._identity = identity
        self._server_list = servers
        self._topics = topics
        self._data_version = data_version
        self._connect = connect
        self._on_order_topics = on_order_topics
        self._in_thread = in_thread
        self._mapping_version = DataVersion(timestamp=data_version().timestamp)
        self._servers: dict[Address, _Server] = {}
        self._generation = 0
        self._moved = trio.Event()  # a new generation, or a server has answered
        self._stopped = False
        self._increments: dict[int, frozenset[str]] = {}  # generation -> topics that changed in it, the newest ones

    # --- what others call --------------------------------------------------------

    def changed(self, topics: Iterable[str] = ()) -> None:
        """These topics, or settings, have changed: tell every name server as soon as possible."""
        self._generation += 1
        names = frozenset(topics)
        if names and sum(map(len, self._increments.values()), len(names)) <= INCREMENT_MAX:
            self._increments[self._generation] = names
        else:
            self._increments.clear()  # what came before has to go with the whole table, too
        self._notify()

    async def wait_announced(self, timeout_s: float) -> bool:
        """Wait until every name server that can be reached knows the present state; False if time ran out.

        An administrator who has created a topic looks for its route next.
        """
        target = self._generation
        with trio.move_on_after(timeout_s):
            while any(s.generation < target and s.registered is not False for s in self._servers.values()):
                await self._moved.wait()
            return True
        return False

    def registered_with(self) -> list[str]:
        """`ip:port` of the name servers that know this broker."""
        return [server.text for server in self._servers.values() if server.registered]

    async def ask(self, request: Command, timeout_s: float) -> Command | None:
        """Put a question to a name server that is connected; None if there is none or it does not answer."""
        for server in self._servers.values():
            if server.registered and server.channel is not None:
                try:
                    return await server.channel.call(request, timeout_s)
                except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
                    log.info("name server %s did not answer: %s", server.text, error)
        return None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Register until cancelled, then unregister. Started once each name server was tried (5 seconds at most)."""
        self._stopped = False
        try:
            async with trio.open_nursery() as nursery:
                self._adjust(nursery)
                with trio.move_on_after(START_TIMEOUT_S):
                    for server in list(self._servers.values()):
                        await server.tried.wait()
                task_status.started()
                while True:
                    await self._wait_changed(self._generation, self._period_s())
                    self._adjust(nursery)
        finally:
            with trio.CancelScope(shield=True):
                await self.unregister()

    async def unregister(self) -> None:
        """Tell the name servers that this broker leaves; nothing is registered after that. Waits a second at most.

        An orderly stop calls it while a name server in the same process still serves; `run` does it otherwise.
        """
        self._stopped = True
        for server in self._servers.values():
            server.scope.cancel()
        registered = [server for server in self._servers.values() if server.registered]
        for server in registered:
            server.registered = None
        async with trio.open_nursery() as nursery:
            for server in registered:
                nursery.start_soon(self._unregister_from, server)

    # --- inside ---------------------------------------------------------------------

    def _notify(self) -> None:
        self._moved.set()
        self._moved = trio.Event()

    def _period_s(self) -> float:
        return self._config().register_name_server_period / 1000

    async def _wait_changed(self, generation: int, timeout_s: float, channel: NameServerChannel | None = None) -> None:
        """Until something has changed since `generation`, the connection is gone, or time is over."""
        with trio.move_on_after(timeout_s):
            while self._generation == generation and (channel is None or channel.alive):
                await self._moved.wait()

    def _adjust(self, nursery: trio.Nursery) -> None:
        """Have exactly one task for each name server that is to be told."""
        wanted = list(dict.fromkeys(self._server_list()))
        for address in [known for known in self._servers if known not in wanted]:
            self._servers.pop(address).scope.cancel()
        for address in wanted:
            if address not in self._servers:
                server = self._servers[address] = _Server(address)
                nursery.start_soon(self._serve, server, nursery)

    async def _serve(self, server: _Server, nursery: trio.Nursery) -> None:
        with server.scope:
            while not self._stopped:
                generation = self._generation
                try:
                    async with self._connect(*server.address) as channel:
                        server.channel = channel
                        nursery.start_soon(self._watch, channel)
                        await self._keep_registered(server, channel)
                    problem = "the connection was closed"
                except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, _Refused) as error:
                    problem = str(error) or type(error).__name__
                except Exception as error:  # a host name that is none, a table that no frame can hold
                    log.exception("registering with name server %s failed", server.text)
                    problem = f"{type(error).__name__}: {error}"
                finally:
                    server.channel = None
                if self._stopped:
                    return
                self._note_failure(server, problem)
                delay_s = min(RETRY_MAX_S, RETRY_FIRST_S * 2 ** min(server.failures - 1, 10))
                await self._wait_changed(generation, delay_s)
        if server.registered and not self._stopped:
            # the configuration names this server no longer
            await self._unregister_from(server)

    async def _watch(self, channel: NameServerChannel) -> None:
        """A name server that restarts has forgotten this broker: do not wait for the next period then."""
        await channel.wait_closed()
        self._notify()

    async def _keep_registered(self, server: _Server, channel: NameServerChannel) -> None:
        repeats = 0
        while channel.alive and not self._stopped:
            generation = self._generation
            config = self._config()
            increment = self._increment_since(server.generation) if repeats else None
            request = await self._request(config, increment)
            answer = await channel.call(request, config.register_broker_timeout_mills / 1000)
            if self._stopped:
                return
            if answer.code != ResponseCode.SUCCESS:
                raise _Refused(answer.remark or f"code {answer.code}")
            self._note_success(server, generation)
            names = order_topics(answer.body)
            if names:
                self._on_order_topics(names)
            period_s = self._period_s()
            await self._wait_changed(generation, min(FIRST_REPEAT_S, period_s) if repeats == 0 else period_s, channel)
            repeats += 1

    def _note_success(self, server: _Server, generation: int) -> None:
        if server.registered is not True:
            log.info("registered with name server %s", server.text)
        server.registered = True
        server.failures = 0
        server.generation = generation
        server.tried.set()
        self._notify()

    def _note_failure(self, server: _Server, problem: str) -> None:
        if server.registered is not False:
            log.warning("cannot register with name server %s: %s; trying again", server.text, problem)
        server.registered = False
        server.failures += 1
        server.tried.set()
        self._notify()

    def _increment_since(self, generation: int) -> frozenset[str] | None:
        """The topics that have changed since a generation; None if that is all that is known or nothing has."""
        missing = range(generation + 1, self._generation + 1)
        if not missing or any(number not in self._increments for number in missing):
            return None
        return frozenset().union(*(self._increments[number] for number in missing))

    async def _request(self, config: BrokerConfig, increment: frozenset[str] | None) -> Command:
        """With all topics, or with those of an increment, which a name server takes from whom it knows."""
        identity = self._identity()
        topics = [topic for topic in self._topics() if increment is None or topic.topic_name in increment]
        if increment is not None and len(topics) != len(increment):
            return await self._request(config, None)  # a topic was deleted
        encode = partial(
            register_body,
            topics,
            self._data_version(),
            config.broker_permission,
            mapping_version=self._mapping_version,
            compressed=config.compressed_register,
        )
        # in a thread: some thousand topics take a tenth of a second
        body = await self._in_thread(encode) if increment is None else encode()
        header = RegisterBrokerRequest(
            broker_name=identity.name,
            broker_addr=identity.address,
            cluster_name=identity.cluster,
            ha_server_addr=identity.ha_address,
            broker_id=identity.broker_id,
            enable_acting_master=False,
            compressed=config.compressed_register,
            body_crc32=zlib.crc32(body) & 0x7FFFFFFF,
        )
        return Command(RequestCode.REGISTER_BROKER, ext=header.encode(), body=body)

    async def _unregister_from(self, server: _Server) -> None:
        """On a connection of its own: that of the registering task ends with the task."""
        identity = self._identity()
        header = UnregisterBrokerRequest(
            broker_name=identity.name,
            broker_addr=identity.address,
            cluster_name=identity.cluster,
            broker_id=identity.broker_id,
        )
        request = Command(RequestCode.UNREGISTER_BROKER, ext=header.encode())
        try:
            with trio.move_on_after(UNREGISTER_TIMEOUT_S, shield=True):
                async with self._connect(*server.address) as channel:
                    await channel.call(request, UNREGISTER_TIMEOUT_S)
        except Exception as error:
            log.info("name server %s was not told of the stop: %s", server.text, error)
