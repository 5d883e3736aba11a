"""The last step before a message is stored: delayed messages are put aside in the schedule topic.

After the put hook of RocketMQ (HookUtils.handleScheduleMessage). Everything that stores a message for a client goes
through `store_message`; only the delivery of delayed messages itself does not, or they would be delayed for ever.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from fastmq.errors import RequestError
from fastmq.protocol import message as m
from fastmq.protocol import names
from fastmq.protocol.codes import ResponseCode
from fastmq.protocol.fields import parse_int32

if TYPE_CHECKING:
    from fastmq._store import Appended
    from fastmq.broker.app import Broker


class PutsMessages(Protocol):
    """What it takes to store a message."""

    def put(
        self, topic: str, queue_id: int, body: bytes | memoryview, properties: bytes, *, flag: int = 0,
        sys_flag: int = 0, born_timestamp_ms: int = 0, born_host: tuple[str, int] = ("127.0.0.1", 0),
        reconsume_times: int = 0, prepared_offset: int = 0, tags_code: int | None = None,
    ) -> Appended: ...  # fmt: skip


TIMER_PROPERTIES: Final = (m.PROPERTY_TIMER_DELIVER_MS, m.PROPERTY_TIMER_DELAY_SEC, m.PROPERTY_TIMER_DELAY_MS)


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
    """Store a message, in the schedule topic if it has a delay level. RequestError for a timer message."""
    schedule(message, broker.delay.level_count)
    return put_as_is(broker.store, message)


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
    )


def schedule(message: OutgoingMessage, delay_levels: int) -> None:
    """Turn a message with a delay level into one of the schedule topic; others are left as they are.

    A level above the highest counts as the highest. With a level timer properties are dropped: the level wins.
    """
    properties = message.properties
    level = message.delay_level
    if level > 0:
        level = min(level, delay_levels)
        properties[m.PROPERTY_DELAY_TIME_LEVEL] = str(level)
        for name in TIMER_PROPERTIES:
            properties.pop(name, None)
        properties[m.PROPERTY_REAL_TOPIC] = message.topic
        properties[m.PROPERTY_REAL_QUEUE_ID] = str(message.queue_id)
        message.topic = names.SCHEDULE_TOPIC
        message.queue_id = level - 1
        return
    for name in TIMER_PROPERTIES:
        if name in properties:
            raise RequestError(
                ResponseCode.SYSTEM_ERROR, f"timer messages are not supported yet: the message has {name}"
            )
