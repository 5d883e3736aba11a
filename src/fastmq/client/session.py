"""What producers and consumers share: connections, routes, heartbeats, and the tasks behind them.

    async with Session("127.0.0.1:9876") as session:
        async with Producer(session) as producer, PushConsumer(session, "group", listener) as consumer: ...

A producer or consumer that is given addresses instead of a session opens one of its own (RocketMQ's MQClientInstance).
"""

from __future__ import annotations

import logging
import os
import socket
import ssl
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from contextlib import suppress
from random import Random
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypedDict

import anyio
import anyio.lowlevel

from fastmq.client import interrupts
from fastmq.client import namespace as namespaces
from fastmq.client.acl import Credentials
from fastmq.client.background import Background, Tasks
from fastmq.client.errors import ClientClosed, ClientError, broker_error
from fastmq.client.links import MOST_QUEUED, SUCCESS, command
from fastmq.client.lookup import check_url, is_url, look_up
from fastmq.client.messages import UniqueKeys
from fastmq.client.replies import Replies
from fastmq.client.routing import Routing
from fastmq.client.transport import Connection, parse_address
from fastmq.clock import Clock, SystemClock
from fastmq.errors import UsageError
from fastmq.limits import CONNECT_TIMEOUT_SECONDS
from fastmq.protocol.bodies import dumps
from fastmq.protocol.bodies.client import ConsumerData, HeartbeatData, ProducerData
from fastmq.protocol.codes import RequestCode, ResponseCode
from fastmq.protocol.command import Command
from fastmq.protocol.message import PROPERTY_PRODUCER_GROUP, decode_message

__all__ = ["MOST_QUEUED", "SUCCESS", "Member", "Session", "SessionOptions", "command"]

ROUTE_SECONDS: Final = 30.0
HEARTBEAT_SECONDS: Final = 30.0
LOOKUP_SECONDS: Final = 120.0
IDLE_SECONDS: Final = 120.0  # as clientChannelMaxIdleTimeSeconds
REQUEST_SECONDS: Final = 3.0

log = logging.getLogger("fastmq.client")


class Member(Protocol):
    """A producer or consumer of a session."""

    def heartbeat_part(self) -> ProducerData | ConsumerData:
        """What heartbeats say of it."""

    def routes_changed(self, topics: Collection[str]) -> None:
        """Some topics have other queues than before."""

    async def on_server_request(self, connection: Connection, request: Command) -> Command | None:
        """A request of a broker that names its group; the answer, or None for requests that get none."""


class SessionOptions(TypedDict, total=False):
    """What Session takes by name; producers and consumers pass it on. Times in seconds.

    `credentials`: the account, where access control is on. `tls`: True, or a context. `namespace`: part of the names of
    topics and groups. `instance_name`, `unit_name`: parts of the client id. `request_timeout`: of requests that have no
    time of their own. `route_seconds`, `heartbeat_seconds`: how often routes are asked for and brokers told who we are.
    `lookup_seconds`: how often a web server is asked for the name servers, where one is given instead of them.
    `idle_seconds`: how long a connection to a broker that no route names any more is kept without use. `clock`,
    `random`: where time and chance come from.
    """

    credentials: Credentials | None
    tls: bool | ssl.SSLContext
    namespace: str
    instance_name: str | None
    unit_name: str | None
    request_timeout: float
    connect_timeout: float
    route_seconds: float
    heartbeat_seconds: float
    lookup_seconds: float
    idle_seconds: float
    clock: Clock
    random: Random


