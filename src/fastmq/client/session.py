"""What producers and consumers share: connections, routes, heartbeats, and the tasks behind them.

    async with Session("127.0.0.1:9876") as session:
        async with Producer(session) as producer, PushConsumer(session, "group", listener) as consumer: ...

A producer or consumer that is given addresses instead of a session opens one of its own (RocketMQ's MQClientInstance).
"""

from __future__ import annotations

import logging
import os
import random
import socket
import ssl
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypedDict

import anyio
import anyio.lowlevel

from fastmq.client import namespace as namespaces
from fastmq.client.acl import Credentials
from fastmq.client.background import Background
from fastmq.client.errors import (
    BrokerError,
    ClientClosed,
    ClientError,
    ConnectError,
    ConnectionLost,
    NotSupported,
    RequestTimeout,
    RouteError,
    TopicNotFound,
    broker_error,
)
from fastmq.client.lookup import check_url, is_url, look_up
from fastmq.client.messages import UniqueKeys
from fastmq.client.replies import Replies
from fastmq.client.routes import PROVISIONAL_SECONDS, NameServers, Route, RouteTable, borrow_route, make_route
from fastmq.client.transport import Connection, open_stream, parse_address
from fastmq.clock import Clock, SystemClock
from fastmq.errors import ProtocolError, UsageError
from fastmq.limits import CONNECT_TIMEOUT_SECONDS
from fastmq.protocol import names
from fastmq.protocol.bodies import dumps
from fastmq.protocol.bodies.client import ConsumerData, HeartbeatData, ProducerData
from fastmq.protocol.bodies.route import ClusterInfo, TopicRouteData
from fastmq.protocol.codes import RequestCode, ResponseCode
from fastmq.protocol.command import Command
from fastmq.protocol.message import PROPERTY_PRODUCER_GROUP, decode_message

ROUTE_SECONDS: Final = 30.0
HEARTBEAT_SECONDS: Final = 30.0
LOOKUP_SECONDS: Final = 120.0
REQUEST_SECONDS: Final = 3.0
MOST_QUEUED: Final = 64  # oneway requests that wait to be written before their sender waits, too
SUCCESS: Final = frozenset({int(ResponseCode.SUCCESS)})

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
    clock: Clock


def command(code: int, ext: dict[str, str] | None = None, body: bytes = b"") -> Command:
    """A request of this client."""
    return Command(code, ext={} if ext is None else ext, body=body, language="PYTHON")


class _Attempt:
    """A connection that is being made; several callers may wait for it."""

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.connection: Connection | None = None
        self.error: ClientError | None = None


