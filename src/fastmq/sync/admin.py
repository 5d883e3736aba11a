"""Blocking administration."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Unpack

from fastmq.client import admin as aadmin
from fastmq.client.messages import ReceivedMessage
from fastmq.client.routes import Route
from fastmq.client.session import SessionOptions
from fastmq.client.views import (
    BrokerView,
    ConsumedDirectly,
    GroupView,
    Member,
    QueueProgress,
    QueueRange,
)
from fastmq.protocol.bodies.config import (
    PERM_READ,
    PERM_WRITE,
    MessageQueue,
    SubscriptionGroupConfig,
    TopicConfig,
)
from fastmq.sync.loop import Blocking, Where, inner_where


class Admin(Blocking[aadmin.Admin]):
    """Blocking face of `fastmq.Admin`."""

    def __init__(self, where: Where = None, **options: Unpack[SessionOptions]) -> None:
        super().__init__(lambda: aadmin.Admin(inner_where(where), **options))

    def brokers(self) -> list[BrokerView]:
        """All brokers that the name server knows."""
        return self._run(self._it.brokers)

    def clusters(self) -> dict[str, list[str]]:
        """The clusters and the names of their brokers."""
        return self._run(self._it.clusters)

    def topics(self, *, system: bool = False) -> list[str]:
        """All topics; with `system` also those of the system and of groups (retry, dead letters)."""
        return self._run(self._it.topics, system=system)

    def route(self, topic: str) -> Route:
        """Where a topic is."""
        return self._run(self._it.route, topic)

    def create_topic(
        self,
        topic: str,
        *,
        queues: int = 8,
        read_queues: int | None = None,
        write_queues: int | None = None,
        perm: int = PERM_READ | PERM_WRITE,
        ordered: bool = False,
        attributes: Mapping[str, str] | None = None,
        broker: str | None = None,
        cluster: str | None = None,
    ) -> None:
        """Make a topic, or change it, on all brokers, those of a cluster, or one."""
        self._run(
            self._it.create_topic,
            topic,
            queues=queues,
            read_queues=read_queues,
            write_queues=write_queues,
            perm=perm,
            ordered=ordered,
            attributes=attributes,
            broker=broker,
            cluster=cluster,
        )

    def topic_config(self, topic: str) -> dict[str, TopicConfig]:
        """Broker name → the topic's settings there."""
        return self._run(self._it.topic_config, topic)

    def delete_topic(self, topic: str) -> None:
        """Delete a topic with its messages, on all brokers and name servers."""
        self._run(self._it.delete_topic, topic)

    def topic_stats(self, topic: str) -> dict[MessageQueue, QueueRange]:
        """The offsets of each queue."""
        return self._run(self._it.topic_stats, topic)

    def topic_groups(self, topic: str) -> list[str]:
        """The groups that consume a topic, or did."""
        return self._run(self._it.topic_groups, topic)

    def groups(self, *, system: bool = False) -> list[str]:
        """All consumer groups; with `system` also those of the system."""
        return self._run(self._it.groups, system=system)

    def group_config(self, group: str) -> dict[str, SubscriptionGroupConfig]:
        """Broker name → the group's settings there."""
        return self._run(self._it.group_config, group)

    def create_group(
        self,
        group: str,
        *,
        max_retries: int = 16,
        ordered: bool = False,
        enabled: bool = True,
        broadcasting: bool = True,
        broker: str | None = None,
        cluster: str | None = None,
    ) -> None:
        """Make a consumer group, or change it, on all brokers, those of a cluster, or one."""
        self._run(
            self._it.create_group,
            group,
            max_retries=max_retries,
            ordered=ordered,
            enabled=enabled,
            broadcasting=broadcasting,
            broker=broker,
            cluster=cluster,
        )

    def delete_group(self, group: str, *, offsets: bool = True) -> None:
        """Delete a consumer group on all brokers, with its offsets unless they are to stay."""
        self._run(self._it.delete_group, group, offsets=offsets)

    def group_members(self, group: str) -> GroupView:
        """Who is in a consumer group now."""
        return self._run(self._it.group_members, group)

    def producer_members(self, group: str) -> list[Member]:
        """Who is in a producer group now."""
        return self._run(self._it.producer_members, group)

    def progress(self, group: str, topic: str | None = None) -> dict[MessageQueue, QueueProgress]:
        """How far a group is in each queue of a topic, or of all it has offsets for."""
        return self._run(self._it.progress, group, topic)

    def reset_offsets(self, group: str, topic: str, to: datetime | float | None) -> dict[MessageQueue, int]:
        """Let a group go on with messages stored at a time, or with None at the end."""
        return self._run(self._it.reset_offsets, group, topic, to)

    def set_offset(self, group: str, queue: MessageQueue, offset: int) -> None:
        """Store an offset of a group that has no running members."""
        self._run(self._it.set_offset, group, queue, offset)

    def message(self, message_id: str, topic: str | None = None) -> ReceivedMessage | None:
        """A message by either of its ids: that of the stored record, or, with its topic, the one of its producer."""
        return self._run(self._it.message, message_id, topic)

    def messages_by_key(
        self,
        topic: str,
        key: str,
        *,
        limit: int = 64,
        begin: datetime | float | None = None,
        end: datetime | float | None = None,
        unique: bool = False,
    ) -> list[ReceivedMessage]:
        """The messages of a topic with a key, oldest first; with `unique` the one with that id of its producer."""
        return self._run(self._it.messages_by_key, topic, key, limit=limit, begin=begin, end=end, unique=unique)

    def running_info(self, group: str, client_id: str, *, stacks: bool = False) -> dict[str, Any]:
        """What a consumer tells of itself, as RocketMQ's ConsumerRunningInfo."""
        return self._run(self._it.running_info, group, client_id, stacks=stacks)

    def consume_directly(self, group: str, client_id: str, message: ReceivedMessage) -> ConsumedDirectly:
        """Let a consumer consume a message now, whatever its offsets."""
        return self._run(self._it.consume_directly, group, client_id, message)

    def broker_runtime(self, broker: str) -> dict[str, str]:
        """Numbers about a broker, by the names of GET_BROKER_RUNTIME_INFO."""
        return self._run(self._it.broker_runtime, broker)

    def broker_config(self, broker: str) -> dict[str, str]:
        """The settings of a broker."""
        return self._run(self._it.broker_config, broker)

    def update_broker_config(self, broker: str, settings: Mapping[str, str]) -> None:
        """Change settings of a broker that runs."""
        self._run(self._it.update_broker_config, broker, settings)