class Session(Routing):
    """Connections, routes and heartbeats of one client id.

    `namesrv`: addresses of name servers, `host:port` separated by semicolons or as a list, or `http://host:port/path`,
    which is asked for them now and then; without it the environment variable NAMESRV_ADDR. `tls`: True for the system's
    certificates, or a context. `namespace` becomes part of topic and group names. `instance_name` makes a stable client
    id `ip@name`, otherwise it is new for each session. Times are seconds.
    """

    def __init__(
        self,
        namesrv: str | Sequence[str] | None = None,
        *,
        credentials: Credentials | None = None,
        tls: bool | ssl.SSLContext = False,
        namespace: str = "",
        instance_name: str | None = None,
        unit_name: str | None = None,
        request_timeout: float = REQUEST_SECONDS,
        connect_timeout: float = CONNECT_TIMEOUT_SECONDS,
        route_seconds: float = ROUTE_SECONDS,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        lookup_seconds: float = LOOKUP_SECONDS,
        idle_seconds: float = IDLE_SECONDS,
        clock: Clock | None = None,
        random: Random | None = None,
    ) -> None:
        chance = random or Random()  # noqa: S311  (queue choice and ids, no secrets)
        addresses, self._lookup = _name_servers(namesrv)
        super().__init__(
            addresses,
            chance.getrandbits(16),
            credentials=credentials,
            tls=ssl.create_default_context() if tls is True else tls or None,
            request_timeout=request_timeout,
            connect_timeout=connect_timeout,
        )
        self.namespace = namespace
        self.clock: Clock = clock or SystemClock()
        self.random = chance
        self.client_id = ""
        """`ip@instance`, known once the session is open."""
        self.unique_keys: UniqueKeys
        self.replies = Replies()
        self._instance_name = instance_name
        self._unit_name = unit_name
        self._route_seconds = route_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._lookup_seconds = lookup_seconds
        self._idle_seconds = idle_seconds
        self._route_locks: dict[str, anyio.Lock] = {}
        self._producers: dict[str, list[Member]] = {}
        self._consumers: dict[str, Member] = {}

    def __repr__(self) -> str:
        return f"<Session {self.client_id or 'not open'}, {len(self._connections)} connections>"

    # --- life --------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._pid:
            raise ClientClosed("a session is opened once")
        interrupts.protect(type(self), Background, Tasks, Connection)
        self._pid = os.getpid()
        if self._lookup:
            self.name_servers.replace(await look_up(self._lookup, self._tls))
        host = await _local_address(self.name_servers.addresses[0])
        instance = self._instance_name or f"{self._pid}#{time.perf_counter_ns()}"
        self.client_id = "@".join(filter(None, (host, instance, self._unit_name)))
        self.unique_keys = UniqueKeys(host, self._pid, self.random.getrandbits(32))
        await self.background.open()
        self.background.spawn(self._refresh_routes)
        self.background.spawn(self._send_heartbeats)
        if self._lookup:
            self.background.spawn(self._look_up_again, self._lookup)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.move_on_after(1, shield=True):
            for connection in list(self._connections.values()):
                await connection.flush()
        for connection in list(self._connections.values()):
            connection.close()
        await self.background.close(kind, error, trace)

    # --- names -------------------------------------------------------------------------------------------------------

    def wrap(self, name: str) -> str:
        """The name of a topic or group on the wire."""
        return namespaces.wrap(self.namespace, name) if self.namespace else name

    def unwrap(self, name: str) -> str:
        """The name without namespace."""
        return namespaces.unwrap(self.namespace, name) if self.namespace else name

    # --- membership --------------------------------------------------------------------------------------------------

    def _tell_routes(self, topics: Collection[str]) -> None:
        for member in self._members():
            member.routes_changed(topics)

    def _members(self) -> list[Member]:
        return [*(one for several in self._producers.values() for one in several), *self._consumers.values()]

    def add_producer(self, group: str, member: Member) -> None:
        """Heartbeats name the group (name on the wire) from now on."""
        self._producers.setdefault(group, []).append(member)

    def add_consumer(self, group: str, member: Member) -> None:
        """As `add_producer`. Raises UsageError if the session has the group already."""
        if group in self._consumers:
            raise UsageError(f"the session has a consumer of group {group} already")
        self._consumers[group] = member

    async def remove_producer(self, group: str, member: Member) -> None:
        """Leave the group, and tell the brokers when nobody is left in it."""
        members = self._producers.get(group, [])
        if member in members:
            members.remove(member)
        if not members:
            self._producers.pop(group, None)
            await self._unregister({"producerGroup": group})

    async def remove_consumer(self, group: str, member: Member) -> None:
        """Leave the group and tell the brokers."""
        if self._consumers.get(group) is member:
            del self._consumers[group]
            await self._unregister({"consumerGroup": group})

    async def _unregister(self, groups: dict[str, str]) -> None:
        async def one(connection: Connection) -> None:
            ext = {"clientID": self.client_id, **groups}
            with anyio.move_on_after(REQUEST_SECONDS):
                await connection.settled()  # a heartbeat that is overtaken would bring the group back, as a dead member
            with suppress(ClientError):
                await connection.call(self._sign(command(RequestCode.UNREGISTER_CLIENT, ext)), 1.0)

        await self.each(
            [
                (one, connection)
                for address, connection in list(self._connections.items())
                if self.routes.name_of(address) and connection.failure is None
            ]
        )

    async def each(self, calls: Sequence[tuple[Callable[[Any], Coroutine[Any, Any, object]], object]]) -> None:
        """Do several things at once and wait for all of them."""
        if len(calls) == 1:
            await calls[0][0](calls[0][1])
        elif calls:
            async with anyio.create_task_group() as group:
                for call, argument in calls:
                    group.start_soon(self._one_of_them, call, argument)

    async def _one_of_them(self, call: Callable[[Any], Coroutine[Any, Any, object]], argument: object) -> None:
        await call(argument)  # under a method, where no interrupt comes (`interrupts`)

    def _heartbeat(self) -> Command:
        producers: dict[str, ProducerData] = {}
        consumers: list[ConsumerData] = []
        for member in self._members():
            part = member.heartbeat_part()
            if isinstance(part, ProducerData):
                producers[part.group_name] = part
            else:
                consumers.append(part)
        data = HeartbeatData(
            client_id=self.client_id,
            producer_data_set=tuple(producers.values()),
            consumer_data_set=tuple(consumers),
        )
        return command(RequestCode.HEART_BEAT, body=dumps(data))

    async def heartbeat_now(self) -> None:
        """Tell all brokers of all routes in use who we are. Brokers that do not answer are skipped."""
        if not self._producers and not self._consumers:
            return

        async def one(address: str) -> None:
            try:
                connection = await self.connection(address)
                reply = await self._tell(connection)
                if reply.code == ResponseCode.GO_AWAY:
                    self.retire(connection)  # the next one begins with a heartbeat
                elif reply.code != ResponseCode.SUCCESS:
                    raise broker_error(reply.code, reply.remark, address)
            except ClientError as error:
                log.info("heartbeat to %s failed: %s", address, error)

        addresses = self.routes.broker_addresses(masters_only=not self._consumers)
        await self.each([(one, address) for address in addresses])

    async def _tell(self, connection: Connection) -> Command:
        return await connection.call_in_turn(lambda: self._sign(self._heartbeat()), self.request_timeout)

    def _on_connected(self, connection: Connection) -> None:
        if (self._producers or self._consumers) and self.routes.name_of(connection.address):
            # the broker forgot us with the connection before
            connection.post_in_turn(self._sign(self._heartbeat()), self.request_timeout)

    async def broker_version(self, broker_name: str) -> int:
        """Which release a broker's master is, as an ordinal of RocketMQ (5.0.0 is 413); 0 if it does not say."""
        connection = await self.connection(self.broker_address(broker_name))
        if not connection.server_version:
            await connection.settled()  # each answer says it, and mostly a heartbeat is under way
        if not connection.server_version:
            await self._tell(connection)
        return connection.server_version

    async def _send_heartbeats(self) -> None:
        while True:
            await anyio.sleep(self._heartbeat_seconds)
            await self.heartbeat_now()

    # --- requests of brokers -----------------------------------------------------------------------------------------

    def _on_request(self, connection: Connection, request: Command) -> None:
        if self.background.is_open:
            self.background.spawn(self._answer, connection, request)

    async def _answer(self, connection: Connection, request: Command) -> None:
        reply: Command | None
        try:
            member = self._addressed(request)
            if request.code == RequestCode.PUSH_REPLY_MESSAGE_TO_CLIENT:
                reply = self.replies.take(request)
            elif member is None:
                reply = request.reply(ResponseCode.SYSTEM_ERROR, "the group is not here")
            else:
                reply = await member.on_server_request(connection, request)
        except Exception as error:  # what a broker sends must not end the session
            log.exception("request %d of %s failed", request.code, connection.address)
            reply = request.reply(ResponseCode.SYSTEM_ERROR, f"{type(error).__name__}: {error}")
        if reply is not None and not request.is_oneway:
            reply.language = "PYTHON"
            connection.send(reply)

    def _addressed(self, request: Command) -> Member | None:
        """Who a request of a broker is for."""
        ext = request.ext
        if request.code == RequestCode.CHECK_TRANSACTION_STATE:
            group = decode_message(request.body)[0].get(PROPERTY_PRODUCER_GROUP) or ""
            return next(iter(self._producers.get(group, ())), None)
        return self._consumers.get(ext.get("consumerGroup") or ext.get("group", ""))