class Session:
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
        clock: Clock | None = None,
    ) -> None:
        addresses, self._lookup = _name_servers(namesrv)
        self.namespace = namespace
        self.request_timeout = request_timeout
        self.clock: Clock = clock or SystemClock()
        self.routes = RouteTable()
        self.name_servers = NameServers(addresses, random.getrandbits(16))
        self.client_id = ""
        """`ip@instance`, known once the session is open."""
        self.unique_keys: UniqueKeys
        self.replies = Replies()
        self.background = Background()
        self._credentials = credentials
        self._tls = ssl.create_default_context() if tls is True else tls or None
        self._instance_name = instance_name
        self._unit_name = unit_name
        self._connect_timeout = connect_timeout
        self._route_seconds = route_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._lookup_seconds = lookup_seconds
        self._connections: dict[str, Connection] = {}
        self._attempts: dict[str, _Attempt] = {}
        self._route_locks: dict[str, anyio.Lock] = {}
        self._producers: dict[str, list[Member]] = {}
        self._consumers: dict[str, Member] = {}
        self._knows_cluster = False
        self._pid = 0

    def __repr__(self) -> str:
        return f"<Session {self.client_id or 'not open'}, {len(self._connections)} connections>"

    # --- life --------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._pid:
            raise ClientClosed("a session is opened once")
        self._pid = os.getpid()
        if self._lookup:
            self.name_servers.replace(await look_up(self._lookup, self._tls))
        host = await _local_address(self.name_servers.addresses[0])
        instance = self._instance_name or f"{self._pid}#{time.perf_counter_ns()}"
        self.client_id = "@".join(filter(None, (host, instance, self._unit_name)))
        self.unique_keys = UniqueKeys(host, self._pid, random.getrandbits(32))
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

    def check_open(self) -> None:
        """Raises ClientClosed if it cannot be used, or not from this process."""
        if not self._pid:
            raise ClientClosed("not open yet: use it inside `async with`")
        if self._pid != os.getpid():
            raise ClientClosed("made in another process; a client does not survive a fork, make a new one")
        if not self.background.is_open:
            raise ClientClosed("it is closed")

    # --- names -------------------------------------------------------------------------------------------------------

    def wrap(self, name: str) -> str:
        """The name of a topic or group on the wire."""
        return namespaces.wrap(self.namespace, name) if self.namespace else name

    def unwrap(self, name: str) -> str:
        """The name without namespace."""
        return namespaces.unwrap(self.namespace, name) if self.namespace else name

    # --- requests ----------------------------------------------------------------------------------------------------

    async def connection(self, address: str) -> Connection:
        """The connection to an address, made if there is none. Raises ConnectError."""
        found = self._connections.get(address)
        if found is not None and found.failure is None:
            return found
        self.check_open()
        attempt = self._attempts.get(address)
        if attempt is None:
            attempt = self._attempts[address] = _Attempt()
            self.background.spawn(self._connect, address, attempt)
        await attempt.done.wait()
        if attempt.connection is None:
            raise ConnectError(str(attempt.error))
        return attempt.connection

    def open_connection(self, address: str) -> Connection | None:
        """The connection to an address if there is one."""
        found = self._connections.get(address)
        return found if found is not None and found.failure is None else None

    def open_master(self, broker_name: str) -> Connection | None:
        """The connection to a broker's master if there is one."""
        found = self._connections.get(self.routes.address(broker_name) or "")
        return found if found is not None and found.failure is None else None

    @property
    def signs(self) -> bool:
        """Whether requests are signed."""
        return self._credentials is not None

    async def _connect(self, address: str, attempt: _Attempt) -> None:
        try:
            stream = await open_stream(address, self._tls, self._connect_timeout)
        except (ConnectError, UsageError) as error:
            attempt.error = ConnectError(str(error))
        else:
            if not self.background.is_open:
                return await anyio.aclose_forcefully(stream)
            connection = attempt.connection = Connection(stream, address, self._on_request)
            self._connections[address] = connection
            self.background.spawn(self._serve, connection)
            if (self._producers or self._consumers) and self.routes.name_of(address):
                # the broker forgot us with the connection before
                connection.post(self._sign(self._heartbeat()), self.request_timeout)
        finally:
            self._attempts.pop(address, None)
            if attempt.connection is None and attempt.error is None:
                attempt.error = ConnectError(f"the session was closed while {address} was connected")
            attempt.done.set()

    async def _serve(self, connection: Connection) -> None:
        try:
            await connection.run()
        finally:
            self.retire(connection)

    def _sign(self, request: Command) -> Command:
        if self._credentials is not None:
            self._credentials.sign(request)
        return request

    def sign(self, request: Command) -> Command:
        """The request with the account of the session, if it has one."""
        return self._sign(request)

    async def call(
        self, address: str, request: Command, *, timeout: float | None = None, accept: Collection[int] = SUCCESS
    ) -> Command:
        """A request and its answer. Raises BrokerError for codes not in `accept`, and errors of the connection."""
        self._sign(request)
        seconds = self.request_timeout if timeout is None else timeout
        connection = await self.connection(address)
        reply = await connection.call(request, seconds)
        if reply.code == ResponseCode.GO_AWAY:
            # the server shuts down and said so before it did anything: once more on a new connection
            self.retire(connection)
            connection = await self.connection(address)
            reply = await connection.call(request, seconds)
        if reply.code not in accept:
            raise broker_error(reply.code, reply.remark, address)
        return reply

    def retire(self, connection: Connection) -> None:
        """Requests take a new connection from now on; those under way may still be answered."""
        if self._connections.get(connection.address) is connection:
            del self._connections[connection.address]

    async def oneway(self, address: str, request: Command) -> None:
        """A request without an answer. Returns when it is queued, or when the queue was written if it is long. Raises
        ConnectError, and RequestTimeout if the server takes nothing.
        """
        self._sign(request)
        connection = await self.connection(address)
        connection.send(request)
        if connection.queued >= MOST_QUEUED:
            try:
                with anyio.fail_after(self.request_timeout):
                    await connection.flush()
            except TimeoutError:
                raise RequestTimeout(f"{address} took nothing within {self.request_timeout:.3g} s") from None

    async def call_broker(
        self,
        broker_name: str,
        request: Command,
        *,
        timeout: float | None = None,
        accept: Collection[int] = SUCCESS,
        any_other: bool = False,
    ) -> Command:
        """As `call`, to the master of a broker; `any_other`: or to a replica. Raises RouteError if it is unknown."""
        return await self.call(
            self.broker_address(broker_name, any_other=any_other), request, timeout=timeout, accept=accept
        )

    def broker_address(self, broker_name: str, *, any_other: bool = False) -> str:
        """The address of a broker's master. Raises RouteError if it is unknown."""
        address = self.routes.address(broker_name, any_other=any_other)
        if address is None:
            raise RouteError(f"broker {broker_name} has no address")
        return address

    async def broker_version(self, broker_name: str) -> int:
        """Which release a broker's master is, as an ordinal of RocketMQ (5.0.0 is 413); 0 if it does not say."""
        connection = await self.connection(self.broker_address(broker_name))
        if not connection.server_version:
            # each answer says it, so any request will do
            await connection.call(self._sign(self._heartbeat()), self.request_timeout)
        return connection.server_version

    async def call_name_server(self, request: Callable[[], Command], *, accept: Collection[int] = SUCCESS) -> Command:
        """A request to the name server in use; when it does not answer, to the others in turn."""
        self.check_open()
        failures: list[str] = []
        for address in self.name_servers.addresses:
            try:
                return await self.call(address, request(), accept=accept)
            except NotSupported as error:
                # a broker, mostly
                raise NotSupported(error.code, f"{error.remark} (is that a name server?)", address) from None
            except (ConnectError, ConnectionLost, RequestTimeout) as error:
                failures.append(str(error))
                self.name_servers.failed(address)
        raise RouteError(f"no name server answers: {'; '.join(failures)}")

    # --- routes ------------------------------------------------------------------------------------------------------

    async def route(self, topic: str, *, refresh: bool = False, borrow: bool = False) -> Route:
        """Where a topic (name on the wire) is. `refresh`: ask even if it is known. `borrow`: for a topic that does not
        exist, what the first send will make of it. Raises TopicNotFound, or RouteError without a name server.
        """
        known = self.routes.get(topic)
        if known is not None and not refresh and self._is_fresh(known):
            return known
        lock = self._route_locks.setdefault(topic, anyio.Lock())
        async with lock:
            known = self.routes.get(topic)
            asked_at = self.clock.monotonic()
            if known is not None and not refresh and self._is_fresh(known):
                return known
            try:
                route = await self._fetch_route(topic)
            except TopicNotFound:
                if not borrow:
                    raise
                default = await self._default_route(topic)
                route = borrow_route(topic, default, asked_at)
            except RouteError:
                if known is None or known.provisional:
                    raise
                return known
            if self.routes.put(route):
                self._tell_routes([topic])
            return route

    async def _default_route(self, topic: str) -> Route:
        try:
            return await self._fetch_route(names.AUTO_CREATE_TOPIC)
        except TopicNotFound:
            raise TopicNotFound(topic, f"topic {topic} has no route, and brokers here make no topics") from None

    def _is_fresh(self, route: Route) -> bool:
        return not route.provisional or self.clock.monotonic() < route.fetched_at + PROVISIONAL_SECONDS

    async def _fetch_route(self, topic: str) -> Route:
        try:
            reply = await self.call_name_server(lambda: command(RequestCode.GET_ROUTEINFO_BY_TOPIC, {"topic": topic}))
            data = TopicRouteData.from_json(reply.body)
        except BrokerError as error:
            if error.code == ResponseCode.TOPIC_NOT_EXIST:
                raise TopicNotFound(topic, error.remark) from None
            raise
        except ProtocolError as error:
            raise RouteError(f"the route of {topic} cannot be read: {error}") from error
        return make_route(topic, data, self.clock.monotonic())

    async def refresh_routes(self, topics: Iterable[str] | None = None) -> None:
        """Ask again for all routes in use, or some. What cannot be had stays as it was."""
        changed: list[str] = []
        for topic in list(self.routes.topics if topics is None else topics):
            try:
                route = await self._fetch_route(topic)
            except ClientError as error:
                log.debug("the route of %s stays as it was: %s", topic, error)
                continue
            if self.routes.put(route):
                changed.append(topic)
        if changed:
            self._tell_routes(changed)

    def _tell_routes(self, topics: Collection[str]) -> None:
        for member in self._members():
            member.routes_changed(topics)

    async def _refresh_routes(self) -> None:
        while True:
            await anyio.sleep(self._route_seconds)
            await self.refresh_routes()
            if self._knows_cluster:
                await self.know_cluster()

    async def _look_up_again(self, url: str) -> None:
        while True:
            await anyio.sleep(self._lookup_seconds)
            try:
                found = await look_up(url, self._tls)
            except RouteError as error:
                log.warning("the name servers stay as they were: %s", error)
                continue
            gone = set(self.name_servers.addresses) - set(found)
            if gone:
                log.info("the name servers are now %s", ";".join(found))
            self.name_servers.replace(found)
            for address in gone:
                connection = self.open_connection(address)
                if connection is not None and not self.routes.name_of(address):
                    connection.close("it is no name server any more")

    async def know_cluster(self) -> None:
        """From now on heartbeats go to all brokers that there are, not only to those of topics in use."""
        self._knows_cluster = True
        try:
            reply = await self.call_name_server(lambda: command(RequestCode.GET_BROKER_CLUSTER_INFO))
            table = ClusterInfo.from_json(reply.body).broker_addr_table
        except (ClientError, ProtocolError) as error:
            log.info("the brokers of the cluster are not known yet: %s", error)
        else:
            self.routes.put_cluster({one.broker_name: dict(one.broker_addrs) for one in table.values()})

    # --- membership --------------------------------------------------------------------------------------------------

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
                    group.start_soon(call, argument)

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
                await self.call(address, self._heartbeat())
            except ClientError as error:
                log.info("heartbeat to %s failed: %s", address, error)

        addresses = self.routes.broker_addresses(masters_only=not self._consumers)
        await self.each([(one, address) for address in addresses])

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
