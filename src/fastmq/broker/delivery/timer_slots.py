"""Pieces of the timer wheel in memory: open slots, recalls, what a message of the timer queue says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Self

from fastmq.broker.delivery.timer_files import Bound
from fastmq.broker.delivery.timer_rules import delete_key, due_time, slot_time
from fastmq.errors import ProtocolError
from fastmq.protocol import message as m
from fastmq.protocol.fields import parse_int32, parse_int64
from fastmq.store.timer_log import MAGIC_DEFAULT, MAGIC_DELETE, MAGIC_ROLL, TimerRecord

NEVER_ENQUEUED: Final = (1 << 63) - 1
"""TIMER_ENQUEUE_MS of a message whose slot was over when it was followed."""

_LAST: Final[Bound] = (1 << 62, 0)
_LATEST_MS: Final = 1 << 53


@dataclass(slots=True)
class OpenSlot:
    """A slot in memory: its messages as a heap of (due, position)."""

    next: int  # where the chain goes on that is not loaded, or -1
    bound: Bound | None = None  # records before it were delivered by an earlier run
    waiting: list[Bound] = field(default_factory=list)
    known: list[str] = field(default_factory=list)  # keys of the records before the bound
    served: bool = False

    @property
    def done_until(self) -> Bound | None:
        """Every record before this was delivered; None if none was."""
        if not self.served:
            return None
        return self.waiting[0] if self.waiting else _LAST


@dataclass(slots=True)
class Recall:
    """What takes the messages of one key back. It counts until its slot is over."""

    topic: str
    slot_ms: int
    recalls: int = 0
    found: int = 0


@dataclass(slots=True)
class TimerMessage:
    """A message of the timer queue, as the wheel needs it."""

    log_offset: int
    size: int
    slot_ms: int
    due_ms: int
    magic: int
    topic: str
    key: str  # of the message itself, or of the one that it takes back

    @classmethod
    def read(cls, record: bytes | None, log_offset: int, precision_ms: int) -> Self | None:
        """What a record of the commit log says; None if it cannot wait for anything."""
        try:
            message = None if record is None else m.decode_message(record)[0]
        except ProtocolError:
            message = None
        if message is None:
            return None
        properties = message.property_map
        out_ms = parse_int64(properties.get(m.PROPERTY_TIMER_OUT_MS))
        topic = properties.get(m.PROPERTY_REAL_TOPIC)
        if out_ms is None or not 0 <= out_ms < _LATEST_MS or topic is None:
            return None
        takes_back = properties.get(m.PROPERTY_TIMER_DEL_UNIQKEY)
        due_ms = due_time(properties, out_ms, message.store_timestamp, precision_ms)
        # slots may have been longer when it was stored: a message and its recall hang in the same one all the same
        out_ms = max(out_ms, slot_time(due_ms, precision_ms))
        return cls(
            log_offset=log_offset,
            size=message.size,
            slot_ms=out_ms // precision_ms * precision_ms,
            due_ms=due_ms,
            magic=MAGIC_DEFAULT | (0 if takes_back is None else MAGIC_DELETE),
            topic=topic,
            key=takes_back or delete_key(topic, properties.get(m.PROPERTY_UNIQUE_KEY, "")),
        )


def properties_after_wait(
    message: m.StoredMessage, properties: dict[str, str], record: TimerRecord, now_ms: int, precision_ms: int
) -> bytes:
    """The properties of a message that leaves its slot: with the times of the wait.

    One that is sent on to a later slot also gets the number of times that happened, and its due time if it has only a
    delay: that would count from now on.
    """
    out_ms = parse_int64(properties.get(m.PROPERTY_TIMER_OUT_MS)) or 0
    late = out_ms < record.write_ms
    added = {m.PROPERTY_TIMER_ENQUEUE_MS: str(NEVER_ENQUEUED if late else record.write_ms)}
    if record.magic & MAGIC_ROLL:
        times = parse_int32(properties.get(m.PROPERTY_TIMER_ROLL_TIMES)) or 0
        added[m.PROPERTY_TIMER_ROLL_TIMES] = str(times + 1)
        if m.PROPERTY_TIMER_DELIVER_MS not in properties:
            due_ms = due_time(properties, out_ms, message.store_timestamp, precision_ms)
            added[m.PROPERTY_TIMER_DELIVER_MS] = str(due_ms)
    added[m.PROPERTY_TIMER_DEQUEUE_MS] = str(now_ms)
    if m.PROPERTY_TIMER_DEQUEUE_MS in properties:
        return m.encode_properties({**properties, **added})
    return m.append_properties(message.properties, added)
