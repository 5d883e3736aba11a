"""Connections to servers, made when they are needed and shared by all requests to the same address."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Collection, Iterable
from typing import Final

import anyio

from fastmq.client.acl import Credentials
from fastmq.client.background import Background
from fastmq.client.errors import (
    ClientClosed,
    ClientError,
    ConnectError,
    ConnectionLost,
    NotSupported,
    RequestTimeout,
    RouteError,
    broker_error,
)
from fastmq.client.routes import NameServers, RouteTable
from fastmq.client.transport import Connection, open_stream
from fastmq.errors import UsageError
from fastmq.protocol.codes import ResponseCode
from fastmq.protocol.command import Command

MOST_QUEUED: Final = 64  # oneway requests that wait to be written before their sender waits, too
SUCCESS: Final = frozenset({int(ResponseCode.SUCCESS)})


def command(code: int, ext: dict[str, str] | None = None, body: bytes = b"") -> Command:
    """A request of this client."""
    return Command(code, ext={} if ext is None else ext, body=body, language="PYTHON")


class _Attempt:
    """A connection that is being made; several callers may wait for it."""

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.connection: Connection | None = None
        self.error: ClientError | None = None


class Links:
    """The connections of one client id, and requests on them. `random_part` chooses the first name server."""

    def __init__(
        self,
        name_servers: Iterable[str],
        random_part: int,
        *,
        credentials: Credentials | None,
        tls: ssl.SSLContext | None,
        request_timeout: float,
        connect_timeout: float,
    ) -> None:
        self.request_timeout = request_timeout
        self.routes = RouteTable()
        self.name_servers = NameServers(name_servers, random_part)
        self.background = Background()
        self._credentials = credentials
        self._tls = tls
        self._connect_timeout = connect_timeout
        self._connections: dict[str, Connection] = {}
        self._attempts: dict[str, _Attempt] = {}
        self._pid = 0

    def _on_connected(self, connection: Connection) -> None:
        """A connection was made."""

    def _on_request(self, connection: Connection, request: Command) -> None:
        """A server asks by itself; must not block."""

    def check_open(self) -> None:
        """Raises ClientClosed if it cannot be used, or not from this process."""
        if not self._pid:
            raise ClientClosed("not open yet: use it inside `async with`")
        if self._pid != os.getpid():
            raise ClientClosed("made in another process; a client does not survive a fork, make a new one")
        if not self.background.is_open:
            raise ClientClosed("it is closed")

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
            self._on_connected(connection)
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

    def close_idle(self, seconds: float) -> None:
        """Close what was not used for so long. Name servers and brokers of routes in use stay connected: they see in it
        that we are there.
        """
        needed = {*self.name_servers.addresses, *self.routes.broker_addresses(masters_only=False)}
        for address, connection in list(self._connections.items()):
            if address not in needed and connection.idle_for(seconds):
                connection.close("it was not used any more")

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
