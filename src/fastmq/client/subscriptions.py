"""What a consumer takes of a topic, and where a new group begins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from fastmq.client.messages import ReceivedMessage
from fastmq.errors import UsageError
from fastmq.protocol.bodies.client import SQL92, SUB_ALL, TAG, ConsumeFromWhere, SubscriptionData, is_tag_type


@dataclass(frozen=True, slots=True)
class Filter:
    """Which messages of a topic: tags (`"a || b"`, `"*"` for all) or, with `kind="SQL92"`, an expression."""

    expression: str = SUB_ALL
    kind: str = TAG


def sql(expression: str) -> Filter:
    """A filter over properties, as `sql("price > 10 AND region = 'eu'")`."""
    return Filter(expression, SQL92)


Topics = str | Iterable[str] | Mapping[str, str | Filter]
"""A topic, several, or topics with their filters."""


class StartFrom(StrEnum):
    """Where a group begins that has no offset yet."""

    LAST = "last"
    FIRST = "first"
    TIME = "time"

    @property
    def wire(self) -> ConsumeFromWhere:
        """As heartbeats say it."""
        return {
            StartFrom.LAST: ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET,
            StartFrom.FIRST: ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET,
            StartFrom.TIME: ConsumeFromWhere.CONSUME_FROM_TIMESTAMP,
        }[self]


def read_topics(topics: Topics) -> dict[str, Filter]:
    """Topics and their filters."""
    if isinstance(topics, str):
        return {topics: Filter()}
    if isinstance(topics, Mapping):
        return {topic: one if isinstance(one, Filter) else Filter(one) for topic, one in topics.items()}
    return {topic: Filter() for topic in topics}


def subscription(topic: str, one: Filter, now_ms: int) -> SubscriptionData:
    """A filter as heartbeats and pulls carry it; a later one replaces it. Raises UsageError for one that cannot be."""
    try:
        return SubscriptionData.from_expression(topic, one.expression, one.kind, now_ms)
    except ValueError as error:
        raise UsageError(f"the filter {one.expression!r}: {error}") from None


def takes(data: SubscriptionData, message: ReceivedMessage) -> bool:
    """Whether a message is meant: the broker compares hashes of tags, which may collide."""
    return not data.tags_set or not is_tag_type(data.expression_type) or message.tag in data.tags_set


def to_ms(at: datetime | float) -> int:
    """Milliseconds since the epoch of a time zone aware datetime or of seconds. Raises UsageError."""
    if isinstance(at, datetime):
        if at.tzinfo is None:
            raise UsageError("a datetime needs a time zone")
        at = at.timestamp()
    return round(at * 1000)
