"""What the TIMER_ properties mean: when a message is due, which slot of the wheel it goes to, when it is looked at.

Three times belong to a message. The requested time is what the client asked for, to the millisecond. The slot's time
(TIMER_OUT_MS) lies before it by at most one precision: RocketMQ delivers a slot when it is over. The due time is the
requested one again, worked out from the stored message: fastmq delivers at that very millisecond.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fastmq.protocol import message as m
from fastmq.protocol.fields import parse_int64
from fastmq.store.timer_wheel import PRECISIONS_MS, SLOTS

TIMER_PROPERTIES: Final = (m.PROPERTY_TIMER_DELAY_SEC, m.PROPERTY_TIMER_DELAY_MS, m.PROPERTY_TIMER_DELIVER_MS)
"""The properties that delay a message, the first one wins."""

BLANK_SLOTS: Final = 60
"""RocketMQ keeps that many slots of the wheel free when a roll window is too long."""

_NEVER: Final = 1 << 62


def is_timer(properties: Mapping[str, str]) -> bool:
    """Whether a message without a delay level is to wait; not if it has waited already."""
    return m.PROPERTY_TIMER_OUT_MS not in properties and any(name in properties for name in TIMER_PROPERTIES)


def requested_time(properties: Mapping[str, str], now_ms: int) -> int | None:
    """When the client wants the message delivered (ms since the epoch). None: that is not a number."""
    for name, unit, start in zip(TIMER_PROPERTIES, (1000, 1, 1), (now_ms, now_ms, 0), strict=True):
        text = properties.get(name)
        if text is not None:
            value = parse_int64(text)
            return None if value is None else max(-_NEVER, min(_NEVER, start + value * unit))
    return None


def slot_time(requested_ms: int, precision_ms: int) -> int:
    """The time of the slot for a requested time: strictly before it, at most one precision."""
    return (requested_ms - 1) // precision_ms * precision_ms


def due_time(properties: Mapping[str, str], out_ms: int, store_ms: int, precision_ms: int) -> int:
    """When a stored timer message is due. `out_ms` is its TIMER_OUT_MS.

    A delay counts from the time it was stored; a message that was sent on to a later slot was stored anew and has its
    time in TIMER_DELIVER_MS. Slots may have been longer when it was stored: what does not fit to one of today is due at
    the end of the longest that it can have been, as a delay that began while the clock was set back may be. What has no
    time behind its slot's is due when RocketMQ delivers it: one precision later.
    """
    latest = out_ms + precision_ms
    known = requested_time(properties, store_ms), parse_int64(properties.get(m.PROPERTY_TIMER_DELIVER_MS))
    times = [time_ms for time_ms in known if time_ms is not None and time_ms > out_ms]
    for time_ms in times:
        if time_ms <= latest:
            return time_ms
    if not times:
        return latest
    longest = out_ms + max((one for one in PRECISIONS_MS if out_ms % one == 0), default=precision_ms)
    return max((time_ms for time_ms in times if time_ms <= longest), default=longest)


def roll_window(setting_slots: int) -> int:
    """The number of slots after which a message is looked at again, from timerRollWindowSlot."""
    longest = SLOTS // 2 - BLANK_SLOTS
    return setting_slots if 2 <= setting_slots <= longest else longest


def first_look(slot_ms: int, write_ms: int, window_slots: int, precision_ms: int) -> int:
    """The slot in which a message for `slot_ms` waits first: that one, or an earlier one from which it is sent on."""
    window_ms = window_slots * precision_ms
    beyond_ms = slot_ms - write_ms - window_ms
    if beyond_ms < 0:
        return slot_ms
    if beyond_ms < window_slots // 3 * precision_ms:
        return write_ms + window_slots // 2 * precision_ms  # so that enough is left for the second way
    return write_ms + window_ms


def delete_key(topic: str, unique_key: str) -> str:
    """What TIMER_DEL_UNIQKEY of a recall says about the message it takes back."""
    return f"{topic}+{unique_key}"
