"""The SQL92 filters that groups have registered, and the file `config/consumerFilter.json`.

After RocketMQ's ConsumerFilterManager and ConsumerFilterData. A heartbeat registers the filters of its group; what
happens to the one a group has of a topic:

    | the group has | heartbeat says | becomes |
    | --- | --- | --- |
    | none | a filter that compiles | alive, born now |
    | none | one that does not | still none: pulls are refused with FILTER_DATA_NOT_EXIST |
    | any | a version that is not newer | the same; alive again if the version is equal |
    | any | newer version, same text | the same with that version, alive |
    | any | newer version, other text | the new one, born now; none if it does not compile |
    | any | nothing about the topic | dead since now |
    | any | (the last member left) | dead since now |
    | dead | (filterDataCleanTimeSpan is over) | none |

A dead filter still counts for bit maps, so that a group that comes back finds maps without a gap. When the broker
starts, nobody is connected: all are dead until they are heard of. A changed bloom filter means that bits in maps mean
something else: everything in the file is dropped then, as the groups will register again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from fastmq.broker.filter.bloom import BloomBits, BloomFilter
from fastmq.broker.filter.expression import Expression, ExpressionCache
from fastmq.broker.filter.syntax import ExpressionError
from fastmq.broker.state.saving import LaggingFile, Snapshot
from fastmq.errors import ProtocolError
from fastmq.protocol.bodies import SubscriptionData, dumps, is_tag_type
from fastmq.store.tables import load_table, object_of

log = logging.getLogger("fastmq.broker.filter")

SQL92: Final = "SQL92"
DEAD_BEFORE_START_MS: Final = 30_000
"""How long before the start a filter counts as dead that was alive when the file was written."""


@dataclass(slots=True)
class ConsumerFilter:
    """What one group wants of one topic. `compiled` None: the text of the file does not compile."""

    topic: str
    group: str
    expression: str
    expression_type: str
    client_version: int
    born_ms: int
    positions: tuple[int, ...]
    bit_count: int
    compiled: Expression | None
    dead_ms: int = 0

    @property
    def dead(self) -> bool:
        """Whether no client of the group has it any more."""
        return self.dead_ms >= self.born_ms

    @property
    def bloom(self) -> BloomBits:
        """Its bits in the maps of messages stored since it was born."""
        return BloomBits(self.bit_count, self.positions, self.born_ms)

    def to_json(self) -> dict[str, Any]:
        """Members as in the file."""
        return {
            "bloomFilterData": {"bitNum": self.bit_count, "bitPos": list(self.positions)},
            "bornTime": self.born_ms,
            "clientVersion": self.client_version,
            "consumerGroup": self.group,
            "dead": self.dead,
            "deadTime": self.dead_ms,
            "expression": self.expression,
            "expressionType": self.expression_type,
            "topic": self.topic,
        }


class ConsumerFilterTable:
    """Registered filters by topic and group. Raises StoreError from the constructor if the file cannot be read."""

    def __init__(
        self,
        path: str | None,
        *,
        bloom: BloomFilter,
        cache: ExpressionCache,
        wall_ms: Callable[[], int],
        clean_after_ms: Callable[[], int],
    ) -> None:
        self.bloom = bloom
        self._cache = cache
        self._wall_ms = wall_ms
        self._clean_after_ms = clean_after_ms
        self._topics: dict[str, dict[str, ConsumerFilter]] = {}
        self.file = LaggingFile(path, self._freeze, before=self.clean)
        self.on_change: Callable[[str], None] = _nobody  # a topic got its first filter or lost its last
        load_table(path, self._take_body)

    def get(self, topic: str, group: str) -> ConsumerFilter | None:
        """The filter of a group; None if it has none that can be used."""
        found = self._topics.get(topic, {}).get(group)
        return None if found is None or found.compiled is None else found

    def of_topic(self, topic: str) -> list[ConsumerFilter]:
        """All filters of a topic, dead ones too."""
        return list(self._topics.get(topic, {}).values())

    def topics(self) -> list[str]:
        """The topics that have filters."""
        return list(self._topics)

    def register(self, group: str, subscriptions: Iterable[SubscriptionData]) -> None:
        """A heartbeat: all the group's subscriptions."""
        named = set()
        for subscription in subscriptions:
            named.add(subscription.topic)
            if not is_tag_type(subscription.expression_type) and subscription.sub_string:
                self._register(group, subscription)
        for topic, groups in self._topics.items():
            if topic not in named:
                self._bury(groups.get(group))

    def unregister(self, group: str) -> None:
        """The last member of the group is gone."""
        for groups in self._topics.values():
            self._bury(groups.get(group))

    def _bury(self, known: ConsumerFilter | None) -> None:
        if known is not None and not known.dead:
            known.dead_ms = self._wall_ms()
            self.file.changed()

    def _register(self, group: str, subscription: SubscriptionData) -> None:
        topic, text, version = subscription.topic, subscription.sub_string, subscription.sub_version
        known = self._topics.get(topic, {}).get(group)
        if known is not None and version <= known.client_version:
            if version == known.client_version and known.dead:
                known.dead_ms = 0
                self.file.changed()
            return
        self.file.changed()
        if known is not None and (known.expression, known.expression_type) == (text, subscription.expression_type):
            known.client_version = version
            known.dead_ms = 0
            return
        try:
            compiled = compile_filter(self._cache, subscription)
        except ExpressionError as error:
            log.warning("group %s, topic %s: the filter %r does not compile: %s", group, topic, text, error)
            self._remove(topic, group)
            return
        self._add(
            ConsumerFilter(
                topic=topic,
                group=group,
                expression=text,
                expression_type=subscription.expression_type,
                client_version=version,
                born_ms=self._wall_ms(),
                positions=self.bloom.positions(f"{group}#{topic}"),
                bit_count=self.bloom.bit_count,
                compiled=compiled,
            )
        )

    def _add(self, added: ConsumerFilter) -> None:
        groups = self._topics.setdefault(added.topic, {})
        groups[added.group] = added
        if len(groups) == 1:
            self.on_change(added.topic)

    def _remove(self, topic: str, group: str) -> None:
        groups = self._topics.get(topic, {})
        if groups.pop(group, None) is not None and not groups:
            del self._topics[topic]
            self.on_change(topic)

    # --- bit maps ----------------------------------------------------------------------------------------------------

    def bit_map(self, topic: str, properties: bytes) -> bytes | None:
        """The bits of the groups whose filter a message satisfies; None for a topic without filters."""
        groups = self._topics.get(topic)
        if groups is None:
            return None
        return self.bloom.bit_map(
            [
                one.positions
                for one in groups.values()
                if one.compiled is not None and one.compiled.matches_encoded(properties)
            ]
        )

    # --- file --------------------------------------------------------------------------------------------------------

    def clean(self) -> None:
        """Forget filters that have been dead for too long."""
        before = self._wall_ms() - self._clean_after_ms()
        for known in [one for groups in self._topics.values() for one in groups.values()]:
            if known.dead and known.dead_ms <= before:
                log.info(
                    "group %s, topic %s: its filter is forgotten, nobody had it for long", known.group, known.topic
                )
                self._remove(known.topic, known.group)
                self.file.changed()

    def _freeze(self) -> Snapshot:
        topics = {
            topic: {"groupFilterData": {group: one.to_json() for group, one in groups.items()}, "topic": topic}
            for topic, groups in self._topics.items()
        }
        return lambda: dumps({"filterDataByTopic": topics})

    def _take_body(self, content: dict[str, Any]) -> None:
        loaded = [
            self._read(topic, group, data)
            for topic, value in object_of(content, "filterDataByTopic").items()
            for group, data in object_of(_object(value), "groupFilterData").items()
        ]
        if any(one.bit_count != self.bloom.bit_count or len(one.positions) != self.bloom.hashes for one in loaded):
            log.warning("the bloom filter has changed: the stored filters are dropped, groups register anew")
            self.file.changed()
            return
        for one in loaded:
            self._topics.setdefault(one.topic, {})[one.group] = one

    def _read(self, topic: str, group: str, value: Any) -> ConsumerFilter:
        data = _object(value)
        bloom = object_of(data, "bloomFilterData")
        positions = bloom.get("bitPos")
        numbers = [data.get(key, 0) for key in ("bornTime", "deadTime", "clientVersion")] + [bloom.get("bitNum", 0)]
        text, kind = data.get("expression"), data.get("expressionType")
        if (
            not isinstance(positions, list)
            or not all(type(number) is int for number in (*numbers, *positions))
            or not isinstance(text, str)
            or not isinstance(kind, str)
        ):
            raise ProtocolError(f"the filter of {group} for {topic} is not one")
        born_ms, dead_ms, version, bit_count = numbers
        if dead_ms == 0:
            dead_ms = max(born_ms, self._wall_ms() - DEAD_BEFORE_START_MS)
        compiled = None
        try:
            compiled = compile_filter(self._cache, SubscriptionData(topic=topic, sub_string=text, expression_type=kind))
        except ExpressionError as error:
            log.warning("group %s, topic %s: the filter %r does not compile: %s", group, topic, text, error)
        return ConsumerFilter(
            topic=topic, group=group, expression=text, expression_type=kind, client_version=version, born_ms=born_ms,
            positions=tuple(positions), bit_count=bit_count, compiled=compiled, dead_ms=dead_ms,
        )  # fmt: skip


def compile_filter(cache: ExpressionCache, subscription: SubscriptionData) -> Expression:
    """The expression of a subscription that is not by tags. ExpressionError also for a type nobody knows."""
    if subscription.expression_type != SQL92:
        raise ExpressionError(f"there is no filter type {subscription.expression_type}", (1, 1))
    return cache.compile(subscription.sub_string)


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ProtocolError("not an object")
    return value


def _nobody(_topic: str) -> None:
    pass
