"""What Python decides for the reactor's hot road of consumers, and what it takes over from it.

The reactor serves a pull by itself only if the cold road has served one like it and granted the others
(`grant`). Whatever a pull is checked for revokes all grants when it changes (`revoke`). Offsets and statistics of hot
pulls wait in the reactor until `sync` takes them over; everybody who reads or writes those tables calls it first. The
other way round a grant brings the group's committed offsets along, `committed` passes on later ones, and whatever else
changes them revokes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Protocol

from fastmq.broker.state.topics import is_batch_queue
from fastmq.protocol import names

if TYPE_CHECKING:
    from fastmq.broker.app import Broker
    from fastmq.protocol.bodies import SubscriptionData, TopicConfig
    from fastmq.protocol.headers import PullMessageRequest

Progress = Sequence[tuple[str, str, int, list[tuple[int, int, int, int, int, int, int]]]]


class PullRoad(Protocol):
    """The part of the reactor that is used here."""

    def grant_pulls(
        self, group: str, topic: str, *, queues: int, subscription: str | None, lite: bool, sub_version: int,
        tag_codes: Collection[int] | None, max_messages: int, max_bytes: int, suspend_ms: int, group_sys_flag: int,
        topic_sys_flag: int, offsets: Collection[tuple[int, int]] | None = None,
    ) -> None: ...  # fmt: skip

    def know_offset(self, group: str, topic: str, queue_id: int, offset: int) -> None: ...

    def revoke_pulls(self) -> None: ...

    def take_pull_progress(self) -> Progress: ...

    def answer_held_pulls(self) -> None: ...


class HotPulls:
    """Grants of one broker. Without a reactor nothing is ever granted."""

    def __init__(self, broker: Broker, road: PullRoad | None) -> None:
        self._broker = broker
        self._road = road
        self._granted: set[tuple[str, str]] = set()
        self._syncing = False

    def grant(
        self,
        header: PullMessageRequest,
        topic: TopicConfig,
        subscription: SubscriptionData,
        tag_codes: Collection[int] | None,
        group_sys_flag: int,
    ) -> None:
        """A pull was served: others like it may be hot, unless there is something about them that only Python knows."""
        broker = self._broker
        config = broker.config
        if (
            self._road is None
            or broker.draining
            or not config.hot_road_enable
            or config.reject_pull_consumer_enable
            or is_batch_queue(topic)
            or names.is_light_queue(header.topic)  # what its records say is not sent as it is
            or broker.offsets.has_any_reset(header.consumer_group, header.topic)
        ):
            return
        try:
            self._road.grant_pulls(
                header.consumer_group,
                header.topic,
                queues=topic.read_queue_nums,
                subscription=(header.subscription or "") if header.has_subscription else None,
                lite=config.lite_pull_message_enable,
                sub_version=subscription.sub_version,
                tag_codes=tag_codes,
                max_messages=config.max_transfer_count_on_message_in_memory,
                max_bytes=config.max_transfer_bytes_on_message_in_memory,
                suspend_ms=-1 if config.long_polling_enable else config.short_polling_time_mills,
                group_sys_flag=group_sys_flag,
                topic_sys_flag=topic.topic_sys_flag,
                offsets=list(broker.offsets.offsets_of(header.consumer_group, header.topic).items()),
            )
        except UnicodeEncodeError:
            return  # half a surrogate pair, which JSON can hold: the hot road compares UTF-8
        self._granted.add((header.consumer_group, header.topic))

    def revoke(self) -> None:
        """Something that pulls are checked for has changed."""
        if self._road is not None and self._granted:
            self._granted.clear()
            self._road.revoke_pulls()

    def committed(self, group: str, topic: str, queue_id: int, offset: int) -> None:
        """An offset was committed on the cold road: the hot one answers queries with it."""
        if self._road is not None and not self._syncing and (group, topic) in self._granted:
            self._road.know_offset(group, topic, queue_id, offset)

    def answer_held(self) -> None:
        """The broker stops: every held pull is answered."""
        if self._road is not None:
            self._road.answer_held_pulls()

    def sync(self) -> None:
        """Take over offsets and statistics."""
        if self._road is None or self._syncing:
            return
        self._syncing = True
        try:
            broker = self._broker
            now = broker.clock.monotonic()
            for group, topic, missed, queues in self._road.take_pull_progress():
                broker.sessions.compensate(group, None, now)
                broker.stats.on_get_missed(missed)
                for queue_id, committed, commits, pulled, pulls, messages, size in queues:
                    if commits:
                        broker.offsets.commit(group, topic, queue_id, committed, commits)
                    if pulled >= 0:
                        broker.offsets.commit_pull(group, topic, queue_id, pulled)
                    if pulls:
                        broker.stats.on_get(group, topic, queue_id, messages, size, pulls)
        finally:
            self._syncing = False