def _name_servers(given: str | Sequence[str] | None) -> tuple[list[str], str]:
    """The addresses, or where they can be asked for."""
    text = os.environ.get("NAMESRV_ADDR", "") if given is None else given
    if not isinstance(text, str) and not (isinstance(text, Sequence) and all(isinstance(one, str) for one in text)):
        raise UsageError(f"name servers are given as 'host:port;host:port' or as a list of these, not as {given!r}")
    addresses = [one.strip() for one in (text.split(";") if isinstance(text, str) else text) if one.strip()]
    if not addresses:
        raise UsageError("no name server is given, and NAMESRV_ADDR is not set")
    if any(map(is_url, addresses)):
        if len(addresses) > 1:
            raise UsageError(f"name servers are asked for at one address, or named, not both: {';'.join(addresses)}")
        return [], check_url(addresses[0])
    for address in addresses:
        parse_address(address)
    return [address.rpartition("://")[2] for address in addresses], ""


async def _local_address(peer: str) -> str:
    """Our address on the way to a peer; nothing is sent."""
    host, port = parse_address(peer)
    with suppress(OSError, TimeoutError), anyio.fail_after(1):
        found = await anyio.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        for family, kind, _, _, where in found:
            with socket.socket(family, kind) as probe:
                probe.connect(where)
                return str(probe.getsockname()[0])
    return "127.0.0.1"
