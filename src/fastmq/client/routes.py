"""Where topics are: routes as the name server tells them, merged into what is known (RocketMQ's TopicRouteData)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from fastmq.protocol.bodies.config import PERM_READ, PERM_WRITE, MessageQueue
from fastmq.protocol.bodies.route import MASTER_ID, TopicRouteData

NEW_TOPIC_QUEUES: Final = 4
PROVISIONAL_SECONDS: Final = 1.0  # a route borrowed from the default topic is asked again after so long


@dataclass(frozen=True, slots=True)
class Route:
    """The queues of a topic. `provisional`: borrowed from the default topic, the topic itself does not exist yet."""

    topic: str
    write_queues: tuple[MessageQueue, ...] = ()
    read_queues: tuple[MessageQueue, ...] = ()
    brokers: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    ordered: bool = False
    provisional: bool = False
    fetched_at: float = 0.0

    def same_queues(self, other: Route | None) -> bool:
        """Whether another route has the same queues and addresses."""
        return other is not None and replace(other, fetched_at=self.fetched_at) == self


def make_route(topic: str, data: TopicRouteData, now: float) -> Route:
    """The route of a topic. Queues that can be written are those of brokers with a master."""
    brokers = {one.broker_name: dict(one.broker_addrs) for one in data.broker_datas if one.broker_addrs}
    read = [
        MessageQueue(topic, one.broker_name, queue_id)
        for one in sorted(data.queue_datas, key=lambda one: one.broker_name)
        if one.perm & PERM_READ and one.broker_name in brokers
        for queue_id in range(one.read_queue_nums)
    ]
    ordered = _ordered_queues(topic, data.order_topic_conf)
    write = ordered or [
        MessageQueue(topic, one.broker_name, queue_id)
        for one in sorted(data.queue_datas, key=lambda one: one.broker_name)
        if one.perm & PERM_WRITE and MASTER_ID in brokers.get(one.broker_name, ())
        for queue_id in range(one.write_queue_nums)
    ]
    return Route(topic, tuple(write), tuple(read), brokers, ordered=bool(ordered), fetched_at=now)


def _ordered_queues(topic: str, text: str | None) -> list[MessageQueue]:
    """Queues of an order topic, `broker:count;broker:count`: they stay the same while a broker is away."""
    queues: list[MessageQueue] = []
    for item in (text or "").split(";"):
        broker_name, _, count = item.partition(":")
        if broker_name and count.isdigit():
            queues += [MessageQueue(topic, broker_name, queue_id) for queue_id in range(int(count))]
    return queues


def borrow_route(topic: str, default: Route, now: float) -> Route:
    """A route for a topic that a first send will make, after the one of the default topic."""
    queues = tuple(
        MessageQueue(topic, queue.broker_name, queue.queue_id)
        for queue in default.write_queues
        if queue.queue_id < NEW_TOPIC_QUEUES
    )
    return Route(topic, queues, (), default.brokers, provisional=True, fetched_at=now)


class RouteTable:
    """All routes that are used, and the addresses of all brokers in them."""

    def __init__(self) -> None:
        self._routes: dict[str, Route] = {}
        self._addresses: dict[str, Mapping[int, str]] = {}
        self._cluster: tuple[str, ...] = ()

    @property
    def topics(self) -> list[str]:
        """The topics with a route."""
        return list(self._routes)

    def get(self, topic: str) -> Route | None:
        """The route as last told."""
        return self._routes.get(topic)

    def put(self, route: Route) -> bool:
        """Keep a route. True if it differs from the one before."""
        changed = not route.same_queues(self._routes.get(route.topic))
        self._routes[route.topic] = route
        if not route.provisional:
            self._addresses.update(route.brokers)
        else:
            for name, addresses in route.brokers.items():
                self._addresses.setdefault(name, addresses)
        return changed

    def put_cluster(self, brokers: Mapping[str, Mapping[int, str]]) -> None:
        """All brokers that there are: heartbeats go to them, too, whatever topics are in use."""
        self._cluster = tuple(brokers)
        self._addresses.update(brokers)

    def drop(self, topic: str) -> None:
        """The topic is gone."""
        self._routes.pop(topic, None)

    def address(self, broker_name: str, broker_id: int = MASTER_ID, *, any_other: bool = False) -> str | None:
        """Where a broker is. `any_other`: another one of the same name will do when it is not there."""
        addresses = self._addresses.get(broker_name)
        if not addresses:
            return None
        found = addresses.get(broker_id)
        if found is None and any_other:
            found = addresses[min(addresses)]
        return found

    def broker_addresses(self, *, masters_only: bool) -> list[str]:
        """Where heartbeats go: the brokers of all routes in use, and of the cluster if it is known."""
        found: dict[str, None] = {}
        for names in (self._cluster, *(route.brokers for route in self._routes.values())):
            for name in names:
                for broker_id, address in self._addresses.get(name, {}).items():
                    if broker_id == MASTER_ID or not masters_only:
                        found[address] = None
        return list(found)

    def name_of(self, address: str) -> str:
        """The name of the broker with that address, empty if it is not known."""
        for name, addresses in self._addresses.items():
            if address in addresses.values():
                return name
        return ""


class NameServers:
    """The list of name servers: one is used until it fails, then the next."""

    def __init__(self, addresses: Iterable[str], first: int = 0) -> None:
        self._addresses = list(dict.fromkeys(addresses))
        self._turn = first % len(self._addresses) if self._addresses else 0

    @property
    def addresses(self) -> list[str]:
        """All of them, the one in use first."""
        return self._addresses[self._turn :] + self._addresses[: self._turn]

    def failed(self, address: str) -> None:
        """The one in use does not answer: the next one's turn."""
        if self._addresses[self._turn] == address:
            self._turn = (self._turn + 1) % len(self._addresses)

    def replace(self, addresses: Iterable[str]) -> None:
        """A new list; the one in use stays in use if it is in it."""
        current = self._addresses[self._turn] if self._addresses else None
        self._addresses = list(dict.fromkeys(addresses))
        self._turn = self._addresses.index(current) if current in self._addresses else 0
