"""Where topics are: asked of the name servers when it is needed, and again from time to time."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable

import anyio

from fastmq.client.errors import BrokerError, ClientError, RouteError, TopicNotFound
from fastmq.client.links import Links, command
from fastmq.client.lookup import look_up
from fastmq.client.routes import PROVISIONAL_SECONDS, Route, borrow_route, make_route
from fastmq.clock import Clock
from fastmq.errors import ProtocolError
from fastmq.protocol import names
from fastmq.protocol.bodies.route import ClusterInfo, TopicRouteData
from fastmq.protocol.codes import RequestCode, ResponseCode

log = logging.getLogger("fastmq.client")


class Routing(Links):
    """Connections, and the routes of the topics in use. Times are seconds."""

    clock: Clock
    _route_seconds: float
    _lookup_seconds: float
    _idle_seconds: float
    _route_locks: dict[str, anyio.Lock]
    _knows_cluster = False

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
        """Some topics have other queues than before."""
        raise NotImplementedError

    async def _refresh_routes(self) -> None:
        while True:
            await anyio.sleep(self._route_seconds)
            await self.refresh_routes()
            if self._knows_cluster:
                await self.know_cluster()
            self.close_idle(self._idle_seconds)

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
