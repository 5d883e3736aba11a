"""Telling the name servers who we are and which topics we have (RocketMQ's BrokerOuterAPI.registerBrokerAll).

Every name server has a task of its own with its own connection, so that one that hangs delays nobody. A task registers
at the start, again after ten seconds, then every `registerNameServerPeriod`, and at once when the topics or the
configuration change. The whole table is sent each time: a name server applies it when its data version is new, and the
whole table can never be mistaken for the increment of a broker it does not know (which it refuses).

A failure is tried again after 1, 2, 4, ... seconds, and logged when the state of a name server changes, not each time.
"""

from __future__ import annotations

import logging
import struct
import zlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

import trio

from fastmq.config import BrokerConfig
from fastmq.protocol.bodies import DataVersion, TopicConfig, dumps, loads_lenient
from fastmq.protocol.codes import RequestCode, ResponseCode
from fastmq.protocol.command import Command
from fastmq.protocol.headers import RegisterBrokerRequest, UnregisterBrokerRequest

log = logging.getLogger("fastmq.broker.register")

FIRST_REPEAT_S: Final = 10.0
RETRY_FIRST_S: Final = 1.0
RETRY_MAX_S: Final = 10.0
CONNECT_TIMEOUT_S: Final = 5.0
UNREGISTER_TIMEOUT_S: Final = 3.0
PERM_WRITE: Final = 2
PERM_READ: Final = 4

Address = tuple[str, int]


class NameServerChannel(Protocol):
    """A connection to a name server, as `fastmq.net.channel.Channel` is one."""

    async def call(self, command: Command, timeout: float) -> Command: ...  # noqa: ASYNC109
    async def aclose(self) -> None: ...


Connect = Callable[[str, int], Awaitable[NameServerChannel]]


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
    registered: bool | None = None  # None: not tried yet
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


def register_body(
    topics: Iterable[TopicConfig], version: DataVersion, broker_permission: int, mapping_version: DataVersion
) -> bytes:
    """The plain JSON body of REGISTER_BROKER."""
    return dumps(
        {
            "filterServerList": [],
            "topicConfigSerializeWrapper": {
                "dataVersion": version.to_json(),
                "mappingDataVersion": mapping_version.to_json(),
                "topicConfigTable": {
                    topic.topic_name: {**topic.to_json(), "perm": masked_perm(topic.perm, broker_permission)}
                    for topic in topics
                },
                "topicQueueMappingDetailMap": {},
                "topicQueueMappingInfoMap": {},
            },
        }
    )


def compressed_register_body(topics: Iterable[TopicConfig], version: DataVersion, broker_permission: int) -> bytes:
    """The same as a zlib stream of length-prefixed parts (`compressedRegister`): version, topics, filters, mappings."""
    lines = []
    for topic in topics:
        perm = masked_perm(topic.perm, broker_permission)
        line = f"{topic.topic_name} {topic.read_queue_nums} {topic.write_queue_nums} {perm} {topic.topic_filter_type}"
        if topic.attributes:
            line += " " + dumps(topic.attributes).decode()
        lines.append(line.encode())
    parts = [_prefixed(dumps(version.to_json())), struct.pack(">i", len(lines))]
    parts += [_prefixed(line) for line in lines]
    parts += [_prefixed(b"[]"), struct.pack(">i", 0)]
    return zlib.compress(b"".join(parts))


def _prefixed(data: bytes) -> bytes:
    return struct.pack(">i", len(data)) + data


