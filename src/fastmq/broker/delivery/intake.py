"""The last step before a message is stored: delayed messages are put aside until their time has come.

After the put hook of RocketMQ (HookUtils.handleScheduleMessage). Everything that stores a message for a client goes
through `store_message`; only the delivery of delayed messages itself does not, or they would be delayed for ever.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol, Self

from fastmq._store import ST_PROPERTIES_TOO_LARGE, ST_RECORD_TOO_LARGE, ST_TOO_MANY_LMQ
from fastmq.broker.delivery.timer_rules import TIMER_PROPERTIES, is_timer, requested_time, slot_time
from fastmq.errors import RequestError
from fastmq.protocol import message as m
from fastmq.protocol import names
from fastmq.protocol.codes import ResponseCode
from fastmq.protocol.fields import parse_int32

if TYPE_CHECKING:
    from fastmq._store import Appended
    from fastmq.broker.app import Broker

HOST_FLAGS: Final = m.BORN_HOST_V6_FLAG | m.STORE_HOST_V6_FLAG
"""What sysFlag says about the form of addresses: the store sets these."""

_TOO_LARGE: Final = (ST_PROPERTIES_TOO_LARGE, ST_RECORD_TOO_LARGE)
_NO_LIGHT_QUEUES: Final = (ST_TOO_MANY_LMQ, ST_PROPERTIES_TOO_LARGE)


class PutsMessages(Protocol):
    """What it takes to store a message."""

    def put(
        self, topic: str, queue_id: int, body: bytes | memoryview, properties: bytes, *, flag: int = 0,
        sys_flag: int = 0, born_timestamp_ms: int = 0, born_host: tuple[str, int] = ("127.0.0.1", 0),
        reconsume_times: int = 0, prepared_offset: int = 0, tags_code: int | None = None, internal: bool = False,
    ) -> Appended: ...  # fmt: skip


@dataclass(slots=True)
class OutgoingMessage:
    """A message on its way into the store (MessageExtBrokerInner)."""

    topic: str
    queue_id: int
    body: bytes
    properties: dict[str, str] = field(default_factory=dict)
    flag: int = 0
    sys_flag: int = 0
    born_timestamp_ms: int = 0
    born_host: tuple[str, int] = ("127.0.0.1", 0)
    reconsume_times: int = 0
    prepared_offset: int = 0  # log offset of the half message that this one was in a transaction
    timer_due_ms: int | None = None  # when it is due, if it waits for a time
    internal: bool = False  # of the broker, or accepted before: maxMessageSize does not count

    @classmethod
    def of(cls, stored: m.StoredMessage, topic: str, queue_id: int, properties: dict[str, str]) -> Self:
        """A stored message on its way to another topic, whatever maxMessageSize has become since it was accepted."""
        return cls(
            topic=topic,
            queue_id=queue_id,
            body=stored.body,
            properties=properties,
            flag=stored.flag,
            sys_flag=stored.sys_flag & ~HOST_FLAGS,
            born_timestamp_ms=stored.born_timestamp,
            born_host=stored.born_host,
            reconsume_times=stored.reconsume_times,
            internal=True,
        )

    @property
    def delay_level(self) -> int:
        """The DELAY property, 0 if there is none. RequestError(1) if it is not a number."""
        text = self.properties.get(m.PROPERTY_DELAY_TIME_LEVEL)
        if text is None:
            return 0
        level = parse_int32(text)
        if level is None:
            raise RequestError(ResponseCode.SYSTEM_ERROR, f"the delay level {text[:32]!r} is not a number")
        return level

    @property
    def waits_for_flush(self) -> bool:
        """Whether the sender wants the answer only when the message is on disk (WAIT is not `false`)."""
        text = self.properties.get(m.PROPERTY_WAIT_STORE_MSG_OK)
        return text is None or text.lower() == "true"


def store_message(broker: Broker, message: OutgoingMessage) -> Appended:
    """Store a message: at once, or where it waits for its delay level or its time.

    The message says afterwards where it went; `timer_due_ms` is set if it waits for a time. RequestError for a time
    that the broker does not take.
    """
    schedule(broker, message)
    return put_as_is(broker.store, message)


def schedule(broker: Broker, message: OutgoingMessage) -> None:
    """Turn a message that is to wait into one of the topic it waits in; others are left as they are."""
    if message.topic not in (names.TIMER_TOPIC, names.TRANS_HALF_TOPIC) and not _is_prepared(message):
        if message.delay_level > 0:
            _wait_for_level(message, broker.delay.level_count)
        elif is_timer(message.properties):
            _wait_for_time(broker, message)


def put_as_is(store: PutsMessages, message: OutgoingMessage) -> Appended:
    """Store a message with no look at its properties."""
    return store.put(
        message.topic,
        message.queue_id,
        message.body,
        m.encode_properties(message.properties),
        flag=message.flag,
        sys_flag=message.sys_flag,
        born_timestamp_ms=message.born_timestamp_ms,
        born_host=message.born_host,
        reconsume_times=message.reconsume_times,
        prepared_offset=message.prepared_offset,
        internal=message.internal,
    )


def put_stored(
    store: PutsMessages, stored: m.StoredMessage, topic: str, queue_id: int, properties: bytes, *, tries: int = 0,
    born_host: tuple[str, int] | None = None,
) -> Appended:  # fmt: skip
    """Store a message of the store once more elsewhere, as it is but for its properties; `tries` more reconsume times.

    What was accepted once is not refused for its size now, nor because it does not get into its light queues any more:
    better without them than never. UsageError if there can be no such topic or queue.
    """

    def put(text: bytes) -> Appended:
        return store.put(
            topic,
            queue_id,
            stored.body,
            text,
            flag=stored.flag,
            sys_flag=stored.sys_flag & ~HOST_FLAGS,
            born_timestamp_ms=stored.born_timestamp,
            born_host=stored.born_host if born_host is None else born_host,
            reconsume_times=stored.reconsume_times + tries,
            internal=True,
        )

    appended = put(properties)
    if appended.status in _TOO_LARGE and properties != stored.properties:
        properties = stored.properties  # there is no room for what the broker adds
        appended = put(properties)
    if appended.status in _NO_LIGHT_QUEUES and m.PROPERTY_INNER_MULTI_DISPATCH.encode() in properties:
        found = m.decode_properties(properties)
        found.pop(m.PROPERTY_INNER_MULTI_DISPATCH, None)
        appended = put(m.encode_properties(found))
    return appended


def _is_prepared(message: OutgoingMessage) -> bool:
    """Whether its transaction is open or was rolled back: no time to be visible at."""
    return message.sys_flag & m.TRANSACTION_MASK in (m.TRANSACTION_PREPARED_TYPE, m.TRANSACTION_ROLLBACK_TYPE)


def _move(message: OutgoingMessage, topic: str, queue_id: int) -> None:
    """To a topic where it waits; its properties say where it belongs."""
    message.properties[m.PROPERTY_REAL_TOPIC] = message.topic
    message.properties[m.PROPERTY_REAL_QUEUE_ID] = str(message.queue_id)
    message.topic = topic
    message.queue_id = queue_id


def _wait_for_level(message: OutgoingMessage, delay_levels: int) -> None:
    """A level above the highest counts as the highest. Timer properties are dropped: the level wins."""
    level = min(message.delay_level, delay_levels)
    message.properties[m.PROPERTY_DELAY_TIME_LEVEL] = str(level)
    for name in TIMER_PROPERTIES:
        message.properties.pop(name, None)
    _move(message, names.SCHEDULE_TOPIC, level - 1)


def _wait_for_time(broker: Broker, message: OutgoingMessage) -> None:
    """To the timer topic, unless its time has come already."""
    config, timers = broker.config, broker.timers
    if timers is None or not config.timer_wheel_enable:
        raise RequestError(
            ResponseCode.SYSTEM_ERROR, "accurate timer message is not enabled, timerWheelEnable is false"
        )
    now_ms = broker.clock.wall_ms()
    properties = message.properties
    requested_ms = requested_time(properties, now_ms)
    max_delay_ms = config.timer_max_delay_sec * 1000
    late = requested_ms is not None and requested_ms <= now_ms
    if (
        requested_ms is None
        or requested_ms - now_ms > max_delay_ms
        or (late and m.PROPERTY_TIMER_DEL_UNIQKEY in properties)
    ):
        raise RequestError(
            ResponseCode.MESSAGE_ILLEGAL,
            "timer message illegal, the delay time should not be bigger than the max delay "
            f"{max_delay_ms}ms; or if set del msg, the delay time should be bigger than the current time",
        )
    if late:
        return
    out_ms = slot_time(requested_ms, timers.precision_ms)
    limit = config.timer_congest_num_each_slot
    if is_congested(timers.slot_count(out_ms), limit, broker.random.random()):
        raise RequestError(
            ResponseCode.SYSTEM_ERROR,
            f"timer message is under flow control, max num limit is {2 * limit} or the current value is greater than "
            f"{limit} and less than {2 * limit}, trigger random flow control",
        )
    properties[m.PROPERTY_TIMER_OUT_MS] = str(out_ms)
    _move(message, names.TIMER_TOPIC, 0)
    message.timer_due_ms = requested_ms


def is_congested(waiting: int, limit: int, chance: float) -> bool:
    """Whether a slot takes no more: above the limit the more likely the more wait, from twice the limit on surely."""
    return waiting > limit and chance * limit < waiting - limit
