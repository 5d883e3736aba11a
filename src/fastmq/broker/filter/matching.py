"""`MessageFilter`, the one question all deliveries ask: does this message pass? And reading a queue through a filter.

How to use it, for pulls, held pulls and POP alike:

    wanted = broker.filters.own(group, subscription)            # the filter came with the request
    wanted = broker.filters.registered(group, subscription, n)  # the filter came with a heartbeat

both refuse with a RequestError that carries RocketMQ's code. Then either read a queue by RocketMQ's rules

    result = read_matching(broker.store, wanted, topic, queue_id, offset, 32, monotonic=broker.clock.monotonic)

or ask about single messages: `wanted.matches(properties, tags_code)`, properties as stored or as a mapping. Filters are
immutable; ask for a new one for each request, since subscriptions change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fastmq.protocol.message import decode_properties

if TYPE_CHECKING:
    from fastmq._store import ReadResult, Store
    from fastmq.broker.filter.bloom import BloomBits
    from fastmq.broker.filter.expression import Expression

MAX_SCANNED: Final = 800
"""Messages that one read looks at (maxFilterMessageSize in queue entries)."""

SLICE: Final = 32
"""Messages between two looks at the clock."""

SCAN_S: Final = 0.002
"""Seconds after which a read goes no further: its client is told to go on there at once (PULL_RETRY_IMMEDIATELY)."""

PROPERTY_RETRY_TOPIC: Final = "RETRY_TOPIC"


@dataclass(frozen=True, slots=True)
class MessageFilter:
    """What a consumer wants of a topic. Made by `FilterService`."""

    tag_codes: frozenset[int] | None = None
    """What the tags code of a message must be; None: anything. Other tags may have that code: clients look again."""

    expression: Expression | None = None
    """What its properties must satisfy; None: anything."""

    bloom: BloomBits | None = None
    """Bits that consumequeue_ext must have for a message that matches, if it was written with them."""

    expression_of_origin: Callable[[str], Expression | None] | None = None
    """For retry topics with filterSupportRetry: the expression for messages that came from a topic."""

    @property
    def by_tags_alone(self) -> bool:
        """Whether the queue entries tell what matches, so that nothing has to be read from the log."""
        return self.expression is None and self.expression_of_origin is None

    def matches(self, properties: bytes | Mapping[str, str], tags_code: int | None = None) -> bool:
        """Whether a message passes. `tags_code` None: its tags have been looked at."""
        if tags_code is not None and self.tag_codes is not None and tags_code not in self.tag_codes:
            return False
        expression = self.expression
        if self.expression_of_origin is not None:
            found = decode_properties(properties) if isinstance(properties, bytes) else properties
            origin = found.get(PROPERTY_RETRY_TOPIC)
            expression = None if origin is None else self.expression_of_origin(origin)
        if expression is None:
            return True
        if isinstance(properties, bytes):
            return expression.matches_encoded(properties)
        return expression.matches(properties)


def read_matching(
    store: Store,
    wanted: MessageFilter,
    topic: str,
    queue_id: int,
    offset: int,
    max_messages: int,
    *,
    monotonic: Callable[[], float],
    max_bytes: int = 262_144,
    max_scanned: int = MAX_SCANNED,
) -> ReadResult:
    """RocketMQ's getMessage through a filter.

    With an expression the properties of messages are read and evaluated until enough match, `max_scanned` were looked
    at or `SCAN_S` is over; then the store reads by its rules with what is known. A result without messages whose next
    offset lies behind `offset` means that the rest is still to be looked at.
    """
    if wanted.by_tags_alone:
        return store.read_queue(
            topic, queue_id, offset, max_messages, max_bytes=max_bytes, tag_codes=wanted.tag_codes,
            max_scanned=max_scanned,
        )  # fmt: skip
    mask = bytearray()
    matched = 0
    until = monotonic() + SCAN_S
    bloom = wanted.bloom
    matches = wanted.matches
    while len(mask) < max_scanned and matched < max_messages:
        at, count = offset + len(mask), min(SLICE, max_scanned - len(mask))
        if bloom is None:
            found = store.queue_properties(topic, queue_id, at, count)
        else:
            found = store.queue_properties(
                topic, queue_id, at, count, bits=bloom.positions, bit_count=bloom.bit_count, since_ms=bloom.since_ms
            )
        # a record that is not there is the store's to judge
        verdicts = bytes(matches(one) if isinstance(one, bytes) else one is None for one in found)
        mask += verdicts
        matched += verdicts.count(1)
        if len(found) < SLICE or monotonic() > until:
            break
    return store.read_queue(topic, queue_id, offset, max_messages, max_bytes=max_bytes, mask=bytes(mask))
