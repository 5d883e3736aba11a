"""The clients that are connected: producers and consumers by group, and what consumers subscribe to.

After RocketMQ's ProducerManager, ConsumerManager and ConsumerGroupInfo. All of it is learned from heartbeats and lost
with the connection; nothing is on disk. All clients of a consumer group share one subscription set, that of the last
heartbeat: topics it does not name are dropped, an expression is replaced only by one with a newer subVersion.

When the members of a group or the topics it subscribes to change, `notify` is called with the group and the channels to
be told (NOTIFY_CONSUMER_IDS_CHANGED). Whether the group wants to be told is decided there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, Protocol

from fastmq.broker.state import nothing
from fastmq.broker.state.conflicts import SubscriptionConflicts
from fastmq.protocol.bodies import ConsumeFromWhere, ConsumeType, MessageModel, SubscriptionData

PRODUCER_EXPIRY_S: Final = 120.0
"""Seconds without a heartbeat after which a producer is dropped (ProducerManager.CHANNEL_EXPIRED_TIMEOUT)."""

COMPENSATION_MAX: Final = 65_536  # entries learned from pulls; more are not kept


class Client(Protocol):
    """The connection of a client; `fastmq.net.server.Peer` is one."""

    @property
    def id(self) -> int: ...
    @property
    def address(self) -> str: ...
    def close(self) -> None: ...


@dataclass(slots=True)
class ClientChannel:
    """One client on one connection (ClientChannelInfo)."""

    client_id: str
    peer: Client
    language: str | int
    version: int
    last_update_ms: int  # wall time of the last heartbeat, to be shown
    seen: float  # the same in monotonic seconds, to be measured


@dataclass(slots=True)
class ConsumerGroupInfo:
    """The members of a consumer group on this broker."""

    group: str
    consume_type: ConsumeType = ConsumeType.CONSUME_PASSIVELY
    message_model: MessageModel = MessageModel.CLUSTERING
    consume_from_where: ConsumeFromWhere = ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET
    channels: dict[int, ClientChannel] = field(default_factory=dict)  # by connection id
    subscriptions: dict[str, SubscriptionData] = field(default_factory=dict)  # by topic
    last_update_ms: int = 0

    @property
    def is_broadcasting(self) -> bool:
        """Whether each member gets every message."""
        return self.message_model is MessageModel.BROADCASTING

    def client_ids(self) -> list[str]:
        """The ids of the members, each once, in the order they came."""
        return list(dict.fromkeys(channel.client_id for channel in self.channels.values()))

    def find_channel(self, client_id: str) -> ClientChannel | None:
        """The connection of a member."""
        return next((channel for channel in self.channels.values() if channel.client_id == client_id), None)

    def take_channel(self, channel: ClientChannel) -> bool:
        """Add or refresh a member; whether it is new."""
        known = self.channels.get(channel.peer.id)
        self.channels[channel.peer.id] = channel
        self.last_update_ms = channel.last_update_ms
        return known is None or known.client_id != channel.client_id

    def take_subscriptions(self, subscriptions: Iterable[SubscriptionData]) -> tuple[bool, bool]:
        """Replace the subscription set; (whether a topic came or went, whether anything is different)."""
        changed = different = False
        named = set()
        for subscription in subscriptions:
            named.add(subscription.topic)
            known = self.subscriptions.get(subscription.topic)
            if known is None:
                changed = True
            if known is None or subscription.sub_version > known.sub_version:
                self.subscriptions[subscription.topic] = subscription
                different = True
        for topic in [topic for topic in self.subscriptions if topic not in named]:
            del self.subscriptions[topic]
            changed = True
        return changed, changed or different


@dataclass(frozen=True, slots=True)
class ConsumerHeartbeat:
    """What a heartbeat says about one consumer group. `subscriptions` None: none were sent (withoutSub)."""

    group: str
    consume_type: ConsumeType
    message_model: MessageModel
    consume_from_where: ConsumeFromWhere
    subscriptions: tuple[SubscriptionData, ...] | None
    fingerprint: int = 0


@dataclass(slots=True)
class _Compensation:
    info: ConsumerGroupInfo
    seen: float


Notify = Callable[[str, list[ClientChannel]], None]


def _take_nothing(_group: str, _subscriptions: Iterable[SubscriptionData]) -> None:
    pass


def _forget_nothing(_group: str) -> None:
    pass


def _tell_nobody(_group: str, _channels: list[ClientChannel]) -> None:
    pass


class ClientSessions:
    """Who is connected. `now` is monotonic time in seconds."""

    def __init__(self, notify: Notify = _tell_nobody) -> None:
        self.notify = notify
        self.on_change: Callable[[], None] = nothing  # what pulls of a group are checked for is different
        self.on_subscriptions: Callable[[str, Iterable[SubscriptionData]], None] = _take_nothing
        self.on_group_gone: Callable[[str], None] = _forget_nothing  # its last member has left
        self.conflicts = SubscriptionConflicts()
        self._producers: dict[str, dict[int, ClientChannel]] = {}
        self._consumers: dict[str, ConsumerGroupInfo] = {}
        self._fingerprints: dict[str, int] = {}
        self._compensations: dict[str, _Compensation] = {}
        self._groups_of_peer: dict[int, tuple[set[str], set[str]]] = {}  # (producer groups, consumer groups)

    # --- reading -----------------------------------------------------------------------------------------------------

    def consumer_group(self, group: str) -> ConsumerGroupInfo | None:
        """The group as its heartbeats describe it; None while it has no member."""
        return self._consumers.get(group)

    def consumer_groups(self) -> list[ConsumerGroupInfo]:
        """All consumer groups with members."""
        return list(self._consumers.values())

    def producers(self, group: str) -> list[ClientChannel]:
        """The producers of a group."""
        return list(self._producers.get(group, {}).values())

    def producer_groups(self) -> dict[str, list[ClientChannel]]:
        """All producers by group."""
        return {group: list(channels.values()) for group, channels in self._producers.items()}

    def find_producer_channel(self, client_id: str) -> ClientChannel | None:
        """The latest connection of the producer with this client id, whatever its group."""
        found: ClientChannel | None = None
        for channels in self._producers.values():
            for channel in channels.values():
                if channel.client_id == client_id and (found is None or channel.seen > found.seen):
                    found = channel
        return found

    def find_consumer_channel(self, group: str, client_id: str) -> ClientChannel | None:
        """The connection of one member of a consumer group."""
        info = self._consumers.get(group)
        return None if info is None else info.find_channel(client_id)

    def find_subscription(self, group: str, topic: str) -> SubscriptionData | None:
        """What the group subscribes of a topic, by heartbeat or else by what its pulls said."""
        info = self._consumers.get(group)
        if info is not None and topic in info.subscriptions:
            return info.subscriptions[topic]
        compensation = self._compensations.get(group)
        return None if compensation is None else compensation.info.subscriptions.get(topic)

    def compensated_group(self, group: str) -> ConsumerGroupInfo | None:
        """What is known of a group from its pulls alone."""
        compensation = self._compensations.get(group)
        return None if compensation is None else compensation.info

    def groups_subscribing(self, topic: str) -> set[str]:
        """Groups with members that subscribe to the topic."""
        return {info.group for info in self._consumers.values() if topic in info.subscriptions}

    # --- heartbeats --------------------------------------------------------------------------------------------------

    def register_producer(self, group: str, channel: ClientChannel) -> None:
        """A producer is alive."""
        self._producers.setdefault(group, {})[channel.peer.id] = channel
        self._of_peer(channel.peer.id)[0].add(group)

    def register_consumer(self, heartbeat: ConsumerHeartbeat, channel: ClientChannel) -> bool:
        """A consumer is alive. Whether members or subscribed topics changed; if so `notify` was called."""
        info = self._consumers.get(heartbeat.group)
        if info is None:
            info = self._consumers[heartbeat.group] = ConsumerGroupInfo(heartbeat.group)
        different = info.message_model is not heartbeat.message_model or not info.channels
        info.consume_type = heartbeat.consume_type
        info.message_model = heartbeat.message_model
        info.consume_from_where = heartbeat.consume_from_where
        changed = info.take_channel(channel)
        if heartbeat.subscriptions is not None:
            topics_changed, subscriptions_differ = info.take_subscriptions(heartbeat.subscriptions)
            changed = changed or topics_changed
            different = different or subscriptions_differ
        self._of_peer(channel.peer.id)[1].add(heartbeat.group)
        if different:
            self.on_change()
        if heartbeat.subscriptions is not None:
            self.on_subscriptions(heartbeat.group, heartbeat.subscriptions)
            self.conflicts.heard(heartbeat.group, channel.peer.id, channel.client_id, heartbeat.subscriptions)
        if changed:
            self.notify(heartbeat.group, list(info.channels.values()))
        return changed

    def take_fingerprint(self, heartbeat: ConsumerHeartbeat) -> bool:
        """Note the fingerprint of a group's subscriptions; whether the client has to send them in full.

        That is so if another client of the group said something else last, and if none were sent and none are known
        (the broker was restarted).
        """
        before = self._fingerprints.get(heartbeat.group)
        self._fingerprints[heartbeat.group] = heartbeat.fingerprint
        if before is not None and before != heartbeat.fingerprint:
            return True
        info = self._consumers.get(heartbeat.group)
        return heartbeat.subscriptions is None and (info is None or not info.subscriptions)

    def unregister(self, peer_id: int, *, producer_group: str | None = None, consumer_group: str | None = None) -> None:
        """A client says that it leaves groups."""
        if producer_group:
            self._drop_producer(producer_group, peer_id)
        if consumer_group:
            self._drop_consumer(consumer_group, peer_id)

    def closed(self, peer_id: int) -> None:
        """A connection is gone: its clients leave all groups."""
        producer_groups, consumer_groups = self._groups_of_peer.pop(peer_id, (set(), set()))
        for group in sorted(producer_groups):
            self._drop_producer(group, peer_id)
        for group in sorted(consumer_groups):
            self._drop_consumer(group, peer_id)

    # --- what pulls tell ---------------------------------------------------------------------------------------------

    def compensate(self, group: str, subscription: SubscriptionData | None, now: float) -> None:
        """A group pulls: remember it, and the subscription it brought, for tools that ask about the group."""
        compensation = self._compensations.get(group)
        if compensation is None:
            if len(self._compensations) >= COMPENSATION_MAX:
                return
            compensation = self._compensations[group] = _Compensation(ConsumerGroupInfo(group), now)
        compensation.seen = now
        if subscription is not None:
            compensation.info.subscriptions[subscription.topic] = subscription

    # --- time --------------------------------------------------------------------------------------------------------

    def expire(self, now: float, *, consumer_timeout_s: float, compensation_timeout_s: float) -> list[Client]:
        """Drop clients without heartbeats and groups without pulls. Gives the connections that are to be closed."""
        silent: dict[int, Client] = {}
        for channels in self._producers.values():
            _find_silent(channels, now - PRODUCER_EXPIRY_S, silent)
        for info in self._consumers.values():
            _find_silent(info.channels, now - consumer_timeout_s, silent)
        for peer_id in silent:
            self.closed(peer_id)
        for group in [g for g, c in self._compensations.items() if now - c.seen > compensation_timeout_s]:
            del self._compensations[group]
        return list(silent.values())

    def statistics(self) -> dict[str, int]:
        """Numbers of groups and members."""
        return {
            "producer_groups": len(self._producers),
            "producers": sum(map(len, self._producers.values())),
            "consumer_groups": len(self._consumers),
            "consumers": sum(len(info.channels) for info in self._consumers.values()),
        }

    # --- inside ------------------------------------------------------------------------------------------------------

    def _of_peer(self, peer_id: int) -> tuple[set[str], set[str]]:
        return self._groups_of_peer.setdefault(peer_id, (set(), set()))

    def _drop_producer(self, group: str, peer_id: int) -> None:
        channels = self._producers.get(group)
        if channels is None or channels.pop(peer_id, None) is None:
            return
        if not channels:
            del self._producers[group]
        self._forget_peer_group(peer_id, 0, group)

    def _drop_consumer(self, group: str, peer_id: int) -> None:
        info = self._consumers.get(group)
        if info is None or info.channels.pop(peer_id, None) is None:
            return
        if not info.channels:
            del self._consumers[group]
            self._fingerprints.pop(group, None)
            self.on_change()
            self.on_group_gone(group)
        self._forget_peer_group(peer_id, 1, group)
        self.conflicts.left(group, peer_id)
        self.notify(group, list(info.channels.values()))

    def _forget_peer_group(self, peer_id: int, which: int, group: str) -> None:
        groups = self._groups_of_peer.get(peer_id)
        if groups is not None:
            groups[which].discard(group)
            if not groups[0] and not groups[1]:
                del self._groups_of_peer[peer_id]


def _find_silent(channels: dict[int, ClientChannel], since: float, found: dict[int, Client]) -> None:
    for peer_id, channel in channels.items():
        if channel.seen < since:
            found[peer_id] = channel.peer
