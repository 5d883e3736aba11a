"""The route tables of a name server (RocketMQ's RouteInfoManager): who serves which topic, in memory only.

    topics    topic → broker name → QueueData        from the registrations of masters
    brokers   broker name → Group                    cluster, address of every broker id, zone
    clusters  cluster → broker names
    live      (cluster, address, name) → LiveBroker  when it was last heard of, its data version, its connection
    filters   (cluster, address) → addresses         filter servers of old brokers, normally empty
    mappings  topic → broker name → mapping info     static topics, passed on as they came

Nothing here does I/O or reads a clock: callers pass `now_ms` and carry out what is returned. Expected of callers: one
thread. A data version decides whether a registration's topics are applied, see `register`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

from fastmq import limits
from fastmq.protocol.bodies import (
    MASTER_ID,
    PERM_READ,
    PERM_WRITE,
    BrokerData,
    DataVersion,
    QueueData,
    TopicConfig,
    TopicRouteData,
)

NO_VERSION: Final = DataVersion()
SYNC_MEMBER_TOPIC_PREFIX: Final = "rmq_sys_SYNC_BROKER_MEMBER_"


class Member(NamedTuple):
    """One broker process as unregistering names it."""

    cluster: str
    address: str
    name: str
    broker_id: int


class MinBrokerIdChange(NamedTuple):
    """The smallest id of a group changed: `notify` are the addresses to tell (NOTIFY_MIN_BROKER_ID_CHANGE)."""

    broker_name: str
    min_broker_id: int
    min_broker_address: str
    offline_address: str | None
    ha_address: str | None
    notify: tuple[str, ...]


@dataclass(slots=True)
class Group:
    """The brokers under one name: a master (id 0) and its replicas."""

    cluster: str
    name: str
    addresses: dict[int, str] = field(default_factory=dict)
    zone: str | None = None
    acting_master: bool = False

    def data(self) -> BrokerData:
        """A copy for an answer."""
        return BrokerData(
            broker_name=self.name,
            cluster=self.cluster,
            broker_addrs=dict(sorted(self.addresses.items())),
            zone_name=self.zone,
            enable_acting_master=self.acting_master,
        )


@dataclass(slots=True)
class LiveBroker:
    """What keeps an address in the tables. `connection` is the id of the connection it registered on."""

    last_update_ms: int
    timeout_ms: int
    version: DataVersion
    connection: int
    ha_address: str


@dataclass(slots=True, kw_only=True)
class Registration:
    """A REGISTER_BROKER request, decoded. acting_master None: a broker older than 5.0 that does not know the field."""

    cluster: str
    name: str
    broker_id: int
    address: str
    ha_address: str
    connection: int
    version: DataVersion = NO_VERSION
    topics: Mapping[str, TopicConfig] = field(default_factory=dict)
    timeout_ms: int | None = None
    acting_master: bool | None = None
    zone: str | None = None
    filter_servers: list[str] | None = None
    mappings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Registered:
    """Answer to a registration. Not accepted: the broker must send its whole topic table first."""

    accepted: bool
    master_address: str | None = None
    master_ha_address: str | None = None
    changes: list[MinBrokerIdChange] = field(default_factory=list)


def only_zone(route: TopicRouteData, zone: str) -> TopicRouteData:
    """The part of a route in a zone, and the groups without a master, whose replicas must stay reachable."""
    gone = {
        broker.broker_name
        for broker in route.broker_datas
        if MASTER_ID in broker.broker_addrs and (broker.zone_name or "").lower() != zone.lower()
    }
    lost = {
        address for data in route.broker_datas if data.broker_name in gone for address in data.broker_addrs.values()
    }
    return replace(
        route,
        broker_datas=tuple(data for data in route.broker_datas if data.broker_name not in gone),
        queue_datas=tuple(data for data in route.queue_datas if data.broker_name not in gone),
        filter_server_table={a: servers for a, servers in route.filter_server_table.items() if a not in lost},
    )


class RouteTables:
    """The tables and every rule that changes them."""

    def __init__(self) -> None:
        self._topics: dict[str, dict[str, QueueData]] = {}
        self._brokers: dict[str, Group] = {}
        self._clusters: dict[str, dict[str, None]] = {}  # a dict as an ordered set
        self._live: dict[tuple[str, str, str], LiveBroker] = {}
        self._filters: dict[tuple[str, str], list[str]] = {}
        self._mappings: dict[str, dict[str, Any]] = {}

    # --- brokers come and go -------------------------------------------------------------------------------------

    def register(self, registration: Registration, now_ms: int, *, delete_unnamed: bool = False) -> Registered:
        """Take in a broker's registration, whole or of changed topics only.

        Topics are applied from a master, or from the smallest id of a group that knows of acting masters. Without a
        new data version only topics that the broker has no entry for are written. With delete_unnamed, topics of
        this broker that the registration does not name are removed.
        """
        r = registration
        first = r.name not in self._brokers
        held_by = None if first else self._brokers[r.name].addresses.get(r.broker_id)
        if held_by is None and len(r.topics) == 1:
            # an increment of a broker that never sent its whole table. RocketMQ leaves a group without addresses
            # behind here, which its own clients cannot read
            return Registered(accepted=False)
        if held_by is not None and held_by != r.address:
            holder = self._live.get((r.cluster, held_by, r.name))
            if holder is not None and holder.version.state_version > r.version.state_version:
                # a master of an older epoch came back: the newer one keeps the id
                self._live.pop((r.cluster, r.address, r.name), None)
                return Registered(accepted=True)

        self._clusters.setdefault(r.cluster, {})[r.name] = None
        broker = self._brokers.setdefault(r.name, Group(r.cluster, r.name))
        self._leave_other_clusters(r, broker)
        broker.acting_master = bool(r.acting_master)
        broker.zone = r.zone
        new_minimum = bool(broker.addresses) and r.broker_id < min(broker.addresses)
        # a broker that changed its role is known under another id: one address has one id
        for other in [i for i, address in broker.addresses.items() if address == r.address and i != r.broker_id]:
            del broker.addresses[other]
        broker.addresses[r.broker_id] = r.address
        first = first or not held_by
        stand_in = r.acting_master is not None and r.broker_id != MASTER_ID and r.broker_id == min(broker.addresses)
        if r.broker_id == MASTER_ID or stand_in:
            self._apply_topics(r, first=first, read_only=stand_in and broker.acting_master, delete=delete_unnamed)
        self._live[r.cluster, r.address, r.name] = LiveBroker(
            now_ms,
            limits.BROKER_EXPIRY_MS if r.timeout_ms is None else r.timeout_ms,
            r.version,
            r.connection,
            r.ha_address,
        )
        if r.filter_servers:
            self._filters[r.cluster, r.address] = list(r.filter_servers)
        elif r.filter_servers is not None:
            self._filters.pop((r.cluster, r.address), None)

        answer = Registered(accepted=True)
        if r.broker_id != MASTER_ID and (master := broker.addresses.get(MASTER_ID)) is not None:
            living = self._live.get((r.cluster, master, r.name))
            if living is not None:
                answer.master_address, answer.master_ha_address = master, living.ha_address
        if new_minimum:
            answer.changes.append(_min_id_change(broker, offline=None, ha_address=r.ha_address))
        return answer

    def _leave_other_clusters(self, r: Registration, broker: Group) -> None:
        """A broker that comes back in another cluster takes its group along, if nobody else is in it."""
        for key in [k for k in self._live if k[0] != r.cluster and k[1:] == (r.address, r.name)]:
            del self._live[key]
            self._filters.pop(key[:2], None)
        if broker.cluster != r.cluster and all(address == r.address for address in broker.addresses.values()):
            self._leave_cluster(broker.cluster, broker.name)
            broker.cluster = r.cluster

    def _leave_cluster(self, cluster: str, name: str) -> None:
        names = self._clusters.get(cluster, {})
        names.pop(name, None)
        if not names:
            self._clusters.pop(cluster, None)

    def _apply_topics(self, r: Registration, *, first: bool, read_only: bool, delete: bool) -> None:
        live = self._live.get((r.cluster, r.address, r.name))
        changed = first or live is None or live.version != r.version
        if delete and not r.mappings:
            for topic in [t for t, queues in self._topics.items() if r.name in queues and t not in r.topics]:
                self._remove_entry(topic, r.name)
        for topic, config in r.topics.items():
            entries = self._topics.get(topic)
            if changed or entries is None or r.name not in entries:
                self._topics.setdefault(topic, {})[r.name] = QueueData(
                    broker_name=r.name,
                    read_queue_nums=config.read_queue_nums,
                    write_queue_nums=config.write_queue_nums,
                    perm=config.perm & ~PERM_WRITE if read_only else config.perm,
                    topic_sys_flag=config.topic_sys_flag,
                )
        if changed:
            for topic, mapping in r.mappings.items():
                owner = mapping.get("bname") if isinstance(mapping, Mapping) else None
                self._mappings.setdefault(topic, {})[owner if isinstance(owner, str) else r.name] = mapping

    def unregister(self, members: Iterable[Member]) -> list[MinBrokerIdChange]:
        """Take brokers out, in one sweep over the topics however many they are."""
        gone: set[str] = set()
        reduced: set[str] = set()
        changes: list[MinBrokerIdChange] = []
        for member in members:
            self._live.pop((member.cluster, member.address, member.name), None)
            self._filters.pop((member.cluster, member.address), None)
            broker = self._brokers.get(member.name)
            if broker is None:
                continue
            removed = [i for i, address in broker.addresses.items() if address == member.address]
            was_minimum = bool(removed) and min(removed) == min(broker.addresses)
            for broker_id in removed:
                del broker.addresses[broker_id]
            if broker.addresses:
                reduced.add(member.name)
                if was_minimum:
                    changes.append(_min_id_change(broker, offline=member.address, ha_address=None))
                continue
            gone.add(member.name)
            reduced.discard(member.name)
            del self._brokers[member.name]
            for cluster in list(self._clusters):  # more than its own, if brokers of two clusters used one name
                self._leave_cluster(cluster, member.name)
        self._clean_topics(gone, reduced)
        return [change for change in changes if change.broker_name in self._brokers]

    def _clean_topics(self, gone: set[str], reduced: set[str]) -> None:
        headless = {
            name
            for name in reduced
            if self._brokers[name].acting_master and MASTER_ID not in self._brokers[name].addresses
        }
        if not gone and not headless:
            return
        for topic, entries in list(self._topics.items()):
            for name in gone & entries.keys():
                self._remove_entry(topic, name)
            for name in headless & entries.keys():
                entries[name] = replace(entries[name], perm=entries[name].perm & ~PERM_WRITE)

    def _remove_entry(self, topic: str, name: str) -> None:
        entries = self._topics.get(topic)
        if entries is not None:
            entries.pop(name, None)
            if not entries:
                del self._topics[topic]

    def touch(self, cluster: str, address: str, name: str, now_ms: int) -> bool:
        """Note that a broker was heard of; False if it is not known."""
        live = self._live.get((cluster, address, name))
        if live is None:
            return False
        live.last_update_ms = now_ms
        return True

    def expired(self, now_ms: int) -> tuple[list[Member], list[int]]:
        """Brokers not heard of for longer than their time-out, and the connections that nobody else registered on.

        The caller unregisters them.
        """
        late = {key: live for key, live in self._live.items() if live.last_update_ms + live.timeout_ms < now_ms}
        used = {live.connection for key, live in self._live.items() if key not in late}
        lost = dict.fromkeys(live.connection for live in late.values() if live.connection not in used)
        return [self._member(*key) for key in late], list(lost)

    def members_on(self, connection: int) -> list[Member]:
        """The brokers that registered on a connection last."""
        return [self._member(*key) for key, live in self._live.items() if live.connection == connection]

    def _member(self, cluster: str, address: str, name: str) -> Member:
        addresses = self._brokers[name].addresses if name in self._brokers else {}
        return Member(cluster, address, name, next((i for i, known in addresses.items() if known == address), -1))

    def version_of(self, cluster: str, address: str, name: str) -> DataVersion | None:
        """The data version of a broker's last registration."""
        live = self._live.get((cluster, address, name))
        return None if live is None else live.version

    # --- topics ----------------------------------------------------------------------------------------------------

    def route(self, topic: str, *, acting_master: bool = False) -> TopicRouteData | None:
        """Where a topic lives, or None. acting_master: RocketMQ's supportActingMaster, see `_show_acting_master`."""
        entries = self._topics.get(topic)
        if not entries:
            return None
        brokers = [group.data() for name in entries if (group := self._brokers.get(name)) is not None]
        if not brokers:
            return None
        filters = {
            address: servers
            for broker in brokers
            for address in broker.broker_addrs.values()
            if (servers := self._filters.get((broker.cluster, address)))
        }
        if acting_master and not topic.startswith(SYNC_MEMBER_TOPIC_PREFIX):
            brokers = [_show_acting_master(broker, entries[broker.broker_name]) for broker in brokers]
        mappings = self._mappings.get(topic)
        return TopicRouteData(
            queue_datas=tuple(entries.values()),
            broker_datas=tuple(brokers),
            filter_server_table=filters,
            topic_queue_mapping_by_broker=dict(mappings) if mappings else None,
        )

    def put_topic(self, topic: str, queues: Iterable[QueueData]) -> None:
        """Set a topic's queues by hand (REGISTER_TOPIC_IN_NAMESRV); nothing happens if a broker is not known."""
        given = list(queues)
        if all(queue.broker_name in self._brokers for queue in given):
            for queue in given:
                self._topics.setdefault(topic, {})[queue.broker_name] = queue

    def delete_topic(self, topic: str, cluster: str | None = None) -> None:
        """Forget a topic, or only what the brokers of a cluster have of it. Static mappings go with its last entry."""
        if cluster is None:
            self._topics.pop(topic, None)
        else:
            for name in self._clusters.get(cluster, {}):
                self._remove_entry(topic, name)
        if topic not in self._topics:
            self._mappings.pop(topic, None)

    def wipe_write_permission(self, broker_name: str) -> int:
        """Take the write permission from all topics of a broker, until it registers a change; how many topics."""
        return self._set_permissions(broker_name, lambda perm: perm & ~PERM_WRITE)

    def add_write_permission(self, broker_name: str) -> int:
        """Make all topics of a broker readable and writable; how many topics."""
        return self._set_permissions(broker_name, lambda perm: PERM_READ | PERM_WRITE)

    def _set_permissions(self, broker_name: str, change: Callable[[int], int]) -> int:
        count = 0
        for entries in self._topics.values():
            queue = entries.get(broker_name)
            if queue is not None:
                entries[broker_name] = replace(queue, perm=change(queue.perm))
                count += 1
        return count

    # --- lists -------------------------------------------------------------------------------------------------------

    def topics(self) -> list[str]:
        """All topics, in the order they became known."""
        return list(self._topics)

    def topics_of_cluster(self, cluster: str) -> list[str]:
        """Topics that some broker of the cluster has."""
        names = self._clusters.get(cluster, {}).keys()
        return [topic for topic, entries in self._topics.items() if not names.isdisjoint(entries)]

    def topics_by_flags(self, *, needed: int, absent: int = 0) -> list[str]:
        """Topics whose system flag has the needed bits and none of the absent ones."""
        return [
            topic
            for topic, entries in self._topics.items()
            if (flag := next(iter(entries.values())).topic_sys_flag) & needed == needed and not flag & absent
        ]

    def system_topics(self) -> tuple[list[str], str | None]:
        """The topics named as clusters and brokers, and the address of some broker."""
        names = [name for cluster, brokers in self._clusters.items() for name in (cluster, *brokers)]
        address = next((a for broker in self._brokers.values() for _, a in sorted(broker.addresses.items())), None)
        return names, address

    def brokers(self) -> dict[str, BrokerData]:
        """All broker groups by name."""
        return {name: group.data() for name, group in self._brokers.items()}

    def clusters(self) -> dict[str, list[str]]:
        """Broker names by cluster."""
        return {cluster: list(names) for cluster, names in self._clusters.items()}

    def member_addresses(self, broker_name: str) -> dict[int, str]:
        """Address of every id of a group; empty if there is none."""
        broker = self._brokers.get(broker_name)
        return {} if broker is None else dict(sorted(broker.addresses.items()))

    def statistics(self) -> dict[str, int]:
        """Sizes of the tables."""
        return {"topics": len(self._topics), "brokers": len(self._live), "clusters": len(self._clusters)}


def _show_acting_master(broker: BrokerData, queues: QueueData) -> BrokerData:
    """A group without master whose queues are read only shows its smallest id as 0, so that clients go on reading."""
    addresses = broker.broker_addrs
    if not addresses or MASTER_ID in addresses or not broker.enable_acting_master or queues.perm & PERM_WRITE:
        return broker
    smallest = min(addresses)
    shown = {MASTER_ID if i == smallest else i: address for i, address in addresses.items()}
    return replace(broker, broker_addrs=shown)


def _min_id_change(broker: Group, *, offline: str | None, ha_address: str | None) -> MinBrokerIdChange:
    smallest = min(broker.addresses)
    everyone = offline is not None or len(broker.addresses) == 1
    notify = tuple(a for i, a in broker.addresses.items() if everyone or i != smallest)
    return MinBrokerIdChange(broker.name, smallest, broker.addresses[smallest], offline, ha_address, notify)