def order_topics(body: bytes) -> frozenset[str]:
    """Names of the topics that the answer of REGISTER_BROKER marks as ordered (KV namespace ORDER_TOPIC_CONFIG)."""
    if not body:
        return frozenset()
    parsed = loads_lenient(body)
    table = parsed.get("table") if isinstance(parsed, Mapping) else None
    return frozenset(table) if isinstance(table, Mapping) else frozenset()


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
        connect: Connect,
        on_order_topics: Callable[[frozenset[str]], None] = lambda names: None,
    ) -> None:
        self._config = config
        self._identity = identity
        self._server_list = servers
        self._topics = topics
        self._data_version = data_version
        self._connect = connect
        self._on_order_topics = on_order_topics
        self._mapping_version: DataVersion | None = None
        self._servers: dict[Address, _Server] = {}
        self._generation = 0
        self._moved = trio.Event()  # a new generation, or a server has answered
        self._stopped = False

    # --- what others call --------------------------------------------------------

    def changed(self, topics: Iterable[str] = ()) -> None:
        """Topics (their names do not matter) or settings have changed: register everywhere as soon as possible."""
        self._generation += 1
        self._notify()

    async def wait_announced(self, timeout_s: float) -> bool:
        """Wait until every name server that can be reached knows the present state; False if time ran out.

        An administrator who has created a topic looks for its route next.
        """
        target = self._generation
        with trio.move_on_after(timeout_s):
            while any(server.generation < target and server.registered is not False for server in self._servers.values()):
                await self._moved.wait()
            return True
        return False

    def registered_with(self) -> list[str]:
        """`ip:port` of the name servers that know this broker."""
        return [server.text for server in self._servers.values() if server.registered]

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Register until cancelled, then unregister everywhere. Started once each name server was tried."""
        try:
            async with trio.open_nursery() as nursery:
                self._adjust(nursery)
                for server in list(self._servers.values()):
                    with trio.move_on_after(CONNECT_TIMEOUT_S):
                        await server.tried.wait()
                task_status.started()
                while True:
                    generation = self._generation
                    with trio.move_on_after(self._config().register_name_server_period / 1000):
                        while self._generation == generation:
                            await self._moved.wait()
                    self._adjust(nursery)
        finally:
            with trio.CancelScope(shield=True):
                await self.unregister()

    async def unregister(self) -> None:
        """Tell all name servers that this broker leaves, then close the connections. Waits 3 seconds at most."""
        self._stopped = True
        with trio.move_on_after(UNREGISTER_TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                for server in self._servers.values():
                    nursery.start_soon(self._unregister_from, server)
        for server in self._servers.values():
            await self._drop_channel(server)

    # --- inside ---------------------------------------------------------------------

    def _notify(self) -> None:
        self._moved.set()
        self._moved = trio.Event()

    def _adjust(self, nursery: trio.Nursery) -> None:
        """Have exactly one task for each name server that is to be told."""
        wanted = list(dict.fromkeys(self._server_list()))
        for address in [known for known in self._servers if known not in wanted]:
            self._servers.pop(address).scope.cancel()
        for address in wanted:
            if address not in self._servers:
                server = self._servers[address] = _Server(address)
                nursery.start_soon(self._serve, server)

    async def _serve(self, server: _Server) -> None:
        with server.scope:
            repeats = 0
            while True:
                generation = self._generation
                problem = await self._register(server)
                if self._stopped:
                    return
                self._note(server, problem, generation)
                if problem is None:
                    period_s = self._config().register_name_server_period / 1000
                    delay_s = min(FIRST_REPEAT_S, period_s) if repeats == 0 else period_s
                    repeats += 1
                else:
                    delay_s = min(RETRY_MAX_S, RETRY_FIRST_S * 2 ** min(server.failures - 1, 10))
                with trio.move_on_after(delay_s):
                    while self._generation == generation:
                        await self._moved.wait()
        # the list no longer names this server
        with trio.move_on_after(UNREGISTER_TIMEOUT_S, shield=True):
            await self._unregister_from(server)
        await self._drop_channel(server)

    def _note(self, server: _Server, problem: str | None, generation: int) -> None:
        if problem is None:
            if server.registered is not True:
                log.info("registered with name server %s", server.text)
            server.registered = True
            server.failures = 0
            server.generation = generation
        else:
            if server.registered is not False:
                log.warning("cannot register with name server %s: %s; trying again", server.text, problem)
            server.registered = False
            server.failures += 1
        server.tried.set()
        self._notify()

    async def _register(self, server: _Server) -> str | None:
        """One registration. None when it worked, else what was wrong."""
        config = self._config()
        try:
            with trio.fail_after(config.register_broker_timeout_mills / 1000):
                if server.channel is None:
                    with trio.fail_after(CONNECT_TIMEOUT_S):
                        server.channel = await self._connect(*server.address)
                answer = await server.channel.call(
                    self._request(config), timeout=config.register_broker_timeout_mills / 1000
                )
        except (OSError, TimeoutError, trio.TooSlowError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            await self._drop_channel(server)
            return str(error) or type(error).__name__
        if answer.code != ResponseCode.SUCCESS:
            return answer.remark or f"code {answer.code}"
        names = order_topics(answer.body)
        if names:
            self._on_order_topics(names)
        return None

    def _request(self, config: BrokerConfig) -> Command:
        identity = self._identity()
        version = self._data_version()
        if self._mapping_version is None:
            self._mapping_version = DataVersion(timestamp=version.timestamp)
        topics = list(self._topics())
        if config.compressed_register:
            body = compressed_register_body(topics, version, config.broker_permission)
        else:
            body = register_body(topics, version, config.broker_permission, self._mapping_version)
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
        if server.channel is None or not server.registered:
            return
        identity = self._identity()
        header = UnregisterBrokerRequest(
            broker_name=identity.name,
            broker_addr=identity.address,
            cluster_name=identity.cluster,
            broker_id=identity.broker_id,
        )
        try:
            await server.channel.call(
                Command(RequestCode.UNREGISTER_BROKER, ext=header.encode()), timeout=UNREGISTER_TIMEOUT_S
            )
        except (OSError, TimeoutError, trio.TooSlowError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            log.info("name server %s was not told of the stop: %s", server.text, error)
        server.registered = None

    async def _drop_channel(self, server: _Server) -> None:
        channel, server.channel = server.channel, None
        if channel is not None:
            with trio.move_on_after(1, shield=True):
                await channel.aclose()
